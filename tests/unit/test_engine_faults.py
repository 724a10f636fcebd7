"""What the host refuses in the middle of an operation: callers are told by an error of the tree, and nothing is left that nobody knows of."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from unit.engine_world import ANN, ScriptedSandbox, World

from agentkernel import failpoints
from agentkernel.engine.admission import Limits
from agentkernel.engine.engine import Engine
from agentkernel.errors import AgentKernelError, Busy, LaunchFailed, NotFound, SandboxFailed, StoreFailed
from agentkernel.model.command import Command
from agentkernel.model.record import CreateOptions, EventFilter, SandboxFilter
from agentkernel.model.status import Status
from agentkernel.store.memory import MemoryStore

EVERY = SandboxFilter(limit=1000, ephemeral=True)
EXEC = 7
FULL = OSError(errno.EMFILE, "Too many open files")


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


async def _make(engine: Any, world: World, name: str = "one", **options: Any) -> Any:
    return await engine.create(ANN, world.request(), CreateOptions(name=name, **options))


async def _told(engine: Any) -> list[tuple[str, str]]:
    return [(event.kind, event.outcome) async for event in engine.events(ANN, EventFilter(limit=1000))]


def _fail_at(monkeypatch: pytest.MonkeyPatch, *steps: str) -> None:
    monkeypatch.setattr(failpoints, "_rules", failpoints.parse(",".join(f"{step}=error:EIO" for step in steps)))


@pytest.mark.parametrize("what", ["boot", "recover", "stop", "destroy", "discard"])
async def test_an_error_of_the_host_is_one_of_the_tree_to_every_caller(world: World, engine: Any, what: str) -> None:
    await _make(engine, world, "stopped")
    await _make(engine, world, "running", start=True)
    await engine.ephemeral(ANN, world.request(), EXEC)
    acts = {
        "boot": (
            lambda: engine.start(ANN, "stopped"),
            lambda: _make(engine, world, "new", start=True),
            lambda: engine.ephemeral(ANN, world.request(), EXEC + 1),
        ),
        "recover": (lambda: engine.info(ANN, "running"), lambda: engine.ephemeral_of(ANN, EXEC), lambda: engine.dispose(EXEC)),
        "stop": (lambda: engine.stop(ANN, "running"),),
        "destroy": (lambda: engine.remove(ANN, "running", force=True), lambda: engine.dispose(EXEC)),
        "discard": (lambda: engine.remove(ANN, "stopped"),),
    }
    if what == "recover":
        await engine.close()
        world.engines.remove(engine)
        engine = world.engine()
        engine._reconciler.take_stock()
    world.failing_gate(what, FULL)
    if what == "recover":
        world.gates["discard"] = world.gates["recover"]
    for act in acts[what]:
        with pytest.raises(SandboxFailed, match="Too many open files"):
            await act()
    world.gates.clear()
    await engine.collect_garbage(ANN)
    assert all(info.status in (Status.RUNNING, Status.STOPPED) for info in await engine.sandboxes(ANN, EVERY))


async def test_an_error_of_the_host_is_told_in_the_trail(world: World, engine: Any) -> None:
    await _make(engine, world, start=True)
    world.failing_gate("stop", FULL)
    with pytest.raises(SandboxFailed):
        await engine.stop(ANN, "one")
    assert (await _told(engine))[-1] == ("sandbox.stopped", "sandbox_failed")


async def test_commands_in_a_sandbox_fail_by_the_tree_too_and_are_told(world: World, engine: Any) -> None:
    async def refuse(sandbox: ScriptedSandbox, command: Command) -> Any:
        raise FULL

    await _make(engine, world, start=True)
    world.run = refuse
    with pytest.raises(SandboxFailed, match="Too many"):
        await (await engine.open(ANN, "one")).exec(Command(argv=(b"true",)))
    assert (await _told(engine))[-1] == ("exec.ended", "sandbox_failed")
    assert engine._core.registry.commands() == 0


@pytest.mark.parametrize("step", ["stored", "booted", "running"])
async def test_a_start_that_fails_after_the_boot_leaves_nothing_running(
    world: World, engine: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    made = await _make(engine, world)
    _fail_at(monkeypatch, f"engine.start.{step}")
    with pytest.raises(SandboxFailed):
        await engine.start(ANN, "one")
    monkeypatch.undo()
    info = await engine.info(ANN, "one")
    assert (info.status, "could not be started" in info.reason) == (Status.STOPPED, True)
    assert not any(machine.running for machine in world.machines.values())
    assert (len(engine._core.registry), engine._core.unsettled) == (0, set())
    assert (await engine.start(ANN, "one")).sandbox_id == made.sandbox_id


async def test_a_start_whose_end_fails_too_is_settled_by_the_next_request(
    world: World, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await _make(engine, world)
    world.failing_gate("stop", FULL)
    _fail_at(monkeypatch, "engine.start.booted")
    with pytest.raises(SandboxFailed, match="failpoint"):
        await engine.start(ANN, "one")
    assert world.machines[made.sandbox_id].running
    monkeypatch.undo()
    world.gates.clear()
    assert (await engine.info(ANN, "one")).status is Status.STOPPED
    assert not world.machines[made.sandbox_id].running


@pytest.mark.parametrize("step", ["engine.create.granted", "engine.create.stored", "engine.start.booted", "engine.start.running"])
async def test_what_cannot_be_created_to_run_leaves_nothing(world: World, engine: Any, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    _fail_at(monkeypatch, step)
    with pytest.raises(SandboxFailed):
        await _make(engine, world, start=True)
    assert (world.machines, world.store.sandboxes(), engine._core.unsettled, len(engine._core.registry)) == ({}, [], set(), 0)


@pytest.mark.parametrize("step", ["granted", "stored", "booted", "running"])
async def test_a_commands_sandbox_that_cannot_be_made_leaves_nothing(
    world: World, engine: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    _fail_at(monkeypatch, f"engine.ephemeral.{step}")
    with pytest.raises(SandboxFailed):
        await engine.ephemeral(ANN, world.request(), EXEC)
    assert (world.machines, world.store.sandboxes(), engine._core.unsettled, len(engine._core.registry)) == ({}, [], set(), 0)


async def test_what_cannot_be_removed_after_a_failure_is_removed_later(world: World, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _fail_at(monkeypatch, "engine.start.running")
    world.failing_gate("discard", FULL)
    world.failing_gate("stop", FULL)
    with pytest.raises(SandboxFailed, match="failpoint"):
        await _make(engine, world, start=True)
    monkeypatch.undo()
    world.gates.clear()
    await engine.collect_garbage(ANN)
    assert (world.machines, world.store.sandboxes()) == ({}, [])


@pytest.mark.parametrize("step", ["begun", "destroyed"])
async def test_a_commands_sandbox_whose_removal_failed_is_removed_by_the_timer(
    world: World, engine: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    await engine.ephemeral(ANN, world.request(), EXEC)
    _fail_at(monkeypatch, f"engine.dispose.{step}")
    with pytest.raises(SandboxFailed):
        await engine.dispose(EXEC)
    monkeypatch.undo()
    engine._upkeep.tick()
    await engine._core.operations.drain()
    await engine._reconciler.settle_all()
    assert (world.machines, world.store.sandboxes()) == ({}, [])


async def test_a_failure_of_the_store_cuts_off_nobody_who_uses_the_sandbox(world: World) -> None:
    class Failing(MemoryStore):
        broken = False

        def update(self, *arguments: Any) -> None:
            self._check()
            super().update(*arguments)

        def get(self, sandbox_id: str) -> Any:
            if self.broken and self._looks == 0:
                raise StoreFailed("the disk is gone")
            self._looks -= self.broken
            return super().get(sandbox_id)

        def _check(self) -> None:
            if self.broken:
                raise StoreFailed("the disk is gone")

        _looks = 1

    store = world.store = Failing()
    engine = world.engine()
    await _make(engine, world, start=True)
    handle = await engine.open(ANN, "one")
    store.broken = True
    with pytest.raises(StoreFailed):
        await engine.stop(ANN, "one")
    store.broken = False
    assert engine._core.unsettled
    assert (await engine.info(ANN, "one")).status is Status.RUNNING
    assert (await handle.exec(Command(argv=(b"true",)))).exit_code == 0


async def test_the_failure_of_an_operation_is_told_though_its_caller_has_gone(world: World, engine: Any) -> None:
    await _make(engine, world)
    gate = asyncio.Event()

    async def fail_later(sandbox_id: str) -> None:
        await gate.wait()
        raise LaunchFailed("no room")

    world.gates["boot"] = fail_later
    acts = (
        engine.start(ANN, "one"),
        _make(engine, world, "two", start=True),
        engine.ephemeral(ANN, world.request(), EXEC),
    )
    tasks = [asyncio.create_task(act) for act in acts]
    while len(world.store.sandboxes()) < 3 or (await engine.info(ANN, "one")).status is not Status.STARTING:
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    gate.set()
    await engine._core.operations.drain()
    failed = [event for event in await _told(engine) if event[1] != "ok"]
    assert sorted(failed) == [("sandbox.created", "launch_failed")] * 2 + [("sandbox.started", "launch_failed")]


async def test_a_sandbox_whose_client_leaves_while_it_is_made_is_removed_at_once_when_told(world: World, engine: Any) -> None:
    gate = world.closed_gate("boot")
    making = asyncio.create_task(engine.ephemeral(ANN, world.request(), EXEC))
    await asyncio.sleep(0)
    making.cancel()
    disposing = asyncio.create_task(engine.dispose(EXEC))  # before there is a row
    while not world.store.sandboxes():
        await asyncio.sleep(0)
    gate.set()
    await disposing
    assert (world.machines, world.store.sandboxes()) == ({}, [])
    with pytest.raises(NotFound):
        await engine.ephemeral_of(ANN, EXEC)


async def test_a_block_that_is_cancelled_while_it_is_made_leaves_nothing(world: World, engine: Any) -> None:
    async def use() -> None:
        async with engine.sandbox(ANN, world.request()):
            raise AssertionError("it was cancelled before")

    gate = world.closed_gate("boot")
    task = asyncio.create_task(use())
    while not world.store.sandboxes():
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (world.machines, world.store.sandboxes()) == ({}, [])


async def test_the_end_of_a_cancelled_block_is_told(world: World) -> None:
    engine = world.engine(Engine)
    inside = asyncio.Event()

    async def use() -> None:
        async with engine.sandbox(ANN, world.request()):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(use())
    await inside.wait()
    task.cancel()
    await asyncio.wait([task])
    assert await _told(engine) == [("sandbox.created", "ok"), ("sandbox.removed", "ok")]


async def test_a_quota_holds_for_commands_that_come_at_once(world: World) -> None:
    world.limits = Limits(sandboxes=5)
    engine = world.engine()
    made = await asyncio.gather(*(engine.ephemeral(ANN, world.request(), EXEC + n) for n in range(20)), return_exceptions=True)
    assert sum(isinstance(each, Busy) for each in made) == 15
    assert len(world.store.sandboxes()) == 5


async def test_an_engine_in_process_that_cannot_remove_one_removes_the_others_and_leaves_it_to_be_swept(world: World) -> None:
    engine = world.engine(Engine)
    for name in ("one", "two", "three"):
        await _make(engine, world, name, start=True)
    stuck = (await engine.info(ANN, "two")).sandbox_id

    async def refuse(sandbox_id: str) -> None:
        if sandbox_id == stuck:
            raise FULL

    world.gates["destroy"] = refuse
    with pytest.raises(AgentKernelError, match="Too many"):
        await engine.close()
    world.engines.remove(engine)
    assert list(world.machines) == [stuck]
    world.gates.clear()
    world.store = MemoryStore()
    after = world.engine()
    await after.recover()
    await after.settled()
    assert world.machines == {}


async def test_nothing_is_swept_before_the_rows_are_known(world: World) -> None:
    made = await _make(world.engine(), world, start=True)
    await world.engine().ephemeral(ANN, world.request(), EXEC)  # an engine that was not told to recover
    assert world.machines[made.sandbox_id].running


async def test_one_sandbox_that_cannot_be_asked_keeps_the_timer_from_nothing(world: World) -> None:
    before = world.engine()
    stuck = await _make(before, world, "stuck", start=True)
    await _make(before, world, "short", ttl_s=5)
    gate = world.closed_gate("recover")
    engine = world.engine()
    await engine.recover()
    world.now += 6
    async with asyncio.timeout(10):
        while world.store.find("ann", "short") is not None:
            await asyncio.sleep(0.01)
    gate.set()
    await engine.settled()
    assert (await engine.info(ANN, "stuck")).sandbox_id == stuck.sandbox_id


async def test_an_engine_that_closes_while_it_recovers_tells_nothing_that_is_not_so(world: World) -> None:
    before = world.engine()
    made = await _make(before, world, start=True)
    engine = world.engine()
    await engine.recover()
    await engine.settled()
    live = engine._core.registry.get(made.sandbox_id)
    await engine._logs.close()
    engine._logs.record(live, EXEC)  # as its recovery does, when that comes to it late
    assert engine._logs._recordings == {}


async def test_a_renamed_sandbox_says_its_new_name_everywhere(world: World, engine: Any) -> None:
    await _make(engine, world, start=True)
    await engine.rename(ANN, "one", "two")
    assert (await engine.spec(ANN, "two")).name == "two"


async def test_the_log_of_a_sandbox_whose_row_went_just_before_a_crash_goes_with_the_recovery(world: World) -> None:
    kept = await _make(world.engine(), world)
    logs = world.directory / "data" / "logs"
    for sandbox_id in (kept.sandbox_id, "ab" * 8):
        (logs / sandbox_id).mkdir(parents=True)
    engine = world.engine()
    await engine.recover()
    await engine.settled()
    assert [path.name for path in logs.iterdir()] == [kept.sandbox_id]
