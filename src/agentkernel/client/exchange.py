"""The client's half of the door protocol as a state machine: the guest protocol's, and what a daemon that is ending makes it do. No I/O."""

from __future__ import annotations

from collections.abc import Callable

from agentkernel.channel.dialect import OfDoor
from agentkernel.channel.door import DRAINING
from agentkernel.channel.exchange import Exchange, Transmit
from agentkernel.channel.frames import Frame, FrameType, HelloReply
from agentkernel.channel.refusal import decode_refusal, is_refusal
from agentkernel.channel.wire import VERSION
from agentkernel.errors import DaemonUnavailable


class DoorExchange(Exchange):
    """One connection to the daemon.

    Args:
        draining: called when the daemon says that it is ending. What it refused for that stays asked, to be repeated to the next one.
    """

    def __init__(
        self,
        transmit: Transmit,
        transmit_later: Transmit,
        clock: Callable[[], float],
        *,
        answer_s: float,
        draining: Callable[[], None],
    ) -> None:
        super().__init__(transmit, transmit_later, clock, answer_s, OfDoor())
        self._draining = draining

    def _greeted(self, hello: HelloReply) -> None:
        if hello.version != VERSION:
            raise DaemonUnavailable("the daemon does not speak this client's protocol", hint="end it with `agentkernel daemon stop`")
        if self.hello is not None and self.hello.boot_id != hello.boot_id:
            raise DaemonUnavailable("the daemon that answers now has other sandboxes than the one before", hint="connect again")
        if hello.state & DRAINING:
            self.established = False  # what was sent ahead of this answer is repeated
            self._draining()
        else:
            super()._greeted(hello)

    def _dispatch(self, frame: Frame) -> None:
        if frame.type == FrameType.FAILED and is_refusal(frame.payload) and isinstance(decode_refusal(frame.payload), DaemonUnavailable):
            self._draining()
        else:
            super()._dispatch(frame)
