"""One connection to a port inside, as a stream with flow control (docs/guest-protocol.md, section 5)."""

from __future__ import annotations

import errno
import os
from typing import Final, Protocol

from agentkernel.channel.bell import Bell
from agentkernel.channel.frames import FrameType
from agentkernel.channel.messages import WORD, Payload
from agentkernel.channel.wire import FIRST_CREDIT_BYTES, MAX_CREDIT_BYTES, MAX_TUNNEL_DATA, TUNNEL_END

MIN_WINDOW_BYTES: Final = FIRST_CREDIT_BYTES
_SEND, _CREDIT, _CLOSE = int(FrameType.TUNNEL_SEND), int(FrameType.TUNNEL_CREDIT), int(FrameType.TUNNEL_CLOSE)
_OPENED, _DATA, _GRANT = int(FrameType.TUNNEL_OPENED), int(FrameType.TUNNEL_DATA), int(FrameType.TUNNEL_GRANT)
_CLOSED = int(FrameType.TUNNEL_CLOSED)


class Router(Protocol):
    """Where a tunnel's frames go."""

    def take(self, kind: int, flags: int, ident: int, payload: Payload) -> None:
        """Sends one."""
        ...

    async def room(self) -> None:
        """Waits while much is on its way."""
        ...

    def forget(self, ident: int) -> None:
        """It is over."""
        ...

    def window_bytes(self) -> int:
        """How much may be on its way to the host."""
        ...


class HostTunnel:
    """Implements `abc.Tunnel`. What an agent does against the protocol ends its tunnel, and holds no more than the window."""

    def __init__(self, ident: int, router: Router) -> None:
        self.ident = ident
        self._router = router
        self._is_open = False
        self._received = bytearray()  # not yet read
        self._allowed_bytes = FIRST_CREDIT_BYTES  # the agent may still send
        self._window_bytes = FIRST_CREDIT_BYTES  # grows while the connection is used: short ones need no credit
        self._credit_bytes = FIRST_CREDIT_BYTES  # the host may still send
        self._has_ended = False  # the other end sends nothing more
        self._is_ended = False  # nor does this one
        self._error: OSError | None = None
        self._readable = Bell()
        self._writable = Bell()

    async def opened(self) -> None:
        """Waits for the connection; raises as connect(2) inside did."""
        while not self._is_open:
            if self._error is not None:
                raise _copy(self._error)
            await self._readable.wait()

    async def read(self) -> bytes:
        """See `abc.Tunnel`. What came before a reset is read first."""
        while not self._received:
            if self._has_ended:
                return b""
            if self._error is not None:
                raise _copy(self._error)
            await self._readable.wait()
        with memoryview(self._received) as view:
            data = bytes(view[:MAX_TUNNEL_DATA])
        del self._received[: len(data)]
        self._give_credit()
        return data

    async def write(self, data: bytes) -> None:
        """See `abc.Tunnel`."""
        rest = memoryview(data)
        while rest:
            await self._router.room()
            if self._error is not None:
                raise _copy(self._error)
            if self._is_ended:
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            count = min(len(rest), self._credit_bytes, MAX_TUNNEL_DATA)
            if not count:
                await self._writable.wait()
                continue
            self._credit_bytes -= count
            self._router.take(_SEND, 0, self.ident, rest[:count])
            rest = rest[count:]

    async def end(self) -> None:
        """See `abc.Tunnel`; repeating it is fine."""
        if not self._is_ended and self._error is None:
            self._is_ended = True
            self._router.take(_SEND, TUNNEL_END, self.ident, b"")
            self._forget_if_over()

    def close(self) -> None:
        """See `abc.Tunnel`. Unless both directions have ended the connection inside is reset."""
        if self._error is None and not (self._has_ended and self._is_ended):
            self._router.take(_CLOSE, 0, self.ident, WORD.pack(errno.ECONNRESET))
            self._received.clear()
            self.lose(ConnectionResetError(errno.ECONNRESET, "the connection was closed here"))

    def lose(self, error: OSError) -> None:
        """It is over, for that reason."""
        self._error = error
        self._router.forget(self.ident)
        self._readable.ring()
        self._writable.ring()

    def received(self, kind: int, flags: int, payload: Payload) -> None:
        """One frame of the agent's."""
        if kind == _DATA and self._is_open:
            self._on_data(flags, payload)
        elif kind == _GRANT and self._is_open and len(payload) == WORD.size:
            self._credit_bytes += WORD.unpack(payload)[0]
            if self._credit_bytes > MAX_CREDIT_BYTES:
                self._fault("gives more credit than there may be")
            self._writable.ring()
        elif kind == _OPENED and not self._is_open and not payload:
            self._is_open = True
            self._readable.ring()
        elif kind == _CLOSED and len(payload) == WORD.size:
            self._on_closed(WORD.unpack(payload)[0])
        else:
            self._fault("breaks the protocol")

    def _on_data(self, flags: int, payload: Payload) -> None:
        size = len(payload)
        if self._has_ended or size > min(self._allowed_bytes, MAX_TUNNEL_DATA) or (not size and not flags & TUNNEL_END):
            self._fault("sends what it may not send")
            return
        self._allowed_bytes -= size
        self._received += payload
        if flags & TUNNEL_END:
            self._has_ended = True
            self._forget_if_over()
        self._readable.ring()

    def _on_closed(self, number: int) -> None:
        if number == 0 and self._is_open:
            self._has_ended = True
            self.lose(ConnectionResetError(errno.ECONNRESET, "the other end has closed the connection"))
            return
        number = number if 0 < number < 4096 else errno.ECONNABORTED
        error = OSError(number, os.strerror(number))  # of the class that belongs to the number
        if self._is_open and not isinstance(error, ConnectionError):
            error = ConnectionResetError(number, os.strerror(number))
        self.lose(error)

    def _fault(self, what: str) -> None:
        self._router.take(_CLOSE, 0, self.ident, WORD.pack(errno.EPROTO))
        self._received.clear()
        self._has_ended = False  # what is missing is not to look like the end
        self.lose(ConnectionResetError(errno.EPROTO, f"the sandbox's agent {what}"))

    def _give_credit(self) -> None:
        """Lets the agent send on once half of what it was allowed is used up."""
        outstanding = len(self._received) + self._allowed_bytes
        if self._has_ended or self._error is not None or outstanding > self._window_bytes // 2:
            return
        self._window_bytes = min(2 * self._window_bytes, self._router.window_bytes())
        more = self._window_bytes - outstanding
        if more > 0:
            self._allowed_bytes += more
            self._router.take(_CREDIT, 0, self.ident, WORD.pack(more))

    def _forget_if_over(self) -> None:
        if self._has_ended and self._is_ended:
            self._router.forget(self.ident)


def _copy(error: OSError) -> OSError:
    """The same error for one more caller: a shared one would collect everybody's traceback."""
    return type(error)(*error.args)
