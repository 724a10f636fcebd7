"""One connection of a sandbox's, as a stream with flow control over its frames (docs/guest-protocol.md, section 5)."""

from __future__ import annotations

import errno
import struct
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from agentkernel.channel.bell import Bell
from agentkernel.channel.frames import FrameType
from agentkernel.channel.wire import FIRST_CREDIT_BYTES, MAX_CREDIT_BYTES, MAX_TUNNEL_DATA, TUNNEL_END
from agentkernel.egress.stream import Piece

_WORD: Final = struct.Struct("<I")
_ACCEPTED: Final = struct.Struct("<HH16s")
_SEND, _CREDIT, _CLOSE = int(FrameType.TUNNEL_SEND), int(FrameType.TUNNEL_CREDIT), int(FrameType.TUNNEL_CLOSE)
_DATA, _GRANT, _CLOSED = int(FrameType.TUNNEL_DATA), int(FrameType.TUNNEL_GRANT), int(FrameType.TUNNEL_CLOSED)


class HostileFrameError(Exception):
    """The stream's other end broke the protocol."""


class Accepted(NamedTuple):
    """How a tunnel began: kind 1 proxy, 2 resolver, 3 transparent (then `port` and `address` are what was connected to)."""

    kind: int
    port: int
    address: bytes  # 16 bytes, an IPv6 address


def read_accepted(payload: Piece) -> Accepted:
    """Reads TUNNEL_ACCEPTED; raises HostileFrameError."""
    if len(payload) != _ACCEPTED.size:
        raise HostileFrameError("an accepted tunnel is told in 20 bytes")
    accepted = Accepted(*_ACCEPTED.unpack(payload))
    if accepted.kind not in (1, 2, 3):
        raise HostileFrameError(f"there is no listener of kind {accepted.kind}")
    return accepted


class Sink(Protocol):
    """Who takes what a tunnel brings, as it comes."""

    def data(self, view: Piece) -> None:
        """Bytes that are valid during the call; `Tunnel.consumed` is to be told of each when it has been passed on."""
        ...

    def ended(self) -> None:
        """No more of it comes."""
        ...


class Owner(Protocol):
    """The sandbox's side of the stream that a tunnel is on."""

    def send(self, kind: int, ident: int, payload: Piece = b"", flags: int = 0) -> None:
        """Sends a frame."""
        ...

    def send_data(self, kind: int, ident: int, data: memoryview) -> None:
        """Sends data as frames."""
        ...

    def is_full(self) -> bool:
        """Whether so much waits on the stream that nothing should be added; `Tunnel.resume` follows when it no longer does."""
        ...

    def window_bytes(self) -> int:
        """How much a tunnel may have on its way here."""
        ...

    def forget(self, ident: int) -> None:
        """The tunnel is over; repeating it is fine."""
        ...


