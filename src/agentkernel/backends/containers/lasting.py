"""Booted sandboxes: they live on without their engine, and are found again by their id.

The container itself is the lasting record: its name follows from the id, its labels say whose it is, and its layer has the files. What a
crash leaves on this host is in the state directory, which is made before anything else and removed last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from agentkernel.abc import Sandbox
from agentkernel.backends._linux.state import create_lasting
from agentkernel.backends._records import BUILD_HINT, LEFT_HINT, check_identity, failing_as
from agentkernel.backends._sources import require_apart
from agentkernel.backends.containers.build import attach, build, make_ready, settled, watch_limits
from agentkernel.backends.containers.calls import Container
from agentkernel.backends.containers.holdings import Holdings, recorded_holdings
from agentkernel.backends.containers.host import Host
from agentkernel.backends.containers.plan import container_name
from agentkernel.errors import BackendUnavailable, Conflict, LaunchFailed, SandboxFailed, SandboxLost
from agentkernel.failpoints import failpoint
from agentkernel.model.spec import SandboxSpec, StorageKind


async def boot(host: Host, sandbox_id: str, spec: SandboxSpec, owner: str) -> Sandbox:
    """See `abc.Backend.boot`."""
    check_identity(sandbox_id, owner)
    with failing_as(LaunchFailed, "cannot build the sandbox", BUILD_HINT):
        return await _boot(host, sandbox_id, spec, owner)


async def _boot(host: Host, sandbox_id: str, spec: SandboxSpec, owner: str) -> Sandbox:
    require_apart(spec, host.own_directories)
    left, container = await recorded_holdings(host, sandbox_id, owner)
    if left is not None:
        existing = container if _has_files(container, spec) else None
        if left.state is not None or container is not existing or (container is not None and container.running):
            await left.release_or_let_go("boot.left", keep_files=existing is not None)
    else:
        existing = None
    holdings = Holdings(host=host, facts=await host.facts(), sandbox_id=sandbox_id, owner=owner)
    try:
        host.note_use()
        holdings.state = create_lasting(host.state, sandbox_id, owner)
        failpoint("containers.boot.state")
        sandbox = await build(host, spec, holdings, existing)
        failpoint("containers.boot.done")
        return sandbox
    except BaseException:
        await asyncio.shield(holdings.release_or_let_go("boot.undo", keep_files=existing is not None))
        raise


def _has_files(container: Container | None, spec: SandboxSpec) -> bool:
    """Whether it ever ran, and keeps what it wrote."""
    return container is not None and container.started and spec.storage is StorageKind.DISK


async def has_files(host: Host, sandbox_id: str, owner: str) -> bool:
    """See `abc.Keeping`."""
    check_identity(sandbox_id, owner)
    with failing_as(SandboxFailed, "the sandbox cannot be looked at", LEFT_HINT):
        container = await host.containers.find(container_name(sandbox_id))
    return container is not None and container.started


async def recover(host: Host, sandbox_id: str, spec: SandboxSpec, owner: str) -> Sandbox | None:
    """See `abc.Backend.recover`."""
    check_identity(sandbox_id, owner)
    with failing_as(SandboxFailed, "the sandbox cannot be taken up", LEFT_HINT):
        return await _recover(host, sandbox_id, spec, owner)


async def _recover(host: Host, sandbox_id: str, spec: SandboxSpec, owner: str) -> Sandbox | None:
    holdings, container = await recorded_holdings(host, sandbox_id, owner)
    failpoint("containers.recover.records")
    if holdings is None:
        return None
    keeps = _has_files(container, spec)
    holdings.user = spec.user.uid
    if holdings.state is None or container is None or not container.running:
        if holdings.state is not None or (container is not None and (container.running or not keeps)):
            await asyncio.shield(holdings.release_or_let_go("recover", keep_files=keeps))
        else:
            await holdings.let_go()
        return None
    try:
        return await _take_up(host, spec, holdings, container)
    except (SandboxLost, LaunchFailed):  # it died meanwhile
        await asyncio.shield(holdings.release_or_let_go("recover", keep_files=keeps))
        return None
    except BaseException:
        await asyncio.shield(holdings.let_go())
        raise


async def _take_up(host: Host, spec: SandboxSpec, holdings: Holdings, container: Container) -> Sandbox:
    assert holdings.state is not None  # noqa: S101 - asked by the caller
    spec = settled(spec, host, holdings.facts)
    holdings.keeps = spec.storage is StorageKind.DISK
    sandbox = await attach(host, spec, holdings, container, holdings.state.configuration)
    await make_ready(host, holdings, sandbox)
    watch_limits(spec, holdings, sandbox, container, resumed=True)
    failpoint("containers.recover.attached")
    return sandbox


async def discard(host: Host, sandbox_id: str, owner: str) -> None:
    """See `abc.Backend.discard`."""
    check_identity(sandbox_id, owner)
    await _remove(host, sandbox_id, owner, "discard")


async def sweep_owned(host: Host, owner: str, keep: Collection[str]) -> int:
    """See `abc.Backend.sweep_owned`; `keep` may change meanwhile. One that cannot be removed keeps none of the others."""
    if not host.was_used:
        return 0
    removed = 0
    failure: SandboxFailed | None = None
    with failing_as(SandboxFailed, "sandboxes that nobody has cannot be removed", LEFT_HINT):
        here = host.owned(owner) if host.is_recorded else ()
        try:
            there = await host.containers.owned(owner)
        except BackendUnavailable:
            if here:
                raise
            return 0  # no engine, and nothing of one
        for sandbox_id in dict.fromkeys((*here, *there)):
            if sandbox_id not in keep:
                try:
                    removed += await _remove(host, sandbox_id, owner, "sweep")
                except Conflict:
                    continue  # an engine that lives holds it
                except SandboxFailed as error:
                    failure = error
    if failure is not None:
        raise failure
    return removed


async def _remove(host: Host, sandbox_id: str, owner: str, act: str) -> bool:
    with failing_as(SandboxFailed, f"sandbox {sandbox_id} cannot be removed", LEFT_HINT):
        holdings, _ = await recorded_holdings(host, sandbox_id, owner)
        failpoint(f"containers.{act}.records")
        if holdings is None:
            return False
        await asyncio.shield(holdings.release_or_let_go(act))
        return True
