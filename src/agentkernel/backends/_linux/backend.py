"""The life cycle of sandboxes that are processes of this host: create and sweep; what lasts is in `lasting`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection

from agentkernel.abc import Sandbox
from agentkernel.backends._linux import lasting
from agentkernel.backends._linux.holdings import Holdings, take_up
from agentkernel.backends._linux.maker import Maker
from agentkernel.backends._linux.ranges import sweep_ranges
from agentkernel.backends._linux.state import abandoned, create_state
from agentkernel.backends._records import BUILD_HINT, LEFT_HINT, failing_as
from agentkernel.backends._sources import require_apart
from agentkernel.errors import LaunchFailed, SandboxFailed
from agentkernel.model.spec import SandboxSpec


class LinuxBackend:
    """All of `abc.Backend` but `probe`; all its state is on the host, beneath the user's runtime and data directories."""

    def __init__(self, maker: Maker) -> None:
        self._maker = maker
        self._host = maker.host

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
        holdings = Holdings(backend=self._host.backend, root=root, sandbox_id=sandbox_id, state=state)
        try:
            return await self._maker.build(spec, holdings, state)
        except BaseException:
            await asyncio.shield(holdings.release_or_let_go("undo"))
            raise

    async def boot(self, sandbox_id: str, spec: SandboxSpec, owner: str) -> Sandbox:
        """Builds and starts a sandbox that lives on without this process; see `abc.Backend.boot`.

        Raises also Conflict: the id belongs to another store, or an engine that lives holds it.
        """
        return await lasting.boot(self._maker, sandbox_id, spec, owner)

    async def recover(self, sandbox_id: str, spec: SandboxSpec, owner: str) -> Sandbox | None:
        """Takes up a booted sandbox; see `abc.Backend.recover`. Raises Conflict as `boot` does."""
        return await lasting.recover(self._maker, sandbox_id, spec, owner)

    async def has_files(self, sandbox_id: str, owner: str) -> bool:
        """Whether there is its directory yet; see `abc.Keeping`. Raises Conflict as `boot` does."""
        return lasting.has_files(self._maker, sandbox_id, owner)

    async def discard(self, sandbox_id: str, owner: str) -> None:
        """Removes every trace of a booted sandbox; see `abc.Backend.discard`. Raises Conflict as `boot` does."""
        await lasting.discard(self._maker, sandbox_id, owner)

    async def sweep_owned(self, owner: str, keep: Collection[str]) -> int:
        """Removes an owner's booted sandboxes that are not to be kept; see `abc.Backend.sweep_owned`."""
        return await lasting.sweep_owned(self._maker, owner, keep)

    async def sweep(self) -> int:
        """Removes the sandboxes of `create` whose engine is gone: processes, groups, files, id ranges."""
        removed = 0
        with failing_as(SandboxFailed, "what another engine left cannot be removed", LEFT_HINT):
            root = self._host.state
            for state in abandoned(root):
                holdings = Holdings(backend=self._host.backend, root=root, sandbox_id=state.sandbox_id, state=state)
                await take_up(holdings, state)
                await holdings.release_or_let_go("sweep")
                removed += 1
            sweep_ranges(root.ranges, root.homes)
        return removed
