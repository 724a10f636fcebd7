"""One sandbox at the egress process: its stream, its tunnels, its rules, and what it may use."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

from agentkernel.channel.frames import FrameType
from agentkernel.channel.wire import FIRST_CREDIT_BYTES, MAX_WINDOW_BYTES
from agentkernel.egress.attempt import Attempt, RefusedError
from agentkernel.egress.names import Lookups, Names
from agentkernel.egress.reach import Site, Surroundings, reach, still_allowed
from agentkernel.egress.stream import FrameStream, Piece
from agentkernel.egress.telling import Teller
from agentkernel.egress.tunnel import Accepted, HostileFrameError, Tunnel, read_accepted
from agentkernel.egress.upstream import Upstream
from agentkernel.egress.vault import Vault
from agentkernel.model.network import EgressLimits, EgressRules

WINDOWS_BYTES: Final = 16 * 1024 * 1024  # of all tunnels together that the agent may have on its way here
HIGH_WATER_BYTES: Final = 1024 * 1024  # so much waits on the stream before upstreams are read no more
GATE_TYPES: Final = frozenset(
    int(kind)
    for kind in (FrameType.TUNNEL_ACCEPTED, FrameType.TUNNEL_DATA, FrameType.TUNNEL_GRANT, FrameType.TUNNEL_CLOSED, FrameType.QUERY)
)
_ACCEPTED, _QUERY, _ANSWER = int(FrameType.TUNNEL_ACCEPTED), int(FrameType.QUERY), int(FrameType.ANSWER)
_PROTOCOLS: Final = {1: "http", 2: "dns", 3: "transparent"}


class Service(NamedTuple):
    """Who speaks with the programs."""

    serve: Callable[[Sandbox, Tunnel, Accepted], Coroutine[Any, Any, None]]  # one tunnel; cancelled when that is lost
    answer: Callable[[Sandbox, bytes], bytes]  # one DNS message; empty: no answer


class Joining(NamedTuple):
    """How a sandbox joins; the socket is its stream."""

    sandbox_id: str
    rules: EgressRules
    limits: EgressLimits
    sock: socket.socket
    vault: Vault | None = None


class Sandbox:
    """Lives as long as its stream. Implements `stream.Taker`, and `tunnel.Owner`.

    Args:
        told: takes one message for the engine; False: it does not keep up.
        left: is told when the stream is over.
    """

    def __init__(
        self, joining: Joining, around: Surroundings, service: Service, told: Callable[[bytes], bool], left: Callable[[Sandbox], None]
    ) -> None:
        self.sandbox_id = joining.sandbox_id
        self.site = Site(rules=joining.rules, names=Names(), lookups=Lookups(joining.limits.lookups_per_s), vault=joining.vault)
        self.around = around
        self._service = service
        self._left = left
        self._limits = joining.limits
        self._teller = Teller(joining.sandbox_id, told, around.desk.loop)
        self._tunnels: dict[int, Tunnel] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._reached: dict[Tunnel, Attempt] = {}
        self._passed_bytes = 0
        self._is_over = False
        self._stream = FrameStream(joining.sock, GATE_TYPES, self, around.desk.loop)

    # -- for who serves its tunnels

    def attempt(self, protocol: str, host: str, port: int) -> Attempt:
        """Begins one; the caller sees to it that something is told of it."""
        return Attempt(self._teller.tell, protocol, host, port)

    async def reach(self, tunnel: Tunnel, attempt: Attempt, *, by_url: bool = False) -> Upstream:
        """Connects for a tunnel, which is closed should later rules deny it; raises RefusedError, which has been told.

        `by_url`: see `reach.reach`.
        """
        try:
            self._check_bytes()
            if self.site.vault is not None:
                self.site.vault.check_host(attempt.host)
                self.site.vault.check_reachable(attempt.host, attempt.port)
            upstream = await reach(self.around, self.site, attempt, by_url=by_url)
            try:
                self._check(attempt)  # rules may have changed while it was looked up and connected to
            except RefusedError:
                upstream.close()
                raise
        except RefusedError as refused:
            attempt.refuse(refused)
            raise
        self._reached[tunnel] = attempt
        return upstream

    def count(self, count: int) -> None:
        """Notes bytes that were passed on, in either direction."""
        self._passed_bytes += count
        total = self._limits.bytes_total
        if total is not None and self._passed_bytes > total:
            self.around.desk.loop.call_soon(self._check_open)

    def _check_bytes(self) -> None:
        total = self._limits.bytes_total
        if total is not None and self._passed_bytes >= total:
            raise RefusedError("the sandbox has used up the bytes that it may transfer", rule="limit bytes", number=errno.EDQUOT)

    # -- for the server

    def set_rules(self, rules: EgressRules) -> None:
        """New connections go by these; open ones that they deny are closed."""
        self.site.rules = rules
        self._check_open()

    def close(self) -> None:
        """Ends every connection; the stream's end says so."""
        if not self._is_over:
            self._is_over = True
            self._stream.close()
            for tunnel in tuple(self._tunnels.values()):
                tunnel.lose()
            self._left(self)

    def _check_open(self) -> None:
        for tunnel, attempt in tuple(self._reached.items()):
            try:
                self._check(attempt)
            except RefusedError as refused:
                attempt.refuse(refused)
                self._reached.pop(tunnel, None)
                tunnel.abort()

    def _check(self, attempt: Attempt) -> None:
        """Raises RefusedError for a connection that may not go on."""
        self._check_bytes()
        ruling = still_allowed(self.around, self.site, attempt)
        if not ruling.allowed:
            raise RefusedError(ruling.reason, rule=ruling.rule).guarded(ruling.told)

    # -- what the stream calls

    def frame(self, kind: int, flags: int, ident: int, payload: Piece) -> None:
        """See `stream.Taker`."""
        try:
            if kind == _ACCEPTED:
                self._accept(ident, read_accepted(payload))
            elif kind == _QUERY:
                self._stream.send(_ANSWER, ident, self._service.answer(self, bytes(payload)))
            elif (tunnel := self._tunnels.get(ident)) is not None:
                tunnel.received(kind, flags, payload)
        except HostileFrameError:
            self.close()

    def drained(self) -> None:
        """See `stream.Taker`."""
        for tunnel in tuple(self._tunnels.values()):
            tunnel.resume()

    def lost(self, reason: str) -> None:
        """See `stream.Taker`."""
        del reason  # the engine has closed it, or broke the protocol
        self.close()

    # -- what tunnels call

    def send(self, kind: int, ident: int, payload: Piece = b"", flags: int = 0) -> None:
        """See `tunnel.Owner`."""
        self._stream.send(kind, ident, payload, flags)

    def send_data(self, kind: int, ident: int, data: memoryview) -> None:
        """See `tunnel.Owner`."""
        self._stream.send_data(kind, ident, data)

    def is_full(self) -> bool:
        """See `tunnel.Owner`."""
        return self._stream.backlog_bytes > HIGH_WATER_BYTES

    def window_bytes(self) -> int:
        """See `tunnel.Owner`."""
        return max(FIRST_CREDIT_BYTES, min(MAX_WINDOW_BYTES, WINDOWS_BYTES // max(1, len(self._tunnels))))

    def forget(self, ident: int) -> None:
        """See `tunnel.Owner`."""
        self._tunnels.pop(ident, None)

    # -- tunnels

    def _accept(self, ident: int, accepted: Accepted) -> None:
        if ident in self._tunnels:
            raise HostileFrameError("a tunnel is accepted twice")
        tunnel = Tunnel(ident, self)
        if len(self._tunnels) >= self._limits.connections:
            self._tunnels[ident] = tunnel
            reason = f"the sandbox has {self._limits.connections} connections already"
            self.attempt(_PROTOCOLS[accepted.kind], "", 0).refuse(RefusedError(reason, rule="limit connections"))
            tunnel.close(errno.EAGAIN)
            return
        self._tunnels[ident] = tunnel
        task = self.around.desk.loop.create_task(self._served(tunnel, accepted))
        tunnel.on_lost = task.cancel
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _served(self, tunnel: Tunnel, accepted: Accepted) -> None:
        try:
            await self._service.serve(self, tunnel, accepted)
        except Exception:  # noqa: BLE001 - the edge of what one connection may break; the engine shows what is written here
            sys.stderr.write(traceback.format_exc())
            sys.stderr.flush()
        finally:
            self._reached.pop(tunnel, None)
            tunnel.on_lost = None
            tunnel.close()
