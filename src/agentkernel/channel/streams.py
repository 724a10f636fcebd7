"""The three byte streams of one started process as the host sees them: offsets, credit and bounded memory; no I/O.

An offset counts from the process's first byte and survives re-attachment, so nothing is lost or doubled by a cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from agentkernel.channel.wire import MAX_OUTPUT
from agentkernel.errors import ProtocolViolation

Sink = Callable[[int, memoryview | bytes], None]

MAX_OFFSET: Final = 2**62  # no process gets there; sums stay within the wire's u64
MAX_STDIN_CHUNK: Final = 65_536
MAX_UNCONFIRMED: Final = 262_144  # input kept for a repeat, whatever limit the agent states
_SMALL = 4096  # a chunk below it is joined with its neighbour: a drip of single bytes must not cost an object each
_MANY = 256  # from this many queued chunks on, small ones are joined even across the other stream's


class OutputQueue:
    """stdout (1) and stderr (2): what was received and not yet taken, at most `ring_bytes` per stream.

    `lossy` is a detached process, whose ring may drop its oldest bytes: there offsets may jump forward, elsewhere never.
    """

    __slots__ = ("_acknowledged", "_cursors", "_held", "_quarter", "_queue", "_received", "_ring_bytes", "_sink", "_tails", "lossy", "lost")

    def __init__(self, ring_bytes: int, *, lossy: bool) -> None:
        self.lossy = lossy
        self.lost = False
        self._ring_bytes = ring_bytes
        self._quarter = ring_bytes // 4
        self._queue: deque[tuple[int, bytes | bytearray]] = deque()
        self._tails: list[bytearray | None] = [None, None, None]
        self._sink: Sink | None = None
        self._cursors = [0, 0, 0]  # the next offset on this attach
        self._received = [0, 0, 0]
        self._held = [0, 0, 0]  # bytes in the queue
        self._acknowledged = [0, 0, 0]

    @property
    def received(self) -> tuple[int, int]:
        """The offset after the last byte received of each stream: where to resume."""
        return self._received[1], self._received[2]

    @property
    def consumed(self) -> tuple[int, int]:
        """What the agent may forget."""
        return self._received[1] - self._held[1], self._received[2] - self._held[2]

    def restart(self, stdout: int, stderr: int) -> None:
        """A new subscription: the agent sends from these offsets on."""
        for stream, offset in ((1, stdout), (2, stderr)):
            self._cursors[stream] = offset
            if offset > self._received[stream]:
                self._skip(stream, offset)

    def accept(self, stream: int, offset: int, data: memoryview | bytes) -> None:
        """Takes one OUTPUT; bytes known from before a re-attach are cut off."""
        if stream not in (1, 2) or not 0 < len(data) <= MAX_OUTPUT:
            raise ProtocolViolation("malformed OUTPUT")
        if offset != self._cursors[stream]:
            if offset < self._cursors[stream]:
                raise ProtocolViolation("the agent sends output twice")
            self._skip(stream, offset)
        end = self._cursors[stream] = offset + len(data)
        known = self._received[stream] - offset
        if known > 0:
            if known >= len(data):
                return
            data = data[known:]
        if self._held[stream] + len(data) > self._ring_bytes:
            raise ProtocolViolation("the agent sends more output than the host has room for")
        self._received[stream] = end
        if self._sink is not None:
            self._sink(stream, data)
        else:
            self._append(stream, data)

    def take(self) -> tuple[int, bytes] | None:
        """The next chunk, None when there is none now."""
        if not self._queue:
            return None
        stream, data = self._queue.popleft()
        if self._tails[stream] is data:
            self._tails[stream] = None
        self._held[stream] -= len(data)
        return stream, bytes(data)

    def pour(self, sink: Sink) -> None:
        """From now on gives every chunk to `sink` at once, which counts as consumed; starts with what is queued."""
        self._sink = sink
        while (chunk := self.take()) is not None:
            sink(*chunk)

    def due(self, stream: int) -> int | None:
        """The offset to acknowledge now; None while less than a quarter of the ring is new."""
        consumed = self._received[stream] - self._held[stream]
        if consumed - self._acknowledged[stream] < self._quarter:
            return None
        self._acknowledged[stream] = consumed
        return consumed

    def lose(self) -> None:
        """Notes that the agent has dropped output; only a lossy ring may."""
        if not self.lossy:
            raise ProtocolViolation("the agent left output out")
        self.lost = True

    def _skip(self, stream: int, offset: int) -> None:
        if offset > MAX_OFFSET:
            raise ProtocolViolation("no process has that much output")
        self.lose()
        self._received[stream] = max(offset, self._received[stream])

    def _append(self, stream: int, data: memoryview | bytes) -> None:
        self._held[stream] += len(data)
        if len(data) >= _SMALL:
            self._queue.append((stream, bytes(data)))
            self._tails[stream] = None
            return
        tail = self._tails[stream]
        if tail is not None and len(tail) < MAX_OUTPUT and (self._queue[-1][1] is tail or len(self._queue) > _MANY):
            tail += data
            return
        tail = self._tails[stream] = bytearray(data)
        self._queue.append((stream, tail))


class InputWindow:
    """stdin: what was sent and not yet confirmed is kept for a repeat after a cut, at most `MAX_UNCONFIRMED` bytes."""

    __slots__ = ("_consumed", "_limit", "_sent", "_unconfirmed", "ended", "finished")

    def __init__(self, *, wanted: bool) -> None:
        self.ended = not wanted  # the host has no more
        self.finished = not wanted  # nobody reads any more: what is written is discarded
        self._consumed = 0
        self._sent = 0
        self._limit = 0
        self._unconfirmed = bytearray()

    @property
    def sent(self) -> int:
        """The offset after the last byte sent."""
        return self._sent

    @property
    def unconfirmed_bytes(self) -> int:
        """How much is kept for a repeat."""
        return len(self._unconfirmed)

    def room(self) -> int:
        """How many bytes may be sent now."""
        return max(0, min(self._limit - self._sent, MAX_UNCONFIRMED - len(self._unconfirmed), MAX_STDIN_CHUNK))

    def push(self, data: memoryview) -> int:
        """Notes bytes that are being sent, at most `room()`; returns their offset."""
        offset = self._sent
        self._sent += len(data)
        self._unconfirmed += data
        return offset

    def confirm(self, consumed: int, limit: int) -> None:
        """Takes a STDIN_CONSUMED."""
        if not self._consumed <= consumed <= self._sent or limit < max(self._limit, consumed):
            raise ProtocolViolation("the agent's account of the input is impossible")
        del self._unconfirmed[: consumed - self._consumed]
        self._consumed = consumed
        self._limit = limit

    def finish(self) -> None:
        """Nobody reads any more."""
        self.finished = True
        self._unconfirmed.clear()
        self._consumed = self._sent

    def resume(self, consumed: int, limit: int) -> list[tuple[int, bytes]]:
        """Takes the agent's account after a re-attach; returns what to send again as (offset, bytes)."""
        if self.finished:
            return []
        self.confirm(max(consumed, self._consumed), max(limit, self._limit))
        start, kept = self._consumed, self._unconfirmed
        return [(start + at, bytes(kept[at : at + MAX_STDIN_CHUNK])) for at in range(0, len(kept), MAX_STDIN_CHUNK)]
