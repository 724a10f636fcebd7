"""A sandbox's place at the gate: passes frames between the agent and the egress process, and knows which tunnels are open.

Of the frames it reads the type, the id and whether a direction ends; the rest is the egress process's.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Protocol

from agentkernel.abc_network import TunnelPeer
from agentkernel.channel.frames import FrameType
from agentkernel.egress import messages
from agentkernel.egress.stream import FrameStream, Piece
from agentkernel.errors import InvalidInput
from agentkernel.model.codec import from_json
from agentkernel.model.network import Credentials, Decision, EgressLimits, EgressRules, Verdict

MAX_OPEN: Final = 2048  # tunnels, and queries, that an agent has at a time; an honest one has at most 1,024 and 256
BACKLOG_LIMIT_BYTES: Final = 32 * 1024 * 1024  # more than the egress process gives credit for: it has stopped reading
PROCESS_TYPES: Final = frozenset(
    int(kind) for kind in (FrameType.TUNNEL_SEND, FrameType.TUNNEL_CREDIT, FrameType.TUNNEL_CLOSE, FrameType.ANSWER)
)
_WORD: Final = struct.Struct("<I")
_ACCEPTED, _DATA, _CLOSED = int(FrameType.TUNNEL_ACCEPTED), int(FrameType.TUNNEL_DATA), int(FrameType.TUNNEL_CLOSED)
_SEND, _CLOSE = int(FrameType.TUNNEL_SEND), int(FrameType.TUNNEL_CLOSE)
_QUERY, _ANSWER = int(FrameType.QUERY), int(FrameType.ANSWER)
_END: Final = 1
_PROGRAM_ENDED, _HOST_ENDED, _BOTH = 1, 2, 3


class Gate(Protocol):
    """Where sessions get their streams from."""

    def admit(self, session: Session) -> socket.socket | None:
        """A stream to the egress process for a session; None while there is no such process to be had."""
        ...

    def tell_rules(self, session: Session) -> None:
        """Tells the egress process new rules."""
        ...

    def tell_credentials(self, session: Session) -> None:
        """Tells the egress process what it puts into the sandbox's requests."""
        ...

    def leave(self, session: Session, *, for_good: bool) -> None:
        """The session has no stream any more."""
        ...


