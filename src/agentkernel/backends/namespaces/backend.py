"""The namespaces backend: probe, create, sweep."""

from __future__ import annotations

import asyncio
import math
import os
import socket
from dataclasses import replace
from pathlib import Path

from agentkernel.abc import Sandbox
from agentkernel.backends._guest import guest_binary
from agentkernel.backends.namespaces import fingerprint, process_level
from agentkernel.backends.namespaces.boundary import BACKEND, Holdings, NamespacesBoundary
from agentkernel.backends.namespaces.cgroups import Cgroups, remove_groups
from agentkernel.backends.namespaces.delegation import CgroupHost, find_host
from agentkernel.backends.namespaces.disk import remove_data
from agentkernel.backends.namespaces.facts import HostFacts, read_facts
from agentkernel.backends.namespaces.launch import kill_and_reap, launch
from agentkernel.backends.namespaces.layout import Surroundings, build_plan
from agentkernel.backends.namespaces.plan import Step
from agentkernel.backends.namespaces.ranges import lease_range, release_range, sweep_ranges
from agentkernel.backends.namespaces.sources import hidden_in_home, owners, protected_in_workspace, require_apart, resolved_sources
from agentkernel.backends.namespaces.state import SandboxState, StateRoot, abandoned, create_state, data_base, open_state_root, state_base
from agentkernel.backends.namespaces.watch import LimitWatch, SampledLimits
from agentkernel.channel.sandbox import GuestSandbox, open_sandbox
from agentkernel.errors import LaunchFailed, SandboxFailed, Unsupported
from agentkernel.model.isolation import Fingerprint, IsolationLevel
from agentkernel.model.spec import SandboxSpec, StorageKind
from agentkernel.policy.seccomp import compile_filter
from agentkernel.policy.syscall_tables import WITHOUT_UNMAPPED_MEMORY


