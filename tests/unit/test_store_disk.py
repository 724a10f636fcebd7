"""The durable store and what happens to disks and processes: kill -9, torn files, a full disk, two openers, other versions."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit.store_samples import a_record, an_event

from agentkernel.errors import Conflict, StoreFailed
from agentkernel.model.record import EventFilter
from agentkernel.store import database, migrations
from agentkernel.store.lock import StoreLock, boot_id
from agentkernel.store.sqlite import SqliteStore

TESTS = Path(__file__).parent.parent
SEED = int(os.environ.get("STORE_SEED", "1"))
Told = dict[str, Any]


def writer(directory: Path, seed: int, *, limit_bytes: int = 0, failpoints: str = "") -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "unit.store_writer", str(directory), str(seed), str(limit_bytes)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent / 'src'}", "AGENTKERNEL_FAILPOINTS": failpoints},
    )


def told_until(process: subprocess.Popen[bytes], enough: Callable[[list[Told]], bool]) -> list[Told]:
    """Reads what the writer tells, kills it when that is enough, and returns everything that it told."""
    assert process.stdout is not None
    told: list[Told] = []
    for line in process.stdout:
        told.append(json.loads(line))
        if enough(told):
            process.kill()
            break
    told += [json.loads(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith(b"\n")]
    process.stdout.close()
    process.wait()
    return told


def failures(told: list[Told]) -> int:
    return sum("failed" in each for each in told)


def never(told: list[Told]) -> bool:
    return False


def apply(names: dict[str, str], told: list[Told]) -> dict[str, str]:
    names = dict(names)
    for each in told:
        if "put" in each:
            names[each["put"]] = each["name"]
        elif "gone" in each:
            del names[each["gone"]]
    return names


def held(directory: Path) -> dict[str, str]:
    """What the store holds, by id; opening it must work."""
    store = SqliteStore(directory)
    try:
        events = len(store.events(EventFilter(limit=1000)))
        assert events >= 0
        return {record.sandbox_id: record.name for record in store.sandboxes()}
    finally:
        store.close()


def differences(one: dict[str, str], other: dict[str, str]) -> set[str]:
    return {sandbox_id for sandbox_id in one.keys() | other.keys() if one.get(sandbox_id) != other.get(sandbox_id)}


@pytest.mark.parametrize("round_", range(6))
def test_a_killed_writer_loses_nothing_that_it_was_told(tmp_path: Path, round_: int) -> None:
    dice = random.Random(SEED * 100 + round_)
    names: dict[str, str] = {}
    for _ in range(2):
        length = dice.randrange(1, 400)
        process = writer(tmp_path / "store", dice.randrange(2**30))
        names = apply(names, told_until(process, lambda told, length=length: len(told) == length))  # type: ignore[misc]
        found = held(tmp_path / "store")
        assert len(differences(names, found)) <= 1, "more than the one call that was under way"
        names = found


@pytest.mark.parametrize("step", ["insert.written", "update.written", "delete.written", "append.written", "root.written", "make.written"])
def test_what_was_not_committed_never_was(tmp_path: Path, step: str) -> None:
    process = writer(tmp_path / "store", SEED, failpoints=f"store.{step}@1=kill")
    names = apply({}, told_until(process, never))
    assert process.returncode == -signal.SIGKILL
    assert held(tmp_path / "store") == names


@pytest.mark.parametrize("step", ["insert.committed", "update.committed", "delete.committed", "make.renamed"])
def test_what_was_committed_is_there_though_nobody_was_told(tmp_path: Path, step: str) -> None:
    process = writer(tmp_path / "store", SEED, failpoints=f"store.{step}@1=kill")
    names = apply({}, told_until(process, never))
    assert process.returncode == -signal.SIGKILL
    assert len(differences(held(tmp_path / "store"), names)) == (step != "make.renamed")


@pytest.mark.parametrize("limit_bytes", [200_000, 1_000_000])
def test_a_full_disk_fails_calls_and_loses_nothing_and_with_room_it_goes_on(tmp_path: Path, limit_bytes: int) -> None:
    process = writer(tmp_path / "store", SEED, limit_bytes=limit_bytes)
    told = told_until(process, lambda told: "failed" in told[0] or len(told) > 5000 or failures(told[:-100]) == 10)
    assert failures(told) == 10
    assert "is the disk full" in next(each["hint"] for each in told if "failed" in each)
    assert len(differences(apply({}, told), held(tmp_path / "store"))) <= 1


@pytest.mark.parametrize("errno", ["EIO", "ENOSPC", "EMFILE"])
def test_an_error_of_the_disk_undoes_that_call_alone(tmp_path: Path, errno: str) -> None:
    process = writer(tmp_path / "store", SEED, failpoints=f"store.insert.written@2=error:{errno},store.update.written@3=error:{errno}")
    told = told_until(process, lambda told: len(told) == 60)
    assert failures(told) == 2
    assert len(differences(apply({}, told), held(tmp_path / "store"))) <= 1


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """A store with a log that has not been written back: what a kill -9 leaves."""
    process = writer(tmp_path / "crashed", SEED)
    told_until(process, lambda told: len(told) == 60)
    assert (tmp_path / "crashed/store.db-wal").stat().st_size > 100_000
    return tmp_path / "crashed"


def test_a_log_that_is_cut_off_anywhere_is_a_store_of_some_moments_ago(crashed: Path, tmp_path: Path) -> None:
    dice = random.Random(SEED)
    told = told_until(writer(tmp_path / "same", SEED), lambda told: len(told) == 200)
    moments = [apply({}, told[:length]) for length in range(len(told))]
    size = (crashed / "store.db-wal").stat().st_size
    for length in [0, 1, 31, 32, 33, *sorted(dice.randrange(size) for _ in range(40)), size - 1]:
        copy = tmp_path / "copy"
        shutil.copytree(crashed, copy)
        os.truncate(copy / "store.db-wal", length)
        assert held(copy) in moments, f"a log of {length} bytes"
        shutil.rmtree(copy)


def test_a_page_of_zeros_is_noticed_or_does_no_harm(crashed: Path, tmp_path: Path) -> None:
    expected = held(crashed)
    store = SqliteStore(crashed)
    events = store.events(EventFilter(limit=1000))
    store.close()
    noticed = 0
    for page in range((crashed / "store.db").stat().st_size // 4096):
        copy = tmp_path / "copy"
        shutil.copytree(crashed, copy)
        with open(copy / "store.db", "r+b") as file:
            file.seek(page * 4096)
            file.write(bytes(4096))
        try:
            assert held(copy) == expected, f"page {page}"
            store = SqliteStore(copy)
            assert store.events(EventFilter(limit=1000)) == events
            store.close()
        except StoreFailed as error:
            noticed += 1
            assert str(copy / "store.db") in error.message
            assert "store.db.copy over it" in error.hint
        shutil.rmtree(copy)
    assert noticed > 10


@pytest.mark.parametrize("content", [b"", b"not a database" * 1000, None])
def test_a_file_that_is_no_store_is_refused_and_kept(tmp_path: Path, content: bytes | None) -> None:
    SqliteStore(tmp_path).close()
    path = tmp_path / "store.db"
    if content is None:
        path.unlink()
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE other (a)")
        other.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(StoreFailed, match=r"store\.db"):
            SqliteStore(tmp_path)
    assert path.read_bytes() == before


def test_the_copy_put_in_place_of_a_damaged_store_works(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    record, identity = a_record(), store.identity
    store.insert(record)
    store.close()
    (tmp_path / "store.db.copy").unlink()
    SqliteStore(tmp_path).close()
    (tmp_path / "store.db").write_bytes(b"?" * 5000)
    with pytest.raises(StoreFailed) as caught:
        SqliteStore(tmp_path)
    assert f"copy {tmp_path}/store.db.copy over it" in caught.value.hint
    shutil.copy(tmp_path / "store.db.copy", tmp_path / "store.db")
    again = SqliteStore(tmp_path)
    assert (again.identity, again.sandboxes()) == (identity, [record])
    again.close()


def test_a_log_without_its_store_is_not_played_into_a_new_one(crashed: Path) -> None:
    (crashed / "store.db").unlink()
    with pytest.raises(StoreFailed, match="is there without"):
        SqliteStore(crashed)
    assert not (crashed / "store.db").exists()


def test_a_store_of_a_newer_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    SqliteStore(tmp_path).close()
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute(f"PRAGMA user_version = {migrations.NEWEST + 1}")
    connection.close()
    with pytest.raises(StoreFailed, match="written by a newer agentkernel") as caught:
        SqliteStore(tmp_path)
    assert caught.value.hint
    assert sqlite3.connect(tmp_path / "store.db").execute("PRAGMA user_version").fetchone()[0] == migrations.NEWEST + 1


@pytest.fixture
def next_version(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[tuple[str, ...]], None]]:
    def add(statements: tuple[str, ...]) -> None:
        monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, statements))
        monkeypatch.setattr(migrations, "NEWEST", migrations.NEWEST + 1)
        monkeypatch.setattr(database, "NEWEST", migrations.NEWEST)

    yield add


def test_an_older_store_is_copied_and_brought_up_to_date(tmp_path: Path, next_version: Callable[[tuple[str, ...]], None]) -> None:
    store = SqliteStore(tmp_path)
    record = a_record()
    store.insert(record, an_event())
    store.close()
    before = migrations.NEWEST
    next_version(("ALTER TABLE sandboxes ADD COLUMN mood TEXT NOT NULL DEFAULT 'fine'",))
    again = SqliteStore(tmp_path)
    assert again.get(record.sandbox_id) == record
    again.close()
    assert sqlite3.connect(tmp_path / "store.db").execute("SELECT mood FROM sandboxes").fetchall() == [("fine",)]
    kept = sqlite3.connect(tmp_path / f"store.db.copy-of-version-{before}")
    assert kept.execute("PRAGMA user_version").fetchone() == (before,)
    assert kept.execute("SELECT sandbox_id FROM sandboxes").fetchall() == [(record.sandbox_id,)]


def test_a_store_of_the_first_version_has_sandboxes_without_published_ports_or_visitors(tmp_path: Path) -> None:
    store, record = SqliteStore(tmp_path), a_record()
    store.insert(record)
    store.close()
    connection = sqlite3.connect(tmp_path / "store.db")
    connection.execute("ALTER TABLE sandboxes DROP COLUMN published")
    connection.execute("ALTER TABLE sandboxes DROP COLUMN visited")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    again = SqliteStore(tmp_path)
    assert again.get(record.sandbox_id) == record
    again.close()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, next_version: Callable[[tuple[str, ...]], None]) -> None:
    store = SqliteStore(tmp_path)
    store.insert(a_record())
    store.close()
    before = migrations.NEWEST
    next_version(("DROP TABLE events", "ALTER TABLE absent ADD COLUMN a TEXT"))
    with pytest.raises(StoreFailed, match="no such table"):
        SqliteStore(tmp_path)
    connection = sqlite3.connect(tmp_path / "store.db")
    assert connection.execute("PRAGMA user_version").fetchone() == (before,)
    assert connection.execute("SELECT count(*) FROM events").fetchone() == (0,)


def test_the_second_opener_is_told_who_was_first(tmp_path: Path) -> None:
    process = writer(tmp_path / "store", SEED)
    assert process.stdout is not None and process.stdout.readline()
    with pytest.raises(Conflict, match=f"belongs to process {process.pid}"):
        SqliteStore(tmp_path / "store")
    assert (tmp_path / "store/store.lock").read_text() == f"{process.pid} {boot_id()}\n"
    told_until(process, lambda _: True)
    SqliteStore(tmp_path / "store").close()


def test_a_store_that_could_not_be_opened_or_was_closed_is_nobodys(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    with pytest.raises(Conflict, match=f"process {os.getpid()}"):
        StoreLock.take(tmp_path)
    store.close()
    store.close()
    (tmp_path / "store.db").write_bytes(b"")
    with pytest.raises(StoreFailed):
        SqliteStore(tmp_path)
    StoreLock.take(tmp_path).release()


def test_everything_is_closed_to_others(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store = SqliteStore(tmp_path / "data/store")
        store.insert(a_record())
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data/store").iterdir()}
        store.close()
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "data/store").stat().st_mode) == 0o700
    assert modes == dict.fromkeys(("store.db", "store.db-wal", "store.db.copy", "store.reserve", "store.lock"), 0o600)


@pytest.mark.parametrize("name", ["store", "store/store.db", "store/store.lock"])
def test_symlinks_are_not_followed(tmp_path: Path, name: str) -> None:
    SqliteStore(tmp_path / "store").close()
    (tmp_path / name).rename(tmp_path / "elsewhere")
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreFailed):
        SqliteStore(tmp_path / "store")


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
@pytest.mark.parametrize("name", ["store", "store/store.db"])
def test_what_belongs_to_somebody_else_is_not_opened(tmp_path: Path, name: str) -> None:
    SqliteStore(tmp_path / "store").close()
    os.chown(tmp_path / name, 1234, 1234)
    with pytest.raises(StoreFailed, match="of uid 0"):
        SqliteStore(tmp_path / "store")


def test_a_record_that_cannot_be_read_is_damage_and_names_the_file(tmp_path: Path) -> None:
    for damage in ("UPDATE sandboxes SET spec = '{'", "UPDATE sandboxes SET status = 'asleep'", "UPDATE roots SET root = '{}'"):
        store = SqliteStore(tmp_path)
        for record in store.sandboxes():
            store.delete(record.sandbox_id)
        record = a_record()
        store.insert(replace(record))
        store.close()
        with sqlite3.connect(tmp_path / "store.db") as connection:
            connection.execute(damage)
        connection.close()
        again = SqliteStore(tmp_path)
        with pytest.raises(StoreFailed, match=r"store\.db is damaged"):
            again.sandboxes()
        again.close()
        shutil.rmtree(tmp_path)
