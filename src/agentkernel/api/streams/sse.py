"""Server-Sent Events (HTML, section 9.2): how events are written, and kept flowing.

An event's data is one line of JSON. Comments in long silences let both ends, and proxies between them, notice that the other has gone.
"""

from __future__ import annotations

import asyncio
import base64
import codecs
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

from agentkernel.api.envelope import encoded, problem
from agentkernel.api.streams.answer import Flowing
from agentkernel.errors import AgentKernelError

MEDIA_TYPE: Final = "text/event-stream"
SILENCE_S: Final = 15.0
COMMENT: Final = b":\n\n"
_LONGEST_CHARACTER: Final = 4  # bytes


def event(data: Any, *, name: str = "", ident: str = "") -> bytes:
    """One event; without a name it is a `message`. Neither name nor id holds a line break: both are ours."""
    head = (f"event: {name}\n" if name else "") + (f"id: {ident}\n" if ident else "")
    return head.encode() + b"data: " + encoded(data) + b"\n\n"


class Texts:
    """The output of a command as JSON: text where it is UTF-8, base64 where it is not.

    A character that one piece begins and the next one ends waits for its end, so that text stays text wherever the pieces are cut.
    """

    def __init__(self, offsets: tuple[int, int]) -> None:
        self._ends = [0, *offsets]
        self._held = [b"", b"", b""]

    @property
    def ends(self) -> str:
        """Where to go on: the offsets behind what was told, of stdout and stderr."""
        return f"{self._ends[1]},{self._ends[2]}"

    def told(self, stream: int, offset: int, data: bytes) -> dict[str, Any] | None:
        """What to tell of a piece that begins at an offset; None: nothing yet. Where something is missing before it, it says so."""
        held, lost = self._held[stream], 0
        if self._ends[stream] + len(held) != offset:
            held, lost = b"", offset - self._ends[stream]
        data = held + data
        rest = _unfinished(data)
        self._held[stream], data = data[len(data) - rest :], data[: len(data) - rest]
        self._ends[stream] = offset - len(held) + len(data)
        if not data and not lost:
            return None
        return {**_said(data), "lost_bytes": lost} if lost else _said(data)

    def rest(self, stream: int) -> dict[str, Any] | None:
        """The beginning of a character that never ended."""
        held, self._held[stream] = self._held[stream], b""
        self._ends[stream] += len(held)
        return _said(held) if held else None


def _said(data: bytes) -> dict[str, Any]:
    try:
        return {"data": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _unfinished(data: bytes) -> int:
    """How many bytes at the end begin a character and do not end it."""
    tail = data[-_LONGEST_CHARACTER + 1 :]
    for start in range(len(tail)):
        if tail[start] & 0xC0 == 0x80:
            continue
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            decoder.decode(tail[start:])
        except UnicodeDecodeError:
            continue
        return len(decoder.getstate()[0])
    return 0


def flow(events: Callable[[], AsyncGenerator[bytes, None]]) -> Flowing:
    """The answer that tells events: what fails before the first one is an error answer, and later an event `error`, the last one."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[AsyncIterator[bytes]]:
        async with aclosing(events()) as source, aclosing(_told(source)) as pieces:
            yield pieces

    return Flowing(opened, MEDIA_TYPE)


async def _told(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    begun = False
    try:
        async with aclosing(_lively(events)) as pieces:
            async for piece in pieces:
                begun = True
                yield piece
    except AgentKernelError as error:
        if not begun:
            raise
        yield event(problem(error), name="error")


async def _lively(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The events, with comments in their silences."""
    coming: asyncio.Future[bytes] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait((coming,), timeout=SILENCE_S)
            if not done:
                yield COMMENT
                continue
            try:
                found, coming = coming.result(), None
            except StopAsyncIteration:
                return
            yield found
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