class NamespacesBackend:
    """Implements `abc.Backend`; all its state is on the host, under the state root."""

    name = BACKEND

    def __init__(self, state_directory: Path | None = None) -> None:
        """`state_directory` overrides where sandboxes are recorded (tests); the default is per user."""
        self._state_directory = state_directory
        self._root: StateRoot | None = None
        self._facts: HostFacts | None = None
        self._cgroup_host: CgroupHost | None = None
        self._own: tuple[str, ...] = ()

    async def probe(self) -> Fingerprint:
        """Builds a whole sandbox, runs nothing in it, and says what this host granted."""
        facts, cgroups = self._host()
        try:
            await self._prove(fingerprint.probe_spec())
            return fingerprint.ready(facts, cgroups)
        except SandboxFailed as failure:
            obstacle = failure
        try:
            await self._prove(fingerprint.process_probe_spec())
        except (SandboxFailed, Unsupported):
            return fingerprint.not_ready(facts, obstacle)
        return fingerprint.process_only(facts, cgroups, obstacle)

    async def _prove(self, spec: SandboxSpec) -> None:
        sandbox = await self.create(spec)
        try:
            await sandbox.statistics()
        finally:
            await sandbox.destroy()

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """Builds and starts a sandbox; see `abc.Backend.create`."""
        guest = guest_binary()
        facts, cgroup_host = self._host()
        root = self._state()
        require_apart(spec, self._own_directories())
        sandbox_id = os.urandom(8).hex()
        sandbox: GuestSandbox | None = None
        try:
            holdings = Holdings(root=root, state=create_state(root, sandbox_id))
        except OSError as error:
            raise LaunchFailed(
                f"cannot record the sandbox in {root.path}: {error}", hint="is there room, and may you write there?"
            ) from error
        try:
            if spec.level is IsolationLevel.PROCESS:
                spec, steps = self._prepare_process(spec, holdings, facts, cgroup_host)
            else:
                steps = self._prepare(spec, holdings, facts, cgroup_host)
            assert holdings.listener is not None  # noqa: S101 - _prepare made it
            holdings.launched = await launch(guest, steps, holdings.listener.fileno())
            holdings.state.record("pid", f"{holdings.launched.pid} {start_time(holdings.launched.pid)}")
            boundary = NamespacesBoundary(spec, holdings, compile_filter(_seccomp_table(spec, holdings), facts.architecture))
            sandbox = await open_sandbox(boundary)
            _emulate_limits(spec, holdings, sandbox)
            return sandbox
        except OSError as error:
            await asyncio.shield(_undo(holdings, sandbox))
            raise LaunchFailed(f"cannot build the sandbox: {error}", hint="run `agentkernel doctor`") from error
        except BaseException:
            await asyncio.shield(_undo(holdings, sandbox))
            raise

    def _prepare(self, spec: SandboxSpec, holdings: Holdings, facts: HostFacts, cgroup_host: CgroupHost) -> tuple[Step, ...]:
        """Makes everything that the sandbox needs on the host - each recorded before it is made - and computes the plan."""
        cgroups = self._hold(spec, holdings, facts, cgroup_host)
        state = holdings.state
        data = self._make_data(state, holdings.id_base) if spec.storage is StorageKind.DISK else None
        around = Surroundings(
            facts=facts,
            mount_point=str(holdings.root.mount_point),
            cgroups=cgroups.plan(),
            id_base=holdings.id_base,
            data_directory=str(data or ""),
            storage_bytes=_storage_bytes(spec, cgroups),
            owners=owners(spec),
            resolved=resolved_sources(spec),
        )
        workspace = replace(spec.workspace, protected=protected_in_workspace(spec.workspace))
        return build_plan(replace(spec, home_denied=hidden_in_home(spec, self._own_directories()), workspace=workspace), around)

    def _prepare_process(
        self, spec: SandboxSpec, holdings: Holdings, facts: HostFacts, cgroup_host: CgroupHost
    ) -> tuple[SandboxSpec, tuple[Step, ...]]:
        """The same for isolation level `process`."""
        process_level.require(facts)
        cgroups = self._hold(spec, holdings, facts, cgroup_host)
        holdings.process_level = True
        uid, gid = (facts.uid, facts.gid) if holdings.id_base is None else (holdings.id_base + 1000, holdings.id_base + 1000)
        data = self._make_data(holdings.state, None if holdings.id_base is None else uid)
        relocated = process_level.relocate(spec, str(data), uid, gid)
        for path in process_level.directories(str(data)):
            os.mkdir(path, 0o700)
            os.chown(path, uid, gid)
        return relocated, process_level.build_process_plan(relocated, facts, cgroups.plan().directories)

    def _hold(self, spec: SandboxSpec, holdings: Holdings, facts: HostFacts, cgroup_host: CgroupHost) -> Cgroups:
        """What every sandbox holds: an id range, groups, a listening socket."""
        state = holdings.state
        if facts.privileged:
            holdings.id_base = lease_range(holdings.root.ranges, state.sandbox_id)
            state.record("range", str(holdings.id_base))
        cgroups = Cgroups(cgroup_host, state.sandbox_id)
        if cgroups.paths:
            state.record("cgroups", "\n".join(cgroups.paths))
            holdings.cgroups = cgroups
            # At level `process` the workload has the agent's uid and sees the host's cgroups, so none is made its own.
            cgroups.create(spec.resources, None if spec.level is IsolationLevel.PROCESS else holdings.id_base)
        holdings.listener = _listen(state.socket_path)
        return cgroups

    async def sweep(self) -> int:
        """Removes the sandboxes whose engine is gone: processes, groups, files, id ranges."""
        root = self._state()
        removed = 0
        for state in abandoned(root):
            await kill_recorded(state.recorded("pid"))
            await remove_groups(tuple(line for line in state.recorded("cgroups").splitlines() if line))
            first_id = int(state.recorded("range") or 0)
            if state.data is not None:
                await remove_data(state.data, first_id or None)
            if first_id:
                release_range(root.ranges, first_id)
            state.release()
            removed += 1
        sweep_ranges(root.ranges, root.sandboxes)
        return removed

    def _make_data(self, state: SandboxState, owner: int | None) -> Path:
        return state.make_data(self._data_base(), owner)

    def _data_base(self) -> Path:
        return self._state_directory / "data" if self._state_directory else data_base(os.geteuid(), dict(os.environ))

    def _own_directories(self) -> tuple[str, ...]:
        """What no sandbox may see, as named and where it really is."""
        if not self._own:
            named = (str(self._state().path), str(self._data_base()))
            self._own = tuple(dict.fromkeys((*named, *map(os.path.realpath, named))))
        return self._own

    def _host(self) -> tuple[HostFacts, CgroupHost]:
        if self._facts is None or self._cgroup_host is None:
            self._facts = read_facts()
            self._cgroup_host = find_host()
        return self._facts, self._cgroup_host

    def _state(self) -> StateRoot:
        if self._root is None:
            uid = os.geteuid()
            base = self._state_directory or state_base(uid, dict(os.environ))
            self._root = open_state_root(base, uid)
        return self._root


