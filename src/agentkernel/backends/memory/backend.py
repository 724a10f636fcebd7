"""The memory backend: probe and create."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from agentkernel.abc import Sandbox
from agentkernel.backends._guest import guest_binary
from agentkernel.backends.memory.boundary import SOCKET_NAME, MemoryBoundary
from agentkernel.channel.sandbox import open_sandbox
from agentkernel.errors import BackendUnavailable, Unsupported
from agentkernel.model.isolation import Feature, Fingerprint, IsolationLevel, Provision, Support
from agentkernel.model.spec import SandboxSpec, User, Workspace, WorkspaceMode
from agentkernel.policy.needs import needs
from agentkernel.policy.seccomp import compile_filter

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
        directory = Path(tempfile.mkdtemp(prefix="agentkernel-memory-"))
        try:
            granted = _granted(spec, directory)
            seccomp = compile_filter(spec.seccomp, platform.machine())
            agent = _start(guest, directory)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        boundary = MemoryBoundary(spec=granted, seccomp=seccomp, directory=directory, agent=agent, sandbox_id=os.urandom(8).hex())
        try:
            return await open_sandbox(boundary)
        except BaseException:
            await boundary.destroy()
            raise

    async def sweep(self) -> int:
        """Finds nothing: without a boundary nothing of a crashed engine can be told from the host's own processes."""
        return 0

    async def _refuse(self, spec: SandboxSpec) -> None:
        fingerprint = await self.probe()
        for feature in needs(spec, from_tar=False, user_asked=False):
            if fingerprint.support(feature) is Support.REFUSED and not _is_real(feature, spec):
                raise Unsupported(
                    f"backend 'memory' cannot provide {feature}: {fingerprint.features[feature].reason}",
                    hint="run `agentkernel backends`",
                )


def _start(guest: Path, directory: Path) -> subprocess.Popen[bytes]:
    """Starts the agent in a session of its own, so that the terminal's Ctrl-C does not reach it; returns without waiting for it."""
    argv = (str(guest), "agent", "--listen", str(directory / SOCKET_NAME))
    nothing = subprocess.DEVNULL
    return subprocess.Popen(argv, cwd=directory, env={}, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)


def _is_real(feature: Feature, spec: SandboxSpec) -> bool:
    """Whether the one mount that is asked for needs none: a host directory, writable, without exceptions, is there already."""
    workspace = spec.workspace
    plain = workspace.mode is WorkspaceMode.WRITABLE and not workspace.protected
    return feature is Feature.MOUNTS and plain and not spec.mounts and not spec.home_source


def _granted(spec: SandboxSpec, directory: Path) -> SandboxSpec:
    """What a plain process in `directory` really gets."""
    home = directory / "home"
    home.mkdir()
    workspace = spec.workspace
    if workspace.mode is WorkspaceMode.WRITABLE:
        workspace = replace(workspace, target=workspace.source)
    else:
        (directory / "workspace").mkdir()
        workspace = Workspace(target=str(directory / "workspace"))
    user = User(uid=os.geteuid(), gid=os.getegid(), name=spec.user.name, home=str(home))
    environment = tuple((name, str(home) if name == "HOME" else value) for name, value in spec.environment)
    return replace(spec, workspace=workspace, user=user, environment=environment, level=IsolationLevel.NONE)
