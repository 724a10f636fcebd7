"""A command for somebody else than this process: frames of one client of the daemon's door to the agent and back, each byte at its offset.

Nothing is kept here. A byte stays in the agent's ring until the client has it, so it survives the daemon, and a slow client slows the
command. Output for a client that does not read is dropped, and asked for again when the client is ready.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from agentkernel.channel import door
from agentkernel.channel.dialect import CAUSES, LIMITS
from agentkernel.channel.execution import Change, Execution, Phase
from agentkernel.channel.frames import FrameType
from agentkernel.channel.messages import OFFSET, TWO_OFFSETS, Failure, KillCause, encode_exited, encode_resumed
from agentkernel.channel.mux import Channel
from agentkernel.channel.process import GuestProcess
from agentkernel.channel.reader import Reader
from agentkernel.errors import SandboxFailed
from agentkernel.model.command import ExitStatus, TerminalSize

_END_OF_INPUT: Final = 1  # flag of STDIN
_OUTPUT_LOST: Final = 2  # flag of EXITED
_INPUT_CLOSED: Final = 1  # flag of STDIN_CONSUMED


class Client(Protocol):
    """The connection to a client."""

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be sent that output had better stay in the agent's ring."""
        ...

    def send(self, kind: int, ident: int, payload: bytes = b"", flags: int = 0, rest: bytes | memoryview = b"") -> None:
        """Sends a frame, now or later; `rest` is more of its payload, valid during the call."""
        ...


class Relay:
    """One command and one client; made by `relaying`, ended by one of `release`, `leave` and `lose`.

    Its input is the newest client's; an older one is told that nobody reads it any more.

    Args:
        opening: makes the payload of STARTED from the pid; None for a client that resumes.
    """

    def __init__(self, client: Client, offsets: tuple[int, int], opening: Callable[[int], bytes] | None) -> None:
        self.reader = Reader(offsets, self._take)
        self._client = client
        self._opening = opening
        self._answered = False
        self._has_input = True
        self._input_base = 0  # where the client's input begins
        self._told_input: tuple[int, int, bool] | None = None

    def bind(self, channel: Channel, execution: Execution, process: GuestProcess, *, detached: bool) -> None:
        """Begins; the reader taps the execution already, or does so next."""
        self._channel = channel
        self._execution = execution
        self._process = process
        self._detached = detached
        for follower in execution.followers:
            follower.lose_input()
        execution.followers.append(self)
        execution.watchers.append(self._changed)

    @property
    def ident(self) -> int:
        """The exec id."""
        return self._execution.ident

    @property
    def failure(self) -> Failure | None:
        """Why it did not start, as the agent says it."""
        return self._execution.failure

    @property
    def has_ended(self) -> bool:
        """Whether the agent has told the end, or there is none to be told any more."""
        return self._execution.phase is Phase.ENDED

    @property
    def is_detached(self) -> bool:
        """Whether the command outlives its clients."""
        return self._detached

    @property
    def is_alone(self) -> bool:
        """Whether no other client of this process follows the command."""
        return self._execution.followers == [self]

    # -- what the client says

    def consumed(self, stream: int, offset: int) -> bool:
        """CONSUMED; False for output that it has not been sent."""
        if not self.reader.release(stream, offset):
            return False
        self._execution.give_credit()
        return True

    def input(self, offset: int, data: memoryview, flags: int) -> bool:
        """STDIN; False for a gap, or more than the agent has room for."""
        if not self._has_input:
            return True
        return self._execution.relay_input(offset, data, end=bool(flags & _END_OF_INPUT))

    def resize(self, size: TerminalSize) -> None:
        """RESIZE."""
        self._execution.resize(size)

    def kill(self, cause: KillCause) -> None:
        """KILL."""
        self._execution.kill(cause)

    # -- its end

    async def ended(self) -> ExitStatus:
        """Waits for the end, for which the client must have taken all output; raises what it ended with in place of a status."""
        await self._process.ended()
        if self._execution.outcome is None:
            raise SandboxFailed("a command ended without a result")
        return await self._execution.outcome.status()

    def tell_end(self, status: ExitStatus, exit_status: int | None = None, message: str = "") -> None:
        """Sends EXITED; for words what to exit with and what to say."""
        exited = self._execution.exited
        if exited is None:
            raise SandboxFailed("a command ended without a result")
        if status.output_lost:
            exited = exited._replace(flags=exited.flags | _OUTPUT_LOST)
        limits = sum(1 << LIMITS.index(limit) for limit in status.limits_hit)
        payload = door.encode_exited(encode_exited(exited), limits, CAUSES.index(status.cause), exit_status, message)
        self._client.send(FrameType.EXITED, self.ident, payload)

    def client_is_ready(self) -> None:
        """The client has read what waited for it: it gets output again."""
        if self.reader.is_paused:
            self.reader.unpause()
            self._execution.refresh()

    def release(self) -> None:
        """The client has the result: the agent may forget it."""
        self.leave()
        self._channel.forget(self.ident)

    def leave(self) -> None:
        """Lets go without ending anything: another connection, or the next daemon, takes the command up."""
        execution = self._execution
        if self in execution.followers:
            execution.followers.remove(self)
            execution.unwatch(self._changed)
            execution.untap(self.reader)

    def lose(self) -> None:
        """The client is gone: a foreground command that nobody else follows is killed, a detached one goes on."""
        if self not in self._execution.followers:
            return
        self.leave()
        if self._detached:
            self._process.leave()
        elif not self._execution.followers:
            self._process.abandon()

    # -- what the execution says

    def lose_input(self) -> None:
        """Another client's input takes its place."""
        if self._has_input and self._told_input is not None:
            consumed, limit, _ = self._told_input
            self._client.send(FrameType.STDIN_CONSUMED, self.ident, TWO_OFFSETS.pack(consumed, limit), _INPUT_CLOSED)
        self._has_input = False

    def _take(self, stream: int, offset: int, data: memoryview | bytes) -> None:
        self._client.send(FrameType.OUTPUT, self._execution.ident, OFFSET.pack(offset), stream, data)
        if self._client.is_full:
            self.reader.pause()

    def _changed(self, change: Change) -> None:
        if change is Change.STARTED:
            self._answer()
        if change is Change.STARTED or change is Change.STDIN:
            self._tell_input()

    def _answer(self) -> None:
        execution, stdin = self._execution, self._execution.stdin
        if self._answered or not self.reader.is_flowing or execution.phase is not Phase.RUNNING:
            return
        self._answered = True
        if self._opening is not None:
            self._has_input = self._has_input and stdin.sent == 0  # else somebody has written, and a START begins at 0
            self._client.send(FrameType.STARTED, self.ident, self._opening(execution.pid))
        elif execution.resumed is not None:
            self._input_base = stdin.sent
            account = execution.resumed._replace(stdin_consumed=stdin.sent, stdin_limit=0 if stdin.finished else stdin.limit)
            self._client.send(FrameType.RESUMED, self.ident, encode_resumed(account))

    def _tell_input(self) -> None:
        stdin = self._execution.stdin
        told = (max(stdin.consumed, self._input_base), stdin.limit, stdin.finished)
        if self._answered and self._has_input and stdin.limit and told != self._told_input and self._execution.phase is Phase.RUNNING:
            self._told_input = told
            self._client.send(FrameType.STDIN_CONSUMED, self.ident, TWO_OFFSETS.pack(*told[:2]), _INPUT_CLOSED if stdin.finished else 0)
