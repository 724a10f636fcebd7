"""The channel: owns the connection to one sandbox's agent, re-attaches when it breaks, and ends everything when the sandbox is gone."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Final

from agentkernel.channel.bell import Bell
from agentkernel.channel.boundary import Boundary, Reachable
from agentkernel.channel.dialect import AGENT, Dialect
from agentkernel.channel.exchange import Answer, Exchange
from agentkernel.channel.execution import Execution
from agentkernel.channel.frames import FrameType, HelloReply
from agentkernel.channel.link import Link
from agentkernel.channel.messages import Failure, Payload, encode_configure, parse_echo
from agentkernel.channel.streams import InputWindow, OutputQueue
from agentkernel.channel.tunnels import Tunnels
from agentkernel.errors import AgentKernelError, ProtocolViolation, SandboxFailed, SandboxLost

HIGH_WATER_BYTES: Final = 256 * 1024  # above it whoever sends much waits
BACKLOG_LIMIT_BYTES = 16 * 1024 * 1024  # above it the agent is not reading at all
_WANT_OF_HOST: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})  # nothing of the sandbox
_LOST_HINT = "one that was created boots again with its files: `agentkernel start NAME`; what was a `run` is to be run again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How patient the host is with an agent."""

    attach_s: float = 10.0  # from connecting to the answered HELLO
    answer_s: float = 30.0  # for each request; for the end of a killed command
    reattach_s: float = 5.0  # from the loss of a connection to the next, while the boundary lives
    backoff_first_s: float = 0.01
    backoff_max_s: float = 0.5


