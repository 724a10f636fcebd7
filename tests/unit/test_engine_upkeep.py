"""What is done without being asked: expiry, idle stop, noticing death, garbage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from unit.engine_world import ANN, BOB, Machine, World

from agentkernel.errors import NotFound
from agentkernel.model.command import Command, ExitStatus
from agentkernel.model.record import CreateOptions, Event, EventFilter, SandboxFilter
from agentkernel.model.status import Status


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "home").mkdir()
    world = World(directory=tmp_path)
    yield world
    await world.end()


@pytest.fixture
async def engine(world: World) -> Any:
    engine = world.engine()
    await engine.recover()
    await engine.settled()
    return engine


async def _make(engine: Any, world: World, name: str, **options: Any) -> Any:
    return await engine.create(ANN, world.request(), CreateOptions(name=name, **options))


async def _later(engine: Any, world: World, seconds: float) -> None:
    world.now += seconds
    engine._upkeep.tick()
    await engine._core.operations.drain()


async def test_a_sandbox_is_removed_when_its_time_is_over(world: World, engine: Any) -> None:
    await _make(engine, world, "short", ttl_s=10.0, start=True)
    await _make(engine, world, "longer", ttl_s=10.0)
    await engine.extend(ANN, "longer", 100.0)
    await _later(engine, world, 9.0)
    assert len(await engine.sandboxes(ANN, SandboxFilter())) == 2
    await _later(engine, world, 1.0)
    assert [info.name for info in await engine.sandboxes(ANN, SandboxFilter())] == ["longer"]
    assert world.machines == {}
    (removed,) = [event async for event in engine.events(ANN, EventFilter(kinds=("sandbox.removed",)))]
    assert dict(removed.details) == {"reason": "expired"}


async def test_a_removal_that_fails_is_tried_again(world: World, engine: Any) -> None:
    await _make(engine, world, "short", ttl_s=1.0, start=True)
    world.failing_gate("destroy")
    await _later(engine, world, 2.0)
    assert len(world.machines) == 1
    world.gates.clear()
    engine._upkeep._under_way.clear()  # the pause before the next attempt is over
    await _later(engine, world, 0.0)
    assert (world.machines, world.store.sandboxes()) == ({}, [])


async def test_an_idle_sandbox_is_stopped_but_not_one_in_use(world: World, engine: Any) -> None:
    await _make(engine, world, "idle", idle_s=30.0, start=True)
    await _make(engine, world, "used", idle_s=30.0, start=True)
    await _make(engine, world, "any", start=True)
    used = await engine.open(ANN, "used")
    engine.started(ANN, used, Command(argv=(b"sleep", b"100")), 5)
    await _later(engine, world, 31.0)
    assert {info.name: info.status.value for info in await engine.sandboxes(ANN, SandboxFilter())} == {
        "idle": "stopped",
        "used": "running",
        "any": "running",
    }
    assert (await engine.info(ANN, "idle")).reason == "nobody used it for 30 seconds"
    engine.ended(ANN, used, 5, ExitStatus(exit_code=0))
    await _later(engine, world, 29.0)
    assert (await engine.info(ANN, "used")).used_at == world.now - 29
    assert (await engine.info(ANN, "used")).status is Status.RUNNING
    await _later(engine, world, 1.0)
    assert (await engine.info(ANN, "used")).status is Status.STOPPED


async def test_a_sandbox_that_died_unused_is_noticed_and_its_last_use_is_stored(world: World, engine: Any) -> None:
    dead, alive = [await _make(engine, world, name, start=True) for name in ("dead", "alive")]
    world.machines[dead.sandbox_id].running = False
    world.now += 40
    await engine.open(ANN, "alive")
    world.now += 40
    await engine._upkeep.examine_all()
    await engine._core.operations.drain()
    assert (await engine.info(ANN, "dead")).status is Status.STOPPED
    row = world.store.get(alive.sandbox_id)
    assert row is not None and row.used_at == world.now - 40


async def test_garbage_is_told_and_removed(world: World, engine: Any) -> None:
    made = await _make(engine, world, "old", ttl_s=5.0)
    other = await engine.create(BOB, world.request(), CreateOptions(name="bobs", ttl_s=5.0))
    (world.directory / "data" / "logs" / ("c" * 16)).mkdir(parents=True)
    world.machines["f" * 16] = Machine(spec=(await engine.grant(ANN, world.request())).spec, owner=world.store.identity)
    world.store.append(Event(kind="sandbox.created", at=1.0, principal="ann"))
    world.now += 91 * 24 * 3600
    told = await engine.collect_garbage(ANN, dry_run=True)
    assert told == ["sandbox old: expired", f"log of {'c' * 16}: there is no such sandbox"]
    assert world.store.get(made.sandbox_id) is not None
    done = await engine.collect_garbage(ANN)
    assert done[:2] == told
    assert done[2] == "scripted: 1 sandboxes that belonged to nobody"
    assert "events of long ago" in done[3]
    assert world.store.get(other.sandbox_id) is not None  # somebody else's
    assert await engine.collect_garbage(ANN) == []


async def test_the_timer_does_all_this_by_itself(world: World, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentkernel.engine.upkeep.TICK_S", 0.001)
    await _make(engine, world, "short", ttl_s=0.5)
    world.now += 1
    async with asyncio.timeout(10):
        while world.store.sandboxes():
            await asyncio.sleep(0.01)
    with pytest.raises(NotFound):
        await engine.info(ANN, "short")


async def test_status_counts_what_there_is(world: World, engine: Any) -> None:
    await _make(engine, world, "a", start=True)
    await _make(engine, world, "b")
    status = await engine.status(ANN)
    assert (status.sandboxes, status.running, status.busy, status.queued) == (2, 1, 0, 0)
    assert status.rss_bytes > 0 and status.pid > 0
