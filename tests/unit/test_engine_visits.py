"""Visits: a stopped sandbox runs for as long as somebody needs it, and no longer, whatever becomes of who needed it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit.engine_world import ANN, BOB, ScriptedSandbox, World

from agentkernel.abc import Caller
from agentkernel.engine.reconcile import VISIT_S
from agentkernel.engine.upkeep import RETRY_S
from agentkernel.errors import BackendUnavailable, LaunchFailed, NotFound, Refused, StoreFailed
from agentkernel.model.inspection import ProcessRecord
from agentkernel.model.record import CreateOptions, EventFilter
from agentkernel.model.status import Status

COMMAND = ProcessRecord(exec_id=5, pid=7, running=True, detached=False, started_unix_ms=0, argv=(b"sleep",))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "home").mkdir()
    world = World(directory=tmp_path)
    yield world
    await world.end()


@pytest.fixture
async def engine(world: World) -> Any:
    """With a stopped sandbox `one`."""
    engine = await _recovered(world)
    await engine.create(ANN, world.request(), CreateOptions(name="one"))
    return engine


async def _recovered(world: World) -> Any:
    engine = world.engine()
    await engine.recover()
    await engine.settled()
    return engine


async def _status(engine: Any) -> Status:
    status: Status = (await engine.info(ANN, "one")).status
    return status


async def _later(engine: Any, world: World, seconds: float) -> None:
    world.now += seconds
    engine._upkeep.tick()
    await engine._core.operations.drain()


async def test_a_stopped_sandbox_runs_for_the_visit(engine: Any) -> None:
    async with engine.visit(ANN, "one") as visit:
        assert (visit.is_started, await _status(engine), visit.sandbox.files) == (True, Status.RUNNING, {})
    assert (visit.goes_on, await _status(engine)) == (False, Status.STOPPED)
    kinds = [event.kind async for event in engine.events(ANN, EventFilter(limit=1000))]
    assert kinds == ["sandbox.created", "sandbox.started", "sandbox.stopped"]


async def test_one_that_runs_goes_on(engine: Any) -> None:
    await engine.start(ANN, "one")
    async with engine.visit(ANN, "one") as visit:
        assert not visit.is_started
    assert (visit.goes_on, await _status(engine)) == (True, Status.RUNNING)


async def test_the_last_visitor_counts(engine: Any) -> None:
    async with engine.visit(ANN, "one"):
        async with engine.visit(ANN, "one") as second:
            assert not second.is_started
        assert (second.goes_on, await _status(engine)) == (True, Status.RUNNING)
    assert await _status(engine) is Status.STOPPED


async def test_many_at_once_boot_it_once(engine: Any, world: World) -> None:
    async def visit() -> None:
        async with engine.visit(ANN, "one"):
            await asyncio.sleep(0)

    await asyncio.gather(*(visit() for _ in range(20)))
    assert await _status(engine) is Status.STOPPED
    assert world.boots <= 2  # those that came while it was being stopped share one more


async def test_one_that_somebody_starts_for_good_goes_on(engine: Any, world: World) -> None:
    async with engine.visit(ANN, "one") as visit:
        await engine.start(ANN, "one")
    assert (visit.goes_on, await _status(engine)) == (True, Status.RUNNING)
    again = await _recovered(world)
    await _later(again, world, VISIT_S)
    assert await _status(again) is Status.RUNNING


@pytest.mark.parametrize(
    ("record", "goes_on"), [(COMMAND, True), (replace(COMMAND, running=False), False), (replace(COMMAND, on_files=True), False)]
)
async def test_one_in_which_a_command_runs_goes_on(engine: Any, world: World, record: ProcessRecord, goes_on: bool) -> None:
    async with engine.visit(ANN, "one") as visit:
        (machine,) = world.machines.values()
        machine.commands[record.exec_id] = record
    assert (visit.goes_on, (await _status(engine)) is Status.RUNNING) == (goes_on, goes_on)
    machine.commands.clear()
    await _later(engine, world, VISIT_S)
    assert ((await _status(engine)) is Status.RUNNING) == goes_on


async def test_somebody_may_stop_or_remove_it_under_a_visit(engine: Any, world: World) -> None:
    async with engine.visit(ANN, "one") as visit:
        await engine.stop(ANN, "one")
        await engine.start(ANN, "one")
    assert (visit.goes_on, await _status(engine)) == (True, Status.RUNNING)
    async with engine.visit(ANN, "one") as visit:
        await engine.remove(ANN, "one", force=True)
    assert (visit.goes_on, world.machines) == (False, {})


async def test_a_visit_that_is_cancelled_while_it_boots_is_over(engine: Any, world: World) -> None:
    gate = world.closed_gate("boot")
    arriving = asyncio.create_task(engine.arrive(ANN, "one"))
    while await _status(engine) is not Status.STARTING:
        await asyncio.sleep(0)
    arriving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await arriving
    gate.set()
    await engine._core.operations.drain()
    assert (await _status(engine), world.boots) == (Status.STOPPED, 1)


async def test_a_boot_that_fails_leaves_it_stopped(engine: Any, world: World) -> None:
    world.failing_gate("boot")
    with pytest.raises(LaunchFailed):
        async with engine.visit(ANN, "one"):
            pytest.fail("it does not run")
    assert await _status(engine) is Status.STOPPED
    world.gates.clear()
    async with engine.visit(ANN, "one") as visit:
        assert visit.is_started


async def test_a_stop_that_fails_is_made_up_for(engine: Any, world: World) -> None:
    sandbox, _ = await engine.arrive(ANN, "one")
    world.failing_gate("stop")
    with pytest.raises(LaunchFailed):
        await engine.depart(ANN, sandbox)
    world.gates.clear()
    await _later(engine, world, RETRY_S)
    assert await _status(engine) is Status.STOPPED


class _Flaky:
    """Makes calls of a store fail: all from the `first` on, until it is mended."""

    def __init__(self, store: Any, first: int) -> None:
        self._store = store
        self.calls_left = first
        self.is_mended = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name not in ("get", "find", "update"):
            return method

        def call(*arguments: Any) -> Any:
            if not self.is_mended:
                self.calls_left -= 1
                if self.calls_left < 0:
                    raise StoreFailed("the disk is gone")
            return method(*arguments)

        return call


@pytest.mark.parametrize("command_runs", [False, True])
@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("first", range(5))
async def test_whatever_of_the_store_fails_at_the_end_is_made_up_for(
    engine: Any, world: World, first: int, restarts: bool, command_runs: bool
) -> None:
    """By the timer of the same engine or by the next one; and with a command in it, it is never stopped."""
    sandbox, _ = await engine.arrive(ANN, "one")
    if command_runs:
        (machine,) = world.machines.values()
        machine.commands[COMMAND.exec_id] = COMMAND
    flaky = engine._core._store = _Flaky(world.store, first)
    with suppress(StoreFailed):
        await engine.depart(ANN, sandbox)
    assert world.store.find("ann", "one").visited or flaky.calls_left >= 0
    flaky.is_mended = True
    engine = await _recovered(world) if restarts else engine
    await _later(engine, world, VISIT_S if restarts else RETRY_S)
    assert await _status(engine) is (Status.RUNNING if command_runs else Status.STOPPED)
    found = world.store.find("ann", "one")
    assert (found.visited, [live.visit_by for live in engine._core.registry]) == (False, [None] * command_runs)


@pytest.mark.parametrize("first", range(6))
async def test_whatever_of_the_store_fails_at_the_beginning_leaves_it_stopped(engine: Any, world: World, first: int) -> None:
    flaky = engine._core._store = _Flaky(world.store, first)
    try:
        sandbox, _ = await engine.arrive(ANN, "one")
    except StoreFailed:
        flaky.is_mended = True
        await _later(engine, world, RETRY_S)
    else:
        flaky.is_mended = True
        assert not await engine.depart(ANN, sandbox)
    assert await _status(engine) is Status.STOPPED


async def test_a_backend_that_does_not_answer_is_asked_again_before_it_is_stopped(
    engine: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a command runs in it is not known: it is not taken for dead."""

    async def silent(_: ScriptedSandbox) -> None:
        raise BackendUnavailable("it does not answer", hint="start it")

    sandbox, _ = await engine.arrive(ANN, "one")
    (machine,) = world.machines.values()
    machine.commands[COMMAND.exec_id] = COMMAND
    with monkeypatch.context() as away:
        away.setattr(ScriptedSandbox, "processes", silent)
        with pytest.raises(BackendUnavailable):
            await engine.depart(ANN, sandbox)
    await _later(engine, world, RETRY_S)
    assert (await _status(engine), machine.running) == (Status.RUNNING, True)


