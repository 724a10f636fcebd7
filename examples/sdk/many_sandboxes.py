"""Gives each of many tasks a sandbox of its own, side by side."""

import asyncio
import sys

from agentkernel import AsyncClient

TASKS = 20
AT_ONCE = 5


async def solve(client: AsyncClient, task: int, places: asyncio.Semaphore) -> int:
    """The task's answer, computed where it can do no harm."""
    async with places, client.sandbox(memory="64MiB", network=False) as box:
        result = await box.exec("python3", "-c", f"print({task} ** 2)", timeout="20s", check=True)
        return int(result.text)


async def main() -> None:
    places = asyncio.Semaphore(AT_ONCE)
    async with AsyncClient(local="--local" in sys.argv) as client:
        answers = await asyncio.gather(*(solve(client, task, places) for task in range(TASKS)))
    print(f"{len(answers)} sandboxes, sum of the answers: {sum(answers)}")


asyncio.run(main())
