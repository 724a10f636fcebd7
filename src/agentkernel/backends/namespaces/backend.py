"""The namespaces backend: the probe. How sandboxes are made is in `build`, their life cycle is that of every backend of this host."""

from __future__ import annotations

from pathlib import Path

from agentkernel.backends._linux.backend import LinuxBackend
from agentkernel.backends._linux.host import Host
from agentkernel.backends.namespaces import fingerprint
from agentkernel.backends.namespaces.build import NamespacesMaker
from agentkernel.errors import SandboxFailed, Unsupported
from agentkernel.model.isolation import Fingerprint
from agentkernel.model.spec import NetworkMode, SandboxSpec


class NamespacesBackend(LinuxBackend):
    """Implements `abc.Backend`."""

    name = fingerprint.BACKEND

    def __init__(self, state_directory: Path | None = None) -> None:
        """`state_directory` overrides where sandboxes are recorded and keep their files (tests); the default is per user."""
        super().__init__(NamespacesMaker(Host(self.name, state_directory)))

    async def probe(self) -> Fingerprint:
        """Builds a whole sandbox, runs nothing in it, and says what this host granted; where it fails, one that asks for less."""
        facts, cgroups = self._host.facts, self._host.cgroups
        opaque = await self._obstacle(fingerprint.probe_spec(transparent=True))
        unfiltered = opaque and await self._obstacle(fingerprint.probe_spec())
        obstacle = unfiltered and await self._obstacle(fingerprint.probe_spec(NetworkMode.NONE))
        if obstacle is None:
            return fingerprint.ready(facts, cgroups, opaque=opaque, unfiltered=unfiltered)
        try:
            await self._prove(fingerprint.process_probe_spec())
        except (SandboxFailed, Unsupported):
            return fingerprint.not_ready(facts, obstacle)
        return fingerprint.process_only(facts, cgroups, obstacle)

    async def _obstacle(self, spec: SandboxSpec) -> SandboxFailed | None:
        """Why such a sandbox cannot be had here."""
        try:
            await self._prove(spec)
        except SandboxFailed as failure:
            return failure
        return None

    async def _prove(self, spec: SandboxSpec) -> None:
        sandbox = await self.create(spec)
        try:
            await sandbox.statistics()
        finally:
            await sandbox.destroy()