class Session:
    """Implements `abc_network.EgressSession`."""

    def __init__(
        self,
        gate: Gate,
        sandbox_id: str,
        rules: EgressRules,
        limits: EgressLimits,
        agent: TunnelPeer,
        decided: Callable[[Decision], None],
    ) -> None:
        self.sandbox_id = sandbox_id
        self.rules = rules
        self.credentials: Credentials | None = None
        self._gate = gate
        self._limits = limits
        self._agent = agent
        self._decided = decided
        self._stream: FrameStream | None = None
        self._open: dict[int, int] = {}  # tunnel -> which directions have ended
        self._queries: set[int] = set()
        self._passed_bytes = 0
        self._is_closed = False

    # -- for the engine

    def take(self, kind: int, flags: int, ident: int, payload: Piece) -> None:
        """See `abc_network.TunnelPeer`: a frame of the agent's."""
        stream = self._stream
        if kind in (_ACCEPTED, _QUERY):
            stream = self._begin(kind, ident)
        elif ident not in self._open:
            return  # it crossed the tunnel's end
        elif kind == _DATA:
            self._passed_bytes += len(payload)
            if flags & _END:
                self._end(ident, _PROGRAM_ENDED)
        elif kind == _CLOSED:
            del self._open[ident]
        if stream is None:
            return
        stream.send(kind, ident, payload, flags)
        if stream.backlog_bytes > BACKLOG_LIMIT_BYTES:
            self._cut()

    def reset(self) -> None:
        """See `abc_network.TunnelPeer`: nothing more is sent for tunnels from before."""
        self._open.clear()
        self._queries.clear()
        self._leave()

    def set_rules(self, rules: EgressRules) -> None:
        """See `abc_network.EgressSession`. Raises InvalidInput for more rules than fit; then the old ones hold."""
        messages.rules_of(self.sandbox_id, rules)
        self.rules = rules
        if self._stream is not None:
            self._gate.tell_rules(self)

    def set_secrets(self, credentials: Credentials) -> None:
        """See `abc_network.EgressSession`. Raises InvalidInput for more than fits; then the old ones hold."""
        messages.secrets_of(self.sandbox_id, credentials)
        self.credentials = credentials
        if self._stream is not None:
            self._gate.tell_credentials(self)

    def close(self) -> None:
        """See `abc_network.EgressSession`; repeating it is fine."""
        if not self._is_closed:
            self._is_closed = True
            self._cut()
            self._gate.leave(self, for_good=True)

    # -- for the gate

    def joining(self) -> bytes:
        """The message that a stream for this session comes with: of its bytes what is left."""
        total = self._limits.bytes_total
        left = self._limits if total is None else replace(self._limits, bytes_total=max(0, total - self._passed_bytes))
        return messages.join(self.sandbox_id, self.rules, left)

    def told(self, message: dict[str, Any]) -> None:
        """A message of the egress process about this sandbox; raises InvalidInput for a malformed one."""
        if message["op"] == "dropped":
            count = message.get("count")
            if type(count) is not int or count < 1:
                raise InvalidInput("a count of decisions is a positive number")
            self.fail(f"{count} decisions came faster than they could be told", rule="limit decisions")
        else:
            self._decided(from_json(Decision, message.get("decision")))

    def fail(self, reason: str, *, rule: str = "") -> None:
        """Tells that something did not work which has no destination."""
        self._decided(Decision(at=time.time(), verdict=Verdict.FAILED, protocol="", host="", port=0, rule=rule, reason=reason))

    # -- what the stream calls

    def frame(self, kind: int, flags: int, ident: int, payload: Piece) -> None:
        """See `stream.Taker`: a frame of the egress process."""
        if kind == _ANSWER:
            if ident in self._queries:
                self._queries.discard(ident)
                self._agent.take(kind, flags, ident, payload)
            return
        if ident not in self._open:
            return
        if kind == _SEND:
            self._passed_bytes += len(payload)
            if flags & _END:
                self._end(ident, _HOST_ENDED)
        elif kind == _CLOSE:
            del self._open[ident]
        self._agent.take(kind, flags, ident, payload)

    def drained(self) -> None:
        """See `stream.Taker`: the agent's credit is all that bounds what comes."""

    def lost(self, reason: str) -> None:
        """See `stream.Taker`: the process has died, or ended this stream for what came on it."""
        del reason
        self._cut()

    def _begin(self, kind: int, ident: int) -> FrameStream | None:
        """Notes a new tunnel or query, and gets the stream that it needs; where that cannot be, ends it at once."""
        begun = self._open if kind == _ACCEPTED else self._queries
        number = errno.EAGAIN
        if not self._is_closed and ident not in begun and len(begun) < MAX_OPEN:
            if self._stream is None and (sock := self._gate.admit(self)) is not None:
                self._stream = FrameStream(sock, PROCESS_TYPES, self, asyncio.get_running_loop())
            if self._stream is not None:
                if kind == _ACCEPTED:
                    self._open[ident] = 0
                else:
                    self._queries.add(ident)
                return self._stream
            number = errno.ECONNREFUSED
        self._end_at_agent(kind, ident, number)
        return None

    def _end(self, ident: int, direction: int) -> None:
        self._open[ident] |= direction
        if self._open[ident] == _BOTH:
            del self._open[ident]

    def _cut(self) -> None:
        """Ends the stream, and every tunnel and query at the agent."""
        opened, self._open = self._open, {}
        queries, self._queries = self._queries, set()
        self._leave()
        for ident in opened:
            self._end_at_agent(_ACCEPTED, ident, errno.ECONNRESET)
        for ident in queries:
            self._end_at_agent(_QUERY, ident, 0)

    def _leave(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
            self._gate.leave(self, for_good=False)

    def _end_at_agent(self, kind: int, ident: int, number: int) -> None:
        if kind == _ACCEPTED:
            self._agent.take(_CLOSE, 0, ident, _WORD.pack(number))
        else:
            self._agent.take(_ANSWER, 0, ident, b"")
