"""The recorded output of detached commands: what is in the files, what is read from them, and what a crash does to them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from unit.engine_world import ANN, World

from agentkernel.engine.logfile import HEADER, NEWER, OLDER, PIECE_BYTES, Entry, LogFile, Mark, Reader
from agentkernel.engine.registry import ENDED_KEPT, Recorded
from agentkernel.errors import NotFound
from agentkernel.model.command import Command, ExitStatus
from agentkernel.model.inspection import ProcessRecord
from agentkernel.model.record import CreateOptions, EventFilter, LogEntry


def _all(directory: Path) -> list[Entry]:
    reader = Reader(str(directory))
    try:
        return list(reader.more())
    finally:
        reader.close()


def _text(directory: Path, exec_id: int, stream: int = 1) -> bytes:
    return b"".join(entry.data for entry in _all(directory) if (entry.exec_id, entry.kind) == (exec_id, stream))


def test_logs_and_their_names_are_closed_to_others(tmp_path: Path) -> None:
    LogFile(str(tmp_path / "logs" / "0123456789abcdef")).close()
    for path, mode in (("logs", 0o700), ("logs/0123456789abcdef", 0o700), (f"logs/0123456789abcdef/{NEWER}", 0o600)):
        assert (tmp_path / path).stat().st_mode & 0o777 == mode


def test_output_is_kept_by_command_and_stream_with_growing_times(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path))
    log.write(5.0, 1, 1, 0, b"out")
    log.write(5.0, 2, 1, 0, b"other")
    log.write(4.0, 1, 2, 0, b"err")
    log.close()
    assert (_text(tmp_path, 1), _text(tmp_path, 1, 2), _text(tmp_path, 2)) == (b"out", b"err", b"other")
    times = [entry.at for entry in _all(tmp_path)]
    assert times == sorted(set(times))
    assert oct((tmp_path / NEWER).stat().st_mode & 0o777) == "0o600"


def test_a_recording_goes_on_without_doubling(tmp_path: Path) -> None:
    first = LogFile(str(tmp_path))
    first.write(1.0, 1, 1, 0, b"abc")
    first.close()
    second = LogFile(str(tmp_path))
    assert second.position(1) == (3, 0)
    second.write(2.0, 1, 1, 0, b"ab")
    second.write(2.0, 1, 1, 1, b"bcde")
    second.end(3.0, 1)
    assert _text(tmp_path, 1) == b"abcde"
    assert second.has_ended(1) and not second.has_ended(2)
    second.close()
    assert LogFile(str(tmp_path)).has_ended(1)


def test_what_is_missing_is_told_with_its_amount_and_once(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path))
    log.write(1.0, 1, 1, 0, b"abc")
    log.write(2.0, 1, 1, 10, b"klm")
    log.write(3.0, 1, 2, 5, b"err")
    log.close()
    again = LogFile(str(tmp_path))
    assert again.position(1) == (13, 8)
    again.write(4.0, 1, 1, 12, b"mn")
    again.close()
    told = [(entry.stream, entry.offset, entry.missing or entry.data) for entry in _all(tmp_path)]
    assert told == [(1, 0, b"abc"), (1, 3, 7), (1, 10, b"klm"), (2, 0, 5), (2, 5, b"err"), (1, 13, b"n")]


def test_much_output_is_many_entries_of_which_each_has_its_time(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path))
    printed = os.urandom(3 * PIECE_BYTES + 5)
    log.write(1.0, 1, 1, 0, printed[:100])
    log.write(1.0, 1, 1, 0, printed)  # of which the beginning is there
    log.close()
    entries = _all(tmp_path)
    assert b"".join(entry.data for entry in entries) == printed
    assert max(len(entry.data) for entry in entries) == PIECE_BYTES
    assert len({entry.at for entry in entries}) == len(entries) == 1 + 3


def test_reading_goes_on_behind_a_mark(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path), generation_bytes=1000)
    reader = Reader(str(tmp_path))
    marks: list[tuple[Entry, Mark]] = []
    for number in range(60):
        log.write(1.0, 1, 1, number * 50, b"%049d\n" % number)
        marks += [(entry, reader.mark(entry)) for entry in reader.more() if entry.is_output]
    log.close()
    reader.close()
    there = [entry for entry in _all(tmp_path) if entry.is_output]
    assert 5 < len(there) < 40
    for entry, mark in (*marks, (marks[0][0], Mark(marks[-1][1].inode, 7, 0.5))):
        behind = Reader(str(tmp_path), mark)
        found = [each for each in behind.more() if each.is_output]
        behind.close()
        assert found == (there[there.index(entry) + 1 :] if entry in there else there)


@pytest.mark.parametrize("cut", [1, HEADER.size - 1, HEADER.size, HEADER.size + 2])
def test_a_cut_entry_is_cut_off(tmp_path: Path, cut: int) -> None:
    log = LogFile(str(tmp_path))
    log.write(1.0, 1, 1, 0, b"whole")
    log.write(2.0, 1, 1, 5, b"cut")
    log.close()
    size = (tmp_path / NEWER).stat().st_size
    os.truncate(tmp_path / NEWER, size - HEADER.size - 3 + cut)
    assert _text(tmp_path, 1) == b"whole"
    again = LogFile(str(tmp_path))
    assert again.position(1) == (5, 0)
    again.write(3.0, 1, 1, 5, b"!")
    again.close()
    assert _text(tmp_path, 1) == b"whole!"


def test_it_is_bounded_and_knows_where_it_stands_after_a_turn(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path), generation_bytes=1000)
    reader = Reader(str(tmp_path))
    seen = b""
    for number in range(100):
        log.write(1.0, 1, 1, number * 50, b"%049d\n" % number)
        seen += b"".join(entry.data for entry in reader.more() if entry.is_output)
    log.close()
    reader.close()
    assert seen == b"".join(b"%049d\n" % number for number in range(100))
    assert sum((tmp_path / name).stat().st_size for name in (NEWER, OLDER)) <= 2000
    assert LogFile(str(tmp_path), generation_bytes=1000).position(1) == (5000, 0)
    assert seen.endswith(_text(tmp_path, 1))


def test_what_the_disk_does_not_take_is_left_out_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogFile(str(tmp_path))
    log.write(1.0, 1, 1, 0, b"before")
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[: len(data) // 2]))
    with pytest.raises(OSError, match="part of it"):
        log.write(2.0, 1, 1, 6, b"lost")
    monkeypatch.undo()
    log.write(3.0, 1, 1, 10, b"after")
    log.close()
    assert _text(tmp_path, 1) == b"beforeafter"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "home").mkdir()
    world = World(directory=tmp_path)
    yield world
    await world.end()


async def _detached(engine: Any, world: World, exec_id: int, printed: bytes) -> Any:
    """Begins a command that has printed something."""
    handle = await engine.open(ANN, "one")
    machine = world.machines[handle.sandbox_id]
    record = ProcessRecord(exec_id=exec_id, pid=1, running=True, detached=True, started_unix_ms=0, argv=(b"serve",))
    machine.commands[exec_id], machine.printed[exec_id] = record, printed
    engine.started(ANN, handle, Command(argv=(b"serve",), detached=True), exec_id)
    await _written(world, handle.sandbox_id, printed)
    return machine


async def _written(world: World, sandbox_id: str, text: bytes) -> None:
    path = world.directory / "data" / "logs" / sandbox_id
    async with asyncio.timeout(10):
        while text not in b"".join(entry.data for entry in _all(path)):
            await asyncio.sleep(0)


async def _logs(engine: Any, **wanted: Any) -> list[LogEntry]:
    return [entry async for entry in engine.logs(ANN, "one", **wanted)]


async def test_a_detached_command_is_recorded_and_goes_on_being_after_a_crash(world: World) -> None:
    engine = world.engine()
    made = await engine.create(ANN, world.request(), CreateOptions(name="one", start=True))
    assert await _logs(engine) == []
    machine = await _detached(engine, world, 5, b"first ")
    entries = await _logs(engine)
    assert [(entry.exec_id, entry.stream, entry.data) for entry in entries] == [(5, 1, b"first ")]
    again = world.engine()
    machine.printed[5] = b"first second"
    await again.recover()
    await again.settled()
    await _written(world, made.sandbox_id, b"second")
    assert b"".join(entry.data for entry in await _logs(again)) == b"first second"
    assert [entry.data for entry in await _logs(again, since=entries[-1].at)] == [b"second"]
    assert await _logs(again, exec_id=6) == []
    machine.finished.set()


def test_of_commands_that_were_recorded_those_that_run_and_the_last_are_known() -> None:
    recorded = Recorded()
    recorded.begin(1)
    for exec_id in range(2, 3 * ENDED_KEPT):
        recorded.begin(exec_id)
        assert exec_id in recorded
        recorded.end(exec_id)
    assert 1 in recorded and 3 * ENDED_KEPT - 1 in recorded and 2 not in recorded
    assert len(recorded) == 1 + ENDED_KEPT
    recorded.end(1)
    recorded.begin(1)
    recorded.end(1)
    assert 1 in recorded and len(recorded) == ENDED_KEPT


async def test_who_reads_on_is_given_what_is_behind(world: World) -> None:
    engine = world.engine()
    made = await engine.create(ANN, world.request(), CreateOptions(name="one", start=True))
    printed = os.urandom(10 * PIECE_BYTES)
    machine = await _detached(engine, world, 5, printed)
    read, since = b"", 0.0
    while True:
        page = engine.logs(ANN, "one", since=since)
        given = [entry async for _, entry in _first(page, 3)]
        await page.aclose()
        if not given:
            break
        read, since = read + b"".join(entry.data for entry in given[:2]), given[:2][-1].at  # one more was made, and had no room
    assert read == printed
    assert (made.sandbox_id, since) in engine._logs._marks
    machine.finished.set()


async def _first(items: AsyncIterator[LogEntry], count: int) -> AsyncIterator[tuple[int, LogEntry]]:
    for number in range(count):
        if (item := await anext(items, None)) is None:
            return
        yield number, item


async def test_following_goes_on_until_the_sandbox_is_removed(world: World) -> None:
    engine = world.engine()
    made = await engine.create(ANN, world.request(), CreateOptions(name="one", start=True))
    following = asyncio.create_task(_logs(engine, follow=True))
    await _detached(engine, world, 5, b"a")
    await _detached(engine, world, 6, b"b")
    assert not following.done()
    await engine.remove(ANN, "one", force=True)
    assert [entry.data for entry in await following] == [b"a", b"b"]
    assert not (world.directory / "data" / "logs" / made.sandbox_id).exists()
    with pytest.raises(NotFound):
        await _logs(engine)


async def test_a_recording_that_ended_is_not_begun_again(world: World) -> None:
    engine = world.engine()
    made = await engine.create(ANN, world.request(), CreateOptions(name="one", start=True))
    machine = await _detached(engine, world, 5, b"all")
    machine.finished.set()
    async with asyncio.timeout(10):
        while engine._logs._recordings:
            await asyncio.sleep(0)
    handle = await engine.open(ANN, "one")
    engine.ended(ANN, handle, 5, ExitStatus(exit_code=0))  # the recording has told it already
    kinds = [event.kind async for event in engine.events(ANN, EventFilter(kinds=("exec.",)))]
    assert kinds == ["exec.started", "exec.ended"]
    again = world.engine()
    await again.recover()
    await again.settled()
    await again._core.operations.drain()
    assert again._logs._recordings == {}
    again.started(ANN, await again.open(ANN, "one"), Command(argv=(b"serve",), detached=True), 5)  # a START that is repeated
    async with asyncio.timeout(10):
        while again._logs._recordings:
            await asyncio.sleep(0)
    assert [entry.data for entry in await _logs(again)] == [b"all"]
    assert LogFile(str(world.directory / "data" / "logs" / made.sandbox_id)).has_ended(5)


async def test_a_command_that_somebody_waits_for_again_is_use(world: World) -> None:
    engine = world.engine()
    await engine.recover()
    await engine.create(ANN, world.request(), CreateOptions(name="one", start=True, idle_s=10.0))
    handle = await engine.open(ANN, "one")
    engine.resumed(ANN, handle, 9)
    assert engine.busy() == 1
    world.now += 100
    engine._upkeep.tick()
    await engine._core.operations.drain()
    assert (await engine.info(ANN, "one")).status.value == "running"
    engine.ended(ANN, handle, 9, ExitStatus(exit_code=0))
    assert engine.busy() == 0
