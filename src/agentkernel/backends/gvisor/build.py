"""Building a sandbox whose directory is there and leased: each thing is recorded, or follows from the id, before it is made."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from agentkernel.backends._agent import listen
from agentkernel.backends._configuration import Configuration
from agentkernel.backends._guest import guest_binary
from agentkernel.backends._linux.boundary import LinuxBoundary
from agentkernel.backends._linux.cgroups import CgroupPlan
from agentkernel.backends._linux.holdings import Holdings
from agentkernel.backends._linux.host import Host
from agentkernel.backends._linux.launch import Launcher
from agentkernel.backends._linux.making import data_directory, hold, set_affinity, watch_limits
from agentkernel.backends._linux.plan import Step
from agentkernel.backends._linux.state import LOG, SandboxState
from agentkernel.backends._linux.tree import Surroundings
from agentkernel.backends._records import process_record
from agentkernel.backends._sources import hidden_in_home, owners, protected_in_workspace, resolved_sources
from agentkernel.backends.gvisor.bundle import config
from agentkernel.backends.gvisor.configuration import configuration_of
from agentkernel.backends.gvisor.layout import BUNDLE, ROOT, STATE, build_plan
from agentkernel.backends.gvisor.memory import MemoryGauge, group_limits, storage_bytes
from agentkernel.backends.gvisor.runtime import Runtime, find_runtime, with_platform
from agentkernel.channel.mux import Deadlines
from agentkernel.channel.sandbox import GuestSandbox, open_sandbox
from agentkernel.errors import LaunchFailed, SandboxFailed
from agentkernel.failpoints import failpoint
from agentkernel.model.spec import NetworkMode, SandboxSpec, StorageKind, Workspace
from agentkernel.policy.inside import shows_guest

MEMORY = "runsc"  # the file, beneath the state's root, of what was found out about it
_DEADLINES = Deadlines(attach_s=60.0)  # a hundred that start at once on two processors
_SAID_BYTES = 2000


class GvisorMaker:
    """Implements `_linux.maker.Maker`."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._runtime: Runtime | None = None

    @property
    def runtime(self) -> Runtime:
        """The runsc of this host; raises BackendUnavailable."""
        if self._runtime is None:
            self._runtime = find_runtime(self._memory)
        return self._runtime

    def choose(self, platform: str) -> None:
        """Sandboxes are made on that platform from now on, by later engines too."""
        self._runtime = with_platform(self.runtime, platform, self._memory)

    def look_again(self) -> None:
        """What was found out about runsc is forgotten."""
        self._runtime = None
        self._memory.unlink(missing_ok=True)

    @property
    def _memory(self) -> Path:
        return self.host.state.sandboxes.parent / MEMORY

    async def build(self, spec: SandboxSpec, holdings: Holdings, state: SandboxState) -> GuestSandbox:
        """See `Maker.build`."""
        return await self.build_on(self.runtime.platform, spec, holdings, state)

    async def build_on(
        self, platform: str, spec: SandboxSpec, holdings: Holdings, state: SandboxState, deadlines: Deadlines = _DEADLINES
    ) -> GuestSandbox:
        """The same on a platform that may not work; `deadlines`: how long it has for its first answers."""
        host = self.host
        with contextlib.closing(listen(state.path)) as listener, _log(state) as log:
            launcher = Launcher(guest_binary(), listener.fileno(), log)
        try:
            failpoint("gvisor.boot.socket")
            steps = self._prepare(platform, spec, holdings, state)
            by_group = holdings.limits_by_group("memory")
            configuration = configuration_of(spec, host.facts.architecture, memory_by_group=by_group)
            if holdings.owner:
                state.record("configuration", configuration.encode())
            failpoint("gvisor.boot.configuration")
        except BaseException:
            await launcher.give_up()
            raise
        holdings.launched = await launcher.run(steps)
        failpoint("gvisor.boot.launched")
        state.record("pid", process_record(holdings.launched.pid))
        failpoint("gvisor.boot.pid")
        set_affinity(spec.resources, holdings)
        sandbox = await _answering(LinuxBoundary(spec, holdings, host, configuration=configuration), state, deadlines)
        gauge = self._gauge(spec, holdings)
        if gauge is not None:
            gauge = replace(gauge, baseline_bytes=gauge.total())
            state.record("baseline", str(gauge.baseline_bytes))
        watch_limits(spec, holdings, sandbox, resumed=False, memory_used=gauge.used if gauge is not None else None)
        failpoint("gvisor.boot.attached")
        return sandbox

    async def attach(self, spec: SandboxSpec, holdings: Holdings, configuration: Configuration) -> GuestSandbox:
        """See `Maker.attach`."""
        sandbox = await open_sandbox(LinuxBoundary(spec, holdings, self.host, configuration=configuration), _DEADLINES)
        gauge = self._gauge(spec, holdings)
        if gauge is not None and holdings.state is not None:
            gauge = replace(gauge, baseline_bytes=int(holdings.state.recorded("baseline") or 0))
        watch_limits(spec, holdings, sandbox, resumed=True, memory_used=gauge.used if gauge is not None else None)
        return sandbox

    def _prepare(self, platform: str, spec: SandboxSpec, holdings: Holdings, state: SandboxState) -> tuple[Step, ...]:
        """Makes everything that the sandbox needs on the host and computes the plan."""
        host, size = self.host, storage_bytes(spec)
        cgroups = hold(host, spec, holdings, state, group_limits(spec, size))
        on_disk = spec.storage is StorageKind.DISK
        data = data_directory(host, holdings, state, holdings.id_base) if on_disk else None
        own = next((path for version, path in cgroups.plan().directories if version == 2), "")
        around = Surroundings(
            facts=host.facts,
            mount_point=str(host.state.mount_point),
            cgroups=CgroupPlan(directories=cgroups.plan().directories, agents=own),
            id_base=holdings.id_base,
            data_directory=str(data or ""),
            kept=holdings.kept.directories if holdings.kept else (),
            storage_bytes=size,
            owners=owners(spec),
            resolved=resolved_sources(spec),
            guest=str(guest_binary()) if shows_guest(spec) else "",
        )
        workspace = replace(spec.workspace, protected=protected_in_workspace(spec.workspace))
        shown = replace(spec, home_denied=hidden_in_home(spec, host.own_directories), workspace=workspace)
        return build_plan(
            shown,
            around,
            programs=(self.runtime.path, str(guest_binary())),
            words=_words(self.runtime, platform, spec, state.sandbox_id),
            config=config(shown, root=ROOT, open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1], sealed=tuple(_mountable(workspace))),
            devices=("kvm",) if platform == "kvm" else (),
        )

    def _gauge(self, spec: SandboxSpec, holdings: Holdings) -> MemoryGauge | None:
        if spec.resources.memory_bytes is None or holdings.cgroups is None or holdings.launched is None:
            return None
        group = holdings.cgroups.group("memory")
        if group is None:
            return None
        version, directory = group
        files = f"/proc/{holdings.launched.pid}/root/data" if spec.storage is StorageKind.MEMORY else ""
        return MemoryGauge(version=version, directory=directory, files=files)


