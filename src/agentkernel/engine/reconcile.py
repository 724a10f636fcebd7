"""After a crash: each row is brought to what `model.status.SETTLES_AS` says, and the host with it.

A row is settled under its sandbox's lock, by the timer or by the first who asks for that sandbox, whoever comes first.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import replace

from agentkernel.abc import Backend, Sandbox
from agentkernel.engine.audit import of_port
from agentkernel.engine.core import Core
from agentkernel.engine.ending import let_go_unless
from agentkernel.engine.registry import Live
from agentkernel.errors import AgentKernelError
from agentkernel.failpoints import failpoint
from agentkernel.model.record import SandboxRecord
from agentkernel.model.spec import RootKind
from agentkernel.model.status import SETTLES_AS, Status

AT_ONCE = 16
CLAIM_S = 60.0  # as long as the agent keeps a command that nobody is attached to
VISIT_S = 30.0  # a client whose daemon has gone is back sooner, or not at all

_DIED = "it did not survive a crash or restart of the host"


class Reconciler:
    """Settles rows. Which ones need it is known by `Core.unsettled`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def take_stock(self) -> None:
        """Reads all rows of a store that was just opened; all but those at rest are unsettled from now on."""
        self._core.knows_rows = True
        needed = set()
        for record in self._core.store.sandboxes():
            self._core.census.put(record)
            if record.spec.root.kind is RootKind.DIRECTORY and record.spec.root.digest:
                needed.add(record.spec.root.digest)
            if record.status is not Status.STOPPED or record.ephemeral:
                self._core.unsettled.add(record.sandbox_id)

        if needed and self._core.parts.images.library is not None:
            self._core.granting.images.store.keep(needed)

    async def settle_all(self) -> None:
        """Settles what is unsettled, some at a time; what cannot be settled now stays so."""
        slots = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(self._settle_one(sandbox_id, slots) for sandbox_id in tuple(self._core.unsettled)))

    async def sweep_all(self) -> None:
        """Removes what belongs to no row, for each backend that can be had."""
        rows = (self._core.store.get(sandbox_id) for sandbox_id in self._core.unsettled)
        names = {*self._core.granting.names(), *(record.backend for record in rows if record is not None)}
        for name in sorted(names):
            try:
                await self._core.granting.swept(self._core.granting.own(name))
            except (AgentKernelError, OSError):
                continue  # the first sandbox that needs the backend tries again, and is told

    async def settled(self, sandbox_id: str) -> SandboxRecord | None:
        """The row, settled; None when there is none (any more). The caller holds the sandbox's lock.

        Raises:
            BackendUnavailable: its backend is not to be had; it stays as it is.
            SandboxFailed: it could not be settled; the next attempt may.
        """
        core = self._core
        if (block := core.blocks.get(sandbox_id)) is not None:
            return block.record
        record = core.store.get(sandbox_id)
        if record is None or sandbox_id not in core.unsettled:
            core.unsettled.discard(sandbox_id)
            return record
        live = core.registry.get(sandbox_id)
        if live is not None and record.status is Status.RUNNING and not record.ephemeral:
            core.unsettled.discard(sandbox_id)  # what failed had not begun, and commands run in it
            return record
        core.registry.pop(sandbox_id)
        if live is not None:
            await live.sandbox.close()
        backend = core.granting.own(record.backend)
        with core.granting.asking(record.backend):
            record = await self._settle(record, backend)
        core.unsettled.discard(sandbox_id)
        return record

    async def give_up(self, sandbox_id: str, sandbox: Sandbox | None = None) -> None:
        """What was being made cannot be: removes whatever there is of it, `sandbox` if it was built. The caller holds its lock.

        What cannot be removed now is so later: its row says that it is to go, and is unsettled.
        """
        core = self._core
        core.unsettled.add(sandbox_id)
        try:
            if sandbox is not None:
                await let_go_unless(sandbox, sandbox.destroy)
            record = core.store.get(sandbox_id)
            if record is not None:
                record = record if record.status is Status.CREATING else core.move(record, Status.REMOVING)
                backend = core.granting.own(record.backend)
                with core.granting.asking(record.backend):
                    await self._remove(record, backend)
        except (AgentKernelError, OSError):
            return  # whoever asked is told why it could not be made
        core.unsettled.discard(sandbox_id)

    async def _settle_one(self, sandbox_id: str, slots: asyncio.Semaphore) -> None:
        async with slots, self._core.locks.hold(sandbox_id):
            try:
                await self.settled(sandbox_id)
            except (AgentKernelError, OSError):
                return  # it stays unsettled: whoever asks for it is told why, and the timer tries again

    async def _settle(self, record: SandboxRecord, backend: Backend) -> SandboxRecord | None:
        core = self._core
        goal = SETTLES_AS[record.status]
        if goal is Status.REMOVING or (record.ephemeral and record.status is not Status.RUNNING):
            await self._remove(record, backend)
            return None
        if record.status is goal and goal is Status.STOPPED:
            return record
        sandbox = await backend.recover(record.sandbox_id, record.spec, core.store.identity)
        failpoint("engine.reconcile.recovered")
        if goal is Status.RUNNING and sandbox is not None:
            return self._adopt(record, sandbox)
        if sandbox is not None:
            await let_go_unless(sandbox, sandbox.stop)
        if record.ephemeral:
            await self._remove(record, backend)
            return None
        reason = record.reason or (_DIED if record.status is Status.RUNNING else "")
        failpoint("engine.reconcile.ended")
        kind = "sandbox.lost" if record.status is Status.RUNNING else "sandbox.settled"
        event = core.audit.event(kind, record.owner, record, details=(("was", record.status.value),))
        return core.move(record, Status.STOPPED, event, reason=reason)

    def _adopt(self, record: SandboxRecord, sandbox: Sandbox) -> SandboxRecord:
        core = self._core
        now = core.clock()
        claim_by = now + CLAIM_S if record.ephemeral else None
        visit_by = now + VISIT_S if record.visited else None
        before = record.published
        with core.ports.bound_again(before) if before else nullcontext(()) as published:
            event = core.audit.event("sandbox.recovered", record.owner, record)
            record = core.update(replace(record, used_at=now, published=published), event)
            core.adopted(core.registry.add(Live(record=record, sandbox=sandbox, used_at=now, claim_by=claim_by, visit_by=visit_by)))
        for port in before:
            if port not in published:
                details = (("reason", "the host's port is taken"), *of_port(port))
                core.audit.append(core.audit.event("ports.unpublished", record.owner, record, outcome="conflict", details=details))
        return record

    async def _remove(self, record: SandboxRecord, backend: Backend) -> None:
        core = self._core
        await backend.discard(record.sandbox_id, core.store.identity)
        failpoint("engine.reconcile.discarded")
        event = core.audit.event("sandbox.removed", record.owner, record, details=(("was", record.status.value),))
        core.delete(record, event)
