"""The host's half of the protocol as a state machine: every frame the agent may send, and nothing else. No I/O, no clock of its own.

One `Exchange` lives as long as the sandbox; each attach renews its decoder and repeats what was not answered.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Final

from agentkernel.channel.dialect import AGENT, Dialect
from agentkernel.channel.execution import Execution, Phase
from agentkernel.channel.frames import Frame, FrameDecoder, FrameType, HelloReply
from agentkernel.channel.messages import Failure, Payload
from agentkernel.channel.streams import InputWindow, OutputQueue
from agentkernel.channel.tunnels import FIRST_TYPE, Tunnels
from agentkernel.channel.wire import VERSION, encode_frame, encode_hello, tag_of
from agentkernel.errors import AgentKernelError, InvalidInput, ProtocolViolation, SandboxLost

Answer = bytes | Failure | AgentKernelError
Transmit = Callable[[bytes], None]

_FORGOTTEN: Final = 64  # ended processes whose FORGET is repeated after a cut


class Exchange:
    """Requests, processes and the current attach.

    Args:
        transmit: takes bytes for the current stream.
        transmit_later: takes bytes that may wait for the next ones, in order.
        clock: seconds, monotonic.
        answer_s: how long the agent may take to answer anything.
        dialect: how failed requests are told.
        tunnels: who gets the frames of tunnels; None: there may be none.
    """

    def __init__(
        self,
        transmit: Transmit,
        transmit_later: Transmit,
        clock: Callable[[], float],
        answer_s: float,
        dialect: Dialect = AGENT,
        tunnels: Tunnels | None = None,
    ) -> None:
        self.executions: dict[int, Execution] = {}
        self.hello: HelloReply | None = None  # of the latest attach that was answered
        self.established = False
        self._transmit = transmit
        self._transmit_later = transmit_later
        self._clock = clock
        self._answer_s = answer_s
        self._dialect = dialect
        self._tunnels = tunnels
        self._requests: dict[int, tuple[int, bytes, Callable[[Answer], None]]] = {}
        self._deadlines: dict[int, float] = {}  # in order: every answer has the same time
        self._forgotten: deque[int] = deque(maxlen=_FORGOTTEN)
        self._forgotten_when_ended: set[int] = set()
        self._decoder: FrameDecoder | None = None
        self._tag = 0
        self._first = True

    # -- what the host does

    def attach(self) -> None:
        """Opens a new attach on a new stream. The first one does not wait for the agent's answer before it goes on."""
        epoch = _epoch()
        self._decoder = FrameDecoder(epoch)
        self._tag = tag_of(epoch)
        self._transmit(encode_hello(epoch))
        self.established = self._first
        self._first = False
        if self.established and self._tunnels is not None:
            self._tunnels.begin()

    def detach(self) -> None:
        """The stream is gone; what is sent from now on is repeated by the next attach."""
        self._decoder = None
        self.established = False
        if self._tunnels is not None:
            self._tunnels.reset()

    def send(self, kind: int, ident: int, payload: Payload = b"", flags: int = 0) -> None:
        """Sends a frame on the current attach, or drops it."""
        if self.established:
            self._transmit(encode_frame(self._tag, kind, ident, payload, flags))

    def request(self, kind: int, payload: bytes, answered: Callable[[Answer], None]) -> None:
        """Sends a request; `answered` is called once, with the reply's payload, the failure or the channel's end."""
        ident = self._new_id()
        self._requests[ident] = (kind, payload, answered)
        self.expect(ident)
        self.send(kind, ident, payload)

    def start(self, start: bytes, *, output: OutputQueue, stdin: InputWindow, ident: int = 0, dialect: Dialect | None = None) -> Execution:
        """Starts a process, under an id of the caller's where it gives one; with an empty `start` takes up the running one of that id."""
        if ident in self.executions:
            raise InvalidInput(f"there is a process {ident} already")
        ident = ident or self._new_id()
        execution = Execution(ident, start, self.send, output=output, stdin=stdin, dialect=dialect or self._dialect)
        self.executions[ident] = execution
        self.expect(ident)
        execution.subscribe()
        return execution

    def forget(self, ident: int) -> None:
        """Tells the agent that a process's result is no longer needed; while somebody here still reads it, as soon as that has ended."""
        if ident in self.executions:
            self._forgotten_when_ended.add(ident)
            return
        self._forgotten.append(ident)
        if self.established:
            self._transmit_later(encode_frame(self._tag, FrameType.FORGET, ident))

    def expect(self, ident: int) -> None:
        """From now on the agent has `answer_s` to send what ends the wait for `ident`."""
        self._deadlines.pop(ident, None)
        self._deadlines[ident] = self._clock() + self._answer_s

    def next_deadline(self) -> float | None:
        """When the agent must have answered; None while it owes nothing."""
        return next(iter(self._deadlines.values()), None)

    def check_deadlines(self) -> None:
        """Raises ProtocolViolation when the agent owes an answer for too long."""
        deadline = self.next_deadline()
        if deadline is not None and deadline <= self._clock():
            raise ProtocolViolation(f"the sandbox's agent did not answer within {self._answer_s:g} seconds")

    def fail(self, error: AgentKernelError) -> None:
        """The channel is closed: ends everything that waits."""
        self.detach()
        self._deadlines.clear()
        executions, self.executions = self.executions, {}
        requests, self._requests = self._requests, {}
        for execution in executions.values():
            execution.lose(error)
        for _, _, answered in requests.values():
            answered(error)

    # -- what the agent says

    @property
    def answered(self) -> bool:
        """Whether the agent has answered the current attach."""
        return self._decoder is not None and self._decoder.hello is not None

    def writable(self) -> memoryview:
        """Where the stream's next bytes go."""
        if self._decoder is None:
            raise ProtocolViolation("bytes came without an attach")
        return self._decoder.writable()

    def received(self, count: int) -> None:
        """Handles `count` new bytes in `writable()`; raises ProtocolViolation, after which only `fail` is legal."""
        decoder = self._decoder
        if decoder is None:
            return
        if decoder.hello is None:
            hello = decoder.find_hello(count)
            if hello is None:
                return
            self._greeted(hello)
            count = 0
        for frame in decoder.received(count):
            self._dispatch(frame)
            if self._decoder is not decoder:
                return  # a handler closed the channel

    def feed(self, data: bytes) -> None:
        """Handles bytes from elsewhere, as `received` does."""
        rest = memoryview(data)
        while rest and self._decoder is not None:
            room = self.writable()
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            rest = rest[count:]
            self.received(count)

    def _greeted(self, hello: HelloReply) -> None:
        if hello.version != VERSION:
            raise ProtocolViolation("the sandbox's agent speaks no version of the protocol that this host speaks")
        if self.hello is not None and self.hello.boot_id != hello.boot_id:
            raise SandboxLost("the sandbox's agent was restarted; everything that ran in the sandbox is gone")
        self.hello = hello
        if not self.established:
            self.established = True
            self._repeat()

    def _repeat(self) -> None:
        for ident, (kind, payload, _) in self._requests.items():
            self.send(kind, ident, payload)
        for ident in self._forgotten:
            self.send(FrameType.FORGET, ident)
        if self._tunnels is not None:
            self._tunnels.begin()
        for ident, execution in self.executions.items():
            execution.subscribe()
            if ident not in self._deadlines:  # an agent that drops each attach gains no time by it
                self.expect(ident)

    def _dispatch(self, frame: Frame) -> None:
        kind, flags, ident, payload = frame
        if kind >= FIRST_TYPE:
            if self._tunnels is None:
                raise ProtocolViolation(f"unknown frame type {kind}")
            self._tunnels.received(kind, flags, ident, payload)
            return
        execution = self.executions.get(ident)
        if execution is None:
            self._answer(kind, ident, payload)
        elif kind == FrameType.OUTPUT:
            execution.on_output(flags, payload)
        elif kind == FrameType.STDIN_CONSUMED:
            execution.on_stdin_consumed(flags, payload)
        else:
            self._progress(kind, execution, payload)

    def _progress(self, kind: int, execution: Execution, payload: Payload) -> None:
        if kind == FrameType.STARTED:
            execution.on_started(payload)
        elif kind == FrameType.RESUMED:
            execution.on_resumed(payload)
        elif kind == FrameType.EXITED:
            execution.on_exited(payload)
        elif kind == FrameType.FAILED:
            execution.on_failed(payload)
        else:
            raise ProtocolViolation("a process was answered like a request")
        if execution.phase is Phase.ENDED:
            self.executions.pop(execution.ident, None)
            self._deadlines.pop(execution.ident, None)
            if execution.ident in self._forgotten_when_ended:
                self._forgotten_when_ended.remove(execution.ident)
                self.forget(execution.ident)
        elif not execution.end_is_due:
            self._deadlines.pop(execution.ident, None)

    def _answer(self, kind: int, ident: int, payload: Payload) -> None:
        if ident not in self._requests or kind not in (FrameType.REPLY, FrameType.FAILED):
            raise ProtocolViolation(f"the agent answers what was not asked (type {kind})")
        answer = bytes(payload) if kind == FrameType.REPLY else self._dialect.failed(payload)
        _, _, answered = self._requests.pop(ident)
        self._deadlines.pop(ident, None)
        answered(answer)

    def _new_id(self) -> int:
        while True:
            ident = int.from_bytes(os.urandom(8), "little")
            if ident and ident not in self.executions and ident not in self._requests:
                return ident


def _epoch() -> bytes:
    while True:
        epoch = os.urandom(16)
        if tag_of(epoch):
            return epoch
