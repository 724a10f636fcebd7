"""The egress proxy as the engine sees it: a process of its own, started at the first frame of any sandbox, and again after a death."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable, Mapping
from typing import Any, Final

from agentkernel.abc_network import TunnelPeer
from agentkernel.egress import messages
from agentkernel.egress.child import Child
from agentkernel.egress.session import Session
from agentkernel.errors import InvalidInput
from agentkernel.model.network import NO_CREDENTIALS, Decision, EgressLimits, EgressRules

_PING_S: Final = 10.0  # a process that has not answered the last ping at the next one hangs
_IDLE_S: Final = 120.0  # without a sandbox that has used it
_END_S: Final = 2.0  # from closing its control socket to SIGKILL
_QUICK_DEATH_S: Final = 5.0
_BACKOFF_S: Final = (0.0, 0.0, 0.2, 1.0, 5.0)  # after so many quick deaths in a row


class EgressGate:
    """Implements `abc_network.Egress`. Belongs to one event loop; costs nothing before the first frame.

    Args:
        upstream: `http://[user:password@]host:port` of the proxy that every connection goes through; empty: none.
        environment: whose PATH, language and (of a source tree) PYTHONPATH the process gets; None: this process's.
    """

    def __init__(self, upstream: str = "", *, environment: Mapping[str, str] | None = None) -> None:
        self._upstream = upstream
        self._environment = environment
        self._child: Child | None = None
        self._started_at = 0.0
        self._quick_deaths = 0
        self._not_before = 0.0
        self._sessions: dict[str, Session] = {}
        self._joined: set[str] = set()  # those with a stream
        self._served: set[str] = set()  # those that have had one to this process
        self._timer: asyncio.TimerHandle | None = None
        self._idle_since = 0.0
        self._awaits_pong = False
        self._ending: set[Child] = set()
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """The egress process's, while there is one."""
        return self._child.pid if self._child is not None else None

    def join(
        self, sandbox_id: str, rules: EgressRules, limits: EgressLimits, agent: TunnelPeer, decided: Callable[[Decision], None]
    ) -> Session:
        """See `abc_network.Egress`. What that sandbox had joined with before is closed. Raises InvalidInput for more rules than fit."""
        session = Session(self, sandbox_id, rules, limits, agent, decided)
        session.joining()
        earlier = self._sessions.get(sandbox_id)
        if earlier is not None:
            earlier.close()
        self._sessions[sandbox_id] = session
        return session

    async def close(self) -> None:
        """See `abc_network.Egress`; repeating it is fine."""
        self._is_closed = True
        for session in tuple(self._sessions.values()):
            session.close()
        self._let_go()
        for child in tuple(self._ending):
            try:
                async with asyncio.timeout(_END_S):
                    await child.ended()
            except TimeoutError:
                child.kill()
                await child.ended()

    # -- for sessions

    def admit(self, session: Session) -> socket.socket | None:
        """See `session.Gate`."""
        child = self._running(session)
        if child is None:
            return None
        ours, theirs = socket.socketpair()
        self.tell_credentials(session)  # first: no tunnel may be served without them
        child.send(session.joining(), theirs.detach())
        self._joined.add(session.sandbox_id)
        self._served.add(session.sandbox_id)
        return ours

    def tell_rules(self, session: Session) -> None:
        """See `session.Gate`."""
        if self._child is not None:
            self._child.send(messages.rules_of(session.sandbox_id, session.rules))

    def tell_credentials(self, session: Session) -> None:
        """See `session.Gate`. With them goes the file of certificates that this host trusts, which the process could not open."""
        credentials = session.credentials
        if self._child is None or credentials is None:
            return
        message = messages.secrets_of(session.sandbox_id, credentials)
        self._child.send(message, _opened(credentials.trust) if credentials.trust else -1)

    def leave(self, session: Session, *, for_good: bool) -> None:
        """See `session.Gate`."""
        if self._sessions.get(session.sandbox_id) is session:
            self._joined.discard(session.sandbox_id)
            if for_good:
                del self._sessions[session.sandbox_id]
                if session.credentials is not None and self._child is not None:
                    self._child.send(messages.secrets_of(session.sandbox_id, NO_CREDENTIALS))  # it forgets them
        if not self._joined:
            self._idle_since = asyncio.get_running_loop().time()

    # -- the process

    def _running(self, session: Session) -> Child | None:
        loop = asyncio.get_running_loop()
        if self._child is not None or self._is_closed or loop.time() < self._not_before:
            return self._child
        environment = os.environ if self._environment is None else self._environment
        self._started_at = loop.time()
        try:
            self._child = Child(loop, environment, self._told, self._died)
        except OSError as error:
            self._note_death()
            session.fail(f"the egress process could not be started: {error}")
            return None
        self._child.send(messages.configure(self._upstream))
        self._awaits_pong = False
        self._timer = loop.call_later(_PING_S, self._look)
        return self._child

    def _look(self) -> None:
        """Every ten seconds while there is a process: it must answer, and be of use."""
        loop, child = asyncio.get_running_loop(), self._child
        if child is None:
            return
        self._timer = loop.call_later(_PING_S, self._look)
        if self._awaits_pong:
            child.kill()
        elif not self._joined and loop.time() - self._idle_since > _IDLE_S:
            self._let_go()
        else:
            self._awaits_pong = True
            child.send(messages.PING)

    def _let_go(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        child, self._child = self._child, None
        self._served.clear()
        if child is not None:
            self._ending.add(child)
            child.let_go()

    def _told(self, message: dict[str, Any]) -> None:
        operation, session = message["op"], self._sessions.get(str(message.get("sandbox")))
        if operation == "pong":
            self._awaits_pong = False
        elif operation in ("decision", "dropped"):
            if session is None:
                return  # it has been closed meanwhile
            try:
                session.told(message)
            except InvalidInput:
                if self._child is not None:
                    self._child.kill()  # what says such things is not what was started

    def _died(self, words: str) -> None:
        self._ending = {child for child in self._ending if child.is_running}
        child = self._child
        if child is None or child.is_running:
            return  # one that was let go of
        self._child = None
        if self._timer is not None:
            self._timer.cancel()
        self._note_death()
        served, self._served = self._served, set()
        for session in [self._sessions[sandbox_id] for sandbox_id in served if sandbox_id in self._sessions]:
            session.fail(f"the egress process ended: {words}")

    def _note_death(self) -> None:
        now = asyncio.get_running_loop().time()
        self._quick_deaths = self._quick_deaths + 1 if now - self._started_at < _QUICK_DEATH_S else 0
        self._not_before = now + _BACKOFF_S[min(self._quick_deaths, len(_BACKOFF_S) - 1)]


def _opened(path: str) -> int:
    """A file of certificates; -1 where there is none (any more), and then what OpenSSL finds is trusted.

    Somebody may have put something else in its place: no link is followed, and nothing is waited for.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return -1