class Channel:
    """Made by `open_channel`. Losing the connection ends nothing; losing the boundary, or a hostile agent, ends everything."""

    def __init__(self, reachable: Reachable, deadlines: Deadlines, dialect: Dialect = AGENT) -> None:
        self.error: AgentKernelError | None = None
        self._reachable = reachable
        self._deadlines = deadlines
        self._loop = asyncio.get_running_loop()
        self.tunnels = Tunnels(self._send_tunnelled, self._has_room, self.check, self._fail_soon)
        tunnels = self.tunnels if dialect is AGENT else None
        self._exchange = Exchange(self._transmit, self._transmit_later, self._loop.time, deadlines.answer_s, dialect, tunnels)
        self._link: Link | None = None
        self._drained = Bell()
        self._configured = Bell()
        self._is_configured = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._attach_timer: asyncio.TimerHandle | None = None
        self._answer_timer: asyncio.TimerHandle | None = None
        self._down_since = self._loop.time()
        self._short_attaches = 0
        self._attached_at = 0.0
        self._is_closed = False
        self._mourners: list[Callable[[AgentKernelError], None]] = []

    # -- for processes, files and the sandbox

    @property
    def hello(self) -> HelloReply | None:
        """How the latest attach was answered."""
        return self._exchange.hello

    def start(self, start: bytes, *, output: OutputQueue, stdin: InputWindow, ident: int = 0, dialect: Dialect | None = None) -> Execution:
        """Starts a process, or with an empty `start` takes up the running one `ident`; raises what ended the channel."""
        self.check()
        execution = self._exchange.start(start, output=output, stdin=stdin, ident=ident, dialect=dialect)
        self._watch_answers()
        return execution

    def execution(self, ident: int) -> Execution | None:
        """A running process of this channel."""
        return self._exchange.executions.get(ident)

    async def request(self, kind: FrameType, payload: bytes = b"") -> bytes | Failure:
        """Sends a request and waits for its answer; a cut in between is not noticed."""
        self.check()
        answered: asyncio.Future[Answer] = self._loop.create_future()

        def answer(value: Answer) -> None:
            if not answered.done():
                answered.set_result(value)

        self._exchange.request(kind, payload, answer)
        self._watch_answers()
        result = await answered
        if isinstance(result, AgentKernelError):
            raise copy_of(result)
        return result

    def configure(self, configuration: bytes) -> None:
        """Sends CONFIGURE without waiting for its answer. Again, it may only change how long the agent stays without a host."""
        self._exchange.request(FrameType.CONFIGURE, configuration, self._on_configured)
        self._watch_answers()

    def end_is_due(self, execution: Execution) -> None:
        """A killed process must end soon, or the agent counts as hostile."""
        if execution.ident in self._exchange.executions:
            execution.end_is_due = True
            self._exchange.expect(execution.ident)
            self._watch_answers()

    def forget(self, ident: int) -> None:
        """The result of an ended process is no longer needed."""
        self._exchange.forget(ident)

    async def room(self) -> None:
        """Waits while much is on its way to the agent already."""
        while self._link is not None and self._link.backlog_bytes > HIGH_WATER_BYTES:
            await self._drained.wait()
        self.check()

    async def ready(self) -> None:
        """Waits until the agent has answered and is configured."""
        while not self._is_configured:
            self.check()
            await self._configured.wait()
        self.check()

    def when_lost(self, tell: Callable[[AgentKernelError], None]) -> None:
        """See `abc.Mortal`."""
        if self.error is None:
            self._mourners.append(tell)
        elif not self._is_closed:
            self._loop.call_soon(tell, self.error)

    async def ping(self) -> None:
        """One round trip to the agent."""
        data = os.urandom(8)
        answer = await self.request(FrameType.PING, data)
        if isinstance(answer, Failure) or parse_echo(answer) != data:
            self.fail(ProtocolViolation("the agent's echo is not what was sent"))
        self.check()

    def check(self) -> None:
        """Raises what ended the channel, if it has ended."""
        if self.error is not None:
            raise copy_of(self.error)

    # -- life

    async def open(self, configuration: bytes | None = None) -> None:
        """Connects and sends HELLO and, where there is one, the configuration; their answers are not waited for."""
        self._spawn(self._watch_boundary())
        try:
            self._attach(await self._connect())
            if configuration is not None:
                self.configure(configuration)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Closes the connection; what still waits gets SandboxLost. Repeating it is fine."""
        if self._link is not None:
            self._link.flush()
        self._is_closed = True
        self._mourners.clear()
        self.fail(SandboxLost("the sandbox was closed", hint=_LOST_HINT))
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        if tasks:
            await asyncio.wait(tasks)

    def fail(self, error: AgentKernelError) -> None:
        """Ends the channel and everything that waits on it; the first reason stays."""
        if self.error is not None:
            return
        self.error = error
        if self._link is not None:
            self._link.close()
            self._link = None
        for timer in (self._attach_timer, self._answer_timer):
            if timer is not None:
                timer.cancel()
        self._exchange.fail(error)
        self._drained.ring()
        self._configured.ring()
        for tell in self._mourners:
            self._loop.call_soon(tell, error)
        self._mourners.clear()
        for task in self._tasks:
            if task is not _current_task():
                task.cancel()

    # -- what the link calls

    def writable(self) -> memoryview:
        """See `link.Reader`."""
        return self._exchange.writable()

    def received(self, count: int) -> None:
        """See `link.Reader`."""
        try:
            self._exchange.received(count)
        except AgentKernelError as error:
            self.fail(error)
        if self._attach_timer is not None and self._exchange.established and self._exchange.answered:
            self._attach_timer.cancel()
            self._attach_timer = None

    def drained(self) -> None:
        """See `link.Reader`."""
        self._drained.ring()
        self.tunnels.drained()

    def lost(self, reason: str) -> None:
        """See `link.Reader`."""
        self._link = None
        self._exchange.detach()
        self._drained.ring()
        now = self._loop.time()
        if self._attach_timer is None:
            self._down_since = now  # this attach was answered; otherwise the last loss counts on
        else:
            self._attach_timer.cancel()
            self._attach_timer = None
        self._short_attaches = 0 if now - self._attached_at > 1 else self._short_attaches + 1
        if self.error is None:
            self._spawn(self._reattach())

    # -- attaching

    async def _reattach(self) -> None:
        sock = await self._connect()
        if self.error is None:
            self._attach(sock)
        else:
            sock.close()

    async def _connect(self) -> socket.socket:
        """Tries to connect until `reattach_s` after the loss; ends the channel and raises when that fails."""
        limits = self._deadlines
        delay = limits.backoff_first_s * 2 ** min(self._short_attaches, 16) if self._short_attaches else 0.0
        while True:
            if delay:
                await asyncio.sleep(min(delay, limits.backoff_max_s))
                self.check()
            try:
                async with asyncio.timeout(limits.attach_s):
                    return await self._reachable.connect()
            except AgentKernelError as error:
                error.hint = error.hint or (_LOST_HINT if isinstance(error, SandboxLost) else "")
                self.fail(error)
                raise
            except OSError as error:  # a TimeoutError is one
                if self._loop.time() - self._down_since > limits.reattach_s:
                    kind = SandboxFailed if error.errno in _WANT_OF_HOST else SandboxLost
                    self.fail(kind(f"the sandbox's agent cannot be reached any more: {error}", hint=_LOST_HINT))
            delay = max(delay * 2, limits.backoff_first_s)

    def _attach(self, sock: socket.socket) -> None:
        self._attached_at = self._loop.time()
        self._link = Link(sock, self, self._loop)
        self._attach_timer = self._loop.call_later(self._deadlines.attach_s, self._attach_timed_out)
        self._exchange.attach()

    def _attach_timed_out(self) -> None:
        self.fail(ProtocolViolation(f"the sandbox's agent did not answer the attach within {self._deadlines.attach_s:g} seconds"))

    def _on_configured(self, answer: Answer) -> None:
        if isinstance(answer, Failure):
            self.fail(SandboxFailed(f"the sandbox's agent refused its configuration: {answer.text or os.strerror(answer.errno)}"))
        self._is_configured = not isinstance(answer, (Failure, AgentKernelError))
        self._configured.ring()

    async def _watch_boundary(self) -> None:
        reason = await self._reachable.wait_dead()
        if self._link is not None:
            self._link.drain()
        self.fail(SandboxLost(f"the sandbox died: {reason}", hint=_LOST_HINT))

    # -- sending, and waiting for answers

    def _transmit(self, data: bytes) -> None:
        if self._link is not None:
            self._link.send(data)
            if self._link.backlog_bytes > BACKLOG_LIMIT_BYTES:
                self._fail_soon(ProtocolViolation("the sandbox's agent does not read what it is sent"))

    def _send_tunnelled(self, kind: int, ident: int, payload: Payload, flags: int) -> None:
        self._exchange.send(kind, ident, payload, flags)

    def _has_room(self) -> bool:
        """Whether the kernel takes what it is given, or nearly so: what tunnels send shall not hold up commands."""
        link = self._link
        if link is None or link.backlog_bytes <= HIGH_WATER_BYTES:
            return True
        link.flush(at_once=True)  # if not all is written now, `drained` follows
        return link.backlog_bytes <= HIGH_WATER_BYTES

    def _fail_soon(self, error: AgentKernelError) -> None:
        self._loop.call_soon(self.fail, error)

    def _transmit_later(self, data: bytes) -> None:
        if self._link is not None:
            self._link.send_later(data)

    def _watch_answers(self) -> None:
        if self._answer_timer is None and self.error is None and (deadline := self._exchange.next_deadline()) is not None:
            self._answer_timer = self._loop.call_at(deadline, self._check_answers)

    def _check_answers(self) -> None:
        self._answer_timer = None
        try:
            self._exchange.check_deadlines()
        except ProtocolViolation as error:
            self.fail(error)
        self._watch_answers()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error if isinstance(error, AgentKernelError) else SandboxFailed(f"the channel failed: {error!r}"))


def copy_of(error: AgentKernelError) -> AgentKernelError:
    """The same error for one more caller: a shared one would collect everybody's traceback."""
    twin = type(error).__new__(type(error), *error.args)
    twin.__dict__.update(error.__dict__)
    return twin


def configuration_of(boundary: Boundary, linger_s: float | None) -> bytes:
    """What the agent of a boundary is told about its workload."""
    return encode_configure(boundary.seccomp, boundary.rlimits, linger_ms=int((linger_s or 0) * 1000), network=boundary.network)


def _current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None  # called from a callback after the loop has ended


async def open_channel(boundary: Boundary, deadlines: Deadlines | None = None) -> Channel:
    """Connects to a boundary's agent and configures it."""
    channel = Channel(boundary, deadlines or Deadlines())
    await channel.open(configuration_of(boundary, boundary.spec.linger_s))
    return channel
