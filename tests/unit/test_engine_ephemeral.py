"""Sandboxes for one command each, over a durable store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from unit.engine_world import ANN, World

from agentkernel.errors import LaunchFailed, NotFound, StoreFailed
from agentkernel.model.command import Command, ExitStatus
from agentkernel.model.record import EventFilter, SandboxFilter
from agentkernel.model.spec import RootFile
from agentkernel.model.status import Status
from agentkernel.store.memory import MemoryStore

EXEC = 7


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "home").mkdir()
    world = World(directory=tmp_path)
    yield world
    await world.end()


async def test_one_command_has_one_sandbox_however_often_it_is_asked_for(world: World) -> None:
    engine = world.engine()
    found = await asyncio.gather(*(engine.ephemeral(ANN, world.request(), EXEC) for _ in range(20)))
    assert len({sandbox.sandbox_id for sandbox, _ in found}) == 1
    assert world.boots == 1
    await asyncio.gather(engine.dispose(EXEC), engine.dispose(EXEC))
    assert (world.machines, world.store.sandboxes()) == ({}, [])
    await engine.dispose(EXEC)
    with pytest.raises(NotFound):
        await engine.ephemeral_of(ANN, EXEC)


async def test_its_row_is_there_before_it_and_holds_no_files_of_the_host(world: World) -> None:
    world.root = world.root.__class__(
        kind=world.root.kind, files=(RootFile(path="/etc/passwd", content=b"x" * 9000),), binds=world.root.binds
    )
    engine = world.engine()
    gate = world.closed_gate("boot")
    task = asyncio.create_task(engine.ephemeral(ANN, world.request(), EXEC))
    while not world.store.sandboxes():
        await asyncio.sleep(0)
    (row,) = world.store.sandboxes()
    assert (row.status, row.ephemeral, row.exec_id, row.spec.root.files, row.spec.root.binds) == (Status.CREATING, True, EXEC, (), ())
    gate.set()
    sandbox, grant = await task
    assert world.machines[sandbox.sandbox_id].spec.root.files == grant.spec.root.files != ()


async def test_it_is_listed_only_on_demand_and_ends_by_itself_without_an_engine(world: World) -> None:
    engine = world.engine()
    sandbox, _ = await engine.ephemeral(ANN, world.request(), EXEC)
    assert await engine.sandboxes(ANN, SandboxFilter()) == []
    assert [info.sandbox_id for info in await engine.sandboxes(ANN, SandboxFilter(ephemeral=True))] == [sandbox.sandbox_id]
    assert (world.machines[sandbox.sandbox_id].spec.linger_s or 0) > 60


async def test_one_that_cannot_be_built_leaves_no_row(world: World) -> None:
    engine = world.engine()
    world.failing_gate("boot")
    with pytest.raises(LaunchFailed):
        await engine.ephemeral(ANN, world.request(), EXEC)
    assert world.store.sandboxes() == []
    world.gates.clear()
    await engine.ephemeral(ANN, world.request(), EXEC)


async def test_one_whose_row_cannot_be_stored_is_removed(world: World) -> None:
    class Failing(MemoryStore):
        broken = False

        def update(self, *arguments: object) -> None:
            if self.broken:
                raise StoreFailed("disk full")
            super().update(*arguments)  # type: ignore[arg-type]

    store = world.store = Failing()
    engine = world.engine()
    store.broken = True
    with pytest.raises(StoreFailed):
        await engine.ephemeral(ANN, world.request(), EXEC)
    assert world.machines == {}
    store.broken = False
    await engine.collect_garbage(ANN)
    assert store.sandboxes() == []


async def test_one_that_its_caller_left_before_it_was_made_is_removed_later(world: World) -> None:
    engine = world.engine()
    await engine.recover()
    gate = world.closed_gate("boot")
    task = asyncio.create_task(engine.ephemeral(ANN, world.request(), EXEC))
    while not world.store.sandboxes():
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()
    await engine._core.operations.drain()
    assert len(world.machines) == 1
    world.now += 61
    engine._upkeep.tick()
    await engine._core.operations.drain()
    assert world.machines == {}


async def test_a_removal_that_fails_is_made_up_for(world: World) -> None:
    engine = world.engine()
    await engine.recover()
    await engine.ephemeral(ANN, world.request(), EXEC)
    world.failing_gate("destroy")
    with pytest.raises(LaunchFailed):
        await engine.dispose(EXEC)
    world.gates.clear()
    await engine.dispose(EXEC)
    assert (world.machines, world.store.sandboxes()) == ({}, [])


async def test_a_block_is_one_of_them(world: World) -> None:
    engine = world.engine()
    async with engine.sandbox(ANN, world.request()) as (sandbox, grant):
        assert (await sandbox.exec(Command(argv=(b"true",)))).exit_code == 0
        assert grant.spec.name == sandbox.spec.name
    assert (world.machines, world.store.sandboxes()) == ({}, [])


async def test_its_life_is_told(world: World) -> None:
    engine = world.engine()
    sandbox, _ = await engine.ephemeral(ANN, world.request(argv=(b"echo", b"a b")), EXEC)
    engine.started(ANN, sandbox, Command(argv=(b"echo", b"a b"), environment={b"TOKEN": b"hunter2"}), EXEC)
    assert engine.busy() == 1
    engine.ended(ANN, sandbox, EXEC, ExitStatus(exit_code=3))
    assert engine.busy() == 0
    await engine.dispose(EXEC)
    events = [event async for event in engine.events(ANN, EventFilter())]
    assert [(event.kind, event.exec_id) for event in events] == [
        ("sandbox.created", EXEC),
        ("exec.started", EXEC),
        ("exec.ended", EXEC),
        ("sandbox.removed", EXEC),
    ]
    assert dict(events[1].details) == {"argv": "echo 'a b'", "env": "TOKEN"}
    assert dict(events[2].details)["exit_code"] == "3"
    assert "hunter2" not in repr(events)


async def test_values_that_a_caller_gave_are_never_stored(world: World) -> None:
    engine = world.engine()
    request = world.request(
        environment={"TOKEN": "s3cret", "PATH": "/mine"}, pass_environment=True, host_environment={"MY_SETTING": "s3cret-vi"}
    )
    sandbox, grant = await engine.ephemeral(ANN, request, EXEC)
    given = dict(world.machines[sandbox.sandbox_id].spec.environment)
    assert (
        (given["TOKEN"], given["PATH"], given["MY_SETTING"])
        == ("s3cret", "/mine", "s3cret-vi")
        == tuple(dict(grant.spec.environment)[name] for name in ("TOKEN", "PATH", "MY_SETTING"))
    )
    (row,) = world.store.sandboxes()
    assert "s3cret" not in repr(row)
    assert dict(row.spec.environment)["HOME"] == given["HOME"]


async def test_a_command_that_is_asked_for_again_after_a_crash_has_its_variables(world: World) -> None:
    request = world.request(environment={"TOKEN": "s3cret"})
    sandbox, _ = await world.engine().ephemeral(ANN, request, EXEC)
    (row,) = world.store.sandboxes()
    world.machines[sandbox.sandbox_id].spec = row.spec  # as a backend takes it up
    after = world.engine()
    await after.recover()
    again, grant = await after.ephemeral(ANN, request, EXEC)
    assert (again.sandbox_id, world.boots) == (sandbox.sandbox_id, 1)
    assert dict(again.spec.environment)["TOKEN"] == dict(grant.spec.environment)["TOKEN"] == "s3cret"
    assert "s3cret" not in repr(world.store.sandboxes())
