"""What a client says before its frames: perhaps for whom it speaks, then HELLO. However it comes in pieces, and never more than that."""

from __future__ import annotations

from typing import Final

from agentkernel.channel import preface
from agentkernel.channel.wire import HELLO

_ROOM: Final = 8192  # for a greeting without preface and the frames in the same write


class Greeting:
    """Holds the first bytes of a connection until they are all there."""

    def __init__(self) -> None:
        self._buffer = bytearray(_ROOM)
        self._count = 0
        self._begin: int | None = None  # of HELLO

    @property
    def preface(self) -> bytes | None:
        """The JSON of the preface; None where there is none."""
        return bytes(self._buffer[preface.HEAD.size : self._begin]) if self._begin else None

    @property
    def hello(self) -> bytes:
        """The greeting itself."""
        begin = self._begin or 0
        return bytes(self._buffer[begin : begin + HELLO.size])

    @property
    def rest(self) -> bytes:
        """What came behind it."""
        return bytes(self._buffer[(self._begin or 0) + HELLO.size : self._count])

    def clear(self) -> None:
        """Nothing more is to be had from it."""
        self._buffer = bytearray()

    def writable(self) -> memoryview:
        """Where the next bytes go; never empty before the greeting is complete."""
        return memoryview(self._buffer)[self._count :]

    def received(self, count: int) -> bool:
        """Takes `count` bytes that were written there; whether the greeting is complete. Raises ProtocolViolation."""
        self._count += count
        if self._begin is None:
            self._begin = self._found()
        return self._begin is not None and self._count >= self._begin + HELLO.size

    def _found(self) -> int | None:
        """Where HELLO begins, as soon as that is known."""
        if self._count < HELLO.size:  # which is longer than a preface's head
            return None
        if not self._buffer.startswith(preface.MAGIC):
            return 0
        begin = preface.HEAD.size + preface.length_of(self._buffer[: preface.HEAD.size])
        missing = begin + HELLO.size - len(self._buffer)
        if missing > 0:
            self._buffer = self._buffer + bytes(missing)  # a new one: a view of the old one may be in use
        return begin
