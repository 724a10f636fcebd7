"""The engine: a request comes in at the door, policy decides, a backend builds, and the store knows of it before and after."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from agentkernel import engine as late  # what only some need
from agentkernel.abc import Caller, Run, Sandbox, Visit
from agentkernel.engine import access, audit, listing
from agentkernel.engine.audit import Subject
from agentkernel.engine.confine import check_reach, confined, granted, shown, told
from agentkernel.engine.core import Core
from agentkernel.engine.ending import LINGER_S, to_the_end
from agentkernel.engine.garbage import Garbage
from agentkernel.engine.handle import SharedSandbox
from agentkernel.engine.lifecycle import Act, Lifecycle, unchanged
from agentkernel.engine.options import checked_labels, checked_seconds
from agentkernel.engine.parts import Parts
from agentkernel.engine.reconcile import Reconciler
from agentkernel.engine.registry import Live
from agentkernel.engine.surroundings import appeared
from agentkernel.engine.usage import Usage
from agentkernel.errors import AgentKernelError, Conflict, InvalidInput
from agentkernel.model.command import Command
from agentkernel.model.isolation import Fingerprint, IsolationLevel
from agentkernel.model.names import random_name, validate_name
from agentkernel.model.record import (
    CreateOptions,
    Event,
    EventFilter,
    KernelStatus,
    Labels,
    LogEntry,
    SandboxFilter,
    SandboxInfo,
    SandboxRecord,
)
from agentkernel.model.request import Grant, Notice, SandboxRequest
from agentkernel.model.spec import SandboxSpec, StorageKind, first_words
from agentkernel.model.status import Status

if TYPE_CHECKING:
    from agentkernel.engine.connections import Connections
    from agentkernel.engine.imagedoor import ImageDoor
    from agentkernel.engine.logs import Logs
    from agentkernel.engine.upkeep import Upkeep
    from agentkernel.engine.visits import Visits
    from agentkernel.model.image import ImageProgress, ImageRecord, ImageWork
    from agentkernel.model.network import EgressChange, EgressRules, PortRule, PublishedPort


class Engine:
    """Implements `abc.Kernel` in process: its sandboxes end with it. `host.HostEngine` is the one whose sandboxes live on."""

    durable = False

    def __init__(self, parts: Parts, *, clock: Callable[[], float] = time.time) -> None:
        self._core = Core(parts, durable=self.durable, clock=clock)
        self._reconciler = Reconciler(self._core)
        self._lifecycle = Lifecycle(self._core, self._reconciler)
        self._usage = Usage(self._core, self._lifecycle, lambda live, exec_id: self._logs.record(live, exec_id))
        self._core.lost = self._usage.lost
        self._garbage = Garbage(self._core, self._reconciler, self._lifecycle, lambda: self._logs)

    @cached_property
    def _logs(self) -> Logs:
        logs: Logs = late.Logs(self._core, self._usage.recorded)
        self._core.gone = logs.forget
        return logs

    @cached_property
    def _visits(self) -> Visits:
        visits: Visits = late.Visits(self._core, self._lifecycle)
        return visits

    @cached_property
    def _connections(self) -> Connections:
        connections: Connections = late.Connections(self._core, self._lifecycle, self._on)
        return connections

    @cached_property
    def _images(self) -> ImageDoor:
        door: ImageDoor = late.ImageDoor(self._core)
        return door

    @cached_property
    def _upkeep(self) -> Upkeep:
        upkeep: Upkeep = late.Upkeep(self._core, self._reconciler, self._lifecycle, self._usage, self._garbage)
        upkeep.end_visit = lambda live: self._visits.end(live)
        return upkeep

    # -- deciding

    async def fingerprints(self, caller: Caller) -> Sequence[Fingerprint]:
        """See `abc.Kernel`; also those that never take part in the choice."""
        access.require(caller, "fingerprints")
        return [told(caller, found) for found in await self._core.granting.fingerprints()]

    async def grant(self, caller: Caller, request: SandboxRequest) -> Grant:
        """See `abc.Kernel`. Probes are remembered, see `FingerprintCache`."""
        access.require(caller, "grant")
        return granted(caller, await self._core.granting.grant(confined(caller, request, self._core.parts.own_addresses)))

    async def aftermath(self, caller: Caller, grant: Grant) -> Sequence[Notice]:
        """Names files that appeared in a writable workspace where a protected one could not be, because there was none."""
        access.require(caller, "aftermath")
        made = () if caller.is_elsewhere else appeared(grant.spec.workspace)
        if not made:
            return ()
        message = f"the sandbox made {', '.join(made)} in {grant.spec.workspace.source}: programs on the host run or obey such files"
        return (Notice(code="protected-path-made", message=message, hint="read them before you go on working there"),)

    def isolation_of(self, backend: str) -> IsolationLevel:
        """The level that the last probe found."""
        return self._core.granting.isolation_of(backend)

    # -- sandboxes of a block

    def sandbox(self, caller: Caller, request: SandboxRequest) -> AbstractAsyncContextManager[tuple[Sandbox, Grant]]:
        """Builds a sandbox and destroys it at the end of the block, also when the block is cancelled."""
        return self._sandbox(caller, request)

    @asynccontextmanager
    async def _sandbox(self, caller: Caller, request: SandboxRequest) -> AsyncIterator[tuple[Sandbox, Grant]]:
        core = self._core
        with core.audit.failures("sandbox.created", Subject(caller, request.name or "", request.backend or "")):
            access.require(caller, "run")
            request = confined(caller, request, core.parts.own_addresses)
            grant = await core.granting.prepared(await core.granting.grant(request), request)
            grant = replace(grant, spec=replace(grant.spec, linger_s=LINGER_S))
            with core.keeping_secrets(grant.spec, request), core.bound(grant.spec.ports) as published:
                sandbox = core.take(grant.backend, grant.spec) or await self._create(grant)
                record = replace(_of_block(caller, grant, sandbox, core.clock()), published=published)
                live = core.blocks.add(Live(record=record, sandbox=sandbox, used_at=record.created_at))
        try:
            core.audit.append(core.audit.event("sandbox.created", caller, record, details=audit.of_request(request)))
            yield SharedSandbox(live, self._usage, caller), grant
        finally:
            await to_the_end(self._destroyed(caller, live))

    @asynccontextmanager
    async def run(self, caller: Caller, request: SandboxRequest, command: Command) -> AsyncIterator[Run]:
        """See `abc.Kernel`."""
        if command.detached:
            raise InvalidInput("a sandbox that is made for one command ends with it", hint="create a sandbox, and start the command there")
        request = request if request.argv else replace(request, argv=command.argv)
        async with self._sandbox(caller, request) as (sandbox, grant):
            command = replace(command, argv=first_words(grant.spec.root, command.argv), ends_tree=True)
            process = await sandbox.start(command)
            yield Run(
                process=process,
                sandbox_id=sandbox.sandbox_id,
                backend=grant.backend,
                isolation=grant.spec.level,
                notices=grant.notices,
            )

    async def _destroyed(self, caller: Caller, live: Live) -> None:
        """The end of a block's sandbox, told also when the block was cancelled."""
        trail = self._core.audit
        self._core.blocks.pop(live.sandbox_id)
        self._core.forget(live.record.spec)
        await trail.told("sandbox.removed", Subject(caller, live.record.name, live.record.backend), live.sandbox.destroy())
        trail.append(trail.event("sandbox.removed", caller, live.record))

    async def _create(self, grant: Grant) -> Sandbox:
        granting = self._core.granting
        self._core.boots.check()
        try:
            async with self._core.boots.slot():
                sandbox = await granting.backend(grant.backend).create(await self._core.vouched(grant.spec))
        except BaseException as error:
            granting.doubt(error, grant.backend)
            raise
        self._core.worked(grant.backend, grant.spec)
        return sandbox

    # -- sandboxes that last

    async def create(self, caller: Caller, request: SandboxRequest, options: CreateOptions) -> SandboxInfo:
        """See `abc.Kernel`."""
        core = self._core
        name = options.name or request.name or random_name("sandbox")
        with core.audit.failures("sandbox.created", Subject(caller, name, request.backend or "")):
            access.require(caller, "create")
            request = confined(caller, request, core.parts.own_addresses)
            if (made := await self._lifecycle.made_before(caller, options)) is not None:
                return self._info(made)
            if request.storage is StorageKind.MEMORY:
                raise InvalidInput("a sandbox that lasts keeps its files on disk", hint="leave --storage out, or use `agentkernel run`")
            request = replace(request, name=name, storage=StorageKind.DISK)
            grant = await core.granting.prepared(await core.granting.grant(request), request)
        self._upkeep.start()
        making = self._made(caller, grant, request, options)
        record = await core.operations.finish(core.audit.told("sandbox.created", Subject(caller, name, grant.backend), making))
        return replace(self._info(record), notices=grant.notices)

    async def _made(self, caller: Caller, grant: Grant, request: SandboxRequest, options: CreateOptions) -> SandboxRecord:
        with self._core.keeping_secrets(grant.spec, request):
            return await self._lifecycle.create(caller, grant, options)

    async def start(self, caller: Caller, name: str, secret_values: dict[str, str] | None = None) -> SandboxInfo:
        """See `abc.Kernel`."""

        async def act(caller: Caller, record: SandboxRecord) -> SandboxRecord:
            if secret_values:
                self._core.secrets.give(record, secret_values)
            return await self._lifecycle.start(caller, record)

        return self._info(await self._on(caller, "start", name, "sandbox.started", act))

    async def stop(self, caller: Caller, name: str) -> SandboxInfo:
        """See `abc.Kernel`."""
        return self._info(await self._on(caller, "stop", name, "sandbox.stopped", self._lifecycle.stop))

    async def remove(self, caller: Caller, name: str, *, force: bool = False) -> None:
        """See `abc.Kernel`. Forced, also one whose backend is not to be had: then what is on the host stays until that is back."""

        async def act(caller: Caller, record: SandboxRecord) -> SandboxRecord:
            return await self._lifecycle.remove(caller, record, force=force)

        await self._on(caller, "remove", name, "sandbox.removed", act, even_unavailable=True)

    async def sandboxes(self, caller: Caller, wanted: SandboxFilter) -> Sequence[SandboxInfo]:
        """See `abc.Kernel`."""
        access.require(caller, "sandboxes")
        return listing.page(self._core, caller, wanted)

    async def info(self, caller: Caller, name: str) -> SandboxInfo:
        """See `abc.Kernel`."""
        record = self._core.find(caller, "info", name)
        if record.sandbox_id in self._core.unsettled:
            record = await self._lifecycle.operate(caller, record.sandbox_id, unchanged, even_unavailable=True)
        return self._info(record)

    async def spec(self, caller: Caller, name: str) -> SandboxSpec:
        """See `abc.Kernel`."""
        record = self._core.find(caller, "spec", name)
        live = self._core.live(record)
        spec = record.spec if live is None else live.sandbox.spec
        spec = replace(spec, egress=record.spec.egress, egress_limits=record.spec.egress_limits, ports=record.spec.ports)
        return shown(caller, record, replace(spec, name=record.name))

    async def open(self, caller: Caller, name: str) -> Sandbox:
        """See `abc.Kernel`. Waits while somebody starts or stops it."""
        core = self._core
        record = core.find(caller, "open", name)
        live = core.live(record)
        if live is None:
            record = await self._lifecycle.operate(caller, record.sandbox_id, unchanged)
            live = core.live(record)
        if live is None:
            core.granting.own(record.backend)
            because = f": {record.reason}" if record.reason else ""
            raise Conflict(f"sandbox {record.name!r} is {record.status}{because}", hint=f"`agentkernel start {record.name}`")
        self._usage.touch(live)
        return SharedSandbox(live, self._usage, caller)

    def visit(self, caller: Caller, name: str) -> AbstractAsyncContextManager[Visit]:
        """See `abc.Kernel`."""
        return self._visit(caller, name)

    @asynccontextmanager
    async def _visit(self, caller: Caller, name: str) -> AsyncIterator[Visit]:
        sandbox, is_started = await self.arrive(caller, name)
        visit = Visit(sandbox=sandbox, is_started=is_started)

        async def leave() -> None:
            visit.goes_on = await self.depart(caller, sandbox)

        try:
            yield visit
        finally:
            await to_the_end(leave())

    async def arrive(self, caller: Caller, name: str) -> tuple[SharedSandbox, bool]:
        """See `abc.Host`."""
        live, is_started = await self._visits.arrive(caller, name)
        return SharedSandbox(live, self._usage, caller), is_started

    async def depart(self, caller: Caller, sandbox: Sandbox) -> bool:
        """See `abc.Host`."""
        return await self._visits.depart(caller, sandbox.live) if isinstance(sandbox, SharedSandbox) else True

    async def rename(self, caller: Caller, name: str, new_name: str) -> SandboxInfo:
        """See `abc.Kernel`."""

        async def act(caller: Caller, record: SandboxRecord) -> SandboxRecord:
            validate_name(new_name)
            details = (("from", record.name),)
            record = replace(record, name=new_name, spec=replace(record.spec, name=new_name))
            return self._core.update(record, self._core.audit.event("sandbox.renamed", caller, record, details=details))

        return self._info(await self._on(caller, "rename", name, "sandbox.renamed", act))

    async def extend(self, caller: Caller, name: str, ttl_s: float | None) -> SandboxInfo:
        """See `abc.Kernel`."""
        now = self._core.clock()

        async def act(caller: Caller, record: SandboxRecord) -> SandboxRecord:
            details = (("ttl_s", "never" if ttl_s is None else f"{ttl_s:g}"),)
            record = replace(record, expires_at=None if ttl_s is None else now + checked_seconds("ttl_s", ttl_s))
            return self._core.update(record, self._core.audit.event("sandbox.extended", caller, record, details=details))

        return self._info(await self._on(caller, "extend", name, "sandbox.extended", act))

    async def relabel(self, caller: Caller, name: str, labels: Labels) -> SandboxInfo:
        """See `abc.Kernel`."""

        async def act(caller: Caller, record: SandboxRecord) -> SandboxRecord:
            record = replace(record, labels=checked_labels(labels))
            return self._core.update(record, self._core.audit.event("sandbox.relabeled", caller, record))

        return self._info(await self._on(caller, "relabel", name, "sandbox.relabeled", act))

    # -- its connections

    async def network(self, caller: Caller, name: str) -> EgressRules:
        """See `abc.Kernel`."""
        return self._connections.network(caller, name)

    async def change_network(self, caller: Caller, name: str, change: EgressChange) -> EgressRules:
        """See `abc.Kernel`."""
        check_reach(caller, change.allow, self._core.parts.own_addresses)
        return await self._connections.change_network(caller, name, change)

    async def publish(self, caller: Caller, name: str, rule: PortRule) -> PublishedPort:
        """See `abc.Kernel`."""
        return await self._connections.publish(caller, name, rule)

    async def unpublish(self, caller: Caller, name: str, port: int) -> None:
        """See `abc.Kernel`."""
        await self._connections.unpublish(caller, name, port)

    async def ports(self, caller: Caller, name: str) -> Sequence[PublishedPort]:
        """See `abc.Kernel`."""
        return await self._connections.ports(caller, name)

    # -- images

    async def image_begin(self, caller: Caller, work: ImageWork) -> str:
        """See `abc.Kernel`."""
        return await self._images.begin(caller, work)

    def image_follow(self, caller: Caller, job_id: str, *, after: int = 0, follow: bool = False) -> AsyncIterator[ImageProgress]:
        """See `abc.Kernel`."""
        return self._images.follow(caller, job_id, after, follow=follow)

    async def images(self, caller: Caller, backend: str = "") -> Sequence[ImageRecord]:
        """See `abc.Kernel`."""
        return await self._images.images(caller, backend)

    async def image_remove(self, caller: Caller, reference: str, backend: str = "") -> None:
        """See `abc.Kernel`."""
        await self._images.remove(caller, reference, backend)

    async def image_prune(self, caller: Caller, unused_for_s: float, backend: str = "") -> Sequence[str]:
        """See `abc.Kernel`."""
        return await self._images.prune(caller, unused_for_s, backend)

    # -- looking on

    async def logs(
        self, caller: Caller, name: str, *, exec_id: int = 0, since: float = 0.0, follow: bool = False
    ) -> AsyncIterator[LogEntry]:
        """See `abc.Kernel`."""
        record = self._core.find(caller, "logs", name)
        async for entry in self._logs.read(record.sandbox_id, exec_id=exec_id, since=since, follow=follow):
            yield entry

    async def collect_garbage(self, caller: Caller, *, dry_run: bool = False) -> Sequence[str]:
        """See `abc.Kernel`."""
        with self._core.audit.failures("garbage.collected", Subject(caller)):
            access.require(caller, "collect_garbage")
            owner = "" if "admin" in caller.scopes else caller.principal
            lines = await self._core.operations.finish(self._garbage.collect(owner, dry_run=dry_run))
        if not dry_run:
            details = (("things", str(len(lines))),)
            self._core.audit.append(self._core.audit.event("garbage.collected", caller, details=details))
        return lines

    def events(self, caller: Caller, wanted: EventFilter, *, follow: bool = False) -> AsyncIterator[Event]:
        """See `abc.Kernel`; callers read of their own operations and of those on their sandboxes' behalf."""
        access.require(caller, "events")
        return listing.events(self._core, caller, wanted, follow=follow)

    async def status(self, caller: Caller) -> KernelStatus:
        """See `abc.Kernel`."""
        access.require(caller, "status")
        return listing.status(self._core)

    async def close(self) -> None:
        """See `abc.Kernel`."""
        core = self._core
        await self._let_go()
        failed: AgentKernelError | None = None
        for record in core.store.sandboxes() if core.has_store else ():
            try:
                await self._lifecycle.operate(Caller(principal=record.owner), record.sandbox_id, self._ended, even_unavailable=True)
            except AgentKernelError as error:
                failed = failed or error  # the others are to go none the less
        await core.close(left=failed is not None)
        if failed is not None:
            raise failed

    async def _let_go(self) -> None:
        """Ends what goes on beside operations, then waits for those."""
        for part in ("_upkeep", "_logs"):
            if part in self.__dict__:  # made when it was first needed
                await getattr(self, part).close()
        if self._has_images:
            await self._images.jobs.close()
        if self._core.pools is not None:
            await self._core.pools.close()
        await self._core.operations.drain()

    @property
    def _has_images(self) -> bool:
        return "_images" in self.__dict__

    async def _ended(self, caller: Caller, record: SandboxRecord) -> SandboxRecord:
        return await self._lifecycle.remove(caller, record, force=True, why="its engine ended")

    async def _on(self, caller: Caller, operation: str, name: str, kind: str, act: Act, *, even_unavailable: bool = False) -> SandboxRecord:
        """Does one thing with one sandbox, to its end; a failure is told as an event of that kind, though the caller has gone."""

        async def work() -> SandboxRecord:
            record = self._core.find(caller, operation, name)
            return await self._lifecycle.alone(caller, record.sandbox_id, act, even_unavailable)

        return await self._core.operations.finish(self._core.audit.told(kind, Subject(caller, name), work()))

    def _info(self, record: SandboxRecord) -> SandboxInfo:
        return listing.shown(self._core, record)


def _of_block(caller: Caller, grant: Grant, sandbox: Sandbox, now: float) -> SandboxRecord:
    """What a row would say of a sandbox that needs none."""
    return SandboxRecord(
        sandbox_id=sandbox.sandbox_id,
        name=grant.spec.name,
        owner=caller.principal,
        status=Status.RUNNING,
        backend=grant.backend,
        isolation=grant.spec.level,
        spec=grant.spec,
        created_at=now,
        ephemeral=True,
        exec_id=0,
        started_at=now,
        used_at=now,
    )
