"""The three byte streams of one started process as the host sees them: offsets, credit and bounded memory; no I/O.

An offset counts from the process's first byte and survives re-attachment, so nothing is lost or doubled by a cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from agentkernel.channel.wire import MAX_OUTPUT
from agentkernel.errors import ProtocolViolation

Sink = Callable[[int, memoryview | bytes], None]

MAX_OFFSET: Final = 2**62  # no process gets there; sums stay within the wire's u64
MAX_STDIN_CHUNK: Final = 65_536
MAX_UNCONFIRMED: Final = 262_144  # input kept for a repeat, whatever limit the agent states
_MUCH = 2 * MAX_OUTPUT  # of the joined chunks: each costs its reader a turn, and half a ring goes on filling meanwhile
_SMALL = 4096  # a chunk below it is joined with its neighbour: a drip of single bytes must not cost an object each
_MANY = 256  # from this many queued chunks on, small ones are joined even across the other stream's


class Tap(Protocol):
    """Who reads a process's output beside its owner: from offsets of its own on, at a pace of its own."""

    def ask(self) -> tuple[int, int] | None:
        """The next offsets that it wants, of stdout and stderr, which the agent is being asked for; None while it takes nothing."""
        ...

    def restart(self, stdout: int, stderr: int) -> None:
        """What was asked for comes from these offsets on: earlier, where others want it so; later, where the agent has no more."""
        ...

    def offer(self, stream: int, offset: int, data: memoryview | bytes) -> None:
        """Some bytes, known ones perhaps among them; valid during the call."""
        ...

    def skip(self, stream: int, offset: int) -> None:
        """The agent has dropped what comes before `offset`."""
        ...

    def released(self, stream: int) -> int:
        """The offset up to which it has done with the output."""
        ...

    def is_behind(self, stream: int, end: int) -> bool:
        """Whether it has yet to be given bytes before `end`."""
        ...