async def test_one_that_is_started_for_good_after_a_failure_is_left_alone(engine: Any, world: World) -> None:
    sandbox, _ = await engine.arrive(ANN, "one")
    engine._core._store = _Flaky(world.store, 0)
    with pytest.raises(StoreFailed):
        await engine.depart(ANN, sandbox)
    engine._core._store = world.store
    await engine.start(ANN, "one")
    await _later(engine, world, RETRY_S)
    (live,) = engine._core.registry
    assert (await _status(engine), live.visit_by) == (Status.RUNNING, None)


async def test_visitors_are_use(engine: Any, world: World) -> None:
    await engine.create(ANN, world.request(), CreateOptions(name="idle", idle_s=1.0))
    async with engine.visit(ANN, "idle") as visit:
        await _later(engine, world, 10.0)
        assert (await engine.info(ANN, "idle")).status is Status.RUNNING
    assert not visit.goes_on


@pytest.mark.parametrize("comes_back", [False, True])
async def test_after_a_crash_it_is_stopped_unless_a_visitor_comes_back(engine: Any, world: World, comes_back: bool) -> None:
    await engine.arrive(ANN, "one")
    again = await _recovered(world)
    await _later(again, world, VISIT_S - 1)
    assert await _status(again) is Status.RUNNING
    if comes_back:
        sandbox, is_started = await again.arrive(ANN, "one")
        assert not is_started
        await _later(again, world, VISIT_S)
        assert await _status(again) is Status.RUNNING
        assert not await again.depart(ANN, sandbox)
    else:
        await _later(again, world, 1)
    assert (await _status(again), world.boots) == (Status.STOPPED, 1)


@pytest.mark.parametrize("what", ["boot", "stop"])
async def test_after_a_crash_on_the_way_it_is_stopped(engine: Any, world: World, what: str) -> None:
    world.closed_gate(what)

    async def visit() -> None:
        async with engine.visit(ANN, "one"):
            pass

    visiting = asyncio.create_task(visit())
    while await _status(engine) is not (Status.STARTING if what == "boot" else Status.STOPPING):
        await asyncio.sleep(0)
    world.gates.clear()
    assert await _status(await _recovered(world)) is Status.STOPPED
    visiting.cancel()
    await asyncio.gather(visiting, return_exceptions=True)


@pytest.mark.parametrize(
    ("caller", "error"),
    [(BOB, NotFound), (replace(ANN, scopes=frozenset({"read-only"})), Refused), (replace(ANN, scopes=frozenset({"sandbox:x"})), Refused)],
)
async def test_it_takes_the_right_to_start_it(engine: Any, caller: Caller, error: type[Exception]) -> None:
    with pytest.raises(error):
        await engine.arrive(caller, "one")
    await engine.arrive(replace(ANN, scopes=frozenset({"sandbox:one"})), "one")
