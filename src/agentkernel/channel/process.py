"""A running command for its user: `abc.Process` over an `Execution`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Final

from agentkernel.channel.bell import Bell
from agentkernel.channel.boundary import Boundary
from agentkernel.channel.commands import RING_BYTES, checked_size, start_error
from agentkernel.channel.execution import Change, Execution, Phase
from agentkernel.channel.frames import FrameType
from agentkernel.channel.messages import SIGNAL, Builtin, Exited, Failure, KillCause, Start, StartFlag, encode_start
from agentkernel.channel.mux import Channel, copy_of
from agentkernel.channel.outcome import SPACE, AgentOutcome, Outcome, Space
from agentkernel.channel.streams import InputWindow, OutputQueue, Sink
from agentkernel.errors import AgentKernelError, InvalidInput, NotFound, SandboxFailed, SandboxLost
from agentkernel.model.command import ExitStatus, TerminalSize
from agentkernel.model.spec import StorageKind

SPACE_DEADLINE_S: Final = 0.5
TIMEOUT_GRACE_S: Final = 5.0  # after it the host kills what the agent should have killed
_ENOENT, _ESRCH = 2, 3  # of Linux: the guest's numbers, whatever the host is


class GuestProcess:
    """One process in the sandbox.

    Unread output is held up to the ring's size per stream, then the command waits. Whoever gives a process up calls `abandon`.

    Args:
        outcome: tells how it ended, for all processes over that execution alike.
    """

    def __init__(self, channel: Channel, execution: Execution, start: Start, outcome: Outcome) -> None:
        self._channel = channel
        self._outcome = outcome
        self._execution = execution
        self._start = start
        self._bells = {change: Bell() for change in Change}
        self._claimed = False  # someone iterates the output
        self._read = False  # someone has begun to, which is possible once
        self._poured = False  # a sink takes it
        self._waited = False
        self._killed = False
        self._forgotten = False
        self._timer: asyncio.TimerHandle | None = None
        if start.timeout_ms:
            delay = start.timeout_ms / 1000 + TIMEOUT_GRACE_S
            self._timer = asyncio.get_running_loop().call_later(delay, self._enforce_timeout)
        execution.watchers.append(self._changed)

    @property
    def exec_id(self) -> int:
        """The id that survives re-attachment."""
        return self._execution.ident

    @property
    def pid(self) -> int:
        """The pid as seen inside; 0 before it has started."""
        return self._execution.pid

    @property
    def start_errno(self) -> int:
        """Linux's number for why it did not start; 0 unless `started` raised that."""
        failure = self._execution.failure
        return failure.errno if failure is not None else 0

    async def started(self) -> None:
        """Waits until it runs (or has run); raises why it does not."""
        while self._execution.pid == 0 and self._execution.phase is not Phase.ENDED:
            await self._bells[Change.STARTED].wait()
        self._check()

    async def write_stdin(self, data: bytes) -> None:
        """Sends input, waiting while the command does not read; input to a closed stdin is discarded."""
        rest = memoryview(data)
        stdin = self._execution.stdin
        while rest and not (stdin.ended or stdin.finished):
            count = self._execution.write(rest)
            rest = rest[count:]
            if not count:
                await self._bells[Change.STDIN].wait()
            else:
                await self._channel.room()

    async def close_stdin(self) -> None:
        """Ends the input; on a terminal this types the end-of-file character."""
        self._execution.end_input()

    def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yields (stream, bytes) until the command ends: stream 1 is stdout or the terminal, 2 stderr. Iterate once."""
        if self._read or self._poured:
            raise InvalidInput("a process's output can be read once, and is discarded by `wait` where nobody reads it")
        self._claimed = self._read = True
        return self._iterate()

    async def wait(self) -> ExitStatus:
        """Waits for the end; discards output that nobody iterates."""
        self._waited = True
        if not (self._claimed or self._poured):
            self.pour(_drop)
        await self.ended()
        self._forget()
        return await self._outcome.status()

    async def ended(self) -> Exited:
        """Waits for the end as the agent tells it; somebody must take the output."""
        while self._execution.phase is not Phase.ENDED:
            await self._bells[Change.ENDED].wait()
        self._check()
        exited = self._execution.exited
        if exited is None:
            raise SandboxFailed("a command ended without a result")
        return exited

    async def signal(self, number: int, *, tree: bool = False) -> None:
        """Signals the main process, or the whole tree; a process that has ended is none to signal."""
        if not 1 <= number <= 64:
            raise InvalidInput(f"there is no signal {number}")
        await self.started()
        if self._execution.phase is Phase.ENDED:
            return
        payload = self._execution.dialect.addressed(SIGNAL.pack(self.exec_id, number, int(tree)))
        answer = await self._channel.request(FrameType.SIGNAL, payload)
        if isinstance(answer, Failure) and answer.errno not in (_ENOENT, _ESRCH):
            raise SandboxFailed(f"signal {number} could not be sent: {os.strerror(answer.errno)}")

    async def resize(self, size: TerminalSize) -> None:
        """Sets the terminal's size."""
        self._execution.resize(checked_size(size))

    async def kill(self) -> None:
        """SIGKILL for the whole tree; `wait` then tells the end."""
        self._kill(KillCause.REQUEST)

    def abandon(self) -> None:
        """Nobody is interested any more: kills a foreground command (cause client lost), a detached one goes on."""
        running_detached = self._start.flags & StartFlag.DETACHED and self._execution.pid
        if self._execution.phase is Phase.ENDED:
            self._forget()
        elif running_detached:
            self.leave()
        else:
            self._waited = True
            self.pour(_drop)
            self._kill(KillCause.CLIENT_LOST)

    def leave(self) -> None:
        """Lets go without ending anything; nothing can be waited for here any more."""
        self._execution.unwatch(self._changed)
        if self._timer is not None:
            self._timer.cancel()

    def pour(self, sink: Sink) -> None:
        """Gives all output to `sink` as it comes, without waiting; instead of `output`."""
        self._poured = True
        self._execution.pour(sink)
        self._expect_end()

    def _kill(self, cause: KillCause) -> None:
        self._killed = True
        self._execution.kill(cause)
        self._expect_end()

    def _expect_end(self) -> None:
        if self._killed and self._poured:  # else output that nobody takes may hold the end up
            self._channel.end_is_due(self._execution)

    async def _iterate(self) -> AsyncIterator[tuple[int, bytes]]:
        execution = self._execution
        try:
            while True:
                while (chunk := execution.take()) is not None:
                    yield chunk
                if execution.phase is Phase.ENDED:
                    break
                await self._bells[Change.OUTPUT].wait()
            self._check()
            self._forget()
        finally:
            self._claimed = False
            if self._waited:
                self.pour(_drop)

    def _check(self) -> None:
        if self._execution.error is not None:
            raise copy_of(self._execution.error)
        if self._execution.failure is not None:
            raise start_error(self._execution.failure, self._start.argv)

    def _changed(self, change: Change) -> None:
        self._bells[change].ring()
        if change is Change.ENDED:
            if self._timer is not None:
                self._timer.cancel()
            if self._execution.failure is not None or (self._waited and not self._claimed):
                self._forget()

    def _forget(self) -> None:
        if not self._forgotten and not self._execution.output.taps:  # else the last of these does
            self._forgotten = True
            self._channel.forget(self.exec_id)

    def _enforce_timeout(self) -> None:
        self._outcome.timed_out = True
        self._kill(KillCause.REQUEST)


