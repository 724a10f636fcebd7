"""Takes connections, and ends: by its own idleness, a signal, a client's word or a new version of the package."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Final

from agentkernel.abc import Caller
from agentkernel.config.principal import principal_of
from agentkernel.daemon.calls import Calls
from agentkernel.daemon.connection import Connection
from agentkernel.daemon.desk import Desk
from agentkernel.daemon.listening import Listener, peer_of

MAX_CLIENTS: Final = 1024
DRAIN_S: Final = 10.0  # for what is under way; commands that take longer are taken up by the next daemon
_ACCEPTS: Final = 64  # connections taken in a row
_ACCEPT_AGAIN_S: Final = 0.1  # after a shortage of descriptors: the socket stays readable, and nothing is won by asking at once
_POLL_S: Final = 0.02
_PACKAGE: Final = Path(__file__).parent.parent / "__init__.py"


class Server:
    """One daemon's socket and clients.

    Args:
        idle_s: without a client and without a sandbox it ends after so many seconds; 0: never.
    """

    def __init__(self, desk: Desk, listener: Listener, idle_s: float) -> None:
        self._desk = desk
        self._listener = listener
        self._idle_s = idle_s
        self._calls = Calls(desk)
        self._connections: set[Connection] = set()
        self._loop = asyncio.get_running_loop()
        self._idle: asyncio.TimerHandle | None = None
        self._waiting: asyncio.TimerHandle | None = None  # until connections are taken again
        self._package = _identity(_PACKAGE)

    def begin(self) -> None:
        """Takes connections from now on."""
        principal_of(os.geteuid())  # nearly everybody; remembered, it needs no descriptor
        self._listen()
        self._watch_idleness()

    async def drain(self, patience_s: float = DRAIN_S) -> None:
        """Takes no new work, waits for what is under way, and lets go of the clients; commands go on in their sandboxes."""
        desk = self._desk
        desk.is_draining = True
        desk.log(f"ends: {desk.reason}")
        self._loop.remove_reader(self._listener.socket.fileno())
        if self._waiting is not None:
            self._waiting.cancel()
        self._listener.close()
        if self._idle is not None:
            self._idle.cancel()
        deadline = self._loop.time() + patience_s
        while (desk.host.busy() or self._calls.unfinished()) and self._loop.time() < deadline:  # noqa: ASYNC110 - the engine tells a number, no change
            await asyncio.sleep(_POLL_S)
        for connection in tuple(self._connections):
            connection.leave()
        desk.leave()
        tasks = desk.unfinished()
        if tasks:
            await asyncio.wait(tasks, timeout=max(_POLL_S, deadline - self._loop.time()))

    # -- connections

    def _listen(self) -> None:
        self._waiting = None
        self._loop.add_reader(self._listener.socket.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                sock, _ = self._listener.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:  # out of descriptors: they wait in the socket's queue
                self._desk.log(f"a connection cannot be taken: {error}")
                self._loop.remove_reader(self._listener.socket.fileno())
                self._waiting = self._loop.call_later(_ACCEPT_AGAIN_S, self._listen)
                return
            self._take(sock)

    def _take(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        uid = peer_of(sock)
        if uid not in (0, os.geteuid()) or len(self._connections) >= MAX_CLIENTS:
            self._desk.log(f"a connection of uid {uid} was turned away, with {len(self._connections)} clients there")
            sock.close()
            return
        if _identity(_PACKAGE) != self._package:
            self._desk.end("the package was replaced", is_replaced=True)
        try:
            caller = Caller(principal=principal_of(uid))
        except OSError as error:  # out of descriptors: the client tries again
            self._desk.log(f"a connection of uid {uid} was turned away: {error}")
            sock.close()
            return
        self._connections.add(Connection(self._desk, self._calls, sock, caller, self._closed))

    def _closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._watch_idleness()

    # -- idleness

    def _watch_idleness(self) -> None:
        if self._idle is None and not self._connections and self._idle_s and not self._desk.is_draining:
            self._idle = self._loop.call_later(self._idle_s, self._end_if_idle)

    def _end_if_idle(self) -> None:
        self._idle = None
        if not self._connections:
            self._desk.spawn(self._end_without_sandboxes(), "watch over idleness")

    async def _end_without_sandboxes(self) -> None:
        host = self._desk.host
        status = await host.status(Caller(principal="daemon", scopes=frozenset({"admin"})))
        if not (self._connections or status.sandboxes or host.busy()):
            self._desk.end(f"nobody was there for {self._idle_s:g} seconds, and no sandbox")
        else:
            self._watch_idleness()


def _identity(path: Path) -> tuple[int, int, int]:
    """Which file stands there: another one after an upgrade."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0, 0
    return status.st_ino, status.st_size, status.st_mtime_ns
