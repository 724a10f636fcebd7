"""What has come over a connection goes to its parser in pieces, and others have their turn between them.

A read is up to 256 KiB, and with the smallest frames or chunks that there are each of its bytes costs a thousand times what it costs in a
large one: taken in one go, one client would have the loop for seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from uvicorn.protocols.http.flow_control import FlowControl

LEAST_BYTES: Final = 1024  # of a piece
TURN: Final = 128  # frames or chunks in a row, about
_FEW: Final = 2  # in a piece, which tells that they are large: the next one may be, too


class Feed:
    """The pieces of one connection. While some are left nothing more is read.

    Args:
        take: parses a piece; returns how many frames, chunks or other things it had.
        is_held: whether the application is to take what it has before there is more.
        most_bytes: the largest piece.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        take: Callable[[memoryview], int],
        is_held: Callable[[], bool],
        *,
        loop: asyncio.AbstractEventLoop,
        most_bytes: int,
    ) -> None:
        self._transport = transport
        self._take = take
        self._is_held = is_held
        self._loop = loop
        self._most_bytes = most_bytes
        self._bytes = LEAST_BYTES
        self._rest = memoryview(b"")
        self._next: asyncio.Handle | None = None
        self._is_over = False

    def put(self, data: bytes) -> None:
        """Parses what has come: some now, the rest later."""
        self._rest = memoryview(bytes(self._rest) + data) if self._rest else memoryview(data)
        if self._next is None:
            self._turn()

    def go_on(self) -> None:
        """Goes on, with what is left or with reading, unless something holds it."""
        if self._is_over:
            return
        if self._transport.is_closing():
            self.end()
        elif self._rest or self._is_held():
            self._transport.pause_reading()
            if self._next is None and not self._is_held():
                self._next = self._loop.call_soon(self._turn)
        else:
            self._transport.resume_reading()

    def end(self) -> None:
        """Forgets the rest, and leaves the transport alone from now on."""
        self._is_over = True
        self._rest = memoryview(b"")
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _turn(self) -> None:
        self._next = None
        left = TURN
        while self._rest and left > 0 and not self._is_held() and not self._transport.is_closing():
            piece, self._rest = self._rest[: self._bytes], self._rest[self._bytes :]
            cost = self._take(piece)
            left -= cost
            self._bytes = min(2 * self._bytes, self._most_bytes) if cost <= _FEW else LEAST_BYTES
        self.go_on()


class Flow(FlowControl):
    """Reading, which goes on when the application is to have more and nothing is left of what has come."""

    def __init__(self, transport: asyncio.Transport, go_on: Callable[[], None]) -> None:
        super().__init__(transport)
        self._go_on = go_on

    def resume_reading(self) -> None:
        """The application takes more."""
        if self.read_paused:
            self.read_paused = False
            self._go_on()