class Tunnel:
    """What comes is kept in `buffer` until somebody takes it, or goes straight to a sink; what is sent waits here for credit."""

    def __init__(self, ident: int, owner: Owner) -> None:
        self.ident = ident
        self.buffer = bytearray()
        self.has_ended = False  # the program sends nothing more
        self.is_over = False  # nothing can be sent or received any more
        self.on_room: Callable[[], None] | None = None  # called when `room` may have grown
        self.on_lost: Callable[[], object] | None = None  # called when it ends by somebody else's doing
        self._owner = owner
        self._sink: Sink | None = None
        self._allowed_bytes = FIRST_CREDIT_BYTES  # may still be sent to us
        self._held_bytes = 0  # came, and were not passed on yet
        self._window_bytes = FIRST_CREDIT_BYTES  # grows while the tunnel is used: short ones need no credit
        self._credit_bytes = FIRST_CREDIT_BYTES  # we may still send
        self._unsent: deque[memoryview] = deque()
        self._ends = False  # as soon as `_unsent` is sent
        self._is_ended = False
        self._changed = Bell()

    # -- what the program sends

    async def more(self) -> bool:
        """Waits until more is in `buffer` than was; False when no more will come. Who waits bounds what he lets pile up."""
        if self.has_ended or self.is_over:
            return False
        before = len(self.buffer)
        if self._allowed_bytes < FIRST_CREDIT_BYTES // 4:
            self._allow(FIRST_CREDIT_BYTES)
        while len(self.buffer) == before and not self.has_ended and not self.is_over:
            await self._changed.wait()
        return len(self.buffer) > before

    async def some(self) -> bool:
        """Waits until something is in `buffer`; False when nothing will be."""
        return bool(self.buffer) or await self.more()

    def take(self, count: int) -> bytes:
        """Takes that many bytes out of the buffer."""
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        self.consumed(len(data))
        return data

    def put_back(self, data: bytes) -> None:
        """Undoes a `take` of these bytes."""
        self.buffer[:0] = data
        self._held_bytes += len(data)

    def give_to(self, sink: Sink) -> None:
        """From now on everything goes to `sink`, first what is in the buffer."""
        self._sink = sink
        if self.buffer:
            data, self.buffer = bytes(self.buffer), bytearray()
            sink.data(data)
        if self.has_ended and self._sink is sink:
            sink.ended()

    def give_back(self, rest: bytes) -> None:
        """Ends `give_to`; `rest` is what was given last, and is neither wanted nor `consumed`."""
        self._sink = None
        self.buffer += rest

    def consumed(self, count: int) -> None:
        """So much has been passed on; lets the program send on once half of what it was allowed is used up."""
        self._held_bytes -= count
        outstanding = self._held_bytes + self._allowed_bytes
        if not self.has_ended and not self.is_over and outstanding <= self._window_bytes // 2:
            self._window_bytes = min(2 * self._window_bytes, self._owner.window_bytes())
            if self._window_bytes > outstanding:
                self._allow(self._window_bytes - outstanding)

    # -- what it is sent

    def room(self) -> int:
        """How many bytes `send_now` takes; 0: `on_room` is called when that changes."""
        return 0 if self._unsent or self.is_over or self._is_ended or self._owner.is_full() else self._credit_bytes

    def send_now(self, data: memoryview) -> None:
        """Sends not more than `room`; the bytes may be changed afterwards."""
        self._credit_bytes -= len(data)
        self._owner.send_data(_SEND, self.ident, data)

    def send(self, data: bytes) -> None:
        """Sends as soon as there is credit; the caller bounds how much."""
        if data and not self.is_over and not self._is_ended:
            self._unsent.append(memoryview(data))
            self._send_on()

    async def sent(self) -> None:
        """Waits until nothing waits for credit any more."""
        while self._unsent and not self.is_over:
            await self._changed.wait()

    def end(self) -> None:
        """Sends nothing more after what waits; repeating it is fine."""
        self._ends = True
        self._send_on()

    def close(self, number: int = errno.ECONNRESET) -> None:
        """Ends both directions at once, by a reset unless the number is 0; nothing happens to a tunnel that is over."""
        if not self.is_over:
            self._owner.send(_CLOSE, self.ident, _WORD.pack(number))
            self._be_over()

    def abort(self, number: int = errno.ECONNRESET) -> None:
        """`close` for who does not serve it: who does is told."""
        if not self.is_over:
            self._owner.send(_CLOSE, self.ident, _WORD.pack(number))
            self.lose()

    async def finished(self) -> None:
        """Waits until everything is sent and the program has ended its side too; what it still says is thrown away."""
        while not self.is_over:
            self.take(len(self.buffer))
            await self._changed.wait()

    def lose(self) -> None:
        """The program, or the stream to its sandbox, is gone."""
        if not self.is_over:
            self._be_over()
            if self.on_lost is not None:
                self.on_lost()

    # -- what its owner calls

    def received(self, kind: int, flags: int, payload: Piece) -> None:
        """One frame of this tunnel's; raises HostileFrameError."""
        if kind == _DATA:
            self._on_data(flags, payload)
        elif kind == _GRANT and len(payload) == _WORD.size:
            more = _WORD.unpack(payload)[0]
            self._credit_bytes += more
            if more > MAX_CREDIT_BYTES or self._credit_bytes > 2 * MAX_CREDIT_BYTES:
                raise HostileFrameError("more credit than there may be")
            self.resume()
        elif kind == _CLOSED and len(payload) == _WORD.size:
            self.lose()
        else:
            raise HostileFrameError(f"a frame of type {kind} with {len(payload)} bytes has no place in a tunnel")

    def resume(self) -> None:
        """There may be room again."""
        if self._unsent or self._ends:
            self._send_on()
        if self.on_room is not None and self.room():
            self.on_room()

    def _on_data(self, flags: int, payload: Piece) -> None:
        size = len(payload)
        if self.has_ended or size > self._allowed_bytes or size > MAX_TUNNEL_DATA or flags & ~TUNNEL_END or (not size and not flags):
            raise HostileFrameError("data that may not be sent")
        self._allowed_bytes -= size
        self._held_bytes += size
        if size and self._sink is not None:
            self._sink.data(payload)
        elif size:
            self.buffer += payload
        if flags:
            self.has_ended = True
            if self._sink is not None:
                self._sink.ended()
            self._end_if_both()
        self._changed.ring()

    def _allow(self, count: int) -> None:
        self._allowed_bytes += count
        self._owner.send(_CREDIT, self.ident, _WORD.pack(count))

    def _send_on(self) -> None:
        waited = bool(self._unsent)
        while self._unsent and self._credit_bytes and not self._owner.is_full():
            first = self._unsent[0]
            count = min(len(first), self._credit_bytes)
            self._credit_bytes -= count
            self._owner.send_data(_SEND, self.ident, first[:count])
            if count < len(first):
                self._unsent[0] = first[count:]
            else:
                self._unsent.popleft()
        if waited and not self._unsent:
            self._changed.ring()
        if self._ends and not self._unsent and not self._is_ended and not self.is_over:
            self._is_ended = True
            self._owner.send(_SEND, self.ident, b"", TUNNEL_END)
            self._end_if_both()

    def _be_over(self) -> None:
        self.is_over = True
        self._owner.forget(self.ident)
        self._unsent.clear()
        self._changed.ring()

    def _end_if_both(self) -> None:
        """The regular end, without another frame."""
        if self.has_ended and self._is_ended and not self.is_over:
            self._be_over()
