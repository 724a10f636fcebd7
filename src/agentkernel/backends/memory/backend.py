"""The memory backend: probe, create and boot."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import platform
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from agentkernel.abc import Sandbox
from agentkernel.backends._agent import listen
from agentkernel.backends._configuration import Configuration
from agentkernel.backends._guest import guest_binary
from agentkernel.backends._records import BUILD_HINT, LEFT_HINT, check_identity, failing_as, owned_in
from agentkernel.backends.memory.boundary import MemoryBoundary, workload_limits
from agentkernel.backends.memory.place import Place, find_place, make_place, temporary_place
from agentkernel.channel.sandbox import GuestSandbox, open_sandbox
from agentkernel.config.directories import data_directory
from agentkernel.errors import BackendUnavailable, Conflict, LaunchFailed, SandboxFailed, SandboxLost, Unsupported
from agentkernel.failpoints import failpoint
from agentkernel.model.isolation import Feature, Fingerprint, IsolationLevel, Provision, Support
from agentkernel.model.spec import SandboxSpec, User, Workspace, WorkspaceMode
from agentkernel.policy.needs import needs
from agentkernel.policy.seccomp import compile_filter

_AGENT_FD = 3
_NATIVE = Provision(support=Support.NATIVE)
_PLAIN = (Feature.EXEC, Feature.TERMINAL, Feature.FILES, Feature.WATCH, Feature.CONNECT, Feature.NETWORK_HOST, Feature.SECCOMP)
_NOTHING = Provision(
    support=Support.REFUSED,
    reason="this backend isolates nothing; it is for tests",
    remedy="use another backend",
)


class MemoryBackend:
    """Implements `abc.Backend` without isolation: commands run as this process's user, on the host's files, in the host's network.

    A sandbox's `spec` says what was really given: its workspace is a private empty directory (or the host's, where that is asked for
    writable and without protected files), its HOME another, its user this process's. Both directories go when it is destroyed.
    """

    name = "memory"

    def __init__(self, directory: Path | None = None) -> None:
        """`directory` overrides where booted sandboxes are (tests); the default is per user."""
        self._directory = directory

    async def probe(self) -> Fingerprint:
        """Declares what a plain process has; ready wherever the guest binary is."""
        features = dict.fromkeys(Feature, _NOTHING)
        features.update(dict.fromkeys(_PLAIN, _NATIVE))
        features[Feature.HOST_ROOT] = Provision(support=Support.EMULATED, reason="the host's whole root: nothing of it is hidden")
        features[Feature.DISK_STORAGE] = Provision(support=Support.EMULATED, reason="each file has the limit, not their sum")
        features[Feature.DISK_LIMIT] = Provision(support=Support.EMULATED, reason="each file has the limit, not their sum")
        if os.geteuid() == 0:
            features[Feature.USER_SWITCH] = _NATIVE
        reason = remedy = ""
        try:
            guest_binary()
        except BackendUnavailable as missing:
            reason, remedy = missing.message, missing.hint
        return Fingerprint(backend=self.name, ready=not reason, level=IsolationLevel.NONE, reason=reason, remedy=remedy, features=features)

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """Starts an agent; see `abc.Backend.create`. Raises Unsupported for whatever `probe` refuses."""
        guest = guest_binary()
        await self._refuse(spec)
        place = temporary_place()
        try:
            return await _start(guest, spec, place)
        except BaseException:
            await asyncio.shield(place.end(keep_files=False))
            raise

    async def boot(self, sandbox_id: str, spec: SandboxSpec, owner: str) -> Sandbox:
        """Starts an agent that lives on; see `abc.Backend.boot`. Raises also Conflict, as `find_place` does."""
        check_identity(sandbox_id, owner)
        guest = guest_binary()
        await self._refuse(spec)
        with failing_as(LaunchFailed, "cannot start the sandbox", BUILD_HINT):
            place = await find_place(self._base, sandbox_id, owner)
            if place is not None:
                await place.end(keep_files=True)
            is_new = place is None
            place = make_place(self._base, sandbox_id, owner)
            try:
                failpoint("memory.boot.place")
                return await _start(guest, spec, place)
            except BaseException:
                await asyncio.shield(place.end(keep_files=not is_new))
                raise

    async def recover(self, sandbox_id: str, spec: SandboxSpec, owner: str) -> Sandbox | None:
        """Takes up an agent that runs; see `abc.Backend.recover`."""
        check_identity(sandbox_id, owner)
        with failing_as(SandboxFailed, "the sandbox cannot be taken up", LEFT_HINT):
            return await self._recover(sandbox_id, spec, owner)

    async def _recover(self, sandbox_id: str, spec: SandboxSpec, owner: str) -> Sandbox | None:
        place = await find_place(self._base, sandbox_id, owner)
        failpoint("memory.recover.place")
        if place is None:
            return None
        try:
            if place.pidfd >= 0:
                return await open_sandbox(MemoryBoundary(_granted(spec, place.path), place, place.configuration))
        except SandboxLost:
            pass  # as one that had ended before
        except BaseException:
            place.let_go()
            raise
        await asyncio.shield(place.end(keep_files=True))
        return None

    async def discard(self, sandbox_id: str, owner: str) -> None:
        """Removes agent and directory; see `abc.Backend.discard`."""
        check_identity(sandbox_id, owner)
        with failing_as(SandboxFailed, f"sandbox {sandbox_id} cannot be removed", LEFT_HINT):
            place = await find_place(self._base, sandbox_id, owner)
            failpoint("memory.discard.place")
            if place is not None:
                await asyncio.shield(place.end(keep_files=False))

    async def sweep(self) -> int:
        """Finds nothing: without a boundary nothing of a crashed engine can be told from the host's own processes."""
        return 0

    async def sweep_owned(self, owner: str, keep: Collection[str]) -> int:
        """Removes an owner's booted sandboxes that are not to be kept."""
        removed = 0
        for sandbox_id in owned_in(self._base, owner) if self._base.is_dir() else ():
            if sandbox_id not in keep:
                with contextlib.suppress(Conflict):  # an engine that lives holds it
                    await self.discard(sandbox_id, owner)
                    removed += 1
        return removed

    @property
    def _base(self) -> Path:
        return self._directory or Path(data_directory(os.environ, os.geteuid()), "memory")

    async def _refuse(self, spec: SandboxSpec) -> None:
        fingerprint = await self.probe()
        for feature in needs(spec, from_tar=False, user_asked=False):
            if fingerprint.support(feature) is Support.REFUSED and not _is_real(feature, spec):
                raise Unsupported(
                    f"backend 'memory' cannot provide {feature}: {fingerprint.features[feature].reason}",
                    hint="run `agentkernel backends`",
                )


