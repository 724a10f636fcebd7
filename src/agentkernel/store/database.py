"""The store's file: made, opened, checked, copied, and its transactions. Everything that goes wrong with it is StoreFailed."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agentkernel.errors import StoreFailed
from agentkernel.failpoints import failpoint
from agentkernel.store.migrations import APPLICATION_ID, NEWEST, migrate, version

FILE_NAME = "store.db"
RESERVE_NAME = "store.reserve"
RESERVE_BYTES = 2 * 1024 * 1024
COPY_AGE_S = 24 * 3600.0
BUSY_TIMEOUT_MS = 2000
CHECKPOINT_PAGES = 500  # of 4 KiB; the commit that reaches it writes them back, in a few milliseconds
CACHE_KIB = 512
_OLDEST_SQLITE = (3, 37, 0)  # STRICT tables
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PRAGMAS = (
    # The lock beside the file keeps everybody else out, so SQLite need not ask at each transaction, nor share an index in mapped memory
    # (which raises SIGBUS where a full disk cannot back it).
    "locking_mode = EXCLUSIVE",
    "synchronous = NORMAL",
    f"busy_timeout = {BUSY_TIMEOUT_MS}",
    f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
    "journal_size_limit = 8388608",
    # Rows in use and the newest events fit; SQLite's own 2 MiB would fill with old events over thousands of sandboxes.
    f"cache_size = -{CACHE_KIB}",
    "temp_store = MEMORY",
    "trusted_schema = OFF",
    "cell_size_check = ON",
    "foreign_keys = ON",
)
# Not the events: they are many, none of them is needed to go on, and reading one that is damaged says so.
_CHECKED_TABLES = ("meta", "roots", "sandboxes", "labels")


class Database:
    """An open store file; use `open_database`. One thread's."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @contextlib.contextmanager
    def transaction(self, operation: str, *, through_power_cut: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction, rolled back when the block raises; at its end no `kill -9` undoes it, and no power cut if so wanted."""
        failed = False
        try:
            if self._connection.in_transaction:  # what an earlier failure could not roll back
                self._connection.rollback()
            if through_power_cut:
                self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            failpoint(f"store.{operation}.written")
            self._connection.execute("COMMIT")
            failpoint(f"store.{operation}.committed")
        except (sqlite3.Error, OSError) as error:
            failed = True
            raise self.failure(error) from error
        finally:
            with contextlib.suppress(sqlite3.Error):  # the next transaction tries again
                if self._connection.in_transaction:
                    self._connection.rollback()
                if through_power_cut:
                    self._connection.execute("PRAGMA synchronous = NORMAL")
                if failed:
                    self._make_room()

    def _make_room(self) -> None:
        """On a full disk: gives up the reserve, so that the log can be written back and sandboxes be removed, which frees more."""
        with contextlib.suppress(OSError):
            self.path.with_name(RESERVE_NAME).unlink(missing_ok=True)
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def query(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a SELECT."""
        try:
            failpoint("store.read")
            return self._connection.execute(statement, parameters).fetchall()
        except (sqlite3.Error, OSError) as error:
            raise self.failure(error) from error

    def failure(self, error: Exception) -> StoreFailed:
        """The error that says what is wrong with the file and what to do."""
        return store_failure(self.path, error)

    def close(self) -> None:
        """Writes the log back into the file; repeating it is fine."""
        try:
            self._connection.close()
        except sqlite3.Error as error:
            raise self.failure(error) from error


def store_failure(path: Path, error: Exception) -> StoreFailed:
    """Tells a damaged file (also one with values that no record can have) from a disk that fails."""
    if not isinstance(error, sqlite3.Error | OSError) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
        return StoreFailed(f"the store {path} is damaged: {error}", hint=_damage_hint(path))
    return StoreFailed(f"the store {path} failed: {error}", hint="is the disk full or read-only? Nothing that was acknowledged is lost")


def _damage_hint(path: Path) -> str:
    copies = sorted(path.parent.glob(f"{FILE_NAME}.copy*"), key=lambda copy: copy.stat().st_mtime)
    begin = f"move {path}* away to begin without sandboxes"
    return f"copy {copies[-1]} over it (and remove {path}-wal), or {begin}" if copies else begin


def open_database(directory: Path) -> tuple[Database, str]:
    """Opens the store in `directory`, which the caller has locked, or makes it where there never was one; returns its identity too.

    Raises:
        StoreFailed: it is damaged, newer than this program, somebody else's, or the disk fails. Nothing is changed then.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise StoreFailed(f"SQLite {sqlite3.sqlite_version} is too old", hint="use a Python with SQLite 3.37 or newer")
    path = directory / FILE_NAME
    try:
        _make_if_missing(path)
        _check_owner(path)
        connection = _connect(path)
    except (sqlite3.Error, OSError) as error:
        raise store_failure(path, error) from error
    database = Database(path, connection)
    try:
        _check_version(path, connection)
        connection.execute("PRAGMA journal_mode = WAL")
        _check(path, connection)
        if version(connection) < NEWEST:
            _copy(path, connection, f".copy-of-version-{version(connection)}")
            with database.transaction("migrate"):
                migrate(connection)
        _copy_now_and_then(path, connection)
        _reserve_room(path)
        return database, _identity(path, connection)
    except (sqlite3.Error, OSError) as error:
        database.close()
        raise store_failure(path, error) from error
    except StoreFailed:
        database.close()
        raise


def prepare_directory(directory: Path) -> None:
    """Makes the store's directory, closed to others; refuses a symlink and what belongs to somebody else."""
    try:
        # A sandbox's ids walk through root's directories to their files, so the ones above let others search.
        directory.parent.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise StoreFailed(f"{directory} is not a directory of uid {os.geteuid()}", hint="set AGENTKERNEL_HOME to one of yours")
        if stat.S_IMODE(found.st_mode) != 0o700:
            directory.chmod(0o700)
    except OSError as error:
        raise StoreFailed(f"cannot make {directory}: {error.strerror}", hint="set AGENTKERNEL_HOME to a directory of yours") from error


def _make_if_missing(path: Path) -> None:
    """A store appears under its name when it is complete, so one that is empty is damage and not a beginning."""
    unfinished = path.with_name(f"{FILE_NAME}.new")
    for leftover in (unfinished, unfinished.with_name(f"{unfinished.name}-journal")):
        leftover.unlink(missing_ok=True)
    log = path.with_name(f"{FILE_NAME}-wal")
    if os.path.lexists(path):
        return
    if log.exists():  # SQLite would play it into whatever file has the name
        raise StoreFailed(f"{log} is there without {path}", hint=f"bring {FILE_NAME} back, or move {log} away to begin without sandboxes")
    _make_file(unfinished)
    connection = sqlite3.connect(unfinished, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        migrate(connection)
        connection.execute("INSERT INTO meta (key, value) VALUES ('identity', ?)", (os.urandom(16).hex(),))
        connection.execute("COMMIT")
    finally:
        connection.close()
    failpoint("store.make.written")
    unfinished.rename(path)
    failpoint("store.make.renamed")


def _make_file(path: Path) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))