def _mountable(workspace: Workspace) -> Iterator[str]:
    """The protected paths that are there; a link cannot be mounted on, it is protected by the host alone."""
    for path in workspace.protected:
        place = f"{workspace.source}/{path}"
        if os.path.exists(place) and not os.path.islink(place):
            yield path


def _words(runtime: Runtime, platform: str, spec: SandboxSpec, sandbox_id: str) -> tuple[str, ...]:
    """What runsc is started with. Groups, limits and files are ours; of the host's sockets and pipes the workload is to have none."""
    wanted = {
        "root": STATE,
        "platform": platform,
        "network": "host" if spec.network is NetworkMode.HOST else "none",
        "ignore-cgroups": "true",
        "overlay2": "none",  # its own overlay would not survive a stop
        "host-uds": "none",
        "host-fifo": "none",
        "file-access": "exclusive",
        "directfs": "false",  # a mount protects what is beneath it only from whoever has that mount, and gVisor's kernel has none
    }
    flags = (f"--{name}={value}" for name, value in wanted.items() if name in runtime.flags)
    return (*flags, "run", f"--bundle={BUNDLE}", sandbox_id)


@contextlib.contextmanager
def _log(state: SandboxState) -> Iterator[int]:
    """Where runsc writes why it failed."""
    fd = os.open(state.path / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


async def _answering(boundary: LinuxBoundary, state: SandboxState, deadlines: Deadlines) -> GuestSandbox:
    """The sandbox, once its agent has answered."""
    try:
        sandbox = await open_sandbox(boundary, deadlines)
        await sandbox.ready()
    except SandboxFailed as failure:
        said = _said(state)
        raise LaunchFailed(f"gVisor did not start: {said or failure.message}", hint="run `agentkernel doctor`") from failure
    return sandbox


def _said(state: SandboxState) -> str:
    """The last line of the log, without what a terminal would obey."""
    lines = state.recorded(LOG)[-_SAID_BYTES:].splitlines()
    return "".join(each for each in (lines[-1] if lines else "") if each.isprintable()).strip()
