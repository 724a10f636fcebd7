"""The namespaces backend: probe, create, sweep; what lasts is in `lasting`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection
from pathlib import Path

from agentkernel.abc import Sandbox
from agentkernel.backends._records import BUILD_HINT, LEFT_HINT, failing_as
from agentkernel.backends._sources import require_apart
from agentkernel.backends.namespaces import fingerprint, lasting
from agentkernel.backends.namespaces.boundary import BACKEND
from agentkernel.backends.namespaces.build import build
from agentkernel.backends.namespaces.holdings import Holdings, take_up
from agentkernel.backends.namespaces.host import Host
from agentkernel.backends.namespaces.ranges import sweep_ranges
from agentkernel.backends.namespaces.state import abandoned, create_state
from agentkernel.errors import LaunchFailed, SandboxFailed, Unsupported
from agentkernel.model.isolation import Fingerprint
from agentkernel.model.spec import NetworkMode, SandboxSpec


class NamespacesBackend:
    """Implements `abc.Backend`; all its state is on the host, beneath the user's runtime and data directories."""

    name = BACKEND

    def __init__(self, state_directory: Path | None = None) -> None:
        """`state_directory` overrides where sandboxes are recorded and keep their files (tests); the default is per user."""
        self._host = Host(state_directory)

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

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """Builds and starts a sandbox that ends with this process; see `abc.Backend.create`."""
        with failing_as(LaunchFailed, "cannot build the sandbox", BUILD_HINT):
            return await self._create(spec)

    async def _create(self, spec: SandboxSpec) -> Sandbox:
        root = self._host.state
        require_apart(spec, self._host.own_directories)
        sandbox_id = os.urandom(8).hex()
        with failing_as(LaunchFailed, f"cannot record the sandbox in {root.path}", "is there room, and may you write there?"):
            state = create_state(root, sandbox_id)
        holdings = Holdings(root=root, sandbox_id=sandbox_id, state=state)
        try:
            return await build(self._host, spec, holdings, state)
        except BaseException:
            await asyncio.shield(holdings.release_or_let_go("undo"))
            raise

    async def boot(self, sandbox_id: str, spec: SandboxSpec, owner: str) -> Sandbox:
        """Builds and starts a sandbox that lives on without this process; see `abc.Backend.boot`.

        Raises also Conflict: the id belongs to another store, or an engine that lives holds it.
        """
        return await lasting.boot(self._host, sandbox_id, spec, owner)

    async def recover(self, sandbox_id: str, spec: SandboxSpec, owner: str) -> Sandbox | None:
        """Takes up a booted sandbox; see `abc.Backend.recover`. Raises Conflict as `boot` does."""
        return await lasting.recover(self._host, sandbox_id, spec, owner)

    async def discard(self, sandbox_id: str, owner: str) -> None:
        """Removes every trace of a booted sandbox; see `abc.Backend.discard`. Raises Conflict as `boot` does."""
        await lasting.discard(self._host, sandbox_id, owner)

    async def sweep_owned(self, owner: str, keep: Collection[str]) -> int:
        """Removes an owner's booted sandboxes that are not to be kept; see `abc.Backend.sweep_owned`."""
        return await lasting.sweep_owned(self._host, owner, keep)

    async def sweep(self) -> int:
        """Removes the sandboxes of `create` whose engine is gone: processes, groups, files, id ranges."""
        removed = 0
        with failing_as(SandboxFailed, "what another engine left cannot be removed", LEFT_HINT):
            root = self._host.state
            for state in abandoned(root):
                holdings = Holdings(root=root, sandbox_id=state.sandbox_id, state=state)
                await take_up(holdings, state)
                await holdings.release_or_let_go("sweep")
                removed += 1
            sweep_ranges(root.ranges, (root.sandboxes, root.lasting))
        return removed
