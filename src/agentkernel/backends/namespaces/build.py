"""Building a sandbox whose directory is there and leased: each thing is recorded, or follows from the id, before it is made."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from agentkernel.backends._agent import listen
from agentkernel.backends._configuration import Configuration
from agentkernel.backends._guest import guest_binary
from agentkernel.backends._linux.boundary import LinuxBoundary
from agentkernel.backends._linux.cgroups import Cgroups
from agentkernel.backends._linux.holdings import Holdings
from agentkernel.backends._linux.host import Host
from agentkernel.backends._linux.launch import Launcher
from agentkernel.backends._linux.making import data_directory, hold, set_affinity, watch_limits
from agentkernel.backends._linux.plan import Step
from agentkernel.backends._linux.state import SandboxState
from agentkernel.backends._linux.tree import Surroundings
from agentkernel.backends._records import process_record
from agentkernel.backends._sources import hidden_in_home, owners, protected_in_workspace, resolved_sources
from agentkernel.backends.namespaces import process_level
from agentkernel.backends.namespaces.configuration import configuration_of
from agentkernel.backends.namespaces.layout import build_plan
from agentkernel.channel.sandbox import GuestSandbox, open_sandbox
from agentkernel.failpoints import failpoint
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.spec import SandboxSpec, StorageKind
from agentkernel.policy.inside import shows_guest


class NamespacesMaker:
    """Implements `_linux.maker.Maker`."""

    def __init__(self, host: Host) -> None:
        self.host = host

    async def build(self, spec: SandboxSpec, holdings: Holdings, state: SandboxState) -> GuestSandbox:
        """See `Maker.build`."""
        host = self.host
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
            configuration = configuration_of(
                spec, host.facts.architecture, memory_by_group=by_group("memory"), pids_by_group=by_group("pids")
            )
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
        set_affinity(spec.resources, holdings)
        sandbox = await open_sandbox(LinuxBoundary(spec, holdings, host, configuration=configuration))
        watch_limits(spec, holdings, sandbox, resumed=False)
        failpoint("namespaces.boot.attached")
        return sandbox

    async def attach(self, spec: SandboxSpec, holdings: Holdings, configuration: Configuration) -> GuestSandbox:
        """See `Maker.attach`."""
        if holdings.process_level and holdings.data is not None:
            uid, gid = process_level.user(self.host.facts, holdings.id_base)
            spec = process_level.relocate(spec, str(holdings.data), uid, gid)
        sandbox = await open_sandbox(LinuxBoundary(spec, holdings, self.host, configuration=configuration))
        watch_limits(spec, holdings, sandbox, resumed=True)
        return sandbox


def _prepare(host: Host, spec: SandboxSpec, holdings: Holdings, state: SandboxState) -> tuple[Step, ...]:
    """Makes everything that the sandbox needs on the host and computes the plan."""
    cgroups = hold(host, spec, holdings, state, spec.resources)
    on_disk = spec.storage is StorageKind.DISK
    data = data_directory(host, holdings, state, holdings.id_base) if on_disk else None
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
        guest=str(guest_binary()) if shows_guest(spec) else "",
    )
    workspace = replace(spec.workspace, protected=protected_in_workspace(spec.workspace))
    return build_plan(replace(spec, home_denied=hidden_in_home(spec, host.own_directories), workspace=workspace), around)


def _prepare_process(host: Host, spec: SandboxSpec, holdings: Holdings, state: SandboxState) -> tuple[SandboxSpec, tuple[Step, ...]]:
    """The same for isolation level `process`."""
    process_level.require(host.facts)
    cgroups = hold(host, spec, holdings, state, spec.resources)
    uid, gid = process_level.user(host.facts, holdings.id_base)
    data = data_directory(host, holdings, state, None if holdings.id_base is None else uid)
    relocated = process_level.relocate(spec, str(data), uid, gid)
    process_level.make_directories(str(data), uid, gid)
    return relocated, process_level.build_process_plan(relocated, host.facts, cgroups.plan().directories)


def _storage_bytes(spec: SandboxSpec, cgroups: Cgroups) -> int:
    """Storage in memory counts as memory: its cgroup's limit covers both; without one, its size may not exceed that limit."""
    disk, memory = spec.resources.disk_bytes, spec.resources.memory_bytes
    return disk if memory is None or cgroups.limits("memory") else min(disk, memory)
