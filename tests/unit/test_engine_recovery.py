"""After a crash: the engine object is thrown away as it is, and a new one over the same store and host takes up what is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit.engine_world import ANN, BOB, Machine, World

from agentkernel.engine.engine import Engine
from agentkernel.engine.lease import Leases
from agentkernel.errors import LaunchFailed, NotFound, SandboxLost
from agentkernel.model.command import Command
from agentkernel.model.record import CreateOptions, EventFilter, SandboxFilter
from agentkernel.model.status import FOLLOWS, SETTLES_AS, Status
from agentkernel.store.sqlite import SqliteStore

EVERY = SandboxFilter(limit=1000, ephemeral=True)
EXEC = 0xFEDCBA9876543210
INTERRUPTED = [status for status in Status if status not in (Status.UNAVAILABLE, Status.STOPPED)]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "home").mkdir()
    world = World(directory=tmp_path, store=SqliteStore(tmp_path / "store"))
    yield world
    await world.end()


async def _make(engine: Any, world: World, name: str = "one", **options: Any) -> Any:
    return await engine.create(ANN, world.request(), CreateOptions(name=name, **options))


async def _next(world: World) -> Any:
    """The engine after a crash, once it has settled everything."""
    engine = world.engine()
    await engine.recover()
    await engine.settled()
    return engine


def _crashed_in(world: World, sandbox_id: str, status: Status) -> None:
    row = world.store.get(sandbox_id)
    assert row is not None
    world.store.update(replace(row, status=status))


def test_every_status_settles_as_one_that_it_may_become() -> None:
    assert set(SETTLES_AS) == set(FOLLOWS) == set(Status) - {Status.UNAVAILABLE}
    for status, settled in SETTLES_AS.items():
        assert settled is status or settled in FOLLOWS[status]


@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize("status", INTERRUPTED)
async def test_each_row_is_settled_and_so_is_the_host(world: World, status: Status, runs: bool) -> None:
    made = await _make(world.engine(), world, start=True)
    _crashed_in(world, made.sandbox_id, status)
    world.machines[made.sandbox_id].running = runs
    engine = await _next(world)
    row = world.store.get(made.sandbox_id)
    if SETTLES_AS[status] is Status.REMOVING:
        assert (row, world.machines) == (None, {})
        return
    runs_on = SETTLES_AS[status] is Status.RUNNING and runs
    assert row is not None and row.status is (Status.RUNNING if runs_on else Status.STOPPED)
    assert world.machines[made.sandbox_id].running is runs_on
    assert bool(row.reason) == (status is Status.RUNNING and not runs)
    if runs_on:
        assert (await (await engine.open(ANN, "one")).exec(Command(argv=(b"true",)))).exit_code == 0


@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize("status", [status for status in Status if status is not Status.UNAVAILABLE])
async def test_only_a_running_sandbox_of_a_command_is_kept_for_its_client(world: World, status: Status, runs: bool) -> None:
    sandbox, _ = await world.engine().ephemeral(ANN, world.request(argv=(b"sleep",)), EXEC)
    _crashed_in(world, sandbox.sandbox_id, status)
    world.machines[sandbox.sandbox_id].running = runs
    engine = await _next(world)
    if status is Status.RUNNING and runs:
        assert (await engine.ephemeral_of(ANN, EXEC)).sandbox_id == sandbox.sandbox_id
        await engine.dispose(EXEC)
    else:
        with pytest.raises(NotFound):
            await engine.ephemeral_of(ANN, EXEC)
    assert (world.machines, world.store.sandboxes()) == ({}, [])


async def test_an_adopted_sandbox_whose_client_does_not_come_back_is_removed(world: World) -> None:
    before = world.engine()
    claimed, _ = await before.ephemeral(ANN, world.request(), EXEC)
    await before.ephemeral(ANN, world.request(), EXEC + 1)
    engine = await _next(world)
    again, grant = await engine.ephemeral(ANN, world.request(), EXEC)
    assert (again.sandbox_id, grant.backend) == (claimed.sandbox_id, "scripted")
    world.now += 61
    engine._upkeep.tick()
    await engine._core.operations.drain()
    assert list(world.machines) == [claimed.sandbox_id]


async def test_a_request_waits_for_the_sandbox_it_concerns_alone(world: World) -> None:
    before = world.engine()
    slow, quick = [await _make(before, world, name, start=True) for name in ("slow", "quick")]
    gate = asyncio.Event()

    async def wait_for_slow(sandbox_id: str) -> None:
        if sandbox_id == slow.sandbox_id:
            await gate.wait()

    world.gates["recover"] = wait_for_slow
    engine = world.engine()
    await engine.recover()
    assert (await engine.open(ANN, "quick")).sandbox_id == quick.sandbox_id
    assert {info.name for info in await engine.sandboxes(ANN, EVERY)} == {"slow", "quick"}
    opening = asyncio.create_task(engine.open(ANN, "slow"))
    await asyncio.sleep(0.01)
    assert not opening.done()
    gate.set()
    assert (await opening).sandbox_id == slow.sandbox_id


async def test_a_sandbox_that_cannot_be_settled_is_tried_again_by_the_next_request(world: World) -> None:
    await _make(world.engine(), world, start=True)
    world.failing_gate("recover")
    engine = await _next(world)
    with pytest.raises(LaunchFailed):
        await engine.open(ANN, "one")
    world.gates.clear()
    await engine.open(ANN, "one")


async def test_what_has_no_row_is_swept_and_what_has_one_is_not(world: World) -> None:
    before = world.engine()
    stopped = await _make(before, world, start=True)
    await before.stop(ANN, "one")
    running = await _make(before, world, "two", start=True)
    world.machines["f" * 16] = Machine(spec=world.machines[running.sandbox_id].spec, owner=world.store.identity)
    world.machines["e" * 16] = Machine(spec=world.machines[running.sandbox_id].spec, owner="another store")
    await _next(world)
    assert set(world.machines) == {stopped.sandbox_id, running.sandbox_id, "e" * 16}


async def test_a_sweep_spares_what_is_created_while_it_sweeps(world: World) -> None:
    engine = await _next(world)
    made: list[Any] = []

    async def create(owner: str) -> None:
        if not made:
            made.append(None)
            made.append(await _make(engine, world, start=True))

    world.gates["sweep"] = create
    await engine.collect_garbage(ANN)
    assert list(world.machines) == [made[1].sandbox_id]


async def test_repeated_crashes_while_recovering_lose_nothing(world: World) -> None:
    before = world.engine()
    for number in range(12):
        made = await _make(before, world, f"n{number}", start=True)
        _crashed_in(world, made.sandbox_id, list(SETTLES_AS)[number % 6])
    for _ in range(3):
        gate = world.closed_gate("recover")
        engine = world.engine()
        await engine.recover()
        await asyncio.sleep(0.01)
        for task in engine._upkeep._tasks:
            task.cancel()
        world.gates.clear()
        gate.set()
    engine = await _next(world)
    expected = {f"n{n}": SETTLES_AS[list(SETTLES_AS)[n % 6]] for n in range(12)}
    assert {info.name: info.status for info in await engine.sandboxes(ANN, EVERY)} == {
        name: status for name, status in expected.items() if status is not Status.REMOVING
    }


async def test_closing_a_durable_engine_leaves_its_sandboxes_running(world: World) -> None:
    engine = world.engine()
    made = await _make(engine, world, start=True)
    handle = await engine.open(ANN, "one")
    await engine.close()
    assert world.machines[made.sandbox_id].running
    with pytest.raises(SandboxLost):
        await handle.exec(Command(argv=(b"true",)))
    world.engines.remove(engine)
    world.store = SqliteStore(world.directory / "store")
    assert (await (await _next(world)).info(ANN, "one")).status is Status.RUNNING


async def test_an_engine_in_process_takes_its_sandboxes_with_it(world: World) -> None:
    engine = world.engine(Engine)
    await _make(engine, world, start=True)
    await _make(engine, world, "two")
    async with engine.sandbox(ANN, world.request()) as (sandbox, _):
        assert (await sandbox.exec(Command(argv=(b"true",)))).exit_code == 0
    leases = list((world.directory / "data" / "engines").iterdir())
    assert [path.name for path in leases] == [f"{world.store.identity}.scripted"]
    await engine.close()
    world.engines.clear()
    assert world.machines == {}
    assert list((world.directory / "data" / "engines").iterdir()) == []


async def test_what_a_killed_engine_in_process_left_is_swept_by_any_other(world: World) -> None:
    spec = (await world.engine().grant(ANN, world.request())).spec
    world.machines["a" * 16] = Machine(spec=spec, owner="dead" * 8)
    world.machines["b" * 16] = Machine(spec=spec, owner="beef" * 8)
    alive = Leases(str(world.directory / "data"))
    alive.take("beef" * 8, "scripted")
    path = world.directory / "data" / "engines" / f"{'dead' * 8}.scripted"
    path.touch(mode=0o600)  # nobody holds this one
    await _next(world)
    assert list(world.machines) == ["b" * 16]
    assert not path.exists()
    alive.release()
    assert list(path.parent.iterdir()) == []


async def test_expired_and_dead_ones_are_found_after_a_restart(world: World) -> None:
    before = world.engine()
    await _make(before, world, "short", ttl_s=10.0, start=True)
    lost = await _make(before, world, "lost", start=True)
    world.now += 11
    world.machines[lost.sandbox_id].running = False
    engine = await _next(world)
    engine._upkeep.tick()
    await engine._core.operations.drain()
    assert [(info.name, info.status) for info in await engine.sandboxes(ANN, EVERY)] == [("lost", Status.STOPPED)]
    kinds = [event.kind async for event in engine.events(ANN, EventFilter(limit=1000))]
    assert {"sandbox.lost", "sandbox.removed"} <= set(kinds)


async def test_a_commands_sandbox_is_its_owners(world: World) -> None:
    engine = world.engine()
    await engine.ephemeral(ANN, world.request(), EXEC)
    with pytest.raises(NotFound):
        await engine.ephemeral_of(BOB, EXEC)
    with pytest.raises(NotFound):
        await engine.ephemeral(BOB, world.request(), EXEC)
