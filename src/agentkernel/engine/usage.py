"""What happens in sandboxes: commands are audited, use is noted, death is noticed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from agentkernel.abc import Caller
from agentkernel.engine import audit
from agentkernel.engine.access import require
from agentkernel.engine.core import Core
from agentkernel.engine.death import death_of
from agentkernel.engine.lifecycle import Lifecycle
from agentkernel.engine.locks import host_errors
from agentkernel.engine.registry import Live
from agentkernel.errors import AgentKernelError, ProtocolViolation, SandboxFailed, SandboxLost
from agentkernel.model.command import Command, ExitStatus
from agentkernel.model.record import SandboxRecord


class Usage:
    """Implements `handle.Desk`."""

    def __init__(self, core: Core, lifecycle: Lifecycle, record: Callable[[Live, int], None]) -> None:
        self._core = core
        self._lifecycle = lifecycle
        self._record = record

    def started(self, caller: Caller, live: Live, command: Command, exec_id: int) -> None:
        """See `handle.Desk`."""
        self.touch(live)
        if command.detached:
            self._record(live, exec_id)
        elif exec_id:
            live.commands.add(exec_id)
        else:
            live.unnamed += 1
        event = self._core.audit.event("exec.started", caller, live.record, exec_id=exec_id, details=audit.of_command(command))
        self._core.audit.append(event)

    def resumed(self, live: Live, exec_id: int) -> None:
        """Somebody waits for a command again."""
        self.touch(live)
        if exec_id not in live.recorded:
            live.commands.add(exec_id)

    def ended(self, caller: Caller, live: Live, exec_id: int, status: ExitStatus | None, error: str = "") -> None:
        """See `handle.Desk`. The end of a command that is recorded is told by its recording."""
        self.touch(live)
        if exec_id in live.recorded:
            return
        if exec_id:
            live.commands.discard(exec_id)
        else:
            live.unnamed = max(0, live.unnamed - 1)
        self._tell_end(caller, live, exec_id, status, error)

    def recorded(self, live: Live, exec_id: int, status: ExitStatus | None, error: str) -> None:
        """The recording of a detached command has ended, with the command."""
        self._tell_end(live.record.owner, live, exec_id, status, error)

    def touch(self, live: Live) -> None:
        """See `handle.Desk`."""
        live.used_at = self._core.clock()

    def suspect(self, live: Live, error: AgentKernelError) -> None:
        """See `handle.Desk`."""
        if isinstance(error, SandboxFailed) and self._core.live(live.record) is live:
            self._core.operations.spawn(self.examine(live))

    def lost(self, live: Live, error: AgentKernelError) -> None:
        """Its connection is over: it has died, or its backend cannot be asked, or this process lacks what it takes (a descriptor)."""
        if isinstance(error, (SandboxLost, ProtocolViolation)):
            self.suspect(live, error)
        elif self._core.live(live.record) is live and not live.record.ephemeral:
            self._core.operations.spawn(self._lifecycle.let_go(live))

    async def examine(self, live: Live) -> bool:
        """Whether a sandbox lives; the row of one that does not is made to say so."""
        try:
            reason = await death_of(live.sandbox)
        except AgentKernelError:
            return True  # it cannot be asked: the next examination finds out
        if not reason:
            return True
        if self._core.live(live.record) is live and not live.record.ephemeral:
            with suppress(AgentKernelError):  # removed meanwhile; or it is still there, and the next examination finds it again
                await self._lifecycle.lost(live, reason)
        return False

    async def stop_of(self, caller: Caller, live: Live) -> None:
        """See `handle.Desk`; one that was made for a command, or for a block, has no files to keep."""
        if live.record.ephemeral:
            await self.destroy_of(caller, live)
        else:
            require(caller, "stop", live.record)
            await self._lifecycle.operate(caller, live.sandbox_id, self._lifecycle.stop)

    async def destroy_of(self, caller: Caller, live: Live) -> None:
        """See `handle.Desk`."""
        if live.sandbox_id not in self._core.census:  # that of a block, which has no row
            with host_errors():
                await live.sandbox.destroy()
            return
        require(caller, "run" if live.record.ephemeral else "remove", live.record)

        async def act(caller: Caller, record: SandboxRecord) -> SandboxRecord:
            return await self._lifecycle.remove(caller, record, force=True)

        await self._lifecycle.operate(caller, live.sandbox_id, act)

    def _tell_end(self, who: Caller | str, live: Live, exec_id: int, status: ExitStatus | None, error: str) -> None:
        details = () if status is None else audit.of_end(status)
        trail = self._core.audit
        trail.append(trail.event("exec.ended", who, live.record, exec_id=exec_id, outcome=error or "ok", details=details))
