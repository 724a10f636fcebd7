"""Building a sandbox whose directory is there and leased: each thing is recorded, or follows from the id, before it is made."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace

from agentkernel import __version__
from agentkernel.backends._configuration import Configuration
from agentkernel.backends._linux.watch import LimitWatch, SampledLimits
from agentkernel.backends.containers import guest_volume, mounting
from agentkernel.backends.containers.affinity import set_affinity
from agentkernel.backends.containers.api import EngineRefused
from agentkernel.backends.containers.boundary import ContainerBoundary
from agentkernel.backends.containers.calls import NOT_FOUND, Container
from agentkernel.backends.containers.configuration import configuration_of, fingerprint_of
from agentkernel.backends.containers.dialect import EngineBind, EngineFacts
from agentkernel.backends.containers.guest_volume import Guest
from agentkernel.backends.containers.holdings import Holdings
from agentkernel.backends.containers.host import Host
from agentkernel.backends.containers.obstacles import obstacle
from agentkernel.backends.containers.places import open_places
from agentkernel.backends.containers.plan import GUEST, ContainerPlan, Entry, Naming, Stream, plan_of
from agentkernel.backends.containers.runtimes import require_runtime, shares_sockets
from agentkernel.channel.sandbox import GuestSandbox, open_sandbox
from agentkernel.errors import LaunchFailed, SandboxLost, Unsupported
from agentkernel.failpoints import failpoint
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.spec import SandboxSpec, StorageKind
from agentkernel.policy.inside import SSH_DROP_IN


def level_of(spec: SandboxSpec, facts: EngineFacts, backend: str) -> IsolationLevel:
    """How much a sandbox of that spec is isolated; raises Unsupported for a runtime that the engine lacks."""
    return require_runtime(spec.runtime, facts.runtimes, backend) if spec.runtime else facts.level


def stream_of(level: IsolationLevel, facts: EngineFacts) -> Stream:
    """How its agent is reached: by a socket where kernel and directories are the same and the socket would be ours to open."""
    ours = facts.rootless or os.geteuid() == 0
    if facts.local and ours and shares_sockets(level):
        return Stream.SOCKET
    return Stream.SESSION if facts.sessions else Stream.STDIO


def settled(spec: SandboxSpec, host: Host, facts: EngineFacts) -> SandboxSpec:
    """The spec as this engine gives it: its level, and the user where that must be another one; raises Unsupported."""
    spec = replace(spec, level=level_of(spec, facts, host.dialect.name))
    return mounting.with_protected(mounting.sandbox_user(spec, host, facts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Building:
    """All that is decided before anything is done."""

    host: Host
    holdings: Holdings
    spec: SandboxSpec
    stream: Stream
    guest: Guest
    plan: ContainerPlan
    configuration: Configuration
    shown: mounting.Shown

    @property
    def facts(self) -> EngineFacts:
        """Of the engine."""
        return self.holdings.facts


async def build(host: Host, spec: SandboxSpec, holdings: Holdings, existing: Container | None) -> GuestSandbox:
    """Builds and starts the sandbox of `holdings`, or starts its container again; whatever was made until it fails is in `holdings`."""
    building = _decided(host, settled(spec, host, holdings.facts), holdings)
    if existing is not None and existing.spec != fingerprint_of(building.spec):
        raise LaunchFailed(
            f"sandbox {holdings.sandbox_id} was made with other settings",
            hint="with those settings again it starts, and `agentkernel cp` copies its files out; or remove it and create it again",
        )
    if existing is not None and (fresh := [path for path in building.shown.masked if path not in existing.masked]):
        raise LaunchFailed(
            f"{fresh[0]} must not be seen in the sandbox, and was not there when it was made",
            hint="take it away for a start, or remove the sandbox and create it again",
        )
    if holdings.owner and holdings.state is not None:
        holdings.state.record("configuration", building.configuration.encode())
    failpoint("containers.boot.configuration")
    await mounting.make(host, building.facts, building.shown)
    failpoint("containers.boot.mounts")
    if existing is None:
        await _create(building)
    elif building.facts.local:
        _shown_files(building)  # what its binds name went with the stop, or with the host's restart
    else:
        await host.containers.put(holdings.name, _files_of(building.plan))
    failpoint("containers.boot.created")
    container = await _start(building)
    failpoint("containers.boot.started")
    await mounting.unmake(host, building.facts, holdings.directory)
    await set_affinity(host, building.facts, container.pid, spec.resources.cpus)
    sandbox = await attach(host, building.spec, holdings, container, building.configuration)
    await make_ready(host, holdings, sandbox)
    watch_limits(building.spec, holdings, sandbox, container, resumed=existing is not None)
    failpoint("containers.boot.attached")
    return sandbox


def _decided(host: Host, spec: SandboxSpec, holdings: Holdings) -> Building:
    facts = holdings.facts
    stream = stream_of(spec.level, facts)
    holdings.user, holdings.keeps = spec.user.uid, bool(holdings.owner) and spec.storage is StorageKind.DISK
    whose = mounting.Whose(state=holdings.directory, sandbox_id=holdings.sandbox_id, owner=holdings.owner or host.lease_label)
    shown = mounting.arrange(spec, host, facts, whose)
    guest = guest_volume.this_guest(facts.architecture)
    apart = stream is Stream.SOCKET and os.geteuid() == 0 and not facts.rootless
    naming = Naming(
        sandbox_id=holdings.sandbox_id,
        owner=holdings.owner or host.lease_label,
        version=__version__,
        guest_volume=guest.volume,
        stream=stream,
        run_directory=holdings.make_run_directory(apart=apart) if stream is Stream.SOCKET else "",
        apart=apart,
        open_socket=facts.open_socket,
        fingerprint=fingerprint_of(spec),
    )
    plan = plan_of(spec, naming)
    plan = replace(plan, files=(*plan.files, *shown.files), masked=(*plan.masked, *shown.masked))
    if not facts.local and spec.read_only_root:  # git has a variable for the same
        plan = replace(plan, files=tuple(file for file in plan.files if file.path != SSH_DROP_IN))
    if plan.files and not facts.local and spec.read_only_root:
        raise Unsupported(f"{plan.files[0].path} cannot be shown in a read-only root of an engine elsewhere", hint="leave --read-only out")
    return Building(
        host=host,
        holdings=holdings,
        spec=spec,
        stream=stream,
        guest=guest,
        plan=plan,
        configuration=configuration_of(spec, facts),
        shown=shown,
    )


async def _create(building: Building) -> None:
    """The container and what is in its layer."""
    host, plan, name = building.host, building.plan, building.holdings.name
    binds = (*building.shown.binds, *_shown_files(building))
    try:
        await host.dialect.create(plan, building.spec, building.facts, binds)
        await host.containers.put(name, (*plan.entries, *(() if building.facts.local else _files_of(plan))))
        for mount in building.shown.copies:
            await host.containers.put_tree(name, mount.target, mounting.contents(mount, building.spec))
    except EngineRefused as refused:
        if refused.status == NOT_FOUND and "image" in refused.message.lower():
            hint = f"get it with `agentkernel image pull --backend {host.dialect.name} {building.spec.root.reference}`"
            raise LaunchFailed(f"the engine does not have the image {building.spec.root.reference or plan.image}", hint=hint) from refused
        raise await _refusal(building, "refuses", refused) from refused


def _shown_files(building: Building) -> tuple[EngineBind, ...]:
    """Small files: of a local engine shown from the state directory, so that each boot may write them anew."""
    if not building.facts.local:
        return ()
    made = []
    for number, file in enumerate(building.plan.files):
        source = building.holdings.make_file(number, file.content, file.mode)
        made.append(EngineBind(source=source, target=file.path, writable=False))
    return tuple(made)


def _files_of(plan: ContainerPlan) -> tuple[Entry, ...]:
    return tuple(Entry(path=file.path, mode=file.mode, content=file.content) for file in plan.files)


async def _start(building: Building) -> Container:
    """Starts it with the guest in its volume; raises LaunchFailed."""
    host, name, guest = building.host, building.holdings.name, building.guest
    try:
        await host.with_guest(name, guest)
        try:
            await host.containers.start(name)
        except EngineRefused as refused:
            if GUEST not in refused.message:
                raise
            await host.with_guest(name, guest, anew=True)  # somebody has removed volumes that were not in use
            await host.containers.start(name)
        found = await host.containers.find(name)
    except EngineRefused as refused:
        raise await _refusal(building, "cannot start", refused) from refused
    if found is None or not found.running:
        raise LaunchFailed(
            f"the sandbox ended at once: {found.said if found else 'its container is gone'}", hint="run `agentkernel doctor`"
        )
    return found


async def _refusal(building: Building, how: str, refused: EngineRefused) -> LaunchFailed:
    known = await obstacle(building.host, building.plan, refused.message)
    return known or LaunchFailed(f"the engine {how} the sandbox: {refused.message}", hint="run `agentkernel doctor`")


async def attach(host: Host, spec: SandboxSpec, holdings: Holdings, container: Container, configuration: Configuration) -> GuestSandbox:
    """Attaches to the agent of a running container. The spec is a settled one. Raises LaunchFailed where it has ended already."""
    try:
        holdings.runs(container)
        boundary = ContainerBoundary(spec, holdings, host, configuration=configuration, stream=stream_of(spec.level, holdings.facts))
        sandbox = await open_sandbox(boundary)
    except (SandboxLost, ProcessLookupError) as lost:
        said = await _why(host, holdings) or str(lost)
        raise LaunchFailed(f"the sandbox's agent cannot be reached: {said}", hint="run `agentkernel doctor`") from lost
    return sandbox


async def make_ready(host: Host, holdings: Holdings, sandbox: GuestSandbox) -> None:
    """What is left to do inside after a start, unless it is recorded as done. Raises LaunchFailed, and then lets go of it."""
    if holdings.is_ready:
        return
    try:
        await open_places(sandbox)
    except BaseException as failure:
        await sandbox.close()
        if isinstance(failure, SandboxLost):
            said = await _why(host, holdings) or failure.message
            raise LaunchFailed(f"the sandbox's agent cannot be reached: {said}", hint="run `agentkernel doctor`") from failure
        raise
    holdings.note_ready()


async def _why(host: Host, holdings: Holdings) -> str:
    with contextlib.suppress(EngineRefused):
        found = await host.containers.find(holdings.name)
        if found is not None and not found.running:
            return found.said
    return ""


def watch_limits(spec: SandboxSpec, holdings: Holdings, sandbox: GuestSandbox, container: Container, *, resumed: bool) -> None:
    """Begins to sample what no cgroup enforces; `resumed`: there are files already, which count as they are."""
    if holdings.pidfd < 0:
        return
    memory = spec.resources.memory_bytes if "memory" not in holdings.facts.enforced else None
    layer = None if spec.read_only_root else container.layer  # with storage in memory, too: an image has places that everybody may write
    written = (layer, *container.volumes, holdings.host.files(holdings.sandbox_id))
    places = [place for place in written if place is not None and place.is_dir()]
    for number, place in enumerate(places or [None]):
        sampled = SampledLimits(
            memory_bytes=memory if number == 0 else None,
            disk_bytes=spec.resources.disk_bytes if place is not None else None,
            data=place,
        )
        if sampled.any:
            watch = LimitWatch(sampled, holdings.pidfd, resumed=resumed)
            holdings.watches.append(watch)
            watch.start(sandbox)
