"""The audit trail: every operation, refused ones too, without secrets; read by pages and followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from unit.engine_world import ANN, World

from agentkernel.abc import Caller
from agentkernel.engine.audit import MAX_CHARACTERS, words
from agentkernel.engine.engine import Engine
from agentkernel.errors import AgentKernelError, InvalidInput, NotFound, StoreFailed
from agentkernel.model.command import Command
from agentkernel.model.record import CreateOptions, Event, EventFilter
from agentkernel.store.memory import MemoryStore

SECRET = "hunter2-" * 3


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "home").mkdir()
    world = World(directory=tmp_path)
    yield world
    await world.end()


async def _events(engine: Any, **wanted: Any) -> list[Event]:
    return [event async for event in engine.events(ANN, EventFilter(limit=1000, **wanted))]


async def test_every_operation_is_told_and_no_value_of_a_variable_is(world: World) -> None:
    engine = world.engine()
    request = world.request(environment={"TOKEN": SECRET}, argv=(b"serve", b"--port=1"))
    await engine.create(ANN, request, CreateOptions(name="one", start=True))
    handle = await engine.open(ANN, "one")
    await handle.exec(Command(argv=(b"echo", b"\xff", b"it's"), environment={b"KEY": SECRET.encode()}, cwd="/x", user=(1, 2)))
    for act in (
        engine.rename(ANN, "one", "two"),
        engine.extend(ANN, "two", 60.0),
        engine.relabel(ANN, "two", (("a", "b"),)),
        engine.stop(ANN, "two"),
        engine.start(ANN, "two"),
        engine.remove(ANN, "two", force=True),
        engine.collect_garbage(ANN),
    ):
        await act
    events = await _events(engine)
    assert [event.kind for event in events] == [
        "sandbox.created",
        "exec.started",
        "exec.ended",
        "sandbox.renamed",
        "sandbox.extended",
        "sandbox.relabeled",
        "sandbox.stopped",
        "sandbox.started",
        "sandbox.removed",
        "garbage.collected",
    ]
    assert dict(events[1].details) == {"argv": "echo '\\xff' 'it'\"'\"'s'", "env": "KEY", "cwd": "/x", "user": "1:2"}
    assert {(event.principal, event.backend, event.isolation) for event in events[:-1]} == {("ann", "scripted", "container")}
    assert [event.event_id for event in events] == sorted({event.event_id for event in events})
    assert SECRET not in repr(events)


async def test_refusals_and_failures_are_told_with_their_code(world: World) -> None:
    engine = world.engine()
    narrow = Caller(principal="ann", scopes=frozenset({"read-only"}))
    await engine.create(ANN, world.request(), CreateOptions(name="one"))
    for refused in (
        engine.create(narrow, world.request(), CreateOptions(name="two")),
        engine.start(narrow, "one"),
        engine.stop(ANN, "none"),
        engine.remove(narrow, "one"),
        engine.rename(ANN, "one", "a--b"),
        engine.create(ANN, world.request(backend="unheard-of"), CreateOptions(name="three")),
    ):
        with pytest.raises(AgentKernelError):
            await refused
    told = [(event.kind, event.sandbox, event.outcome) for event in await _events(engine)][1:]
    assert told == [
        ("sandbox.created", "two", "refused"),
        ("sandbox.started", "one", "refused"),
        ("sandbox.stopped", "none", "not_found"),
        ("sandbox.removed", "one", "refused"),
        ("sandbox.renamed", "one", "invalid_input"),
        ("sandbox.created", "three", "unknown_key"),
    ]


async def test_a_name_that_is_no_text_is_told_and_holds_nothing_up(world: World) -> None:
    engine = world.engine()
    for refused in (
        engine.create(ANN, world.request(), CreateOptions(name="half \ud800")),
        engine.create(ANN, world.request(backend="\udcff"), CreateOptions(name="box")),
        engine.ephemeral(ANN, world.request(backend="\udcff"), 7),
    ):
        with pytest.raises(AgentKernelError):
            await refused
    await engine.create(ANN, world.request(), CreateOptions(name="box"))
    told = [(event.sandbox, event.backend, event.outcome) for event in await _events(engine)]
    assert told[:2] == [("half \\ud800", "", "invalid_input"), ("box", "\\udcff", "unknown_key")]
    assert [each[1:] for each in told[2:]] == [("\\udcff", "unknown_key"), ("scripted", "ok")]


async def test_a_command_that_is_broken_off_or_fails_is_told(world: World) -> None:
    engine = world.engine(Engine)

    async def hang(sandbox: Any, command: Command) -> Any:
        await asyncio.Event().wait()

    async with engine.sandbox(ANN, world.request()) as (sandbox, _):
        world.run = hang
        task = asyncio.create_task(sandbox.exec(Command(argv=(b"sleep",))))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    events = await _events(engine)
    assert [(event.kind, event.outcome) for event in events] == [
        ("sandbox.created", "ok"),
        ("exec.started", "ok"),
        ("exec.ended", "cancelled"),
        ("sandbox.removed", "ok"),
    ]


async def test_events_are_followed_as_they_happen_and_read_by_pages(world: World) -> None:
    engine = world.engine()
    seen: list[str] = []

    async def follow() -> None:
        async for event in engine.events(ANN, EventFilter(kinds=("sandbox.",), limit=2), follow=True):
            seen.append(event.sandbox)

    task = asyncio.create_task(follow())
    for number in range(5):
        await engine.create(ANN, world.request(), CreateOptions(name=f"n{number}"))
    async with asyncio.timeout(10):
        while len(seen) < 5:
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert engine._core.audit._followers == set()
    assert seen == [f"n{number}" for number in range(5)]
    first = [event async for event in engine.events(ANN, EventFilter(limit=2))]
    second = [event async for event in engine.events(ANN, EventFilter(limit=2, after=first[-1].event_id))]
    assert [event.sandbox for event in (*first, *second)] == ["n0", "n1", "n2", "n3"]
    with pytest.raises(InvalidInput):
        [event async for event in engine.events(ANN, EventFilter(limit=0))]


async def test_a_full_disk_ends_no_command_and_its_events_come_later(world: World) -> None:
    class Full(MemoryStore):
        full = False

        def append(self, event: Event) -> Event:
            if self.full:
                raise StoreFailed("disk full")
            return super().append(event)

    store = world.store = Full()
    engine = world.engine()
    await engine.create(ANN, world.request(), CreateOptions(name="one", start=True))
    handle = await engine.open(ANN, "one")
    store.full = True
    assert (await handle.exec(Command(argv=(b"true",)))).exit_code == 0
    assert len(await _events(engine)) == 1
    store.full = False
    await handle.exec(Command(argv=(b"true",)))
    assert [event.kind for event in await _events(engine)][1:] == ["exec.started", "exec.ended"] * 2


def test_a_long_command_line_is_cut() -> None:
    assert words((b"echo", b"x" * 10_000)) == "echo " + "x" * (MAX_CHARACTERS - 5) + "..."


async def test_the_trail_does_not_grow_by_what_callers_make_up(world: World) -> None:
    engine = world.engine()
    with pytest.raises(NotFound):
        await engine.remove(ANN, "x" * 100_000)
    (event,) = await _events(engine)
    assert event.outcome == "not_found"
    assert event.sandbox == "x" * MAX_CHARACTERS + "..."
    assert len(dict(event.details)["reason"]) == MAX_CHARACTERS + 3