def _drop(stream: int, data: bytes | memoryview) -> None:
    """Discards output."""


def launch(channel: Channel, boundary: Boundary, start: Start) -> GuestProcess:
    """Sends START without waiting for the answer (`GuestProcess.started`)."""
    lossy = bool(start.flags & StartFlag.DETACHED)
    output = OutputQueue(start.ring_bytes, lossy=lossy)
    stdin = InputWindow(wanted=bool(start.flags & StartFlag.STDIN))
    execution = channel.start(encode_start(start), output=output, stdin=stdin)
    return process_of(channel, boundary, execution, start)


async def adopt(channel: Channel, boundary: Boundary, start: Start, exec_id: int) -> GuestProcess:
    """Takes up a process of that id which runs already, or whose result the agent still has; raises NotFound."""
    known = channel.execution(exec_id)
    if known is not None:
        if not known.output.reading:
            known.output.read((0, 0))
            known.refresh()
        return process_of(channel, boundary, known, start)
    output = OutputQueue(start.ring_bytes, lossy=True)
    execution = channel.start(b"", output=output, stdin=InputWindow(wanted=True, adopted=True), ident=exec_id)
    process = process_of(channel, boundary, execution, start)
    try:
        await process.started()
    except SandboxLost:
        channel.check()
        raise NotFound(f"the sandbox has no process {exec_id:016x}", hint="`agentkernel ps` lists them") from None
    return process


def process_of(channel: Channel, boundary: Boundary, execution: Execution, start: Start) -> GuestProcess:
    """A process over an execution of a sandbox's agent."""
    outcome = execution.outcome
    if outcome is None:

        async def is_full() -> bool:
            return await storage_is_full(channel, boundary)

        asked = None if start.builtin or boundary.spec.storage is not StorageKind.MEMORY else is_full
        outcome = execution.outcome = AgentOutcome(execution, boundary.limits_hit, asked)
    return GuestProcess(channel, execution, start, outcome)


async def storage_is_full(channel: Channel, boundary: Boundary) -> bool:
    """Whether a failed command may have failed for want of room: no counter tells, so the file system of storage in memory is asked."""
    spec = boundary.spec
    start = Start(argv=(b"/tmp",), uid=spec.user.uid, gid=spec.user.gid, ring_bytes=RING_BYTES, builtin=Builtin.SPACE)
    answer = bytearray()
    process = launch(channel, boundary, start)
    process.pour(lambda _, data: answer.extend(data))
    try:
        async with asyncio.timeout(SPACE_DEADLINE_S):
            status = await process.wait()
    except (AgentKernelError, TimeoutError):  # too full of processes for one more, or gone: the command's own end is what counts
        process.abandon()
        return False
    return not status.exit_code and len(answer) == SPACE.size and Space._make(SPACE.unpack(answer)).is_full