def _check_owner(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        raise StoreFailed(f"{path} is not a file of uid {os.geteuid()}", hint="set AGENTKERNEL_HOME to a directory of yours")
    if not found.st_size:
        raise StoreFailed(f"the store {path} is damaged: it is empty", hint=_damage_hint(path))


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _check_version(path: Path, connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreFailed(f"{path} is the database of another program", hint=f"move it away: {path}")
    found = version(connection)
    if found > NEWEST:
        raise StoreFailed(
            f"the store {path} was written by a newer agentkernel (version {found} of its tables; this one knows {NEWEST})",
            hint="use that agentkernel, or set AGENTKERNEL_HOME to another directory",
        )


def _check(path: Path, connection: sqlite3.Connection) -> None:
    for table in _CHECKED_TABLES:
        found = connection.execute(f"PRAGMA integrity_check({table})").fetchone()[0]
        if found != "ok":
            raise StoreFailed(f"the store {path} is damaged: {found}", hint=_damage_hint(path))


def _identity(path: Path, connection: sqlite3.Connection) -> str:
    found = connection.execute("SELECT value FROM meta WHERE key = 'identity'").fetchone()
    if found is None:
        raise StoreFailed(f"the store {path} is damaged: it has no identity", hint=_damage_hint(path))
    return str(found[0])


def _reserve_room(path: Path) -> None:
    """Takes some of the disk for bad times; what is full already has none to give."""
    with contextlib.suppress(OSError):
        fd = os.open(path.with_name(RESERVE_NAME), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):  # not on macOS, where the disk is the user's own
                os.posix_fallocate(fd, 0, RESERVE_BYTES)
        finally:
            os.close(fd)


def _copy_now_and_then(path: Path, connection: sqlite3.Connection) -> None:
    """Keeps a copy of a store that has just been found sound; without room for it the store works all the same."""
    copy = path.with_name(f"{FILE_NAME}.copy")
    if copy.exists() and abs(time.time() - copy.stat().st_mtime) < COPY_AGE_S:
        return
    with contextlib.suppress(sqlite3.Error, OSError):
        _copy(path, connection, ".copy")


def _copy(path: Path, connection: sqlite3.Connection, ending: str) -> None:
    unfinished = path.with_name(f"{FILE_NAME}.unfinished-copy")
    unfinished.unlink(missing_ok=True)
    _make_file(unfinished)
    target = sqlite3.connect(unfinished)
    try:
        connection.backup(target)
    finally:
        target.close()
    unfinished.rename(path.with_name(f"{FILE_NAME}{ending}"))