async def _undo(holdings: Holdings, sandbox: GuestSandbox | None) -> None:
    if sandbox is not None:
        await sandbox.close()
    await holdings.release()


def _seccomp_table(spec: SandboxSpec, holdings: Holdings) -> str:
    """The table that was granted, without what a sampled memory limit would not see."""
    sampled = spec.resources.memory_bytes is not None and not (holdings.cgroups and holdings.cgroups.limits("memory"))
    return f"{spec.seccomp}{WITHOUT_UNMAPPED_MEMORY}" if sampled else spec.seccomp


def _storage_bytes(spec: SandboxSpec, cgroups: Cgroups) -> int:
    """Storage in memory counts as memory: its cgroup's limit covers both; without one, its size may not exceed that limit."""
    disk, memory = spec.resources.disk_bytes, spec.resources.memory_bytes
    return disk if memory is None or cgroups.limits("memory") else min(disk, memory)


def _emulate_limits(spec: SandboxSpec, holdings: Holdings, sandbox: GuestSandbox) -> None:
    """Enforces by sampling and affinity what no cgroup enforces here."""
    assert holdings.launched is not None  # noqa: S101 - just launched
    limits, cgroups = spec.resources, holdings.cgroups
    if limits.cpus is not None and not (cgroups and cgroups.limits("cpu")):
        allowed = sorted(os.sched_getaffinity(0))
        count = min(len(allowed), math.ceil(limits.cpus))
        start = int.from_bytes(os.urandom(2), "little") % len(allowed)
        os.sched_setaffinity(holdings.launched.pid, {allowed[(start + step) % len(allowed)] for step in range(count)})
    sampled = SampledLimits(
        memory_bytes=None if cgroups and cgroups.limits("memory") else limits.memory_bytes,
        disk_bytes=limits.disk_bytes if spec.storage is StorageKind.DISK else None,
        data=holdings.state.data,
    )
    if sampled.any:
        holdings.watch = LimitWatch(sampled, holdings.launched.pidfd)
        holdings.watch.start(sandbox)


def _listen(path: Path) -> socket.socket:
    """Makes the agent's listening socket in the sandbox's own directory, which nobody else can enter."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(str(path))
        listener.listen(8)
    except BaseException:
        listener.close()
        raise
    return listener


def start_time(pid: int) -> str:
    """The process's start time in clock ticks since boot (field 22 of /proc/<pid>/stat), which tells it from a later one with its pid."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return file.read(4096).rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return "0"


async def kill_recorded(record: str) -> None:
    """Kills a sandbox's first process by its record `<pid> <start time>`, unless that pid is another process by now."""
    pid_text, _, started = record.partition(" ")
    if not pid_text.isdigit():
        return
    try:
        pidfd = os.pidfd_open(int(pid_text))
    except OSError:
        return
    if start_time(int(pid_text)) == started:
        await kill_and_reap(pidfd)
    else:
        os.close(pidfd)
