"""Building a sandbox whose directory is there and leased: each thing is recorded, or follows from the id, before it is made."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import replace
from pathlib import Path

from agentkernel.backends._agent import listen
from agentkernel.backends._guest import guest_binary
from agentkernel.backends._records import process_record
from agentkernel.backends._sources import hidden_in_home, owners, protected_in_workspace, resolved_sources
from agentkernel.backends.namespaces import process_level
from agentkernel.backends.namespaces.boundary import NamespacesBoundary
from agentkernel.backends.namespaces.cgroups import Cgroups
from agentkernel.backends.namespaces.configuration import configuration_of
from agentkernel.backends.namespaces.holdings import Holdings
from agentkernel.backends.namespaces.host import Host
from agentkernel.backends.namespaces.launch import Launcher
from agentkernel.backends.namespaces.layout import Surroundings, build_plan
from agentkernel.backends.namespaces.plan import Step
from agentkernel.backends.namespaces.ranges import lease_range
from agentkernel.backends.namespaces.state import SandboxState
from agentkernel.backends.namespaces.watch import LimitWatch, SampledLimits
from agentkernel.channel.sandbox import GuestSandbox, open_sandbox
from agentkernel.failpoints import failpoint
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.spec import Resources, SandboxSpec, StorageKind


async def build(host: Host, spec: SandboxSpec, holdings: Holdings, state: SandboxState) -> GuestSandbox:
    """Builds and starts the sandbox that `state` was made for; whatever was made until it fails is in `holdings`."""
    holdings.process_level = spec.level is IsolationLevel.PROCESS
    with contextlib.closing(listen(state.path)) as listener:  # closed here, so that a dead agent's socket refuses
        launcher = Launcher(guest_binary(), listener.fileno())
    try:
        failpoint("namespaces.boot.socket")
        if holdings.process_level:
            spec, steps = _prepare_process(host, spec, holdings, state)
        else:
            steps = _prepare(host, spec, holdings, state)
        by_group = holdings.limits_by_group
        configuration = configuration_of(spec, host.facts.architecture, memory_by_group=by_group("memory"), pids_by_group=by_group("pids"))
        if holdings.owner:
            state.record("configuration", configuration.encode())
        failpoint("namespaces.boot.configuration")
    except BaseException:
        await launcher.give_up()
        raise
    holdings.launched = await launcher.run(steps)
    failpoint("namespaces.boot.launched")
    state.record("pid", process_record(holdings.launched.pid))
    failpoint("namespaces.boot.pid")
    _set_affinity(spec.resources, holdings)
    sandbox = await open_sandbox(NamespacesBoundary(spec, holdings, host, configuration=configuration))
    watch_limits(spec, holdings, sandbox, resumed=False)
    failpoint("namespaces.boot.attached")
    return sandbox


def _prepare(host: Host, spec: SandboxSpec, holdings: Holdings, state: SandboxState) -> tuple[Step, ...]:
    """Makes everything that the sandbox needs on the host and computes the plan."""
    cgroups = _hold(host, spec, holdings, state)
    on_disk = spec.storage is StorageKind.DISK
    data = _data_directory(host, holdings, state, holdings.id_base) if on_disk else None
    around = Surroundings(
        facts=host.facts,
        mount_point=str(host.state.mount_point),
        cgroups=cgroups.plan(),
        id_base=holdings.id_base,
        data_directory=str(data or ""),
        kept=holdings.kept.directories if holdings.kept else (),
        storage_bytes=_storage_bytes(spec, cgroups),
        owners=owners(spec),
        resolved=resolved_sources(spec),
    )
    workspace = replace(spec.workspace, protected=protected_in_workspace(spec.workspace))
    return build_plan(replace(spec, home_denied=hidden_in_home(spec, host.own_directories), workspace=workspace), around)


def _prepare_process(host: Host, spec: SandboxSpec, holdings: Holdings, state: SandboxState) -> tuple[SandboxSpec, tuple[Step, ...]]:
    """The same for isolation level `process`."""
    process_level.require(host.facts)
    cgroups = _hold(host, spec, holdings, state)
    uid, gid = process_level.user(host.facts, holdings.id_base)
    data = _data_directory(host, holdings, state, None if holdings.id_base is None else uid)
    relocated = process_level.relocate(spec, str(data), uid, gid)
    process_level.make_directories(str(data), uid, gid)
    return relocated, process_level.build_process_plan(relocated, host.facts, cgroups.plan().directories)


def _hold(host: Host, spec: SandboxSpec, holdings: Holdings, state: SandboxState) -> Cgroups:
    """What every sandbox holds: an id range, groups."""
    if holdings.kept is not None:
        holdings.id_base = holdings.kept.take_ids(privileged=host.facts.privileged, temporary_leases=host.state.ranges)
    elif host.facts.privileged:
        holdings.id_base = lease_range(host.state.ranges, state.sandbox_id, host.kept_ranges)
        state.record("range", str(holdings.id_base))
    failpoint("namespaces.boot.range")
    cgroups = Cgroups.of(host.cgroups, state.sandbox_id)
    if cgroups.paths:
        state.record("cgroups", cgroups.record)
        holdings.cgroups = cgroups
        failpoint("namespaces.boot.groups-recorded")
        # At level `process` the workload has the agent's uid and sees the host's cgroups, so none is made its own.
        cgroups.create(spec.resources, None if spec.level is IsolationLevel.PROCESS else holdings.id_base)
    failpoint("namespaces.boot.groups")
    return cgroups


def _data_directory(host: Host, holdings: Holdings, state: SandboxState, owner: int | None) -> Path:
    """The directory of the sandbox's own writes; an owner of its own may enter it."""
    kept = holdings.kept
    data = kept.make_files(passable=holdings.process_level) if kept is not None else state.make_data(host.data.scratch)
    if owner is not None:
        os.chown(data, owner, owner)
    failpoint("namespaces.boot.files")
    return data


def _storage_bytes(spec: SandboxSpec, cgroups: Cgroups) -> int:
    """Storage in memory counts as memory: its cgroup's limit covers both; without one, its size may not exceed that limit."""
    disk, memory = spec.resources.disk_bytes, spec.resources.memory_bytes
    return disk if memory is None or cgroups.limits("memory") else min(disk, memory)


def _set_affinity(limits: Resources, holdings: Holdings) -> None:
    """Enforces by affinity what no cgroup enforces here; all that the first process starts inherits it."""
    if holdings.launched is None or limits.cpus is None or holdings.limits_by_group("cpu"):
        return
    allowed = sorted(os.sched_getaffinity(0))
    count = min(len(allowed), math.ceil(limits.cpus))
    start = int.from_bytes(os.urandom(2), "little") % len(allowed)
    os.sched_setaffinity(holdings.launched.pid, {allowed[(start + step) % len(allowed)] for step in range(count)})


def watch_limits(spec: SandboxSpec, holdings: Holdings, sandbox: GuestSandbox, *, resumed: bool) -> None:
    """Begins to sample what no cgroup enforces here; `resumed`: there are files already, which count as they are."""
    if holdings.launched is None:
        return
    sampled = SampledLimits(
        memory_bytes=None if holdings.limits_by_group("memory") else spec.resources.memory_bytes,
        disk_bytes=spec.resources.disk_bytes if spec.storage is StorageKind.DISK else None,
        data=holdings.data,
    )
    if sampled.any:
        holdings.watch = LimitWatch(sampled, holdings.launched.pidfd, resumed=resumed)
        holdings.watch.start(sandbox)
