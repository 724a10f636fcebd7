"""How a command ended, found out once for everyone who asks."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

from agentkernel.channel.commands import exit_code, exit_status
from agentkernel.channel.dialect import OfDoor
from agentkernel.channel.execution import Execution
from agentkernel.channel.messages import Exited
from agentkernel.errors import SandboxFailed
from agentkernel.model.command import Cause, ExitStatus, LimitHit

FULL_BELOW_BYTES: Final = 64 * 1024  # programs give up before the last page is taken
SPACE: Final = struct.Struct("<QQQQ")


class Outcome(Protocol):
    """Of one execution, which holds it."""

    timed_out: bool  # the host killed what the agent should have killed

    async def status(self) -> ExitStatus:
        """The end of the execution, which has ended and not failed; asked once, told to everybody."""
        ...


class AgentOutcome:
    """What the agent says, and what only the host knows: limits that were hit.

    Args:
        limits_hit: those since the last call.
        is_full: whether the command may have failed for want of room; None where nobody need ask.
    """

    def __init__(
        self,
        execution: Execution,
        limits_hit: Callable[[], Awaitable[tuple[LimitHit, ...]]],
        is_full: Callable[[], Awaitable[bool]] | None,
    ) -> None:
        self.timed_out = False
        self._execution = execution
        self._limits_hit = limits_hit
        self._is_full = is_full
        self._lock = asyncio.Lock()
        self._status: ExitStatus | None = None

    async def status(self) -> ExitStatus:
        """See `Outcome`."""
        exited = self._execution.exited
        if exited is None:
            raise SandboxFailed("a command ended without a result")
        async with self._lock:
            if self._status is None:
                self._status = await self._found_out(exited)
        return self._status

    async def _found_out(self, exited: Exited) -> ExitStatus:
        limits = await self._limits_hit()
        if exit_code(exited) and self._is_full is not None and await self._is_full():
            limits = (*limits, LimitHit.DISK)
        status = exit_status(exited, limits)
        if self.timed_out and status.cause is Cause.KILLED:
            status = replace(status, cause=Cause.TIMEOUT)
        return replace(status, output_lost=True) if self._execution.output.lost else status


class DoorOutcome:
    """What the daemon says."""

    def __init__(self, execution: Execution, dialect: OfDoor) -> None:
        self.timed_out = False
        self._execution = execution
        self._dialect = dialect

    async def status(self) -> ExitStatus:
        """See `Outcome`."""
        exited, verdict = self._execution.exited, self._dialect.verdict
        if exited is None or verdict is None:
            raise SandboxFailed("a command ended without a result")
        return replace(exit_status(exited, verdict.limits), cause=verdict.cause)


class Space(NamedTuple):
    """How full a file system is, as the builtin tells it."""

    bytes: int
    free_bytes: int
    inodes: int
    free_inodes: int

    @property
    def is_full(self) -> bool:
        """Whether a program would find no room."""
        return self.free_bytes < FULL_BELOW_BYTES or (self.inodes > 0 and self.free_inodes == 0)