class OutputQueue:
    """stdout (1) and stderr (2): what was received and not yet taken, at most `ring_bytes` per stream.

    `lossy` is a detached process, which waits for nobody: its ring drops the oldest bytes, so offsets may jump forward, and so does this
    queue; elsewhere never. `reading` is False where only taps read. What some reader has not done with the agent must keep; but a detached
    process that has a reader of its own does not wait for taps.
    """

    __slots__ = (
        "_acknowledged",
        "_cursors",
        "_held",
        "_high",
        "_quarter",
        "_queue",
        "_received",
        "_ring_bytes",
        "_sink",
        "_tails",
        "lossy",
        "lost",
        "reading",
        "taps",
    )

    def __init__(self, ring_bytes: int, *, lossy: bool, reading: bool = True, first: tuple[int, int] = (0, 0)) -> None:
        self.lossy = lossy
        self.lost = False
        self.reading = reading
        self.taps: list[Tap] = []
        self._ring_bytes = ring_bytes
        self._quarter = ring_bytes // 4
        self._queue: deque[tuple[int, bytes | bytearray]] = deque()
        self._tails: list[bytearray | None] = [None, None, None]
        self._sink: Sink | None = None
        self._cursors = [0, *first]  # the next offset on this attach
        self._received = [0, *first]  # what this queue itself has got
        self._high = [0, *first]  # what anyone has got
        self._held = [0, 0, 0]  # bytes in the queue
        self._acknowledged = [0, 0, 0]

    @property
    def received(self) -> tuple[int, int]:
        """The offset after the last byte received of each stream."""
        return self._high[1], self._high[2]

    def ask(self) -> tuple[int, int]:
        """Where to resume: at the earliest offset that a reader wants."""
        wanted: list[Sequence[int]] = [self._received] if self.reading else []
        wanted += [(0, *asked) for tap in self.taps if (asked := tap.ask()) is not None]
        positions: list[Sequence[int]] = wanted or [self._high]
        return min(position[1] for position in positions), min(position[2] for position in positions)

    @property
    def consumed(self) -> tuple[int, int]:
        """What the agent may forget."""
        return self._consumed(1), self._consumed(2)

    def read(self, first: tuple[int, int] | None = None) -> None:
        """From now on this queue reads too: from `first` on, or what comes from now on."""
        if not self.reading:
            self.reading = True
            for stream in (1, 2):
                self._received[stream] = self._high[stream] if first is None else first[stream - 1]

    def restart(self, asked: tuple[int, int], first: tuple[int, int]) -> None:
        """A new subscription: the agent sends from the offsets that were asked for on, or from the first that it still has."""
        start = (max(asked[0], first[0]), max(asked[1], first[1]))
        for stream in (1, 2):
            if not self.lossy and start[stream - 1] > max(asked[stream - 1], self._acknowledged[stream]):
                self.lose()
            self._cursors[stream] = start[stream - 1]
            self._advance(stream, start[stream - 1])
        for tap in self.taps:
            tap.restart(*start)

    def accept(self, stream: int, offset: int, data: memoryview | bytes) -> None:
        """Takes one OUTPUT; bytes known from before a re-attach are cut off."""
        if stream not in (1, 2) or not 0 < len(data) <= MAX_OUTPUT:
            raise ProtocolViolation("malformed OUTPUT")
        if offset != self._cursors[stream]:
            if offset < self._cursors[stream]:
                raise ProtocolViolation("the agent sends output twice")
            if not self.lossy:
                self.lose()
            self._advance(stream, offset)
        end = self._cursors[stream] = offset + len(data)
        if not self.lossy and end - max(self._consumed(stream), self._acknowledged[stream]) > self._ring_bytes:
            raise ProtocolViolation("the agent sends more output than the host has room for")
        self._high[stream] = max(end, self._high[stream])
        for tap in self.taps:
            tap.offer(stream, offset, data)
        known = self._received[stream] - offset
        if known >= len(data) or not self.reading:
            return
        if known > 0:
            data = data[known:]
        self._received[stream] = end
        if self._sink is not None:
            self._sink(stream, data)
        else:
            self._append(stream, data)
            if self._held[stream] > self._ring_bytes:
                self._drop_oldest(stream)

    def take(self) -> tuple[int, bytes] | None:
        """The next chunk, None when there is none now: what waits of one stream, as far as it is not much, is one."""
        if not self._queue:
            return None
        stream, data = self._queue.popleft()
        taken, count = [data], len(data)
        while self._queue and self._queue[0][0] == stream and count + len(self._queue[0][1]) <= _MUCH:
            data = self._queue.popleft()[1]
            taken.append(data)
            count += len(data)
        if self._tails[stream] is data:
            self._tails[stream] = None
        self._held[stream] -= count
        return stream, bytes(data) if len(taken) == 1 else b"".join(taken)

    def pour(self, sink: Sink) -> None:
        """From now on gives every chunk to `sink` at once, which counts as consumed; starts with what is queued."""
        self.read()
        self._sink = sink
        while (chunk := self.take()) is not None:
            sink(*chunk)

    def acknowledge(self) -> tuple[int, int]:
        """All that the agent may forget, which it is being told."""
        for stream in (1, 2):
            self._acknowledged[stream] = max(self._acknowledged[stream], self._consumed(stream))
        return self._acknowledged[1], self._acknowledged[2]

    def due(self, stream: int) -> int | None:
        """The offset to acknowledge now; None while less than a quarter of the ring is new."""
        consumed = self._consumed(stream)
        if consumed - self._acknowledged[stream] < self._quarter:
            return None
        self._acknowledged[stream] = consumed
        return consumed

    def is_behind(self, ends: tuple[int, int]) -> bool:
        """Whether a tap still waits for bytes before these offsets, which the agent has sent while it took none."""
        return any(tap.is_behind(stream, end) for tap in self.taps for stream, end in enumerate(ends, start=1))

    def lose(self) -> None:
        """Notes that the agent has dropped output; only a lossy ring may."""
        if not self.lossy:
            raise ProtocolViolation("the agent left output out")
        self.lost = True

    def _consumed(self, stream: int) -> int:
        own = self._received[stream] - self._held[stream]
        if self.reading and (self.lossy or not self.taps):
            return own
        if not self.taps:
            return self._acknowledged[stream]
        released = min(tap.released(stream) for tap in self.taps)
        return min(released, own) if self.reading else released

    def _advance(self, stream: int, offset: int) -> None:
        """The agent has nothing before `offset` any more; what a reader has not got of it is lost."""
        if offset > MAX_OFFSET:
            raise ProtocolViolation("no process has that much output")
        if offset > (self._received if self.reading else self._high)[stream]:
            self.lose()
            self._received[stream] = offset
        self._high[stream] = max(offset, self._high[stream])
        for tap in self.taps:
            tap.skip(stream, offset)

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

    def _drop_oldest(self, stream: int) -> None:
        """Makes room as the ring of a detached process does."""
        self.lose()
        kept: deque[tuple[int, bytes | bytearray]] = deque()
        for chunk in self._queue:
            if chunk[0] == stream and self._held[stream] > self._ring_bytes:
                self._held[stream] -= len(chunk[1])
                if self._tails[stream] is chunk[1]:
                    self._tails[stream] = None
            else:
                kept.append(chunk)
        self._queue = kept


class InputWindow:
    """stdin: what was sent and not yet confirmed is kept for a repeat after a cut, at most `MAX_UNCONFIRMED` bytes.

    With `adopted` it belongs to a process that an earlier host started: it goes on where the agent stands.
    """

    __slots__ = ("_adopted", "_consumed", "_limit", "_sent", "_unconfirmed", "ended", "finished")

    def __init__(self, *, wanted: bool, adopted: bool = False) -> None:
        self.ended = not wanted  # the host has no more
        self.finished = not wanted  # nobody reads any more: what is written is discarded
        self._adopted = adopted
        self._consumed = 0
        self._sent = 0
        self._limit = 0
        self._unconfirmed = bytearray()

    @property
    def sent(self) -> int:
        """The offset after the last byte sent."""
        return self._sent

    @property
    def consumed(self) -> int:
        """The offset up to which the process has taken it."""
        return self._consumed

    @property
    def limit(self) -> int:
        """The offset up to which the agent takes it."""
        return self._limit

    @property
    def unconfirmed_bytes(self) -> int:
        """How much is kept for a repeat."""
        return len(self._unconfirmed)

    def room(self) -> int:
        """How many bytes may be sent now."""
        return max(0, min(self._limit - self._sent, MAX_UNCONFIRMED - len(self._unconfirmed)))

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
        if self._adopted:
            if consumed > MAX_OFFSET:
                raise ProtocolViolation("no process has taken that much input")
            self._adopted = False
            self._consumed = self._sent = consumed
            if limit == 0:
                self.finish()
                return []
        self.confirm(max(consumed, self._consumed), max(limit, self._limit))
        start, kept = self._consumed, self._unconfirmed
        return [(start + at, bytes(kept[at : at + MAX_STDIN_CHUNK])) for at in range(0, len(kept), MAX_STDIN_CHUNK)]
