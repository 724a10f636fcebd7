"""One started process as the protocol knows it: what the agent may say about it, and what to repeat after a cut. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from agentkernel.channel.dialect import AGENT, Dialect
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
    Resumed,
    parse_resumed,
    parse_two_offsets,
)
from agentkernel.channel.streams import MAX_STDIN_CHUNK, InputWindow, OutputQueue, Sink, Tap
from agentkernel.errors import AgentKernelError, InvalidInput, ProtocolViolation, SandboxLost
from agentkernel.model.command import TerminalSize

if TYPE_CHECKING:
    from agentkernel.channel.outcome import Outcome

_EINVAL: Final = 22  # of Linux: the guest's number, whatever the host is

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


class Follower(Protocol):
    """A client that a command is relayed to."""

    def lose_input(self) -> None:
        """Another client's input takes its place."""
        ...


class Execution:
    """The state of one exec id. `watchers` are called after each change; at the end one of `exited`, `failure`, `error` is set."""

    def __init__(self, ident: int, start: bytes, send: Send, *, output: OutputQueue, stdin: InputWindow, dialect: Dialect = AGENT) -> None:
        self.ident = ident
        self.phase = Phase.STARTING
        self.pid = 0
        self.exited: Exited | None = None
        self.failure: Failure | None = None
        self.error: AgentKernelError | None = None
        self.output = output
        self.stdin = stdin
        self.end_is_due = False  # it was killed and nothing holds its output up: EXITED has a deadline
        self.watchers: list[Callable[[Change], None]] = []
        self.followers: list[Follower] = []  # the newest last
        self.resumed: Resumed | None = None  # the agent's latest account
        self.outcome: Outcome | None = None  # for who waits for the end
        self.dialect = dialect
        self._start = start
        self._send = send
        self._kill_cause: KillCause | None = None
        self._size: TerminalSize | None = None
        self._asked = (0, 0)  # output offsets of the last RESUME
        self._refreshing = False  # a RESUME on an attach that had one is not answered yet
        self._refresh_again = False
        self._end_held_up = False  # the agent has told the end, but a tap has not got all output

    # -- what the host does

    def subscribe(self) -> None:
        """Starts it, or takes it up again on a new attach, at the offset where the host stands."""
        if self.phase is Phase.STARTING and self._start:
            self._asked = self.output.ask()
            self._send(FrameType.START, self.ident, self._start, 0)
        else:
            self.phase = Phase.RESUMING
            self._refreshing = self._end_held_up = False
            self._resume()
            if self.pid:  # else the agent has yet to say whether it knows the command, and has written that much
                self._acknowledge()
        if self._size is not None:
            self.resize(self._size)
        if self._kill_cause is not None:
            self.kill(self._kill_cause)

    def refresh(self) -> None:
        """Asks for the output again from the earliest offset that a reader wants: of a new tap, or of one that took none for a while."""
        if self.phase is Phase.RUNNING and not self._refreshing:
            self._refreshing = True
            self._end_held_up = False
            self._resume()
        elif self.phase is not Phase.ENDED:
            self._refresh_again = True

    def unwatch(self, watcher: Callable[[Change], None]) -> None:
        """That watcher is called no more."""
        if watcher in self.watchers:
            self.watchers.remove(watcher)

    def tap(self, tap: Tap, *, early: bool = False) -> None:
        """One more reader, which gets its bytes once the agent has been asked for them.

        `early`: of a command whose START is not answered yet it gets all that comes behind the answer, unasked: before the agent could
        be asked again it may have dropped what it has sent.
        """
        self.output.taps.append(tap)
        if early and self.phase is Phase.STARTING:
            tap.ask()
        self.refresh()

    def untap(self, tap: Tap) -> None:
        """That reader has enough."""
        self.output.taps.remove(tap)
        if self._end_held_up:
            self.refresh()
        elif self.output.taps:
            self.give_credit()

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
        data = data[: min(self.stdin.room(), MAX_STDIN_CHUNK) if self.phase is Phase.RUNNING else 0]
        if data:
            offset = self.stdin.push(data)
            self._send(FrameType.STDIN, self.ident, OFFSET.pack(offset) + data, 0)
        return len(data)

    def relay_input(self, offset: int, data: memoryview, *, end: bool) -> bool:
        """Sends on what a client sent, at its offset: known bytes are cut off. False for a gap, or more than the agent has room for."""
        known = self.stdin.sent - offset
        rest = data[max(known, 0) :]
        if self.stdin.finished:
            return True
        if known < 0 or len(rest) > self.stdin.room() or (rest and self.stdin.ended):
            return False
        if rest:
            at = self.stdin.push(rest)
            self._send(FrameType.STDIN, self.ident, OFFSET.pack(at) + rest, 0)
        if end:
            self.end_input()
        return True

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
        self.give_credit()

    def give_credit(self) -> None:
        """Tells the agent what the readers have done with, where that is worth a frame."""
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
        self._notify(Change.OUTPUT)

    def on_started(self, payload: Payload) -> None:
        """STARTED, of the first or a repeated START."""
        if self.phase is not Phase.STARTING:
            raise ProtocolViolation("a process started twice")
        self.pid = self.dialect.started(payload)
        self.output.restart((0, 0), (0, 0))
        self._run()
        self._refresh_if_wanted()

    def on_resumed(self, payload: Payload) -> None:
        """RESUMED."""
        if self.phase is not Phase.RESUMING and not self._refreshing:
            raise ProtocolViolation("an answer to no RESUME")
        resumed = self.resumed = parse_resumed(payload)
        if self.pid not in (0, resumed.pid):
            raise ProtocolViolation("a resumed process has another pid")
        is_new, self.pid = not self.pid, resumed.pid
        if is_new:
            self._acknowledge()
        self.output.restart(self._asked, (resumed.stdout_first, resumed.stderr_first))
        if self._refreshing:
            self._refreshing = False
            self._notify(Change.STARTED)
        else:
            if resumed.state == 1:
                self.stdin.finish()
            for offset, data in self.stdin.resume(resumed.stdin_consumed, resumed.stdin_limit):
                self._send(FrameType.STDIN, self.ident, OFFSET.pack(offset) + data, 0)
            self._run()
        self._refresh_if_wanted()

    def on_failed(self, payload: Payload) -> None:
        """FAILED: it did not start, or the agent does not know it any more."""
        failure = self.dialect.failed(payload)
        if isinstance(failure, AgentKernelError):
            self.error = failure
        elif self.phase is Phase.STARTING:
            self.failure = failure
        elif self.phase is Phase.RESUMING and not self.pid and failure.errno == _EINVAL:
            self.error = InvalidInput("the command has not written that much", hint="read on from an offset that it has reached")
        elif self.phase is Phase.RESUMING or self._refreshing:
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
        self._notify(Change.STDIN)

    def on_exited(self, payload: Payload) -> None:
        """EXITED: all output was received before it."""
        if self.phase is not Phase.RUNNING:
            raise ProtocolViolation("a process ended that was not running")
        exited = self.dialect.exited(payload)
        if self._refreshing:
            return  # the agent will answer the RESUME that crossed it, and tell the end again
        ends = (exited.stdout_end, exited.stderr_end)
        for received, end in zip(self.output.received, ends, strict=True):
            if received > end and not exited.survivors:
                raise ProtocolViolation("a process ended before its output did")
            if received < end:
                self.output.lose()
        if self.output.is_behind(ends):
            self._end_held_up = True
            return
        self.exited = exited
        self._end()

    def _acknowledge(self) -> None:
        for stream, offset in enumerate(self.output.acknowledge(), start=1):
            self._send(FrameType.CONSUMED, self.ident, OFFSET.pack(offset), stream)

    def _resume(self) -> None:
        self._asked = self.output.ask()
        self._send(FrameType.RESUME, self.ident, self.dialect.addressed(TWO_OFFSETS.pack(*self._asked)), 0)

    def _refresh_if_wanted(self) -> None:
        if self._refresh_again:
            self._refresh_again = False
            self.refresh()

    def _run(self) -> None:
        self.phase = Phase.RUNNING
        if self.stdin.ended:
            self._send_end()
        self.give_credit()  # what was taken while there was no attach
        self._notify(Change.STARTED)
        self._notify(Change.STDIN)

    def _send_end(self) -> None:
        if not self.stdin.finished:
            self._send(FrameType.STDIN, self.ident, OFFSET.pack(self.stdin.sent), 1)

    def _give_credit(self, stream: int) -> None:
        if self.phase is Phase.RUNNING and (offset := self.output.due(stream)) is not None:
            self._send(FrameType.CONSUMED, self.ident, OFFSET.pack(offset), stream)

    def _notify(self, change: Change) -> None:
        for watcher in tuple(self.watchers):
            watcher(change)

    def _end(self) -> None:
        self.phase = Phase.ENDED
        self.stdin.finish()
        for change in Change:
            self._notify(change)
