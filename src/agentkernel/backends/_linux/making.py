"""What every sandbox of this host holds beside its processes: ids, groups, a directory on disk, limits that are sampled."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

from agentkernel.backends._linux.cgroups import Cgroups
from agentkernel.backends._linux.holdings import Holdings
from agentkernel.backends._linux.host import Host
from agentkernel.backends._linux.ranges import lease_range
from agentkernel.backends._linux.state import SandboxState
from agentkernel.backends._linux.watch import LimitWatch, SampledLimits, Watched
from agentkernel.failpoints import failpoint
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.spec import Resources, SandboxSpec, StorageKind


def hold(host: Host, spec: SandboxSpec, holdings: Holdings, state: SandboxState, limits: Resources) -> Cgroups:
    """Leases an id range, where there are any, and makes groups with those limits."""
    if holdings.kept is not None:
        holdings.id_base = holdings.kept.take_ids(privileged=host.facts.privileged, temporary_leases=host.state.ranges)
    elif host.facts.privileged:
        holdings.id_base = lease_range(host.state.ranges, state.sandbox_id, host.kept_ranges)
        state.record("range", str(holdings.id_base))
    failpoint(f"{host.backend}.boot.range")
    cgroups = Cgroups.of(host.cgroups, state.sandbox_id)
    if cgroups.paths:
        state.record("cgroups", cgroups.record)
        holdings.cgroups = cgroups
        failpoint(f"{host.backend}.boot.groups-recorded")
        # At level `process` the workload has the agent's uid and sees the host's cgroups, so none is made its own.
        cgroups.create(limits, None if spec.level is IsolationLevel.PROCESS else holdings.id_base)
    failpoint(f"{host.backend}.boot.groups")
    return cgroups


def data_directory(host: Host, holdings: Holdings, state: SandboxState, owner: int | None) -> Path:
    """The directory of the sandbox's own writes; an owner of its own may enter it."""
    kept = holdings.kept
    data = kept.make_files(passable=holdings.process_level) if kept is not None else state.make_data(host.data.scratch)
    if owner is not None:
        os.chown(data, owner, owner)
    failpoint(f"{host.backend}.boot.files")
    return data


def set_affinity(limits: Resources, holdings: Holdings) -> None:
    """Enforces by affinity what no cgroup enforces here; all that the first process starts inherits it."""
    if holdings.launched is None or limits.cpus is None or holdings.limits_by_group("cpu"):
        return
    allowed = sorted(os.sched_getaffinity(0))
    count = min(len(allowed), math.ceil(limits.cpus))
    start = int.from_bytes(os.urandom(2), "little") % len(allowed)
    os.sched_setaffinity(holdings.launched.pid, {allowed[(start + step) % len(allowed)] for step in range(count)})


def watch_limits(
    spec: SandboxSpec, holdings: Holdings, sandbox: Watched, *, resumed: bool, memory_used: Callable[[], int] | None = None
) -> None:
    """Begins to sample what no cgroup enforces here.

    `resumed`: there are files already, which count as they are; `memory_used` tells the memory of its processes where the group's limit
    would end more than them.
    """
    if holdings.launched is None:
        return
    by_group = holdings.limits_by_group("memory") and memory_used is None
    sampled = SampledLimits(
        memory_bytes=None if by_group else spec.resources.memory_bytes,
        memory_used=memory_used,
        disk_bytes=spec.resources.disk_bytes if spec.storage is StorageKind.DISK else None,
        data=holdings.data,
    )
    if sampled.any:
        holdings.watch = LimitWatch(sampled, holdings.launched.pidfd, resumed=resumed)
        holdings.watch.start(sandbox)
