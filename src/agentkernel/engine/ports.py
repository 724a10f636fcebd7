"""Published ports: listeners on the host's loopback whose connections go on, through the stream, to a port inside."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from agentkernel.abc_network import Tunnelled
from agentkernel.engine.carrying import carry
from agentkernel.engine.registry import Live
from agentkernel.errors import AgentKernelError, Conflict, InvalidInput, Refused, SandboxFailed, Unsupported
from agentkernel.failpoints import failpoint
from agentkernel.model.network import PortRule, PublishedPort
from agentkernel.model.ports import address_text, checked_port

Work = Coroutine[Any, Any, None]

MAX_PORTS: Final = 64  # of one sandbox
MAX_CONNECTIONS: Final = 256  # of one port, at a time; others wait until one of them ends
_QUEUE = 128  # connections that the kernel keeps until they are accepted
_ACCEPTS = 32  # at once, before others have their turn
_SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_SHORTAGE_S = 1.0  # before it is tried again


class Ports:
    """What is published of the sandboxes that run. `touch` notes that one is used."""

    def __init__(self, touch: Callable[[Live], None]) -> None:
        self._touch = touch
        self._bound: dict[PublishedPort, Listener] = {}  # for sandboxes that are being made
        self._listeners: dict[str, list[Listener]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    @contextmanager
    def bound(self, rules: Iterable[PortRule]) -> Iterator[tuple[PublishedPort, ...]]:
        """Holds the host's ports for a sandbox that is being made: connections wait. What does not `begin` in the block is let go.

        Raises:
            Conflict: a port is taken.
            InvalidInput, Refused: there is no such port, or it may not be listened on.
        """
        ports: list[PublishedPort] = []
        try:
            for rule in rules:
                ports.append(self._bind(rule))
            failpoint("engine.ports.bound")
            yield tuple(sorted(ports, key=_order))
        finally:
            self._let_go(ports)

    @contextmanager
    def bound_again(self, before: Iterable[PublishedPort]) -> Iterator[tuple[PublishedPort, ...]]:
        """As `bound`, for a sandbox that an earlier engine left running: without the ports that others have taken since."""
        ports: list[PublishedPort] = []
        try:
            for port in before:
                try:
                    ports.append(self._bind(PortRule(port=port.port, host_port=port.host_port, host_address=port.host_address)))
                except (AgentKernelError, OSError):
                    continue  # the caller sees by what is missing, and tells
            yield tuple(ports)
        finally:
            self._let_go(ports)

    def begin(self, live: Live) -> None:
        """It runs: what was bound for it is connected to it."""
        for port in live.record.published:
            if (listener := self._bound.pop(port, None)) is not None:
                self._serve(live, listener)

    def end(self, live: Live) -> None:
        """It ends, or this engine lets go of it: nothing is listened on, and connections are closed."""
        for listener in self._listeners.pop(live.sandbox_id, ()):
            self._stop(listener)

    def published(self, sandbox_id: str) -> tuple[PublishedPort, ...]:
        """What is listened on, by the port inside."""
        return tuple(sorted((listener.port for listener in self._listeners.get(sandbox_id, ())), key=_order))

    @contextmanager
    def publishing(self, live: Live, rule: PortRule) -> Iterator[PublishedPort]:
        """Listens on one more port, if the block does not fail; the same rule again finds what it made.

        Raises what `bound` raises, and Unsupported for a sandbox without tunnels.
        """
        checked_port(rule)
        known = self._listeners.get(live.sandbox_id, [])
        for listener in known:
            if _is_met(rule, listener.port):
                yield listener.port
                return
        if len(known) >= MAX_PORTS:
            raise InvalidInput(f"a sandbox has at most {MAX_PORTS} published ports", hint="unpublish one")
        if not isinstance(live.sandbox, Tunnelled):
            raise Unsupported(f"backend {live.sandbox.backend!r} cannot publish ports", hint="`agentkernel backends` shows which ones can")
        listener = Listener(_listening(rule), rule.port)
        try:
            failpoint("engine.ports.bound")
            yield listener.port
        except BaseException:
            listener.close()
            raise
        self._serve(live, listener)

    def unpublish(self, sandbox_id: str, port: int) -> None:
        """Ends what is published of a port inside; nothing is fine."""
        kept: list[Listener] = []
        for listener in self._listeners.pop(sandbox_id, ()):
            if listener.port.port == port:
                self._stop(listener)
            else:
                kept.append(listener)
        if kept:
            self._listeners[sandbox_id] = kept

    async def close(self) -> None:
        """Ends everything, and waits until it has ended."""
        while self._listeners:
            for listener in self._listeners.popitem()[1]:
                self._stop(listener)
        while self._ending:
            await asyncio.wait(self._ending)

    def _bind(self, rule: PortRule) -> PublishedPort:
        listener = Listener(_listening(rule), rule.port)
        self._bound[listener.port] = listener
        return listener.port

    def _let_go(self, ports: Iterable[PublishedPort]) -> None:
        for port in ports:
            if (listener := self._bound.pop(port, None)) is not None:
                listener.close()

    def _serve(self, live: Live, listener: Listener) -> None:
        sandbox = live.sandbox
        if not isinstance(sandbox, Tunnelled):
            listener.close()  # policy has asked the backend's fingerprint before
            return

        async def connection(sock: socket.socket) -> None:
            live.connections += 1
            self._touch(live)
            try:
                await carry(sock, lambda: sandbox.open_tunnel(listener.port.port))
            finally:
                live.connections -= 1
                self._touch(live)

        self._listeners.setdefault(live.sandbox_id, []).append(listener)
        listener.serve(connection)

    def _stop(self, listener: Listener) -> None:
        for task in listener.close():
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)


class Listener:
    """One port of the host's. From the beginning connections wait; `serve` takes them."""

    def __init__(self, sock: socket.socket, port: int) -> None:
        self._sock = sock
        address = sock.getsockname()
        self.port = PublishedPort(port=port, host_address=address[0], host_port=address[1])
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._connection: Callable[[socket.socket], Work] | None = None
        self._is_reading = False
        self._pause: asyncio.TimerHandle | None = None

    def serve(self, connection: Callable[[socket.socket], Work]) -> None:
        """Takes connections; `connection` is what a task of its own does with each, which is closed afterwards."""
        self._connection = connection
        self._go_on()

    def close(self) -> tuple[asyncio.Task[None], ...]:
        """Listens no more and ends the connections, whose tasks are returned: they end soon."""
        self._hold()
        self._connection = None
        if self._pause is not None:
            self._pause.cancel()
        self._sock.close()
        for task in self._tasks:
            task.cancel()
        return tuple(self._tasks)

    def _go_on(self) -> None:
        self._pause = None
        if self._connection is not None and not self._is_reading and len(self._tasks) < MAX_CONNECTIONS:
            self._is_reading = True
            self._loop.add_reader(self._sock, self._accept)

    def _hold(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._sock)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            if len(self._tasks) >= MAX_CONNECTIONS:
                self._hold()
                return
            try:
                sock, _address = self._sock.accept()
            except OSError as error:
                if error.errno in _SHORTAGE:
                    self._hold()
                    self._pause = self._loop.call_later(_SHORTAGE_S, self._go_on)
                return  # nobody is there (any more)
            sock.setblocking(False)
            if self._connection is not None:
                task = self._loop.create_task(self._connection(sock))
                self._tasks.add(task)
                task.add_done_callback(partial(self._ended, sock))

    def _ended(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        sock.close()  # here, because a task that is cancelled before it has begun runs no part of its work
        self._tasks.discard(task)
        if self._pause is None:
            self._go_on()


def _listening(rule: PortRule) -> socket.socket:
    """A socket that listens where the rule says; connections to it wait."""
    checked_port(rule)
    family = socket.AF_INET6 if ":" in rule.host_address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the one before may linger in TIME_WAIT
        sock.bind((rule.host_address, rule.host_port))
        sock.listen(_QUEUE)
    except OSError as error:
        sock.close()
        raise _refusal(rule, error) from error
    return sock


def _refusal(rule: PortRule, error: OSError) -> AgentKernelError:
    where = address_text(rule)
    if error.errno == errno.EADDRINUSE:
        return Conflict(f"{where} is taken by another program", hint="choose another port of the host, or none and one is chosen")
    if error.errno == errno.EACCES:
        return Refused(f"this user may not listen on {where}", hint="choose a port of the host from 1024 on")
    return SandboxFailed(f"cannot listen on {where}: {error}")


def _is_met(rule: PortRule, port: PublishedPort) -> bool:
    host_port = rule.host_port or port.host_port
    return (rule.port, host_port, rule.host_address) == (port.port, port.host_port, port.host_address)


def _order(port: PublishedPort) -> tuple[int, str, int]:
    return port.port, port.host_address, port.host_port
