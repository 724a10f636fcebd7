"""The tunnels of one sandbox (docs/guest-protocol.md, section 5): frames go by the highest bit of their id to who owns the tunnel.

What the agent begins is somebody else's, the egress proxy's as a rule: of that nothing is read here but type and id.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from agentkernel.channel.bell import Bell
from agentkernel.channel.frames import FrameType
from agentkernel.channel.messages import SHORT, WORD, Payload
from agentkernel.channel.tunnel import MIN_WINDOW_BYTES, HostTunnel
from agentkernel.channel.wire import MAX_TUNNEL_DATA, MAX_WINDOW_BYTES, OVERHEAD, TUNNEL_END
from agentkernel.errors import AgentKernelError, InvalidInput, ProtocolViolation

if TYPE_CHECKING:
    from agentkernel.abc_network import TunnelPeer

FIRST_TYPE: Final = int(FrameType.TUNNEL_ACCEPTED)  # of the agent's: this one and those above it
CONNECT_S: Final = 30.0  # a listener inside whose queue is full answers nothing for long
WINDOWS_BYTES: Final = 32 * 1024 * 1024  # of all tunnels together that the host has opened
MAX_QUEUED_BYTES: Final = 64 * 1024 * 1024  # more than an honest agent ever gives credit for
MAX_ANSWER_BYTES: Final = 65_507  # what a UDP datagram holds
_AGENTS = 1 << 63  # ids of tunnels and queries that the agent begins
_OPEN, _CLOSE, _ANSWER = int(FrameType.TUNNEL_OPEN), int(FrameType.TUNNEL_CLOSE), int(FrameType.ANSWER)
_ACCEPTED, _OPENED, _DATA = int(FrameType.TUNNEL_ACCEPTED), int(FrameType.TUNNEL_OPENED), int(FrameType.TUNNEL_DATA)
_QUERY, _SEND, _CREDIT = int(FrameType.QUERY), int(FrameType.TUNNEL_SEND), int(FrameType.TUNNEL_CREDIT)
_ONLY_AGENTS: Final = frozenset({_ACCEPTED, _QUERY})


class Tunnels:
    """Who owns which tunnel on the current attach. With the attach every tunnel ends.

    Args:
        send: a frame as (type, id, payload, flags) on the current attach; dropped where there is none.
        has_room: whether `send` would not pile up; `drained` is called when that may have become true.
        check: raises what ended the channel.
        fail: ends the channel, a moment later.
    """

    def __init__(
        self,
        send: Callable[[int, int, Payload, int], None],
        has_room: Callable[[], bool],
        check: Callable[[], None],
        fail: Callable[[AgentKernelError], None],
    ) -> None:
        self._send = send
        self._has_room = has_room
        self._check = check
        self._fail = fail
        self._peer: TunnelPeer | None = None
        self._own: dict[int, HostTunnel] = {}
        self._idents = itertools.count(1)  # never used again, on no attach
        self._queue: deque[tuple[int, int, bytes, int]] = deque()
        self._queued_bytes = 0
        self._attached = False
        self._changed = Bell()

    def route(self, peer: TunnelPeer | None) -> TunnelPeer:
        """See `abc.Tunnelled`. Whom it went to before is told `reset`."""
        if self._peer is not None and self._peer is not peer:
            self._peer.reset()
        self._peer = peer
        return FromPeer(self)

    async def open(self, port: int) -> HostTunnel:
        """Connects to a port on the sandbox's loopback, on the next attach where there is none now.

        Raises:
            OSError: as connect(2) inside does; TimeoutError after 30 seconds.
            SandboxLost: the channel has ended.
        """
        if not 0 < port < 65536:
            raise InvalidInput(f"there is no port {port}")
        self._check()
        while not self._attached:
            await self._changed.wait()
            self._check()
        tunnel = HostTunnel(next(self._idents), self)
        self._own[tunnel.ident] = tunnel
        try:
            self.take(_OPEN, 0, tunnel.ident, SHORT.pack(port))
            async with asyncio.timeout(CONNECT_S):
                await tunnel.opened()
        except BaseException:
            tunnel.close()
            self._check()
            raise
        return tunnel

    # -- towards the agent

    def take(self, kind: int, flags: int, ident: int, payload: Payload) -> None:
        """Sends a frame to the agent, after what waits already; dropped where there is no attach."""
        if not self._attached:
            return
        if not self._queue and self._has_room():
            self._send(kind, ident, payload, flags)
            return
        self._queue.append((kind, ident, bytes(payload), flags))
        self._queued_bytes += len(payload) + OVERHEAD
        if self._queued_bytes > MAX_QUEUED_BYTES:
            self._fail(ProtocolViolation("the sandbox's agent does not read what it gave credit for"))

    def drained(self) -> None:
        """What was sent has been written: goes on with what waits."""
        while self._queue and self._has_room():
            kind, ident, payload, flags = self._queue.popleft()
            self._queued_bytes -= len(payload) + OVERHEAD
            self._send(kind, ident, payload, flags)
        if not self._queue:
            self._changed.ring()

    async def room(self) -> None:
        """Waits while much is on its way already."""
        while self._queue:
            await self._changed.wait()

    # -- from the agent, and the attach

    def received(self, kind: int, flags: int, ident: int, payload: Payload) -> None:
        """One frame of the agent's; raises ProtocolViolation."""
        if ident & _AGENTS:
            if kind == _OPENED:
                raise ProtocolViolation("the agent opens a tunnel that it began itself")
            if self._peer is not None:
                self._peer.take(kind, flags, ident, payload)
            elif kind == _QUERY:
                self.take(_ANSWER, 0, ident, b"")
            elif kind in (_ACCEPTED, _DATA):
                self.take(_CLOSE, 0, ident, WORD.pack(errno.ECONNREFUSED))
        elif kind in _ONLY_AGENTS or not ident:
            raise ProtocolViolation("the agent begins a tunnel under an id of the host's")
        elif (tunnel := self._own.get(ident)) is not None:
            tunnel.received(kind, flags, payload)

    def begin(self) -> None:
        """There is an attach."""
        self._attached = True
        self._changed.ring()

    def reset(self) -> None:
        """There is none any more: ends every tunnel, and tells whoever the agent's go to."""
        self._attached = False
        self._queue.clear()
        self._queued_bytes = 0
        for tunnel in tuple(self._own.values()):
            tunnel.lose(ConnectionResetError(errno.ECONNRESET, "the connection to the sandbox's agent was lost"))
        if self._peer is not None:
            self._peer.reset()
        self._changed.ring()

    def forget(self, ident: int) -> None:
        """That tunnel of the host's is over; repeating it is fine."""
        self._own.pop(ident, None)

    def window_bytes(self) -> int:
        """How much each of the host's tunnels may have on its way to the host."""
        return max(MIN_WINDOW_BYTES, min(MAX_WINDOW_BYTES, WINDOWS_BYTES // max(1, len(self._own))))


class FromPeer:
    """Implements `abc.TunnelPeer` towards the agent, for who is given what the agent begins.

    That may be a process that hostile bytes have taken over: it is to reach nothing in the sandbox but the agent's own tunnels, so
    every other frame is dropped.
    """

    def __init__(self, tunnels: Tunnels) -> None:
        self._tunnels = tunnels

    def take(self, kind: int, flags: int, ident: int, payload: Payload) -> None:
        """See `abc.TunnelPeer`."""
        if ident & _AGENTS and _may_be_sent(kind, flags, len(payload)):
            self._tunnels.take(kind, flags, ident, payload)

    def reset(self) -> None:
        """See `abc.TunnelPeer`; the attach is the channel's alone."""


def _may_be_sent(kind: int, flags: int, size: int) -> bool:
    if kind == _SEND:
        return size <= MAX_TUNNEL_DATA and (flags == TUNNEL_END or (not flags and size > 0))
    if flags:
        return False
    return size == WORD.size if kind in (_CREDIT, _CLOSE) else kind == _ANSWER and size <= MAX_ANSWER_BYTES