async def _start(guest: Path, spec: SandboxSpec, place: Place) -> GuestSandbox:
    """Starts the agent in a session of its own, so that the terminal's Ctrl-C does not reach it, and attaches to it."""
    granted = _granted(spec, place.path)
    configuration = Configuration(seccomp=compile_filter(spec.seccomp, platform.machine()), rlimits=workload_limits(spec))
    place.record_configuration(configuration)
    failpoint("memory.boot.configuration")
    with contextlib.closing(listen(place.path)) as listener:
        place.started(_spawn(guest, listener.fileno()))
    failpoint("memory.boot.started")
    return await open_sandbox(MemoryBoundary(granted, place, configuration))


def _spawn(guest: Path, listener_fd: int) -> int:
    streams = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
    source = fcntl.fcntl(listener_fd, fcntl.F_DUPFD_CLOEXEC, _AGENT_FD + 1)  # a dup2 onto itself would leave it to be closed
    try:
        actions = [*streams, (os.POSIX_SPAWN_DUP2, source, _AGENT_FD)]
        return os.posix_spawn(str(guest), (str(guest), "agent", "--listen-fd", str(_AGENT_FD)), {}, file_actions=actions, setsid=True)
    finally:
        os.close(source)


def _is_real(feature: Feature, spec: SandboxSpec) -> bool:
    """Whether the one mount that is asked for needs none: a host directory, writable, without exceptions, is there already."""
    workspace = spec.workspace
    plain = workspace.mode is WorkspaceMode.WRITABLE and not workspace.protected
    return feature is Feature.MOUNTS and plain and not spec.mounts and not spec.home_source


def _granted(spec: SandboxSpec, directory: Path) -> SandboxSpec:
    """What a plain process in `directory` really gets."""
    home = directory / "home"
    home.mkdir(exist_ok=True)
    workspace = spec.workspace
    if workspace.mode is WorkspaceMode.WRITABLE:
        workspace = replace(workspace, target=workspace.source)
    else:
        (directory / "workspace").mkdir(exist_ok=True)
        workspace = Workspace(target=str(directory / "workspace"))
    user = User(uid=os.geteuid(), gid=os.getegid(), name=spec.user.name, home=str(home))
    environment = tuple((name, str(home) if name == "HOME" else value) for name, value in spec.environment)
    return replace(spec, workspace=workspace, user=user, environment=environment, level=IsolationLevel.NONE)
