"""One started process as the protocol knows it: what the agent may say about it, and what to repeat after a cut. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from agentkernel.channel.frames import FrameType
from agentkernel.channel.messages import (
    OFFSET,
    RESIZE,
    TWO_OFFSETS,
    WORD,
    Exited,
    Failure,
    KillCause,
    Payload,
    parse_exited,
    parse_failed,
    parse_pid,
    parse_resumed,
    parse_two_offsets,
)
from agentkernel.channel.streams import InputWindow, OutputQueue, Sink
from agentkernel.errors import AgentKernelError, ProtocolViolation, SandboxLost
from agentkernel.model.command import TerminalSize

Send = Callable[[int, int, bytes, int], None]  # type, id, payload, flags; drops while there is no attach


class Phase(Enum):
    """Where it stands on this attach."""

    STARTING = 1  # START was sent, no answer yet
    RESUMING = 2  # RESUME was sent, no answer yet
    RUNNING = 3
    ENDED = 4  # it ended, never started, or was lost


class Change(Enum):
    """What a handler may be waiting for."""

    STARTED = 1
    OUTPUT = 2
    STDIN = 3
    ENDED = 4


def _ignore(change: Change) -> None:
    """Nobody waits."""


class Execution:
    """The state of one exec id. `notify` is called after each change; at the end one of `exited`, `failure`, `error` is set."""

    def __init__(self, ident: int, start: bytes, send: Send, *, output: OutputQueue, stdin: InputWindow) -> None:
        self.ident = ident
        self.phase = Phase.STARTING
        self.pid = 0
        self.exited: Exited | None = None
        self.failure: Failure | None = None
        self.error: AgentKernelError | None = None
        self.output = output
        self.stdin = stdin
        self.end_is_due = False  # it was killed and nothing holds its output up: EXITED has a deadline
        self.notify: Callable[[Change], None] = _ignore
        self._start = start
        self._send = send
        self._kill_cause: KillCause | None = None
        self._size: TerminalSize | None = None

    # -- what the host does

    def subscribe(self) -> None:
        """Starts it, or takes it up again on a new attach, at the offset where the host stands."""
        if self.phase is Phase.STARTING and self._start:
            self._send(FrameType.START, self.ident, self._start, 0)
        else:
            self.phase = Phase.RESUMING
            self._send(FrameType.RESUME, self.ident, TWO_OFFSETS.pack(*self.output.received), 0)
            for stream, offset in enumerate(self.output.consumed, start=1):
                self._send(FrameType.CONSUMED, self.ident, OFFSET.pack(offset), stream)
        if self._size is not None:
            self.resize(self._size)
        if self._kill_cause is not None:
            self.kill(self._kill_cause)

    def kill(self, cause: KillCause) -> None:
        """Kills the tree; the agent answers with EXITED once the output is taken."""
        if self.phase is not Phase.ENDED:
            self._kill_cause = cause
            self._send(FrameType.KILL, self.ident, WORD.pack(cause), 0)

    def resize(self, size: TerminalSize) -> None:
        """Sets the terminal's size, also on later attaches."""
        if self.phase is not Phase.ENDED:
            self._size = size
            self._send(FrameType.RESIZE, self.ident, RESIZE.pack(size.rows, size.columns), 0)

    def write(self, data: memoryview) -> int:
        """Sends as much input as the agent has room for and returns how much that was."""
        data = data[: self.stdin.room() if self.phase is Phase.RUNNING else 0]
        if data:
            offset = self.stdin.push(data)
            self._send(FrameType.STDIN, self.ident, OFFSET.pack(offset) + data, 0)
        return len(data)

    def end_input(self) -> None:
        """Ends the input."""
        if not self.stdin.ended:
            self.stdin.ended = True
            if self.phase is Phase.RUNNING:
                self._send_end()

    def take(self) -> tuple[int, bytes] | None:
        """The next chunk of output; taking it gives the agent credit for more."""
        chunk = self.output.take()
        if chunk is not None:
            self._give_credit(chunk[0])
        return chunk

    def pour(self, sink: Sink) -> None:
        """Gives all output to `sink` as it comes."""
        self.output.pour(sink)
        for stream in (1, 2):
            self._give_credit(stream)

    def lose(self, error: AgentKernelError) -> None:
        """Ends it without an answer."""
        if self.phase is not Phase.ENDED:
            self.error = error
            self._end()

    # -- what the agent says

    def on_output(self, stream: int, payload: Payload) -> None:
        """OUTPUT."""
        if self.phase is not Phase.RUNNING or len(payload) <= OFFSET.size:
            raise ProtocolViolation("output of a process that is not running")
        self.output.accept(stream, OFFSET.unpack_from(payload)[0], payload[OFFSET.size :])
        self._give_credit(stream)
        self.notify(Change.OUTPUT)

    def on_started(self, payload: Payload) -> None:
        """STARTED, of the first or a repeated START."""
        if self.phase is not Phase.STARTING:
            raise ProtocolViolation("a process started twice")
        self.pid = parse_pid(payload)
        self.output.restart(0, 0)
        self._run()

    def on_resumed(self, payload: Payload) -> None:
        """RESUMED."""
        if self.phase is not Phase.RESUMING:
            raise ProtocolViolation("an answer to no RESUME")
        resumed = parse_resumed(payload)
        if self.pid not in (0, resumed.pid):
            raise ProtocolViolation("a resumed process has another pid")
        self.pid = resumed.pid
        stdout, stderr = self.output.received
        self.output.restart(max(stdout, resumed.stdout_first), max(stderr, resumed.stderr_first))
        if resumed.state == 1:
            self.stdin.finish()
        for offset, data in self.stdin.resume(resumed.stdin_consumed, resumed.stdin_limit):
            self._send(FrameType.STDIN, self.ident, OFFSET.pack(offset) + data, 0)
        self._run()

    def on_failed(self, payload: Payload) -> None:
        """FAILED: it did not start, or the agent does not know it any more."""
        failure = parse_failed(payload)
        if self.phase is Phase.STARTING:
            self.failure = failure
        elif self.phase is Phase.RESUMING:
            self.error = SandboxLost(
                "the sandbox's agent no longer knows the command; whether it ended is unknown",
                hint="`agentkernel ps` lists what still runs",
            )
        else:
            raise ProtocolViolation("a running process failed to start")
        self._end()

    def on_stdin_consumed(self, flags: int, payload: Payload) -> None:
        """STDIN_CONSUMED."""
        consumed, limit = parse_two_offsets(payload)
        if self.phase is not Phase.RUNNING:
            raise ProtocolViolation("input taken by a process that is not running")
        if not self.stdin.finished:
            self.stdin.confirm(consumed, limit)
            if flags & 1:
                self.stdin.finish()
        self.notify(Change.STDIN)

    def on_exited(self, payload: Payload) -> None:
        """EXITED: all output was received before it."""
        if self.phase is not Phase.RUNNING:
            raise ProtocolViolation("a process ended that was not running")
        exited = parse_exited(payload)
        for received, end in zip(self.output.received, (exited.stdout_end, exited.stderr_end), strict=True):
            if received > end and not exited.survivors:
                raise ProtocolViolation("a process ended before its output did")
            if received < end:
                self.output.lose()
        self.exited = exited
        self._end()

    def _run(self) -> None:
        self.phase = Phase.RUNNING
        if self.stdin.ended:
            self._send_end()
        for stream in (1, 2):
            self._give_credit(stream)  # what was taken while there was no attach
        self.notify(Change.STARTED)
        self.notify(Change.STDIN)

    def _send_end(self) -> None:
        if not self.stdin.finished:
            self._send(FrameType.STDIN, self.ident, OFFSET.pack(self.stdin.sent), 1)

    def _give_credit(self, stream: int) -> None:
        if self.phase is Phase.RUNNING and (offset := self.output.due(stream)) is not None:
            self._send(FrameType.CONSUMED, self.ident, OFFSET.pack(offset), stream)

    def _end(self) -> None:
        self.phase = Phase.ENDED
        self.stdin.finish()
        for change in Change:
            self.notify(change)
