"""Booted sandboxes: they live on without their engine, and are found again by their id.

A crash may come between any two system calls. What it leaves is in the two directories that are made first and removed last (`state`,
`kept`), or follows from the id; `recover`, `discard`, `sweep_owned` and the next `boot` of the id each start from that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace

from agentkernel.abc import Sandbox
from agentkernel.backends._linux.holdings import Holdings, recorded_holdings
from agentkernel.backends._linux.kept import find_kept, make_kept
from agentkernel.backends._linux.maker import Maker
from agentkernel.backends._linux.ranges import sweep_ranges
from agentkernel.backends._linux.state import create_lasting
from agentkernel.backends._records import BUILD_HINT, LEFT_HINT, check_identity, failing_as, owned_in
from agentkernel.backends._sources import require_apart
from agentkernel.errors import Conflict, LaunchFailed, SandboxFailed, SandboxLost
from agentkernel.failpoints import failpoint
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.spec import SandboxSpec, StorageKind


async def boot(maker: Maker, sandbox_id: str, spec: SandboxSpec, owner: str) -> Sandbox:
    """See `abc.Backend.boot`."""
    check_identity(sandbox_id, owner)
    with failing_as(LaunchFailed, "cannot build the sandbox", BUILD_HINT):
        return await _boot(maker, sandbox_id, spec, owner)


async def _boot(maker: Maker, sandbox_id: str, spec: SandboxSpec, owner: str) -> Sandbox:
    host = maker.host
    require_apart(spec, host.own_directories)
    if spec.level is IsolationLevel.PROCESS:
        spec = replace(spec, storage=StorageKind.DISK)  # there is no other
    left = await recorded_holdings(host, sandbox_id, owner)
    if left is not None and (left.state is not None or left.kept is not None):
        await left.release_or_let_go("boot.left", keep_files=True)
    holdings = Holdings(backend=host.backend, root=host.state, sandbox_id=sandbox_id, owner=owner)
    is_new = True
    try:
        if spec.storage is StorageKind.DISK:
            holdings.kept, is_new = make_kept(host.data, sandbox_id, owner)
        failpoint(f"{host.backend}.boot.kept")
        holdings.state = create_lasting(host.state, sandbox_id, owner)
        failpoint(f"{host.backend}.boot.state")
        sandbox = await maker.build(spec, holdings, holdings.state)
        if holdings.kept is not None:
            holdings.kept.finish()
        failpoint(f"{host.backend}.boot.done")
        return sandbox
    except BaseException:
        await asyncio.shield(holdings.release_or_let_go("boot.undo", keep_files=not is_new))
        raise


def has_files(maker: Maker, sandbox_id: str, owner: str) -> bool:
    """See `abc.Keeping`."""
    check_identity(sandbox_id, owner)
    with failing_as(SandboxFailed, "the sandbox cannot be looked at", LEFT_HINT):
        return find_kept(maker.host.data, sandbox_id, owner) is not None


async def recover(maker: Maker, sandbox_id: str, spec: SandboxSpec, owner: str) -> Sandbox | None:
    """See `abc.Backend.recover`."""
    check_identity(sandbox_id, owner)
    with failing_as(SandboxFailed, "the sandbox cannot be taken up", LEFT_HINT):
        return await _recover(maker, sandbox_id, spec, owner)


async def _recover(maker: Maker, sandbox_id: str, spec: SandboxSpec, owner: str) -> Sandbox | None:
    host = maker.host
    holdings = await recorded_holdings(host, sandbox_id, owner)
    failpoint(f"{host.backend}.recover.records")
    if holdings is None:
        return None
    if not holdings.lives or holdings.state is None:
        await asyncio.shield(holdings.release_or_let_go("recover", keep_files=True))
        return None
    try:
        if holdings.cgroups is not None:
            holdings.cgroups.take_up()
        sandbox = await maker.attach(spec, holdings, holdings.state.configuration)
        failpoint(f"{host.backend}.recover.attached")
        return sandbox
    except SandboxLost:  # it died meanwhile
        await asyncio.shield(holdings.release_or_let_go("recover", keep_files=True))
        return None
    except BaseException:
        await asyncio.shield(holdings.let_go())
        raise


async def discard(maker: Maker, sandbox_id: str, owner: str) -> None:
    """See `abc.Backend.discard`."""
    check_identity(sandbox_id, owner)
    await _remove(maker, sandbox_id, owner, "discard")


async def sweep_owned(maker: Maker, owner: str, keep: Collection[str]) -> int:
    """See `abc.Backend.sweep_owned`; `keep` may change meanwhile. One that cannot be removed keeps none of the others."""
    host, removed = maker.host, 0
    failure: SandboxFailed | None = None
    with failing_as(SandboxFailed, "sandboxes that nobody has cannot be removed", LEFT_HINT):
        found = (*owned_in(host.state.lasting, owner), *owned_in(host.data.sandboxes, owner))
        for sandbox_id in dict.fromkeys(found):
            if sandbox_id not in keep:
                try:
                    removed += await _remove(maker, sandbox_id, owner, "sweep")
                except Conflict:
                    continue  # an engine that lives holds it
                except SandboxFailed as error:
                    failure = error
        sweep_ranges(host.data.ranges, host.data.homes)
        sweep_ranges(host.state.ranges, host.state.homes)
    if failure is not None:
        raise failure
    return removed


async def _remove(maker: Maker, sandbox_id: str, owner: str, act: str) -> bool:
    with failing_as(SandboxFailed, f"sandbox {sandbox_id} cannot be removed", LEFT_HINT):
        holdings = await recorded_holdings(maker.host, sandbox_id, owner)
        failpoint(f"{maker.host.backend}.{act}.records")
        if holdings is None:
            return False
        await asyncio.shield(holdings.release_or_let_go(act))
        return True
