"""The audit trail of engines in process: kept in files of bounded size until an engine with a durable store takes it in."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from unit.engine_world import ANN, World

from agentkernel.abc import Caller
from agentkernel.engine.audit import Journal
from agentkernel.engine.engine import Engine
from agentkernel.engine.journal import Taker
from agentkernel.errors import StoreFailed
from agentkernel.model.command import Command
from agentkernel.model.record import CreateOptions, Event, EventFilter
from agentkernel.store.memory import MemoryStore


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "home").mkdir()
    world = World(directory=tmp_path)
    yield world
    await world.end()


def _event(number: int, **more: Any) -> Event:
    return Event(kind="exec.started", at=float(number), principal="ann", **more)


async def _taken(journal: Journal) -> list[Event]:
    found: list[Event] = []
    await Taker(journal).take(found.append)
    return found


async def _read(engine: Any, **wanted: Any) -> list[Event]:
    return [event async for event in engine.events(ANN, EventFilter(**wanted))]


async def test_what_an_engine_in_process_did_is_in_the_durable_trail(world: World) -> None:
    passing = world.engine(Engine)
    async with passing.sandbox(ANN, world.request(argv=(b"true",))) as (sandbox, _):
        await sandbox.exec(Command(argv=(b"printf", b"\xff"), environment={b"TOKEN": b"secret"}))
    await passing.create(ANN, world.request(), CreateOptions(name="box"))
    own = await _read(passing)
    await passing.close()
    world.engines.remove(passing)
    files = list((world.directory / "data" / "audit").iterdir())
    assert [(path.name, path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) for path in files] == [
        ("passing.jsonl", 0o600, 0o700)
    ]
    assert b"secret" not in files[0].read_bytes()
    world.store = MemoryStore()
    durable = world.engine()
    told = await _read(durable)
    assert [(event.kind, event.details, event.sandbox_id) for event in told][: len(own)] == [
        (event.kind, event.details, event.sandbox_id) for event in own
    ]
    assert [event.kind for event in told][-1] == "sandbox.removed"
    assert await _read(durable) == told
    assert list((world.directory / "data" / "audit").iterdir()) == []


async def test_refusals_in_process_are_told_too(world: World) -> None:
    caller = Caller(principal="ann", scopes=frozenset({"read-only"}))
    with pytest.raises(Exception, match="may not"):
        async with world.engine(Engine).sandbox(caller, world.request()):
            pass
    assert [event.outcome for event in await _taken(Journal(str(world.directory / "data")))] == ["refused"]


async def test_nothing_is_lost_while_many_write_and_one_takes(tmp_path: Path) -> None:
    program = """
import sys
from agentkernel.engine.audit import Journal
from agentkernel.model.record import Event
for number in range(300):
    Journal(sys.argv[1]).write(Event(kind="exec.started", at=float(number), principal=sys.argv[2]))
"""
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "data"), f"w{n}"]) for n in range(3)]
    journal = Journal(str(tmp_path / "data"))
    found: list[Event] = []
    while any(writer.poll() is None for writer in writers):
        found += await _taken(journal)
        await asyncio.sleep(0.001)
    found += await _taken(journal)
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    for n in range(3):
        assert [event.at for event in found if event.principal == f"w{n}"] == [float(number) for number in range(300)]


async def test_the_files_stay_small_and_the_newest_events_are_kept(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), max_bytes=2000)
    for number in range(500):
        journal.write(_event(number))
    assert sum(path.stat().st_size for path in (tmp_path / "audit").iterdir()) < 2 * 2200
    found = [event.at for event in await _taken(journal)]
    assert found == [float(number) for number in range(500 - len(found), 500)]
    assert len(found) > 20


async def test_a_line_that_is_no_event_is_passed_over(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    journal.write(_event(1, details=(("argv", "a \udcff"),)))
    with open(tmp_path / "audit" / "passing.jsonl", "ab") as file:
        file.write(b'[1]\n{"kind": 3}\n{"kind": "x", "at": 1.0, "principal": "p", "details": [[1, 2]]}\n{"kind": "x", "at": "now"}\n')
        file.write(b'{"kind": "x", "at": 1.0, "principal": "p", "exec_id": 1e30}\n\xff\n{"kind": "exec.sta')
    assert [(event.at, event.details) for event in await _taken(journal)] == [(1.0, (("argv", "a \udcff"),))]


async def test_what_the_store_has_no_room_for_stays(world: World) -> None:
    class Full(MemoryStore):
        full = True

        def append(self, event: Event) -> Event:
            if self.full:
                raise StoreFailed("disk full")
            return super().append(event)

    Journal(str(world.directory / "data")).write(_event(1))
    store = world.store = Full()
    engine = world.engine()
    assert await _read(engine) == []
    store.full = False
    assert [event.at for event in await _read(engine)] == [1.0]


async def test_somebody_who_holds_the_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    journal.write(_event(1))
    path = tmp_path / "audit" / "passing.jsonl"
    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    journal.write(_event(2))
    assert await _taken(journal) == []
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    journal.write(_event(3))
    os.close(descriptor)
    assert [event.at for event in await _taken(journal)] == [1.0, 2.0, 3.0]


async def test_where_nothing_can_be_written_commands_run_none_the_less(world: World) -> None:
    (world.directory / "data").write_text("not a directory")
    async with world.engine(Engine).sandbox(ANN, world.request()) as (sandbox, _):
        assert (await sandbox.exec(Command(argv=(b"true",)))).exit_code == 0


async def test_a_narrow_caller_gets_full_pages_of_what_concerns_it(world: World) -> None:
    engine = world.engine()
    for number in range(30):
        await engine.create(ANN, world.request(), CreateOptions(name=f"n{number}"))
    for number in (3, 20, 28):
        await engine.start(ANN, f"n{number}")
    narrow = Caller(principal="ann", scopes=frozenset({"sandbox:n20", "sandbox:n28"}))
    pages, after = [], 0
    while page := [event async for event in engine.events(narrow, EventFilter(limit=2, after=after))]:
        pages.append([(event.sandbox, event.kind) for event in page])
        after = page[-1].event_id
    assert pages == [
        [("n20", "sandbox.created"), ("n28", "sandbox.created")],
        [("n20", "sandbox.started"), ("n28", "sandbox.started")],
    ]
    assert [event.sandbox async for event in engine.events(narrow, EventFilter(sandbox="n28", limit=1))] == ["n28"]
    assert [event async for event in engine.events(narrow, EventFilter(sandbox="n3"))] == []
