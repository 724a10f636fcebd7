"""POST /batch/run: many commands, each in a sandbox of its own."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from agentkernel.api.attended import attended
from agentkernel.api.budget import Shared
from agentkernel.api.doors import Asked, Built
from agentkernel.api.lengthy import told
from agentkernel.api.outcome import Watch
from agentkernel.api.routes.run import Asking, once
from agentkernel.api.shapes import BatchBody
from agentkernel.api.shapes_answers import said
from agentkernel.api.shapes_commands import Batch
from agentkernel.api.wishes import batch_of
from agentkernel.errors import AgentKernelError
from agentkernel.model.command import Command

router = APIRouter(tags=["run"])

AT_ONCE: Final = 8  # of one batch
OUTPUT_BYTES: Final = 1 << 20  # of each stream of each command
ALL_BYTES: Final = 8 << 20  # of one stream of all commands together
_TOLD: Final = ("output", "exit_code", "stdout", "stderr", "stdout_truncated", "stderr_truncated", "timed_out")


@router.post("/batch/run", operation_id="batch_run", responses=said(Batch))
async def batch_run(body: BatchBody, request: Request, door: Asked, parts: Built, share: Shared) -> Response:
    """Runs commands side by side and answers in their order. One that fails, or whose sandbox does, keeps no other from running.

    Of what each prints, the first MiB of each stream is told; of more than eight commands, an equal share of 8 MiB.
    """
    wanted, commands = batch_of(body, parts.environment, door.caller, share_of(len(body.commands)))
    return await attended(request, _all(Asking(door, wanted, share), commands))


def share_of(count: int) -> int:
    """How many bytes of each stream are kept, of each of so many commands."""
    return min(OUTPUT_BYTES, ALL_BYTES // count)


async def _all(asking: Asking, commands: tuple[Command, ...]) -> Response:
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(command: Command) -> tuple[dict[str, Any], int]:
        async with turns:
            return await _told(asking, command)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(command)) for command in commands]
    results = [task.result() for task in tasks]
    return told({"results": [each for each, _ in results]}, sum(size_bytes for _, size_bytes in results))


async def _told(asking: Asking, command: Command) -> tuple[dict[str, Any], int]:
    try:
        found, size_bytes = await once(asking, command, b"", Watch())
    except AgentKernelError as error:
        return {"output": None, "error": error.message, "code": error.code, "hint": error.hint, "exit_code": None}, 0
    said = {name: found[name] for name in _TOLD} | {name: found.get(name, default) for name, default in _ERROR.items()}
    return said, size_bytes


_ERROR: Final[dict[str, str | None]] = {"error": None, "code": "", "hint": ""}
