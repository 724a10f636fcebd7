"""A connection to the daemon: starts one where none answers, goes on with the next one when it is gone, repeats what was not answered."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Mapping
from typing import Final

from agentkernel import client as late  # what only a daemon elsewhere needs
from agentkernel.abc import Caller
from agentkernel.channel.exchange import Answer
from agentkernel.channel.execution import Phase
from agentkernel.channel.frames import FrameType
from agentkernel.channel.mux import Channel, Deadlines
from agentkernel.channel.preface import encode_preface
from agentkernel.client.exchange import DoorExchange
from agentkernel.config.daemon_process import last_words, spawn
from agentkernel.config.directories import socket_path
from agentkernel.config.elsewhere import Elsewhere, elsewhere_of
from agentkernel.errors import DaemonUnavailable, InvalidInput
from agentkernel.model.request import SandboxRequest

CONNECT_S: Final = 20.0  # for a daemon to start and take the connection
# Whatever the daemon is asked may have to wait for a place in its queues.
DEADLINES: Final = Deadlines(attach_s=30.0, answer_s=900.0, reattach_s=30.0, backoff_first_s=0.01, backoff_max_s=0.25)
_PAUSE_S: Final = 0.02
_AWAY_S: Final = 0.2  # between two looks for a server
_CREDENTIALS = struct.Struct("3i")


class Daemon:
    """Implements `channel.boundary.Reachable`: the daemon of the user whose environment this is, or the one elsewhere that it names.

    Args:
        caller: for whom its connections speak, where that is less than the user may do.
        patience_s: for how long after the loss of a caller's connection its commands wait for the next one.

    Raises:
        InvalidInput: for what is no caller; for one that is to be narrowed by a daemon elsewhere, which takes its callers by their tokens;
            for what is no place.
    """

    def __init__(self, environment: Mapping[str, str], caller: Caller | None = None, *, patience_s: float = 0.0) -> None:
        self._environment = environment
        self._preface = b"" if caller is None else encode_preface(caller, patience_s)
        self._elsewhere = elsewhere_of(environment)
        self._was_reached = False  # elsewhere
        if self._elsewhere is not None and self._preface:
            raise InvalidInput(
                f"a server serves the daemon of its own machine, not that at {self._elsewhere.url}", hint="unset AGENTKERNEL_HOST"
            )

    async def connect(self) -> socket.socket:
        """A connected, non-blocking socket on which the client may say HELLO; the daemon is started where there is none.

        Raises:
            DaemonUnavailable: none answers and none can be started, or what answers is not this user's.
            ServerUnavailable, Unauthorized: the one elsewhere does not answer, or does not let us in.
        """
        return await (self._opened() if self._elsewhere is None else self._reached(self._elsewhere))

    def told(self, request: SandboxRequest) -> SandboxRequest:
        """The request as this daemon is told it."""
        return request if self._elsewhere is None else late.without_surroundings(request)

    async def _reached(self, elsewhere: Elsewhere) -> socket.socket:
        """A stream to the daemon elsewhere. One that has answered before is waited for: it is being started again, or the way to it is."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CONNECT_S
        while True:
            try:
                sock = await _Reaching(elsewhere).made()
            except ConnectionError as away:
                if not self._was_reached or loop.time() > deadline:
                    raise late.unanswered(elsewhere, away) from away
                await asyncio.sleep(_AWAY_S)
                continue
            self._was_reached = True
            sock.setblocking(False)
            return sock

    async def _opened(self) -> socket.socket:
        """A stream to the daemon of this machine."""
        loop = asyncio.get_running_loop()
        path = socket_path(self._environment)
        deadline = loop.time() + CONNECT_S
        while True:
            try:
                return _connected(path, self._preface)
            except BlockingIOError:
                trouble = "its queue of connections is full"
            except (FileNotFoundError, ConnectionRefusedError) as missing:
                trouble = str(missing.strerror)
                await asyncio.to_thread(spawn, self._environment)
            except OSError as broken:
                raise DaemonUnavailable(f"the daemon's socket {path} cannot be used: {broken.strerror}") from broken
            if loop.time() > deadline:
                words = await asyncio.to_thread(last_words, self._environment)
                raise DaemonUnavailable(f"no daemon answers at {path}: {trouble}", hint=f"it last said: {words}")
            await asyncio.sleep(_PAUSE_S)

    async def wait_dead(self) -> str:
        """Waits for ever: a daemon that ends has a successor."""
        await asyncio.get_running_loop().create_future()
        return ""


class Connection(Channel):
    """A channel to the daemon. Losing the daemon ends nothing; closing the connection ends the foreground commands that go over it."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(daemon, DEADLINES)
        self.attaches = 0  # an answer after more than one may be the answer to a repeat
        self._exchange = DoorExchange(
            self._transmit,
            self._transmit_later,
            self._loop.time,
            answer_s=DEADLINES.answer_s,
            draining=self._draining,
        )

    def say(self, kind: FrameType, payload: bytes) -> None:
        """Sends a request whose answer nobody waits for."""
        self._exchange.request(kind, payload, _ignore)

    def _attach(self, sock: socket.socket) -> None:
        self.attaches += 1
        super()._attach(sock)

    def _draining(self) -> None:
        self._loop.call_soon(self._leave)  # not while its frames are read

    def _leave(self) -> None:
        """Goes to the next daemon, unless this one still carries commands to their end."""
        link = self._link
        if link is not None and not any(each.phase is Phase.RUNNING for each in self._exchange.executions.values()):
            link.close()
            self.lost("the daemon is ending")


def _ignore(answer: Answer) -> None:
    """Whatever it is."""


class _Reaching:
    """A connection that is made in another thread. When nobody waits for it any more, it is closed as soon as it is there."""

    def __init__(self, elsewhere: Elsewhere) -> None:
        self._elsewhere = elsewhere
        self._lock = threading.Lock()
        self._is_wanted = True
        self._made: socket.socket | None = None

    async def made(self) -> socket.socket:
        """Makes it; raises what `reaching.reach` raises."""
        try:
            return await asyncio.to_thread(self._make)
        except asyncio.CancelledError:
            with self._lock:
                self._is_wanted = False
                if self._made is not None:
                    self._made.close()
            raise

    def _make(self) -> socket.socket:
        made = late.reach(self._elsewhere)
        with self._lock:
            self._made = made
            if not self._is_wanted:
                made.close()
        return made


def _connected(path: str, preface: bytes) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        connection.connect(path)
        uid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1]
        if uid not in (0, os.geteuid()):
            raise DaemonUnavailable(f"who listens at {path} is uid {uid}, whom this user need not trust")
        if preface and connection.send(preface) != len(preface):
            raise BlockingIOError  # nothing was in it before: the kernel is short of memory
    except BaseException:
        connection.close()
        raise
    return connection
