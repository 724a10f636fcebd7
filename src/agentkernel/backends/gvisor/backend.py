"""The gVisor backend: the probe. How sandboxes are made is in `build`, their life cycle is that of every backend of this host."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from agentkernel.abc import Sandbox
from agentkernel.backends._linux.backend import LinuxBackend
from agentkernel.backends._linux.holdings import Holdings
from agentkernel.backends._linux.host import Host
from agentkernel.backends._linux.state import create_state
from agentkernel.backends._records import BUILD_HINT, failing_as
from agentkernel.backends.gvisor import fingerprint
from agentkernel.backends.gvisor.build import GvisorMaker
from agentkernel.backends.gvisor.refusal import NAME, NEEDS_ROOT, ROOT_HINT, require
from agentkernel.backends.gvisor.runtime import PLATFORMS
from agentkernel.channel.mux import Deadlines
from agentkernel.errors import AgentKernelError, BackendUnavailable, LaunchFailed
from agentkernel.model.isolation import Fingerprint
from agentkernel.model.spec import NetworkMode, SandboxSpec

PLATFORM_HINT = "run `runsc --debug --alsologtostderr do true` to see what this host refuses"
PROBE_S = 10.0  # a platform that does not work hangs as a rule


class GvisorBackend(LinuxBackend):
    """Implements `abc.Backend`."""

    name = NAME

    def __init__(self, state_directory: Path | None = None) -> None:
        """`state_directory` overrides where sandboxes are recorded and keep their files (tests); the default is per user."""
        self._gvisor = GvisorMaker(Host(self.name, state_directory))
        self._settling = asyncio.Lock()
        super().__init__(self._gvisor)

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """As `LinuxBackend.create`; raises also BackendUnavailable."""
        await self._be_settled(spec)
        return await super().create(spec)

    async def boot(self, sandbox_id: str, spec: SandboxSpec, owner: str) -> Sandbox:
        """As `LinuxBackend.boot`; raises also BackendUnavailable."""
        await self._be_settled(spec)
        return await super().boot(sandbox_id, spec, owner)

    async def _be_settled(self, spec: SandboxSpec) -> None:
        """The platform is known, as a rule from an earlier probe; what is remembered of that may have been made by another engine."""
        with failing_as(LaunchFailed, "cannot build the sandbox", BUILD_HINT):
            require(spec, self._host.facts)
            async with self._settling:
                if not self._gvisor.runtime.platform and (obstacle := await self._settle()):
                    raise BackendUnavailable(f"gVisor runs on no platform here: {obstacle}", hint=PLATFORM_HINT)

    async def probe(self) -> Fingerprint:
        """Makes a whole sandbox on each platform, the best first, until one has answered; see `abc.Backend.probe`."""
        facts = self._host.facts
        if not facts.privileged:
            return fingerprint.not_ready(NEEDS_ROOT, ROOT_HINT)
        try:
            obstacle = await self._settle()
        except BackendUnavailable as missing:
            return fingerprint.not_ready(missing.message, missing.hint)
        runtime = self._gvisor.runtime
        if obstacle:
            return fingerprint.not_ready(obstacle, PLATFORM_HINT)
        try:
            await self._prove(runtime.platform, fingerprint.probe_spec(NetworkMode.HOST))
        except AgentKernelError as failure:
            return fingerprint.ready(runtime, facts, self._host.cgroups, no_host_network=failure.message)
        return fingerprint.ready(runtime, facts, self._host.cgroups, no_host_network="")

    async def _settle(self) -> str:
        """Finds the platform; returns why there is none, or nothing."""
        self._gvisor.look_again()
        self._gvisor.runtime.require_new()
        obstacles = []
        for platform in _worth_a_try():
            try:
                await self._prove(platform, fingerprint.probe_spec())
            except AgentKernelError as failure:
                obstacles.append(f"{platform}: {failure.message}")
            else:
                self._gvisor.choose(platform)
                return ""
        return "; ".join(obstacles)

    async def _prove(self, platform: str, spec: SandboxSpec) -> None:
        root = self._host.state
        sandbox_id = os.urandom(8).hex()
        with failing_as(LaunchFailed, "cannot build the sandbox", BUILD_HINT):
            state = create_state(root, sandbox_id)
            holdings = Holdings(backend=self.name, root=root, sandbox_id=sandbox_id, state=state)
            try:
                sandbox = await self._gvisor.build_on(platform, spec, holdings, state, Deadlines(attach_s=PROBE_S))
                await sandbox.close()
            finally:
                await asyncio.shield(holdings.release_or_let_go("undo"))


def _worth_a_try() -> tuple[str, ...]:
    """KVM is for whoever may open the device: the sandbox's own ids are strangers to it."""
    return tuple(each for each in PLATFORMS if each != "kvm" or _is_open_to_all("/dev/kvm"))


def _is_open_to_all(device: str) -> bool:
    try:
        return os.stat(device).st_mode & 0o006 == 0o006
    except OSError:
        return False
