"""What engines do with warm pools: one command's sandbox, a lasting one and a block's come from there, and nobody can tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from unit.engine_world import ANN, BOB, World

from agentkernel.abc import Caller
from agentkernel.engine.engine import Engine
from agentkernel.engine.reserve import PoolSettings
from agentkernel.errors import Conflict, LaunchFailed, StoreFailed
from agentkernel.model.network import EgressLimits
from agentkernel.model.record import CreateOptions
from agentkernel.model.status import Status
from agentkernel.store.memory import MemoryStore

POOL = PoolSettings(minimum=1, maximum=2, settle_s=0)
ADMIN = Caller(principal="root", scopes=frozenset({"full", "admin"}))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "home").mkdir()
    world = World(directory=tmp_path)
    yield world
    await world.end()


async def ready(engine: Any) -> None:
    """Until every pool that there is is full."""
    async with asyncio.timeout(10):
        while not (pools := (await engine.status(ANN)).pools) or any(pool.ready < POOL.maximum for pool in pools):
            await asyncio.sleep(0)


async def with_a_pool_for_commands(world: World) -> tuple[Any, set[str]]:
    """An engine, and the ids of what it keeps ready."""
    engine = world.engine(pool=POOL)
    for exec_id in (1, 2):
        await engine.ephemeral(ANN, world.request(), exec_id)
        await engine.dispose(exec_id)
    await ready(engine)
    return engine, set(world.machines)


async def test_limits_of_the_network_are_those_of_whoever_takes_it(world: World) -> None:
    engine = world.engine(pool=POOL)
    for exec_id in (1, 2):
        await engine.ephemeral(ANN, world.request(network=True), exec_id)
        await engine.dispose(exec_id)
    await ready(engine)
    kept = set(world.machines)
    limits = EgressLimits(connections=3, bytes_total=1000)
    sandbox, _ = await engine.ephemeral(ANN, world.request(network=True, egress_limits=limits), 3)
    assert sandbox.sandbox_id in kept and sandbox.spec.egress_limits == limits
    await engine.dispose(3)


async def test_a_commands_sandbox_comes_from_the_pool_and_has_a_row_like_any_other(world: World) -> None:
    engine, kept = await with_a_pool_for_commands(world)
    booted = world.boots
    sandbox, grant = await engine.ephemeral(ANN, world.request(name="mine", environment={"TOKEN": "secret"}), 3)
    assert sandbox.sandbox_id in kept and world.boots == booted
    assert (sandbox.spec.name, sandbox.spec.environment, sandbox.spec.linger_s) == ("mine", grant.spec.environment, grant.spec.linger_s)
    (row,) = world.store.sandboxes()
    assert (row.sandbox_id, row.status, row.ephemeral, row.exec_id, row.name) == (sandbox.sandbox_id, Status.RUNNING, True, 3, "mine")
    (pool,) = (await engine.status(ANN)).pools
    assert (pool.hits, pool.backend, pool.profile) == (1, "scripted", "restrictive")
    await engine.dispose(3)
    assert sandbox.sandbox_id not in world.machines and not world.store.sandboxes()


async def test_the_next_engine_takes_it_up_and_removes_what_nobody_had(world: World) -> None:
    engine, _kept = await with_a_pool_for_commands(world)
    sandbox, _ = await engine.ephemeral(ANN, world.request(), 3)
    world.engines.remove(engine)  # as after a kill
    later = world.engine()
    await later.recover()
    assert (await later.ephemeral_of(ANN, 3)).sandbox_id == sandbox.sandbox_id
    await later.collect_garbage(ADMIN)
    assert set(world.machines) == {sandbox.sandbox_id}
    await engine.close()


async def test_the_engine_does_not_take_its_own_pool_for_garbage(world: World) -> None:
    engine, kept = await with_a_pool_for_commands(world)
    await engine.collect_garbage(ADMIN)
    assert kept <= set(world.machines)


async def test_one_whose_row_cannot_be_stored_is_removed(world: World) -> None:
    class Failing(MemoryStore):
        broken = False

        def insert(self, *arguments: Any) -> None:
            if self.broken:
                raise StoreFailed("the disk is full")
            super().insert(*arguments)

    world.store = Failing()
    engine, kept = await with_a_pool_for_commands(world)
    world.store.broken = True
    with pytest.raises(StoreFailed):
        await engine.ephemeral(ANN, world.request(), 3)
    world.store.broken = False
    assert len(kept - set(world.machines)) == 1


async def test_a_lasting_sandbox_that_is_started_at_once_comes_from_a_pool(world: World) -> None:
    engine = world.engine(pool=POOL)
    for name in ("a", "b"):
        await engine.create(ANN, world.request(), CreateOptions(name=name, start=True))
    await ready(engine)
    kept, booted = set(world.machines), world.boots
    info = await engine.create(BOB, world.request(), CreateOptions(name="c", start=True, labels=(("k", "v"),)))
    assert info.sandbox_id in kept and world.boots == booted
    assert (info.status, info.name, info.owner, info.labels) == (Status.RUNNING, "c", "bob", (("k", "v"),))
    world.machines[info.sandbox_id].files["x"] = b"kept"
    await engine.stop(BOB, "c")
    await engine.start(BOB, "c")
    assert world.machines[info.sandbox_id].files == {"x": b"kept"}
    with pytest.raises(Conflict):
        await engine.create(BOB, world.request(), CreateOptions(name="c", start=True))
    await engine.close()
    assert set(world.machines) == {row.sandbox_id for row in world.store.sandboxes()}


async def test_one_that_is_not_started_takes_none(world: World) -> None:
    engine = world.engine(pool=POOL)
    for name in ("a", "b", "c"):
        await engine.create(ANN, world.request(), CreateOptions(name=name))
    assert (await engine.status(ANN)).pools == () and world.boots == 0


async def test_the_sandbox_of_a_block_comes_from_a_pool_and_goes_with_it(world: World) -> None:
    engine = world.engine(Engine, pool=POOL)
    for _ in range(2):
        async with engine.sandbox(ANN, world.request()):
            pass
    await ready(engine)
    async with engine.sandbox(ANN, world.request(name="mine")) as (sandbox, _):
        assert sandbox.spec.name == "mine"
    assert (await engine.status(ANN)).pools[0].hits == 1


async def test_what_could_never_be_made_for_anybody_is_not_made_beforehand(world: World) -> None:
    engine = world.engine(pool=POOL)
    world.failing_gate("boot")
    for exec_id in (1, 2, 3):
        with pytest.raises(LaunchFailed):
            await engine.ephemeral(ANN, world.request(), exec_id)
    assert (await engine.status(ANN)).pools == ()


async def test_those_that_die_in_a_pool_are_replaced(world: World) -> None:
    engine, kept = await with_a_pool_for_commands(world)
    for sandbox_id in kept:
        world.machines[sandbox_id].die()
    assert (await engine.status(ANN)).pools[0].ready == 0
    await ready(engine)
    assert not kept & set(world.machines)


async def test_an_engine_that_closes_empties_its_pools(world: World) -> None:
    engine, kept = await with_a_pool_for_commands(world)
    assert kept
    await engine.close()
    assert world.machines == {}
