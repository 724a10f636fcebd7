"""Create, start, stop, remove: what each does in each status, by the table of `model.status`.

Each step is stored before it has an effect, each runs under its sandbox's lock, and none is left half done because its caller has gone.
What fails half way, or is killed, is found by its status and settled by `reconcile`.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from agentkernel.abc import Caller, Keeping, Sandbox
from agentkernel.engine.admission import check_quota
from agentkernel.engine.core import Core
from agentkernel.engine.death import death_of
from agentkernel.engine.ending import LINGER_S, let_go_unless
from agentkernel.engine.hostfiles import found_again, without_files
from agentkernel.engine.options import checked_labels, checked_seconds
from agentkernel.engine.reconcile import Reconciler
from agentkernel.engine.registry import Live
from agentkernel.errors import AgentKernelError, BackendUnavailable, Conflict, LaunchFailed, NotFound, StoreFailed
from agentkernel.failpoints import failpoint
from agentkernel.model.record import CreateOptions, SandboxRecord
from agentkernel.model.request import Grant
from agentkernel.model.spec import StorageKind
from agentkernel.model.status import Status

INTERMEDIATE = frozenset({Status.CREATING, Status.STARTING, Status.STOPPING, Status.REMOVING})
Act = Callable[[Caller, SandboxRecord], Awaitable[SandboxRecord]]


class Lifecycle:
    """The operations on lasting sandboxes; callers go through `operate`, which locks and settles first."""

    def __init__(self, core: Core, reconciler: Reconciler) -> None:
        self._core = core
        self._reconciler = reconciler

    async def operate(self, caller: Caller, sandbox_id: str, act: Act, *, even_unavailable: bool = False) -> SandboxRecord:
        """Runs `act` on the settled row, alone with that sandbox, to its end even if the caller goes; raises NotFound.

        `even_unavailable`: also on the row of a sandbox that cannot be settled, because its backend is not to be had.
        """
        return await self._core.operations.finish(self.alone(caller, sandbox_id, act, even_unavailable))

    async def create(self, caller: Caller, grant: Grant, options: CreateOptions) -> SandboxRecord:
        """Makes a sandbox as granted. One that cannot be started is not made. To be run as an operation, which nobody cancels."""
        core = self._core
        if (made := await self.made_before(caller, options)) is not None:
            return made
        check_quota(core.parts.limits, caller.principal, core.census.count(caller.principal))
        record = self._new(caller, grant, options)
        with core.bound(record.spec.ports if options.start else ()) as published:
            return await self._created(caller, grant, options, replace(record, published=published))

    async def _created(self, caller: Caller, grant: Grant, options: CreateOptions, record: SandboxRecord) -> SandboxRecord:
        core = self._core
        pooled = core.take(grant.backend, replace(grant.spec, linger_s=record.spec.linger_s)) if options.start else None
        if pooled is not None:
            return await self._taken_over(caller, record, pooled)
        if options.start:
            core.boots.check()
        failpoint("engine.create.granted")
        async with core.locks.hold(record.sandbox_id):
            core.insert(record, None if options.start else core.audit.event("sandbox.created", caller, record))
            try:
                failpoint("engine.create.stored")
                if not options.start:
                    return record
                record = await self._boot(caller, record, "sandbox.created")
            except BaseException:
                await self._reconciler.give_up(record.sandbox_id)
                raise
        core.worked(grant.backend, grant.spec)
        return record

    async def made_before(self, caller: Caller, options: CreateOptions) -> SandboxRecord | None:
        """What the same request made already; None: nothing, or what a crash has left unfinished of it, which is removed now."""
        census = self._core.census
        while made := census.made_for(caller.principal, options.request_key):
            try:
                return await self.operate(caller, made, unchanged)
            except NotFound:
                census.discard(made)
        return None

    async def start(self, caller: Caller, record: SandboxRecord, *, visited: bool = False) -> SandboxRecord:
        """Boots it with its files; one that runs is fine. `visited`: for visitors, until somebody starts it for good."""
        core = self._core
        record = await self.as_it_is(caller, record)
        if record.status is Status.RUNNING:
            return core.update(replace(record, visited=False)) if record.visited and not visited else record
        core.granting.own(record.backend)
        core.boots.check()
        await self._require_files(record)
        with core.bound(record.spec.ports) as published:
            record = core.move(replace(record, published=published, visited=visited), Status.STARTING)
            try:
                failpoint("engine.start.stored")
                return await self._boot(caller, record, "sandbox.started")
            except BaseException as error:
                await self._not_started(record, error)
                raise

    async def as_it_is(self, caller: Caller, record: SandboxRecord) -> SandboxRecord:
        """The row; that of one that runs is made to say so if it turns out to have died. The caller holds its lock."""
        live = self._core.live(record)
        if record.status is not Status.RUNNING or live is None or not (reason := await death_of(live.sandbox)):
            return record
        return await self.end_boot(record, caller, "sandbox.lost", reason)

    async def stop(self, caller: Caller, record: SandboxRecord) -> SandboxRecord:
        """Ends everything in it and keeps its files; one that is stopped is fine."""
        if record.status is Status.STOPPED:
            return record
        return await self.end_boot(record, caller, "sandbox.stopped")

    async def end_boot(self, record: SandboxRecord, caller: Caller, kind: str, reason: str = "") -> SandboxRecord:
        """From running to stopped, for whatever reason."""
        core = self._core
        live = core.live(record)
        used_at = live.used_at if live is not None else record.used_at
        record = core.move(replace(record, used_at=used_at), Status.STOPPING, reason=reason)
        failpoint("engine.stop.stored")
        core.registry.pop(record.sandbox_id)
        if live is not None:
            with core.granting.asking(record.backend):
                await let_go_unless(live.sandbox, live.sandbox.stop)
        failpoint("engine.stop.stopped")
        details = (("reason", reason),) if reason else ()
        return core.move(record, Status.STOPPED, core.audit.event(kind, caller, record, details=details), reason=reason)

    async def remove(self, caller: Caller, record: SandboxRecord, *, force: bool, why: str = "") -> SandboxRecord:
        """Removes it and its files."""
        core = self._core
        details = (("reason", why),) if why else ()
        if core.granting.is_missing(record.backend) and force:
            details = (*details, ("left", "its backend was not to be had"))
            core.delete(record, core.audit.event("sandbox.removed", caller, record, details=details))
            return record
        backend = core.granting.own(record.backend)
        if record.status is Status.RUNNING and not force:
            raise Conflict(f"sandbox {record.name!r} runs", hint=f"`agentkernel stop {record.name}` first, or remove --force")
        if record.status is not Status.REMOVING:
            record = core.move(record, Status.REMOVING)
        failpoint("engine.remove.stored")
        live = core.registry.pop(record.sandbox_id)
        with core.granting.asking(record.backend):
            if live is not None:
                await let_go_unless(live.sandbox, live.sandbox.destroy)
            else:
                await backend.discard(record.sandbox_id, core.store.identity)
        failpoint("engine.remove.removed")
        core.delete(record, core.audit.event("sandbox.removed", caller, record, details=details))
        return record

    async def lost(self, live: Live, reason: str) -> None:
        """A running sandbox turns out to have died by itself: its row says so, and what is left of it but its files goes."""

        async def act(caller: Caller, record: SandboxRecord) -> SandboxRecord:
            if record.status is not Status.RUNNING or self._core.live(record) is not live:
                return record
            return await self.end_boot(record, caller, "sandbox.lost", reason)

        await self.operate(Caller(principal=live.record.owner), live.sandbox_id, act)

    async def let_go(self, live: Live) -> None:
        """One that is out of reach, and may live: it is taken up again, or found dead, as after a crash of this engine."""
        core = self._core
        async with core.locks.hold(live.sandbox_id):
            if core.live(live.record) is live:
                core.registry.pop(live.sandbox_id)
                core.unsettled.add(live.sandbox_id)
                await live.sandbox.close()

    async def _taken_over(self, caller: Caller, record: SandboxRecord, pooled: Sandbox) -> SandboxRecord:
        """Makes a sandbox of one that was made beforehand: until its row is stored no sweep knows that it is not garbage."""
        core = self._core
        record = replace(record, sandbox_id=pooled.sandbox_id, status=Status.RUNNING, started_at=record.created_at)
        async with core.locks.hold(record.sandbox_id):  # free, so nothing is awaited before it is stored
            try:
                core.insert(record, core.audit.event("sandbox.created", caller, record))
                failpoint("engine.create.taken")
            except BaseException:
                await self._reconciler.give_up(record.sandbox_id, pooled)
                raise
            core.registry.add(Live(record=record, sandbox=pooled, used_at=record.created_at))
            return record

    async def alone(self, caller: Caller, sandbox_id: str, act: Act, even_unavailable: bool) -> SandboxRecord:
        """`operate` for who is an operation already, which goes on when its caller has gone."""
        core = self._core
        async with core.locks.hold(sandbox_id):
            try:
                record = await self._reconciler.settled(sandbox_id)
            except BackendUnavailable:
                record = core.store.get(sandbox_id)
                if not even_unavailable:
                    raise
            if record is None:
                raise NotFound("the sandbox has been removed", hint="`agentkernel list` shows those there are")
            try:
                return await act(caller, record)
            except BaseException:
                self._note_unfinished(sandbox_id)
                raise

    def _note_unfinished(self, sandbox_id: str) -> None:
        """The next who asks for the sandbox, or the timer, brings to its end what was broken off."""
        try:
            left = self._core.store.get(sandbox_id)
        except StoreFailed:
            self._core.unsettled.add(sandbox_id)  # who knows
            return
        if left is not None and left.status in INTERMEDIATE:
            self._core.unsettled.add(sandbox_id)

    async def _not_started(self, record: SandboxRecord, error: BaseException) -> None:
        """From starting to stopped, with whatever was built of it ended. What cannot be ended now is settled later."""
        core = self._core
        core.unsettled.add(record.sandbox_id)
        try:
            backend = core.granting.own(record.backend)
            with core.granting.asking(record.backend):
                built = await backend.recover(record.sandbox_id, record.spec, core.store.identity)
            if built is not None:
                await let_go_unless(built, built.stop)
            core.move(record, Status.STOPPED, reason=f"it could not be started: {str(error) or type(error).__name__}")
        except (AgentKernelError, OSError):
            return  # whoever asked is told why it did not start
        core.unsettled.discard(record.sandbox_id)

    async def _boot(self, caller: Caller, record: SandboxRecord, kind: str) -> SandboxRecord:
        core = self._core
        async with core.boots.slot():
            sandbox = await self._built(record)
        now = core.clock()
        try:
            failpoint("engine.start.booted")
            record = core.move(replace(record, used_at=now), Status.RUNNING, core.audit.event(kind, caller, record))
            failpoint("engine.start.running")
        except BaseException:
            with suppress(AgentKernelError, OSError):  # its row is not at rest: what could not be ended is found again
                await let_go_unless(sandbox, sandbox.stop)
            raise
        core.registry.add(Live(record=record, sandbox=sandbox, used_at=now))
        return record

    async def _require_files(self, record: SandboxRecord) -> None:
        """Raises LaunchFailed for one that has run and whose files somebody else has removed: it would be another one under its name."""
        core = self._core
        backend = core.granting.own(record.backend)
        if record.started_at is None or record.spec.storage is not StorageKind.DISK or not isinstance(backend, Keeping):
            return
        with core.granting.asking(record.backend):
            is_there = await backend.has_files(record.sandbox_id, core.store.identity)
        if not is_there:
            raise LaunchFailed(
                f"the files of sandbox {record.name!r} are gone: something other than agentkernel has removed what backend "
                f"{record.backend!r} kept of it",
                hint=f"`agentkernel remove {record.name}`, and create it again",
            )

    async def _built(self, record: SandboxRecord) -> Sandbox:
        core = self._core
        backend = core.granting.own(record.backend)
        await core.granting.swept(backend)
        return await core.build(record.sandbox_id, found_again(record.spec, core.parts), backend)

    def _new(self, caller: Caller, grant: Grant, options: CreateOptions) -> SandboxRecord:
        core = self._core
        now = core.clock()
        linger_s = None if core.durable else LINGER_S
        return SandboxRecord(
            sandbox_id=os.urandom(8).hex(),
            name=grant.spec.name,
            owner=caller.principal,
            status=Status.CREATING if options.start else Status.STOPPED,
            backend=grant.backend,
            isolation=grant.spec.level,
            spec=without_files(replace(grant.spec, linger_s=linger_s)),
            created_at=now,
            labels=checked_labels(options.labels),
            used_at=now,
            expires_at=None if options.ttl_s is None else now + checked_seconds("ttl_s", options.ttl_s),
            idle_s=None if options.idle_s is None else checked_seconds("idle_s", options.idle_s),
            request_key=options.request_key,
        )


async def unchanged(caller: Caller, record: SandboxRecord) -> SandboxRecord:
    """Does nothing: for who only waits until a sandbox is settled and nobody works on it."""
    return record
