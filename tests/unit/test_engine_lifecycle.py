"""Sandboxes that last: what each operation does in each status, who may do it, and what is left when it is cut short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit.engine_world import ANN, BOB, World

from agentkernel.abc import Caller
from agentkernel.engine.admission import Limits
from agentkernel.errors import (
    AgentKernelError,
    BackendUnavailable,
    Busy,
    Conflict,
    InvalidInput,
    LaunchFailed,
    NotFound,
    Refused,
    SandboxFailed,
    StoreFailed,
)
from agentkernel.model.command import Command
from agentkernel.model.isolation import Presence
from agentkernel.model.record import CreateOptions, EventFilter, SandboxFilter
from agentkernel.model.spec import Bind, RootFile, StorageKind
from agentkernel.model.status import SETTLES_AS, Status
from agentkernel.store.memory import MemoryStore

EVERY = SandboxFilter(limit=1000)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "home").mkdir()
    world = World(directory=tmp_path)
    yield world
    await world.end()


async def _make(engine: Any, world: World, name: str = "one", **options: Any) -> Any:
    return await engine.create(ANN, world.request(), CreateOptions(name=name, **options))


async def _events(engine: Any, caller: Caller = ANN, **wanted: Any) -> list[Any]:
    return [event async for event in engine.events(caller, EventFilter(limit=1000, **wanted))]


async def test_create_start_stop_start_remove_keep_the_files_and_tell_of_it(world: World) -> None:
    engine = world.engine()
    assert (await _make(engine, world)).status is Status.STOPPED
    assert world.machines == {}
    assert (await engine.start(ANN, "one")).status is Status.RUNNING
    (await engine.open(ANN, "one")).files["kept"] = b"yes"
    assert (await engine.stop(ANN, "one")).status is Status.STOPPED
    assert (await engine.start(ANN, "one")).started_at == world.now
    assert (await engine.open(ANN, "one")).files == {"kept": b"yes"}
    await engine.remove(ANN, "one", force=True)
    assert world.machines == {}
    assert await engine.sandboxes(ANN, EVERY) == []
    kinds = [event.kind for event in await _events(engine)]
    assert kinds == ["sandbox.created", "sandbox.started", "sandbox.stopped", "sandbox.started", "sandbox.removed"]


async def test_a_sandbox_that_is_created_to_run_is_creating_until_it_does(world: World) -> None:
    engine = world.engine()
    gate = world.closed_gate("boot")
    creating = asyncio.create_task(_make(engine, world, start=True))
    while not await engine.sandboxes(ANN, EVERY):
        await asyncio.sleep(0)
    assert (await engine.info(ANN, "one")).status is Status.CREATING
    gate.set()
    assert (await creating).status is Status.RUNNING


# What each operation does with a sandbox whose row says the status and that nobody works on: (outcome, status afterwards).
# Those that a crash left in between are settled first, so every operation finds one of the three that last.
GONE = None
TABLE: dict[tuple[Status, str], tuple[str, Status | None]] = {
    (Status.STOPPED, "start"): ("ok", Status.RUNNING),
    (Status.STOPPED, "stop"): ("ok", Status.STOPPED),
    (Status.STOPPED, "remove"): ("ok", GONE),
    (Status.STOPPED, "force"): ("ok", GONE),
    (Status.STOPPED, "open"): ("conflict", Status.STOPPED),
    (Status.STOPPED, "rename"): ("ok", Status.STOPPED),
    (Status.RUNNING, "start"): ("ok", Status.RUNNING),
    (Status.RUNNING, "stop"): ("ok", Status.STOPPED),
    (Status.RUNNING, "remove"): ("conflict", Status.RUNNING),
    (Status.RUNNING, "force"): ("ok", GONE),
    (Status.RUNNING, "open"): ("ok", Status.RUNNING),
    (Status.RUNNING, "rename"): ("ok", Status.RUNNING),
}
OPERATIONS = ("start", "stop", "remove", "force", "open", "rename", "info")


def _expected(status: Status, operation: str) -> tuple[str, Status | None]:
    settled = SETTLES_AS[status]
    if settled is Status.REMOVING:
        return "not_found", GONE
    return TABLE.get((settled, operation), ("ok", settled))  # `info` changes nothing


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("status", [status for status in Status if status is not Status.UNAVAILABLE])
async def test_each_operation_in_each_status_does_what_the_table_says(world: World, status: Status, operation: str) -> None:
    before = world.engine()
    made = await _make(before, world, start=True)
    row = world.store.get(made.sandbox_id)
    assert row is not None
    world.store.update(replace(row, status=status))
    if status is Status.STOPPED:
        world.machines[made.sandbox_id].running = False
    engine = world.engine()
    await engine.recover()
    acts = {
        "start": lambda: engine.start(ANN, "one"),
        "stop": lambda: engine.stop(ANN, "one"),
        "remove": lambda: engine.remove(ANN, "one"),
        "force": lambda: engine.remove(ANN, "one", force=True),
        "open": lambda: engine.open(ANN, "one"),
        "rename": lambda: engine.rename(ANN, "one", "two"),
        "info": lambda: engine.info(ANN, "one"),
    }
    outcome, afterwards = _expected(status, operation)
    if outcome == "ok":
        await acts[operation]()
    else:
        with pytest.raises(AgentKernelError) as caught:
            await acts[operation]()
        assert caught.value.code == outcome
    left = world.store.get(made.sandbox_id)
    assert (None if left is None else left.status) is afterwards
    machine = world.machines.get(made.sandbox_id)
    assert (machine is not None) == (afterwards is not GONE)
    assert machine is None or machine.running == (afterwards is Status.RUNNING)


async def test_a_boot_that_fails_leaves_the_sandbox_stopped_with_the_reason(world: World) -> None:
    engine = world.engine()
    await _make(engine, world)
    world.failing_gate("boot", OSError(28, "No space left on device"))
    with pytest.raises(LaunchFailed, match="No space left"):
        await engine.start(ANN, "one")
    info = await engine.info(ANN, "one")
    assert (info.status, "No space left" in info.reason) == (Status.STOPPED, True)
    world.gates.clear()
    assert (await engine.start(ANN, "one")).reason == ""
    assert [(event.kind, event.outcome) for event in await _events(engine)][1] == ("sandbox.started", "launch_failed")


async def test_what_cannot_be_started_is_not_created(world: World) -> None:
    engine = world.engine()
    world.failing_gate("boot")
    with pytest.raises(LaunchFailed):
        await _make(engine, world, start=True)
    assert (await engine.sandboxes(ANN, EVERY), world.machines) == ([], {})


@pytest.mark.parametrize("what", ["stop", "destroy", "discard"])
async def test_an_end_that_fails_is_brought_to_its_end_by_the_next_request(world: World, what: str) -> None:
    engine = world.engine()
    made = await _make(engine, world, start=what != "discard")
    world.failing_gate(what, LaunchFailed("the host is busy"))
    end = engine.stop(ANN, "one") if what == "stop" else engine.remove(ANN, "one", force=True)
    with pytest.raises(LaunchFailed):
        await end
    world.gates.clear()
    if what == "stop":
        assert (await engine.info(ANN, "one")).status is Status.STOPPED
        assert not world.machines[made.sandbox_id].running
    else:
        with pytest.raises(NotFound):
            await engine.info(ANN, "one")
        assert world.machines == {}


async def test_names_are_unique_per_owner_and_ids_work_everywhere(world: World) -> None:
    engine = world.engine()
    made = await _make(engine, world)
    with pytest.raises(Conflict, match="one"):
        await _make(engine, world)
    other = await engine.create(BOB, world.request(), CreateOptions(name="one"))
    assert (await engine.info(ANN, made.sandbox_id)).name == "one"
    with pytest.raises(NotFound):
        await engine.info(ANN, other.sandbox_id)
    with pytest.raises(NotFound):
        await engine.remove(ANN, other.sandbox_id, force=True)
    assert [info.sandbox_id for info in await engine.sandboxes(BOB, EVERY)] == [other.sandbox_id]
    with pytest.raises(InvalidInput, match="looks like an id"):
        await engine.rename(ANN, "one", other.sandbox_id)


async def test_an_admin_sees_and_ends_everybodys(world: World) -> None:
    engine = world.engine()
    await _make(engine, world)
    other = await engine.create(BOB, world.request(), CreateOptions(name="two", start=True))
    admin = Caller(principal="root", scopes=frozenset({"admin"}))
    assert len(await engine.sandboxes(admin, EVERY)) == 2
    await engine.remove(admin, other.sandbox_id, force=True)
    assert world.machines == {}
    assert {event.principal for event in await _events(engine, admin)} == {"ann", "bob", "root"}
    assert {event.principal for event in await _events(engine)} == {"ann"}
    assert await _events(engine, principal="bob") == []


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        ("full", {"create", "info", "start", "open", "stop", "rename", "remove", "run", "list", "events"}),
        ("read-only", {"info", "list", "events"}),
        ("run-only", {"run"}),
        ("sandbox:one", {"info", "start", "open", "stop", "list", "events"}),
        ("sandbox:two", {"list", "events"}),
        ("unheard-of", set()),
    ],
)
async def test_scopes_allow_what_the_table_of_operations_says(world: World, scope: str, allowed: set[str]) -> None:
    engine = world.engine()
    await _make(engine, world)
    caller = Caller(principal="ann", scopes=frozenset({scope}))

    async def run() -> None:
        async with engine.sandbox(caller, world.request()):
            pass

    async def events() -> None:
        await _events(engine, caller)

    acts = {
        "create": lambda: engine.create(caller, world.request(), CreateOptions(name="new")),
        "info": lambda: engine.info(caller, "one"),
        "start": lambda: engine.start(caller, "one"),
        "open": lambda: engine.open(caller, "one"),
        "stop": lambda: engine.stop(caller, "one"),
        "rename": lambda: engine.rename(caller, "one", "one"),
        "list": lambda: engine.sandboxes(caller, EVERY),
        "events": events,
        "run": run,
        "remove": lambda: engine.remove(caller, "one", force=True),
    }
    done = set()
    for name, act in acts.items():
        if name == "open":
            await engine.start(ANN, "one")
        try:
            await act()
            done.add(name)
        except Refused:
            continue
    assert done == allowed


async def test_a_narrow_caller_lists_only_its_sandbox(world: World) -> None:
    engine = world.engine()
    for number in range(7):
        await _make(engine, world, f"number-{number}")
    caller = Caller(principal="ann", scopes=frozenset({"sandbox:number-5"}))
    assert [info.name for info in await engine.sandboxes(caller, SandboxFilter(limit=1))] == ["number-5"]
    assert {event.sandbox for event in await _events(engine, caller)} == {"number-5"}


async def test_a_cancelled_caller_leaves_no_operation_half_done(world: World) -> None:
    engine = world.engine()
    await _make(engine, world)
    for gate_name, begin, goal in (
        ("boot", lambda: engine.start(ANN, "one"), Status.RUNNING),
        ("stop", lambda: engine.stop(ANN, "one"), Status.STOPPED),
    ):
        gate = world.closed_gate(gate_name)
        task = asyncio.create_task(begin())
        while (await engine.info(ANN, "one")).status not in (Status.STARTING, Status.STOPPING):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()
        await engine._core.operations.drain()
        assert (await engine.info(ANN, "one")).status is goal


async def test_a_slow_boot_and_a_slow_command_block_nobody_else(world: World) -> None:
    engine = world.engine()
    await _make(engine, world, "quick", start=True)
    await _make(engine, world, "slow")
    gate = world.closed_gate("boot")
    booting = asyncio.create_task(engine.start(ANN, "slow"))
    await asyncio.sleep(0)
    quick = await engine.open(ANN, "quick")
    assert (await quick.exec(Command(argv=(b"true",)))).exit_code == 0
    assert len(await engine.sandboxes(ANN, EVERY)) == 2
    assert (await engine.info(ANN, "slow")).status is Status.STARTING
    opening = asyncio.create_task(engine.open(ANN, "slow"))
    gate.set()
    await booting
    assert (await opening).sandbox_id == (await engine.info(ANN, "slow")).sandbox_id

    release = asyncio.Event()

    async def wait(sandbox: Any, command: Command) -> Any:
        await release.wait()
        raise AgentKernelError("done")

    world.run = wait
    busy = asyncio.create_task(quick.exec(Command(argv=(b"sleep",))))
    await asyncio.sleep(0)
    assert engine.busy() == 1
    await engine.rename(ANN, "quick", "renamed")
    await engine.stop(ANN, "slow")
    release.set()
    with pytest.raises(AgentKernelError, match="done"):
        await busy
    assert engine.busy() == 0


async def test_two_hundred_are_created_started_and_removed_at_once(world: World) -> None:
    world.limits = Limits(boots=4)
    engine = world.engine()
    booting, most = 0, 0

    async def count(sandbox_id: str) -> None:
        nonlocal booting, most
        booting += 1
        most = max(most, booting)
        await asyncio.sleep(0.001)
        booting -= 1

    world.gates["boot"] = count

    async def one(number: int) -> None:
        name = f"many-{number}"
        await _make(engine, world, name, start=number % 2 == 0)
        await asyncio.gather(engine.start(ANN, name), engine.start(ANN, name), engine.stop(ANN, name))
        await asyncio.gather(engine.remove(ANN, name, force=True), engine.info(ANN, name), return_exceptions=True)

    await asyncio.gather(*(one(number) for number in range(200)))
    assert most == 4
    assert (world.machines, world.store.sandboxes(), len(engine._core.census), len(engine._core.registry)) == ({}, [], 0, 0)
    assert engine._core.locks._locks == {}


async def test_a_full_queue_and_a_full_quota_refuse_before_anything_is_stored(world: World) -> None:
    world.limits = Limits(boots=1, queue=1, sandboxes=3)
    engine = world.engine()
    gate = world.closed_gate("boot")
    tasks = [asyncio.create_task(_make(engine, world, f"n{number}", start=True)) for number in range(3)]
    with pytest.raises(Busy, match="wait to be built"):
        await tasks[2]
    assert len(world.store.sandboxes()) == 2
    gate.set()
    await asyncio.gather(*tasks[:2])
    await _make(engine, world, "third")
    with pytest.raises(Busy, match="may have 3") as caught:
        await _make(engine, world, "fourth")
    assert "remove" in caught.value.hint
    await engine.create(BOB, world.request(), CreateOptions(name="bobs"))
    await engine.remove(ANN, "third")
    await _make(engine, world, "fourth")


async def test_a_request_that_is_repeated_with_its_key_makes_nothing_twice(world: World) -> None:
    engine = world.engine()
    first, second = await asyncio.gather(*(_make(engine, world, start=True, request_key="k" * 32) for _ in range(2)))
    assert (first.sandbox_id, world.boots) == (second.sandbox_id, 1)
    again = world.engine()
    await again.recover()
    assert (await _make(again, world, start=True, request_key="k" * 32)).sandbox_id == first.sandbox_id
    with pytest.raises(Conflict):
        await _make(again, world, request_key="other")


async def test_a_request_that_a_crash_cut_short_is_done_when_it_is_repeated(world: World) -> None:
    engine = world.engine()
    booting, never = asyncio.Event(), asyncio.Event()

    async def hang(sandbox_id: str) -> None:
        booting.set()
        await never.wait()

    world.gates["boot"], world.closed = hang, [never]
    asyncio.create_task(_make(engine, world, start=True, request_key="k" * 32)).add_done_callback(lambda task: task.exception())
    await booting.wait()
    rows = world.store.sandboxes()
    world.gates.clear()
    again = world.engine()
    again._reconciler.take_stock()
    made = await asyncio.gather(*(_make(again, world, start=True, request_key="k" * 32) for _ in range(3)))
    assert {(info.status, info.sandbox_id == rows[0].sandbox_id) for info in made} == {(Status.RUNNING, False)}
    assert len(world.store.sandboxes()) == len({info.sandbox_id for info in made}) == 1


async def test_a_sandbox_that_dies_is_stopped_with_a_reason(world: World) -> None:
    engine = world.engine()
    made = await _make(engine, world, start=True)
    handle = await engine.open(ANN, "one")
    world.machines[made.sandbox_id].running = False
    with pytest.raises(AgentKernelError, match="died"):
        await handle.exec(Command(argv=(b"true",)))
    await engine._core.operations.drain()
    info = await engine.info(ANN, "one")
    assert (info.status, info.reason) == (Status.STOPPED, "the sandbox died: killed by the test")
    with pytest.raises(Conflict, match="killed by the test") as caught:
        await engine.open(ANN, "one")
    assert "agentkernel start one" in caught.value.hint
    assert "sandbox.lost" in [event.kind for event in await _events(engine)]


async def test_a_sandbox_that_dies_unused_is_stopped_at_once_and_a_start_boots_it_with_its_files(world: World) -> None:
    engine = world.engine()
    made = await _make(engine, world, start=True)
    (await engine.open(ANN, "one")).files["kept"] = b"yes"
    world.machines[made.sandbox_id].die()
    await engine._core.operations.drain()
    (info,) = await engine.sandboxes(ANN, EVERY)
    assert (info.status, info.reason) == (Status.STOPPED, "the sandbox died: killed by the test")
    assert (await engine.start(ANN, "one")).status is Status.RUNNING
    assert (await engine.open(ANN, "one")).files == {"kept": b"yes"}
    assert (await engine.info(ANN, "one")).reason == "" and world.boots == 2
    world.machines[made.sandbox_id].die()  # and again
    await engine._core.operations.drain()
    assert (await engine.info(ANN, "one")).status is Status.STOPPED
    kinds = [event.kind for event in await _events(engine)]
    assert kinds == ["sandbox.created", "sandbox.lost", "sandbox.started", "sandbox.lost"]


async def test_a_start_boots_one_that_has_died_unnoticed(world: World) -> None:
    engine = world.engine()
    made = await _make(engine, world, start=True)
    world.machines[made.sandbox_id].running = False
    info = await engine.start(ANN, "one")
    assert (info.status, world.boots, world.machines[made.sandbox_id].running) == (Status.RUNNING, 2, True)
    assert [event.kind for event in await _events(engine)] == ["sandbox.created", "sandbox.lost", "sandbox.started"]


async def test_one_that_died_unnoticed_is_visited_as_a_stopped_one(world: World) -> None:
    engine = world.engine()
    made = await _make(engine, world, start=True)
    world.machines[made.sandbox_id].running = False
    async with engine.visit(ANN, "one") as visit:
        assert visit.is_started and world.boots == 2
    assert (await engine.info(ANN, "one")).status is Status.STOPPED


async def test_what_is_left_of_a_dead_one_and_cannot_be_ended_now_is_so_later(world: World) -> None:
    engine = world.engine()
    made = await _make(engine, world, start=True)
    world.failing_gate("stop", BackendUnavailable("no engine answers"))
    world.machines[made.sandbox_id].die()
    await engine._core.operations.drain()
    row = world.store.get(made.sandbox_id)
    assert row is not None and row.status is Status.STOPPING
    world.gates.clear()
    info = await engine.start(ANN, "one")
    assert (info.status, world.boots) == (Status.RUNNING, 2)


@pytest.mark.parametrize("lives", [True, False])
@pytest.mark.parametrize("error", [BackendUnavailable("no engine answers"), SandboxFailed("the channel failed: no descriptor is left")])
async def test_one_that_is_out_of_reach_is_taken_up_again_or_found_dead(world: World, lives: bool, error: AgentKernelError) -> None:
    engine = world.engine()
    made = await _make(engine, world, start=True)
    world.failing_gate("recover", BackendUnavailable("no engine answers"))
    world.machines[made.sandbox_id].tell(error)
    await engine._core.operations.drain()
    with pytest.raises(BackendUnavailable):
        await engine.open(ANN, "one")
    world.gates.clear()
    world.machines[made.sandbox_id].running = lives
    await engine._reconciler.settle_all()
    assert (await engine.info(ANN, "one")).status is (Status.RUNNING if lives else Status.STOPPED)
    assert (await engine.start(ANN, "one")).status is Status.RUNNING
    assert world.boots == 1 + (not lives)


async def test_one_whose_files_somebody_else_removed_is_not_started_empty(world: World) -> None:
    engine = world.engine()
    made = await _make(engine, world, start=True)
    await engine.stop(ANN, "one")
    del world.machines[made.sandbox_id]  # `docker container prune`, say
    for _ in range(2):
        with pytest.raises(LaunchFailed, match="files of sandbox 'one' are gone") as caught:
            await engine.start(ANN, "one")
        assert "agentkernel remove one" in caught.value.hint
    assert (await engine.info(ANN, "one")).status is Status.STOPPED and world.machines == {}
    await engine.remove(ANN, "one")
    await _make(engine, world, start=True)


async def test_a_death_that_a_front_end_reports_is_examined(world: World) -> None:
    engine = world.engine()
    made = await _make(engine, world, start=True)
    handle = await engine.open(ANN, "one")
    world.machines[made.sandbox_id].running = False
    engine.ended(ANN, handle, 5, None, "sandbox_lost")
    await engine._core.operations.drain()
    assert (await engine.info(ANN, "one")).status is Status.STOPPED


async def test_a_command_that_is_lost_alone_ends_nothing_else(world: World) -> None:
    engine = world.engine()
    await _make(engine, world, start=True)
    handle = await engine.open(ANN, "one")

    async def lose(sandbox: Any, command: Command) -> Any:
        raise LaunchFailed("the agent no longer knows the command")

    world.run = lose
    with pytest.raises(LaunchFailed):
        await handle.exec(Command(argv=(b"true",)))
    await engine._core.operations.drain()
    assert (await engine.info(ANN, "one")).status is Status.RUNNING


async def test_closing_a_handle_leaves_the_others(world: World) -> None:
    engine = world.engine()
    await _make(engine, world, start=True)
    first, second = await engine.open(ANN, "one"), await engine.open(ANN, "one")
    await first.close()
    assert (await second.exec(Command(argv=(b"true",)))).exit_code == 0
    await second.stop()
    assert (await engine.info(ANN, "one")).status is Status.STOPPED
    await engine.start(ANN, "one")
    await (await engine.open(ANN, "one")).destroy()
    assert world.machines == {}


async def test_a_vanished_backend_shows_as_unavailable_and_is_refused(world: World) -> None:
    before = world.engine()
    made = await _make(before, world, start=True)
    world.backend_is_there = False
    engine = world.engine()
    await engine.recover()
    assert [info.status for info in await engine.sandboxes(ANN, EVERY)] == [Status.UNAVAILABLE]
    assert [info.status for info in await engine.sandboxes(ANN, SandboxFilter(statuses=(Status.UNAVAILABLE,)))] == [Status.UNAVAILABLE]
    assert await engine.sandboxes(ANN, SandboxFilter(statuses=(Status.RUNNING,))) == []
    assert (await engine.info(ANN, "one")).status is Status.UNAVAILABLE
    for refused in (engine.open(ANN, "one"), engine.start(ANN, "one"), engine.stop(ANN, "one"), engine.remove(ANN, "one")):
        with pytest.raises(BackendUnavailable):
            await refused
    assert world.machines[made.sandbox_id].running
    await engine.remove(ANN, "one", force=True)
    assert await engine.sandboxes(ANN, EVERY) == []
    world.backend_is_there = True
    engine = world.engine()
    await engine.recover()
    await engine.settled()
    assert world.machines == {}  # what a forced removal left behind was swept


async def test_a_backend_that_the_host_shows_nothing_of_any_more_is_unavailable_without_being_asked(world: World) -> None:
    before = world.engine()
    await _make(before, world, start=True)
    world.present = Presence(reason="there is no socket of it", remedy="start it")
    engine = world.engine()
    await engine.recover()
    assert [info.status for info in await engine.sandboxes(ANN, EVERY)] == [Status.UNAVAILABLE]
    with pytest.raises(BackendUnavailable, match="there is no socket of it") as caught:
        await engine.stop(ANN, "one")
    assert caught.value.hint == "start it; or remove --force"


async def test_a_backend_that_does_not_answer_shows_as_unavailable_until_it_does(world: World) -> None:
    before = world.engine()
    await _make(before, world, start=True)
    world.failing_gate("recover", BackendUnavailable("its engine does not answer", hint="start it"))
    engine = world.engine()
    await engine.recover()
    await engine.settled()
    assert [info.status for info in await engine.sandboxes(ANN, EVERY)] == [Status.UNAVAILABLE]
    with pytest.raises(BackendUnavailable, match="does not answer"):
        await engine.open(ANN, "one")
    world.gates.clear()
    await (await engine.open(ANN, "one")).close()
    assert [info.status for info in await engine.sandboxes(ANN, EVERY)] == [Status.RUNNING]


async def test_the_hosts_system_is_found_again_at_each_start(world: World) -> None:
    engine = world.engine()
    world.root = replace(world.root, files=(RootFile(path="/etc/hosts", content=b"old"),), binds=(Bind(source="/usr", target="/usr"),))
    made = await _make(engine, world)
    row = world.store.get(made.sandbox_id)
    assert row is not None and row.spec.root.files == ()
    world.root = replace(world.root, files=(RootFile(path="/etc/hosts", content=b"new"),))
    await engine.start(ANN, "one")
    assert world.machines[made.sandbox_id].spec.root.files == world.root.files
    shown = await engine.spec(ANN, "one")
    assert (shown.root.files, shown.root.binds, shown.name, shown.storage) == ((), (), "one", StorageKind.DISK)


async def test_a_link_that_took_the_place_of_what_was_shown_shows_nothing(world: World, tmp_path: Path) -> None:
    engine = world.engine()
    bundle, inner, other = tmp_path / "bundle.pem", tmp_path / "certificates" / "ca.pem", tmp_path / "other"
    for path in (bundle, inner, other / "ca.pem"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("certificates")
    usr = Bind(source="/usr", target="/usr")
    shown = tuple(Bind(source=str(path), target=str(path)) for path in (bundle, inner))
    world.root = replace(world.root, binds=(usr, *shown))
    made = await _make(engine, world)
    world.root = replace(world.root, binds=(usr,))
    await engine.start(ANN, "one")
    assert set(world.machines[made.sandbox_id].spec.root.binds) == {usr, *shown}
    await engine.stop(ANN, "one")
    bundle.unlink()
    bundle.symlink_to("/etc/passwd")
    inner.parent.rename(tmp_path / "away")
    inner.parent.symlink_to(other)
    await engine.start(ANN, "one")
    assert world.machines[made.sandbox_id].spec.root.binds == (usr,)


async def test_labels_and_names_and_times_can_be_changed(world: World) -> None:
    engine = world.engine()
    await _make(engine, world, labels=(("b", "2"), ("a", "1")), ttl_s=60.0)
    assert (await engine.info(ANN, "one")).labels == (("a", "1"), ("b", "2"))
    assert (await engine.info(ANN, "one")).expires_at == world.now + 60
    assert (await engine.extend(ANN, "one", None)).expires_at is None
    assert (await engine.relabel(ANN, "one", (("c", "3"),))).labels == (("c", "3"),)
    assert len(await engine.sandboxes(ANN, SandboxFilter(labels=(("c", "3"),)))) == 1
    await engine.rename(ANN, "one", "two")
    with pytest.raises(NotFound):
        await engine.info(ANN, "one")
    for wrong in (engine.extend(ANN, "two", -1.0), engine.relabel(ANN, "two", (("c", "1"), ("c", "2"))), engine.rename(ANN, "two", "-")):
        with pytest.raises(InvalidInput):
            await wrong


async def test_memory_is_no_storage_for_what_lasts(world: World) -> None:
    with pytest.raises(InvalidInput, match="on disk"):
        await world.engine().create(ANN, world.request(storage=StorageKind.MEMORY), CreateOptions())


async def test_an_engine_whose_store_fails_refuses_and_loses_nothing(world: World) -> None:
    class Failing(MemoryStore):
        broken = False

        def update(self, *arguments: Any) -> None:
            if self.broken:
                raise StoreFailed("disk full")
            super().update(*arguments)

    store = world.store = Failing()
    engine = world.engine()
    made = await _make(engine, world)

    async def break_now(sandbox_id: str) -> None:
        store.broken = True

    world.gates["boot"] = break_now
    with pytest.raises(AgentKernelError, match="disk full"):
        await engine.start(ANN, "one")
    store.broken = False
    world.gates.clear()
    assert (await engine.info(ANN, "one")).status is Status.STOPPED
    assert not world.machines[made.sandbox_id].running
    assert (await engine.start(ANN, "one")).status is Status.RUNNING
