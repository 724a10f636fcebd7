"""Sandboxes for one command each: made with it, removed after it, found by its exec id, also by the next engine."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

from agentkernel.abc import Caller, Sandbox
from agentkernel.engine.access import require, sees
from agentkernel.engine.admission import check_quota
from agentkernel.engine.audit import Subject, of_request
from agentkernel.engine.confine import confined
from agentkernel.engine.core import Core
from agentkernel.engine.ending import let_go_unless
from agentkernel.engine.hostfiles import without_root
from agentkernel.engine.reconcile import CLAIM_S, Reconciler
from agentkernel.engine.registry import Live
from agentkernel.engine.variables import give_again, without_given
from agentkernel.errors import DaemonUnavailable, NotFound
from agentkernel.failpoints import failpoint
from agentkernel.model.isolation import BackendKind
from agentkernel.model.network import PublishedPort
from agentkernel.model.record import Event, SandboxRecord
from agentkernel.model.request import Grant, SandboxRequest
from agentkernel.model.spec import SandboxSpec
from agentkernel.model.status import Status

Published = tuple[PublishedPort, ...]

LINGER_S = 120.0  # without an engine it ends by itself: after the time in which its client may come back


class Ephemerals:
    """Those of a durable store. Nothing is told twice: the same exec id has one sandbox, however often it is asked for."""

    def __init__(self, core: Core, reconciler: Reconciler) -> None:
        self._core = core
        self._reconciler = reconciler

    async def acquire(self, caller: Caller, request: SandboxRequest, exec_id: int, *, fetches: bool = True) -> tuple[Live, Grant]:
        """Makes the sandbox of a command, or finds the one that is there; see `abc.Host.ephemeral` for `fetches`.

        When the caller goes meanwhile, it is made none the less, and removed if nobody asks for it again.
        """
        subject = Subject(caller, request.name or "", request.backend or "")
        made = self._core.audit.told("sandbox.created", subject, self._acquired(caller, request, exec_id, fetches))
        work = self._core.operations.spawn(made)
        try:
            found = await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(self._unclaimed)
            raise
        if found is None:
            raise DaemonUnavailable("the image must be fetched first", hint="who asks does that, and watches")
        return found

    async def find(self, caller: Caller, exec_id: int) -> Live:
        """The sandbox that was made for a command; raises NotFound."""
        found = await self._core.operations.finish(self._found(caller, exec_id))
        if found is None:
            raise NotFound("the command's sandbox is gone", hint="`agentkernel audit` tells how it ended")
        return found

    async def dispose(self, exec_id: int, caller: Caller | None = None) -> None:
        """Removes it, as soon as it is made if that is under way; none there is fine, and for a caller so is somebody else's."""
        await self._core.operations.finish(self._disposed(exec_id, caller))

    async def _acquired(self, caller: Caller, request: SandboxRequest, exec_id: int, fetches: bool) -> tuple[Live, Grant] | None:
        """None, with nothing done, where an image had to be fetched first and is not to be."""
        core = self._core
        require(caller, "run")
        request = confined(caller, request, core.parts.own_addresses)
        async with core.locks.hold(f"exec {exec_id}"):
            live = await self._found(caller, exec_id)
            if live is not None:
                return live, live.grant or await self._granted_again(live, request)
            check_quota(core.parts.limits, caller.principal, core.census.count(caller.principal))
            grant = await core.granting.grant(request)
            if grant.fetches and not fetches:
                return None
            grant = await core.granting.prepared(grant, request)
            grant = replace(grant, spec=replace(grant.spec, linger_s=LINGER_S))
            with core.keeping_secrets(grant.spec, request), core.bound(grant.spec.ports) as published:
                return await self._made(caller, grant, request, exec_id, published), grant

    async def _made(self, caller: Caller, grant: Grant, request: SandboxRequest, exec_id: int, published: Published) -> Live:
        core = self._core
        now = core.clock()
        check_quota(core.parts.limits, caller.principal, core.census.count(caller.principal))  # others were made while it was decided
        pooled = core.take(grant.backend, grant.spec)
        record = SandboxRecord(
            sandbox_id=os.urandom(8).hex() if pooled is None else pooled.sandbox_id,
            name=grant.spec.name,
            owner=caller.principal,
            status=Status.CREATING,
            backend=grant.backend,
            isolation=grant.spec.level,
            spec=without_root(without_given(grant.spec, request)),
            created_at=now,
            ephemeral=True,
            exec_id=exec_id,
            used_at=now,
            published=published,
        )
        event = core.audit.event("sandbox.created", caller, record, exec_id=exec_id, details=of_request(request))
        if pooled is not None:
            record = replace(record, status=Status.RUNNING, started_at=now)
            async with core.locks.hold(record.sandbox_id):  # free, so nothing is awaited before it is stored
                await self._take_over(record, pooled, event)
                return core.registry.add(Live(record=record, sandbox=pooled, used_at=now, grant=grant))
        core.boots.check()
        failpoint("engine.ephemeral.granted")
        async with core.locks.hold(record.sandbox_id):
            record, sandbox = await self._booted(record, grant.spec, event)
            core.worked(grant.backend, grant.spec)
            return core.registry.add(Live(record=record, sandbox=sandbox, used_at=now, grant=grant))

    async def _granted_again(self, live: Live, request: SandboxRequest) -> Grant:
        """Of one that an earlier engine made: its client does not know whether that has passed the command on, and asks once more."""
        grant = await self._core.granting.grant(request)
        give_again(live.sandbox, grant.spec)
        live.grant = Grant(spec=live.sandbox.spec, backend=live.record.backend, chosen=BackendKind.CHOSEN)
        return live.grant

    async def _take_over(self, record: SandboxRecord, pooled: Sandbox, event: Event) -> None:
        """Stores the row of a sandbox that was made beforehand: until then no sweep knows that it is not garbage."""
        try:
            self._core.insert(record, event)
            failpoint("engine.ephemeral.taken")
        except BaseException:
            await self._reconciler.give_up(record.sandbox_id, pooled)
            raise

    async def _booted(self, record: SandboxRecord, spec: SandboxSpec, event: Event) -> tuple[SandboxRecord, Sandbox]:
        core = self._core
        core.insert(record)
        sandbox: Sandbox | None = None
        try:
            failpoint("engine.ephemeral.stored")
            async with core.boots.slot():
                sandbox = await core.build(record.sandbox_id, spec, core.granting.backend(record.backend))
            failpoint("engine.ephemeral.booted")
            record = core.move(record, Status.RUNNING, event)
            failpoint("engine.ephemeral.running")
        except BaseException:
            await self._reconciler.give_up(record.sandbox_id, sandbox)
            raise
        return record, sandbox

    async def _found(self, caller: Caller, exec_id: int) -> Live | None:
        core = self._core
        record = core.store.find_exec(exec_id)
        if record is None:
            return None
        require(caller, "run", record)
        async with core.locks.hold(record.sandbox_id):
            settled = await self._reconciler.settled(record.sandbox_id)
            live = None if settled is None else core.live(settled)
            if live is not None:
                live.claim_by = None
            return live

    async def _disposed(self, exec_id: int, caller: Caller | None) -> None:
        core = self._core
        async with core.locks.hold(f"exec {exec_id}"):
            try:
                record = core.store.find_exec(exec_id)
                if record is None or (caller is not None and not sees(caller, record)):
                    return
                async with core.locks.hold(record.sandbox_id):
                    if core.store.get(record.sandbox_id) is not None:
                        await core.audit.told("sandbox.removed", _subject(record), self._removed(record))
            except BaseException:
                self._claim_nobody(exec_id)
                raise

    async def _removed(self, record: SandboxRecord) -> None:
        core = self._core
        core.unsettled.add(record.sandbox_id)  # until it is gone
        failpoint("engine.dispose.begun")
        live = core.registry.pop(record.sandbox_id)
        if live is not None:
            await let_go_unless(live.sandbox, live.sandbox.destroy)
        else:
            await core.granting.own(record.backend).discard(record.sandbox_id, core.store.identity)
        failpoint("engine.dispose.destroyed")
        core.delete(record, core.audit.event("sandbox.removed", record.owner, record, exec_id=record.exec_id))

    def _claim_nobody(self, exec_id: int) -> None:
        """It could not be removed and still runs: the timer tries again."""
        for live in self._core.registry:
            if live.record.exec_id == exec_id:
                live.claim_by = self._core.clock()

    def _unclaimed(self, work: asyncio.Task[tuple[Live, Grant] | None]) -> None:
        if not work.cancelled() and work.exception() is None and (made := work.result()) is not None:
            made[0].claim_by = self._core.clock() + CLAIM_S


def _subject(record: SandboxRecord) -> Subject:
    return Subject(record.owner, record.name, record.backend)
