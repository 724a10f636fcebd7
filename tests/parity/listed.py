"""The one list of scenarios, and what they are written with.

A scenario takes a client and says in assertions what it must see; error codes are part of it. It names the operations that it goes through
(`operations.OPERATIONS`): where one of them has no such way, the front is left out, for the reason that the row gives. What else a front
cannot show stands beside the scenario, with its reason. The surface of every front is `AsyncClient`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from parity.operations import OPERATIONS, No

from agentkernel import AgentKernelError
from agentkernel.errors import FileOperationFailed

CLIENTS: Final = ("async-local", "sync-local", "async-daemon", "sync-daemon", "async-remote")  # the classes of the SDK
WAYS: Final = {"http": "routes", "cli": "verbs", "mcp": "tools"}  # which column of the list a front is about; the others are the client
FRONTS: Final = (*CLIENTS, *WAYS)
Play = Callable[[Any, Path], Awaitable[None]]


class Scenario(NamedTuple):
    """What is played, what it goes through, and who cannot."""

    play: Play
    operations: tuple[str, ...]
    but: Mapping[str, No]  # by front
    of_the_host: bool = False  # it opens networks of the host, which only some tokens may
    instead: tuple[str, ...] = ()  # operations without which a front does what the list's reason against them says

    @property
    def name(self) -> str:
        """Its function's."""
        return getattr(self.play, "__name__", "")

    def reason_against(self, front: str) -> str:
        """Why it is not for this front; empty where it is."""
        if front in self.but:
            return self.but[front].why
        column = WAYS.get(front, "client")
        missing = [ways.why for name in self.operations if isinstance(ways := getattr(OPERATIONS[name], column), No)]
        return missing[0] if missing and front in WAYS else ""  # the client does without a call of its own, as its reason says


SCENARIOS: list[Scenario] = []


def scenario(
    *operations: str, host: bool = False, elsewhere: No | None = None, instead: tuple[str, ...] = (), **but: No
) -> Callable[[Play], Play]:
    """One more, for every front that has all the operations."""
    left_out = but | ({} if elsewhere is None else {"async-remote": elsewhere})

    def add(play: Play) -> Play:
        SCENARIOS.append(Scenario(play, operations, left_out, host, instead))
        return play

    return add


def of_the_client(*operations: str, why: str, host: bool = False, elsewhere: No | None = None) -> Callable[[Play], Play]:
    """One more, about what only the classes of the SDK have: `why` says what that is."""
    return scenario(*operations, host=host, elsewhere=elsewhere, **dict.fromkeys(WAYS, No(why)))


@contextmanager
def fails(code: str, number: int | None = None) -> Iterator[None]:
    """The block must end with an error of that code (and errno)."""
    try:
        yield
    except AgentKernelError as error:
        assert error.code == code, repr(error)
        if number is not None:
            assert isinstance(error, FileOperationFailed)
            assert error.errno == number
    else:
        raise AssertionError(f"no error, in place of {code}")


@asynccontextmanager
async def lasting(client: Any, **options: Any) -> AsyncIterator[Any]:
    """A sandbox that lasts, removed after the block."""
    box = await client.create(**options)
    try:
        yield box
    finally:
        await box.remove(force=True)


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Waits for something that is sure to come."""
    async with asyncio.timeout(60):
        while not await true():
            await asyncio.sleep(0.02)


async def run(client: Any, *argv: str, **options: Any) -> Any:
    """One command in a sandbox of its own."""
    if hasattr(client, "run"):
        return await client.run(*argv, **options)
    async with client.sandbox() as box:
        return await box.exec(*argv, **options)


async def printed(box: Any, exec_id: int) -> dict[int, bytes]:
    """What a background command has printed so far, by stream."""
    found: dict[int, bytes] = {}
    async for entry in box.logs(exec_id=exec_id):
        found[entry.stream] = found.get(entry.stream, b"") + entry.data
    return found


async def runs(box: Any, process: Any) -> bool:
    """Whether a background command still runs."""
    return any(record.exec_id == process.exec_id and record.running for record in await box.processes())
