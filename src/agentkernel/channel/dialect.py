"""The two ways in which the protocol is spoken: by a sandbox's agent, and at the daemon's door, which wraps and adds. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from agentkernel.channel import door
from agentkernel.channel.messages import Exited, Failure, Payload, parse_exited, parse_failed, parse_pid
from agentkernel.channel.refusal import decode_refusal, is_refusal
from agentkernel.errors import AgentKernelError, ProtocolViolation
from agentkernel.model.command import Cause, LimitHit

LIMITS: Final = tuple(LimitHit)  # by their bit
CAUSES: Final = tuple(Cause)


class Dialect(Protocol):
    """How one command's messages look."""

    def addressed(self, inner: bytes) -> bytes:
        """The payload of RESUME or SIGNAL."""
        ...

    def started(self, payload: Payload) -> int:
        """Reads STARTED: the pid."""
        ...

    def exited(self, payload: Payload) -> Exited:
        """Reads EXITED."""
        ...

    def failed(self, payload: Payload) -> Failure | AgentKernelError:
        """Reads FAILED."""
        ...


class OfAgent:
    """The guest protocol itself."""

    def addressed(self, inner: bytes) -> bytes:
        """See `Dialect`."""
        return inner

    def started(self, payload: Payload) -> int:
        """See `Dialect`."""
        return parse_pid(payload)

    def exited(self, payload: Payload) -> Exited:
        """See `Dialect`."""
        return parse_exited(payload)

    def failed(self, payload: Payload) -> Failure | AgentKernelError:
        """See `Dialect`; an agent's failures are never this package's errors."""
        return parse_failed(payload)


AGENT: Final = OfAgent()


class Verdict(NamedTuple):
    """What the daemon knows about a command's end beyond the agent's struct."""

    limits: tuple[LimitHit, ...]
    cause: Cause
    exit_status: int | None  # of a command that was started by words: what to exit with
    message: str  # and what to say


class OfDoor:
    """One command of a client of the daemon; keeps what the door tells beside the guest protocol.

    Args:
        sandbox: its id or name; empty for a command whose sandbox is made for it.
        visits: it is no command, but a visit.
    """

    def __init__(self, sandbox: str = "", *, visits: bool = False) -> None:
        self.sandbox = sandbox
        self.visits = visits
        self.sandbox_id = ""
        self.notices: list[bytes] = []  # JSON
        self.verdict: Verdict | None = None

    def addressed(self, inner: bytes) -> bytes:
        """See `Dialect`."""
        return door.encode_visit(self.sandbox, inner) if self.visits else door.encode_addressed(self.sandbox, inner)

    def started(self, payload: Payload) -> int:
        """See `Dialect`."""
        pid, self.sandbox_id, self.notices = door.decode_started(payload)
        return pid

    def exited(self, payload: Payload) -> Exited:
        """See `Dialect`."""
        exited, limits, cause, status, message = door.decode_exited(payload)
        if cause >= len(CAUSES):
            raise ProtocolViolation("malformed EXITED")
        hit = tuple(limit for bit, limit in enumerate(LIMITS) if limits & 1 << bit)
        self.verdict = Verdict(hit, CAUSES[cause], status, message)
        return parse_exited(exited)

    def failed(self, payload: Payload) -> Failure | AgentKernelError:
        """See `Dialect`."""
        return decode_refusal(payload) if is_refusal(payload) else parse_failed(payload)
