"""One command: a sandbox for it, its streams, and the signals and the terminal that go with them."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from agentkernel import cli as late  # what only some runs need
from agentkernel.abc import Caller, Kernel, Process, Sandbox
from agentkernel.cli.interrupts import Interrupts
from agentkernel.cli.streams import feed, is_gone
from agentkernel.cli.terminal import terminal_size
from agentkernel.errors import AgentKernelError, Refused
from agentkernel.model.command import Command, ExitStatus
from agentkernel.model.decisions import decisions_of, denials_of
from agentkernel.model.network import Decision, PublishedPort, Verdict
from agentkernel.model.request import Grant, Notice
from agentkernel.model.spec import NetworkMode, first_words
from agentkernel.text.outcome import exit_status

EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE: what a program in a pipeline ends with when its reader goes away
STDIN, STDOUT = 0, 1


class Sink(Protocol):
    """Where output goes: the process's own descriptors, or a buffer for --json."""

    async def write(self, descriptor: int, data: bytes) -> None:
        """Takes one chunk of stream 1 or 2, when there is room for it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to run and how it is joined to the user."""

    caller: Caller
    place: Callable[[Kernel, Caller], AbstractAsyncContextManager[tuple[Sandbox, Grant]]]  # the sandbox, for as long as the command runs
    command: Command
    raw: bool  # put the user's terminal into raw mode
    granted: Callable[[Grant, Sequence[PublishedPort]], None]  # told before the command starts
    looks_after: bool = True  # the sandbox was made for it: whether to say what it left on the host, and what it was refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended. `grant` and `status` are None when it never came to that."""

    exit_status: int
    grant: Grant | None = None
    status: ExitStatus | None = None
    create_s: float = 0.0
    total_s: float = 0.0
    interrupted_by: int | None = None
    aftermath: tuple[Notice, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    denied: tuple[Decision, ...] = ()  # by its network's rules, when the command failed


@dataclass(slots=True)
class _Progress:
    """How far a run has come."""

    grant: Grant | None = None
    sandbox_id: str = ""
    ports: tuple[PublishedPort, ...] = ()
    status: ExitStatus | None = None
    create_s: float = 0.0
    broken_pipe: bool = False
    started_at: float = field(default_factory=time.monotonic)


async def run(kernel: Kernel, job: Job, sink: Sink) -> Outcome:
    """Runs the job to its end; whatever ends it, the sandbox is gone afterwards and the terminal is as it was.

    Raises:
        AgentKernelError: the sandbox could not be made, was lost, or the command did not start.
    """
    progress = _Progress()
    interrupts = Interrupts()
    work = asyncio.create_task(_work(kernel, job, sink, interrupts, progress))
    with interrupts.of(work):
        try:
            await work
        except asyncio.CancelledError:
            if interrupts.number is None:
                raise
    aftermath: tuple[Notice, ...] = ()
    denied: tuple[Decision, ...] = ()
    status = _exit_status(progress, interrupts)
    if job.looks_after and progress.grant is not None:
        aftermath = tuple(await kernel.aftermath(job.caller, progress.grant))
        if status and interrupts.number is None and progress.grant.spec.network is NetworkMode.FILTERED:
            wanted = denials_of(progress.sandbox_id)
            with suppress(Refused):  # a token that may run commands, and look at nothing
                events = [event async for event in kernel.events(job.caller, wanted)]
                denied = tuple(decision for event in events for decision in decisions_of(event, Verdict.DENIED))
    return Outcome(
        exit_status=status,
        grant=progress.grant,
        status=progress.status,
        create_s=progress.create_s,
        total_s=time.monotonic() - progress.started_at,
        interrupted_by=interrupts.number,
        aftermath=aftermath,
        ports=progress.ports,
        denied=denied,
    )


async def _work(kernel: Kernel, job: Job, sink: Sink, interrupts: Interrupts, progress: _Progress) -> None:
    async with job.place(kernel, job.caller) as (sandbox, grant):
        progress.grant = grant
        progress.sandbox_id = sandbox.sandbox_id
        progress.create_s = time.monotonic() - progress.started_at
        if grant.spec.ports:
            progress.ports = tuple(await kernel.ports(job.caller, sandbox.sandbox_id))
        job.granted(grant, progress.ports)
        process = await sandbox.start(_command(job, grant))
        async with interrupts.passed_to(process):
            await _attend(process, job, sink, progress)


def _command(job: Job, grant: Grant) -> Command:
    """What is started: in a sandbox that was made for the command, what its image says stands before it."""
    return replace(job.command, argv=first_words(grant.spec.root, job.command.argv)) if job.looks_after else job.command


async def _attend(process: Process, job: Job, sink: Sink, progress: _Progress) -> None:
    with ExitStack() as stack:
        resized = _own_terminal(job.raw, stack) if job.command.terminal is not None else None
        async with (
            _background(_follow_size(process, resized) if resized is not None else None),
            _background(feed(process, STDIN) if job.command.stdin else None),
        ):
            try:
                async for stream, data in process.output():
                    await sink.write(stream, data)
            except OSError as error:
                await process.kill()
                if not is_gone(error):
                    raise AgentKernelError(f"cannot write the command's output: {error.strerror}") from error
                progress.broken_pipe = True
                return
            progress.status = await process.wait()


def _own_terminal(raw: bool, stack: ExitStack) -> asyncio.Event:
    """Puts the user's terminal into raw mode until `stack` ends; returns what is set whenever the window's size changes."""
    loop = asyncio.get_running_loop()
    resized = asyncio.Event()
    loop.add_signal_handler(signal.SIGWINCH, resized.set)
    stack.callback(loop.remove_signal_handler, signal.SIGWINCH)
    if raw:
        terminal = stack.enter_context(late.RawTerminal(STDIN))
        loop.add_signal_handler(signal.SIGTSTP, terminal.suspend)
        stack.callback(loop.remove_signal_handler, signal.SIGTSTP)
    return resized


async def _follow_size(process: Process, resized: asyncio.Event) -> None:
    while True:
        await resized.wait()
        resized.clear()
        await process.resize(terminal_size())


@asynccontextmanager
async def _background(work: Coroutine[Any, Any, None] | None) -> AsyncIterator[None]:
    """Runs `work` beside the block and cancels it at the end. A lost sandbox fails the block too, so it is not told twice."""
    if work is None:
        yield
        return
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        for outcome in await asyncio.gather(task, return_exceptions=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, AgentKernelError):
                raise outcome


def _exit_status(progress: _Progress, interrupts: Interrupts) -> int:
    if interrupts.number is not None:
        return 128 + interrupts.number
    if progress.broken_pipe:
        return EXIT_BROKEN_PIPE
    status = progress.status
    if status is None:
        raise AssertionError("the command ended without a status")
    return exit_status(status)
