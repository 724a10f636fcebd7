"""Garbage: what has expired, what a crash left unfinished, what belongs to no sandbox (any more), and events of long ago."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from agentkernel.abc import Caller
from agentkernel.engine.core import Core
from agentkernel.engine.lifecycle import Lifecycle
from agentkernel.engine.reconcile import Reconciler
from agentkernel.errors import AgentKernelError, NotFound
from agentkernel.model.record import SandboxRecord

if TYPE_CHECKING:
    from agentkernel.engine.logs import Logs

EVENT_AGE_S: Final = 90 * 24 * 3600.0
EVENTS_KEPT: Final = 200_000


class Garbage:
    """Finds it and removes it. Each thing is told in one line."""

    def __init__(self, core: Core, reconciler: Reconciler, lifecycle: Lifecycle, logs: Callable[[], Logs]) -> None:
        self._core = core
        self._reconciler = reconciler
        self._lifecycle = lifecycle
        self._logs = logs

    async def collect(self, owner: str = "", *, dry_run: bool = False) -> list[str]:
        """Removes what is garbage, of one owner's sandboxes or of all; `dry_run` only tells, as far as that can be known without acting."""
        core = self._core
        lines = [*await self._expired(owner, dry_run), *await self._unfinished(owner, dry_run)]
        for sandbox_id in self._logs().orphans():
            lines.append(f"log of {sandbox_id}: there is no such sandbox")
            if not dry_run:
                self._logs().forget(sandbox_id)
        if not dry_run:
            lines += await self._swept()
            await core.take_passing()
            pruned = 0
            while some := core.store.prune_events(core.clock() - EVENT_AGE_S, EVENTS_KEPT):
                pruned += some
                await asyncio.sleep(0)
            if pruned:
                lines.append(f"{pruned} events of long ago")
        return lines

    async def _expired(self, owner: str, dry_run: bool) -> list[str]:
        lines = []
        for record in self._rows(self._core.census.expired(self._core.clock()), owner):
            lines.append(f"sandbox {record.name}: expired")
            if not dry_run:
                try:
                    await self._lifecycle.operate(Caller(principal=record.owner), record.sandbox_id, self._remove)
                except NotFound:
                    continue  # somebody was faster
                except AgentKernelError as error:
                    lines[-1] += f", but cannot be removed: {error.message}"
        return lines

    async def _unfinished(self, owner: str, dry_run: bool) -> list[str]:
        lines = []
        for record in self._rows(sorted(self._core.unsettled), owner):
            lines.append(f"sandbox {record.name}: left {record.status} by a crash")
            if not dry_run:
                try:
                    async with self._core.locks.hold(record.sandbox_id):
                        await self._reconciler.settled(record.sandbox_id)
                except (AgentKernelError, OSError) as error:
                    lines[-1] += f", and cannot be settled: {error}"
        return lines

    async def _swept(self) -> list[str]:
        lines = []
        for name in self._core.granting.names():
            try:
                count = await self._core.sweep(self._core.granting.own(name))
            except (AgentKernelError, OSError) as error:
                lines.append(f"{name}: cannot be swept: {error}")
                continue
            if count:
                lines.append(f"{name}: {count} sandboxes that belonged to nobody")
        return lines

    async def _remove(self, caller: Caller, record: SandboxRecord) -> SandboxRecord:
        if record.expires_at is None or record.expires_at > self._core.clock():
            return record  # it was given more time
        return await self._lifecycle.remove(caller, record, force=True, why="expired")

    def _rows(self, ids: list[str], owner: str) -> list[SandboxRecord]:
        rows = [self._core.store.get(sandbox_id) for sandbox_id in ids]
        return [row for row in rows if row is not None and owner in ("", row.owner)]
