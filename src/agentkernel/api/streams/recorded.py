"""A detached command taken up: its output from an offset on, out of what the engine records, and its end out of the audit trail.

The recording reaches back further than any connection holds (8 to 16 MiB of a sandbox's newest output), waits for nobody, and is read at
the client's pace. So several clients may follow one command, and one that comes again goes on behind the last byte that it has.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, TypeVar

from agentkernel.api.doors import Door
from agentkernel.api.streams.course import Piece, ended_as_told
from agentkernel.api.streams.places import closing, opened
from agentkernel.errors import Conflict, NotFound, SandboxLost
from agentkernel.model.inspection import ProcessRecord
from agentkernel.model.record import Event, EventFilter, LogEntry
from agentkernel.text.records import exec_text

_ENDED: Final = "exec.ended"
_PAGE: Final = 1000
_EARLIER_S: Final = 5.0  # how far before now an event may be that is told after now
T = TypeVar("T")


class Recorded:
    """The course of a detached command; made by `recorded`. Implements `Course`."""

    def __init__(self, door: Door, sandbox_id: str, exec_id: int, offsets: tuple[int, int]) -> None:
        self._door = door
        self._sandbox_id = sandbox_id
        self._exec_id = exec_id
        self._ends = [0, *offsets]
        self._since = 0.0
        self._ending: asyncio.Future[Event] | None = None

    async def begin(self) -> None:
        """Finds the command; raises NotFound, and Conflict for one that is not detached and runs."""
        found = await self._process()
        if found is not None and found.running:
            if not found.detached:
                raise Conflict(
                    f"the command {exec_text(self._exec_id)} is not detached: its output is its client's", hint="start it detached"
                )
            self._ending = asyncio.ensure_future(self._end_to_come(time.time() - _EARLIER_S))
            return
        told = await self._end_before()
        if told is None and found is None:
            raise NotFound(f"the sandbox has had no command {exec_text(self._exec_id)}", hint="it may have been long ago")
        self._ending = asyncio.ensure_future(self._end_to_come(0.0) if told is None else _is(told))

    async def output(self) -> AsyncGenerator[Piece, None]:
        """See `Course`."""
        ending = self._ended()
        if not ending.done():
            async with aclosing(self._coming(ending)) as entries:
                async for entry in entries:
                    for piece in self._new(entry):
                        yield piece
        async for entry in self._logs(follow=False):  # everything was recorded before the end was told
            for piece in self._new(entry):
                yield piece

    async def end(self) -> dict[str, Any]:
        """See `Course`; raises SandboxLost for a command whose end nobody saw."""
        event = await self._ended()
        if event.outcome != "ok":
            raise SandboxLost(f"the end of the command is not known ({event.outcome})", hint="its sandbox may have died")
        return ended_as_told(event.details)

    async def close(self) -> None:
        """Lets go; the command goes on."""
        if self._ending is not None:
            self._ending.cancel()
            await asyncio.gather(self._ending, return_exceptions=True)

    def _ended(self) -> asyncio.Future[Event]:
        if self._ending is None:
            raise Conflict("the command has not been found yet")
        return self._ending

    async def _coming(self, ending: asyncio.Future[Event]) -> AsyncGenerator[LogEntry, None]:
        """What is recorded, until the end is told; what was not yielded then is read again."""
        coming: asyncio.Future[LogEntry] | None = None
        async with closing(self._logs(follow=True)) as entries:
            try:
                while not ending.done():
                    coming = asyncio.ensure_future(anext(entries))
                    await asyncio.wait((coming, ending), return_when=asyncio.FIRST_COMPLETED)
                    if not coming.done():
                        return
                    yield coming.result()
            except StopAsyncIteration:
                await asyncio.wait((ending,))  # the sandbox was removed, and its commands have ended
            finally:
                if coming is not None:
                    coming.cancel()
                    await asyncio.gather(coming, return_exceptions=True)

    def _logs(self, *, follow: bool) -> AsyncIterator[LogEntry]:
        return self._door.kernel.logs(self._door.caller, self._sandbox_id, exec_id=self._exec_id, since=self._since, follow=follow)

    def _new(self, entry: LogEntry) -> list[Piece]:
        """What of an entry is behind the last byte that was told; for bytes that were not recorded a piece without any, behind them."""
        self._since = max(self._since, entry.at)
        begin = entry.offset + entry.missing
        known = self._ends[entry.stream] - begin
        if known >= len(entry.data):
            return []
        data = entry.data[known:] if known > 0 else entry.data
        offset = begin + max(0, known)
        self._ends[entry.stream] = offset + len(data)
        return [Piece(entry.stream, offset, data)]

    async def _process(self) -> ProcessRecord | None:
        """What the sandbox's agent still knows of it."""
        try:
            async with opened(self._door, self._sandbox_id) as sandbox:
                return next((each for each in await sandbox.processes() if each.exec_id == self._exec_id), None)
        except Conflict:
            return None  # it does not run: what ran in it has ended

    async def _end_before(self) -> Event | None:
        """The event of its end, if that was told."""
        after = 0
        while True:
            page = [event async for event in self._events(after=after, since=0.0, follow=False)]
            for event in page:
                if event.exec_id == self._exec_id:
                    return event
            if len(page) < _PAGE:
                return None
            after = page[-1].event_id

    async def _end_to_come(self, since: float) -> Event:
        async with closing(self._events(after=0, since=since, follow=True)) as events:
            async for event in events:
                if event.exec_id == self._exec_id:
                    return event
        raise SandboxLost("the end of the command was not told")

    def _events(self, *, after: int, since: float, follow: bool) -> AsyncIterator[Event]:
        wanted = EventFilter(after=after, since=since, sandbox=self._sandbox_id, kinds=(_ENDED,), limit=_PAGE)
        return self._door.kernel.events(self._door.caller, wanted, follow=follow)


async def _is(value: T) -> T:
    return value


@asynccontextmanager
async def recorded(door: Door, name: str, exec_id: int, offsets: tuple[int, int]) -> AsyncIterator[Recorded]:
    """A detached command's course from these offsets (of stdout and stderr) on, for a block.

    Raises:
        NotFound: there is no such sandbox, or it has never had such a command.
        Conflict: the command is not detached.
    """
    sandbox_id = (await door.kernel.info(door.caller, name)).sandbox_id
    course = Recorded(door, sandbox_id, exec_id, offsets)
    try:
        await course.begin()
        yield course
    finally:
        await course.close()
