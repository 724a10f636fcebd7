"""The durable store: SQLite in a directory of its own, for one process at a time.

    <directory>/store.db                    the tables (migrations.py); with store.db-wal while it is open, or after a crash
    <directory>/store.db.copy               what it was when it was opened, made anew once a day
    <directory>/store.db.copy-of-version-N  what it was before a newer agentkernel changed its tables
    <directory>/store.reserve               2 MiB that are given up when the disk is full, so that sandboxes can be removed
    <directory>/store.lock                  flock'ed by the process that has it; "<pid> <boot id>"

A `kill -9` loses nothing that a call has returned for. A power cut may lose the last calls, but neither the making nor the removing of a
lasting sandbox, and never leaves half of a call.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentkernel.errors import Conflict, InvalidInput, NotFound
from agentkernel.model.record import Event, EventFilter, SandboxFilter, SandboxRecord
from agentkernel.model.spec import RootFilesystem
from agentkernel.store import rows, statements
from agentkernel.store.checks import check_event, check_record
from agentkernel.store.database import open_database, prepare_directory
from agentkernel.store.lock import StoreLock

CACHED_RECORDS = 512
CACHED_ROOTS = 64
PRUNED_AT_ONCE = 2000  # events, which takes some milliseconds


class SqliteStore:
    """Implements `abc.Store`. What was read or written last is remembered: nobody else writes. One thread's."""

    def __init__(self, directory: Path) -> None:
        """Opens the store in `directory`, making both where there is none.

        Raises:
            Conflict: another process has it.
            StoreFailed: see `open_database`.
        """
        self._records: OrderedDict[str, SandboxRecord] = OrderedDict()
        self._roots: dict[str, RootFilesystem] = {}
        self._digests: dict[RootFilesystem, str] = {}
        prepare_directory(directory)
        self._lock = StoreLock.take(directory)
        try:
            self._database, self._identity = open_database(directory)
        except BaseException:
            self._lock.release()
            raise

    @property
    def identity(self) -> str:
        """See `abc.Store`."""
        return self._identity

    def insert(self, record: SandboxRecord, event: Event | None = None) -> None:
        """See `abc.Store`. Its id, and the command of an ephemeral one, are nobody else's either."""
        _check(record, event)
        self._forget(record.sandbox_id)
        values = rows.to_columns(record) | {"root": self._digest(record.spec.root), "spec": rows.to_spec_text(record.spec)}
        with self._database.transaction("insert", through_power_cut=not record.ephemeral) as connection:
            with _conflicts(record):
                connection.execute(statements.INSERT_SANDBOX, values)
            _write_labels(connection, record)
            _write_event(connection, event)
        self._remember(record)

    def update(self, record: SandboxRecord, event: Event | None = None) -> None:
        """See `abc.Store`."""
        _check(record, event)
        before = self.get(record.sandbox_id)
        if before is None:
            raise NotFound(f"there is no sandbox with the id {record.sandbox_id}")
        old, values = rows.to_columns(before), rows.to_columns(record)
        changed = {name: value for name, value in values.items() if old[name] != value}
        if record.spec is not before.spec:
            changed |= {"root": self._digest(record.spec.root), "spec": rows.to_spec_text(record.spec)}
        self._forget(record.sandbox_id)
        with self._database.transaction("update") as connection:
            if changed:
                with _conflicts(record):
                    connection.execute(statements.update_sandbox(tuple(changed)), changed | {"this": record.sandbox_id})
            if record.labels != before.labels:
                connection.execute("DELETE FROM labels WHERE sandbox_id = ?", (record.sandbox_id,))
                _write_labels(connection, record)
            _write_event(connection, event)
        self._remember(record)

    def delete(self, sandbox_id: str, event: Event | None = None) -> None:
        """See `abc.Store`."""
        if event is not None:
            check_event(event)
        record = self.get(sandbox_id)
        self._forget(sandbox_id)
        with self._database.transaction("delete", through_power_cut=record is not None and not record.ephemeral) as connection:
            connection.execute("DELETE FROM sandboxes WHERE sandbox_id = ?", (sandbox_id,))
            _write_event(connection, event)

    def get(self, sandbox_id: str) -> SandboxRecord | None:
        """See `abc.Store`."""
        if sandbox_id in self._records:
            self._records.move_to_end(sandbox_id)
            return self._records[sandbox_id]
        return self._one("sandbox_id = ?", (sandbox_id,))

    def find(self, owner: str, name: str) -> SandboxRecord | None:
        """See `abc.Store`."""
        return self._one("owner = ? AND name = ?", (owner, name))

    def find_exec(self, exec_id: int) -> SandboxRecord | None:
        """See `abc.Store`."""
        return self._one("exec_id = ?", (rows.to_signed(exec_id),))

    def sandboxes(self, owner: str = "", wanted: SandboxFilter | None = None) -> Sequence[SandboxRecord]:
        """See `abc.Store`."""
        found = self._database.query(*statements.select_sandboxes(owner, wanted))
        return [self._records.get(row[0]) or self._record(row) for row in found]

    def append(self, event: Event) -> Event:
        """See `abc.Store`."""
        check_event(event)
        with self._database.transaction("append") as connection:
            event_id = _write_event(connection, event)
        return replace(event, event_id=event_id)

    def events(self, wanted: EventFilter) -> Sequence[Event]:
        """See `abc.Store`."""
        found = self._database.query(*statements.select_events(wanted))
        try:
            return [rows.to_event(row) for row in found]
        except ValueError as error:
            raise self._database.failure(error) from error

    def prune_events(self, before: float, keep: int) -> int:
        """See `abc.Store`. Also drops the roots that no sandbox has any more."""
        with self._database.transaction("prune") as connection:
            dropped = connection.execute(statements.PRUNE_BY_NUMBER, (max(keep, 0), PRUNED_AT_ONCE - 1)).rowcount
            dropped += connection.execute(statements.PRUNE_BY_AGE, (before, PRUNED_AT_ONCE)).rowcount
            connection.execute(statements.DROP_UNUSED_ROOTS)
        self._digests.clear()
        return dropped

    def close(self) -> None:
        """Writes everything back and gives the store to whoever comes next; repeating it is fine."""
        try:
            self._database.close()
        finally:
            self._lock.release()

    def _one(self, condition: str, parameters: tuple[Any, ...]) -> SandboxRecord | None:
        """`condition` is one of those above, never a caller's text."""
        found = self._database.query(f"{statements.SELECT_SANDBOXES} WHERE {condition}", parameters)
        if not found:
            return None
        record = self._records.get(found[0][0]) or self._record(found[0])
        self._remember(record)
        return record

    def _record(self, row: Sequence[Any]) -> SandboxRecord:
        labels = self._database.query(statements.SELECT_LABELS, (row[0],))
        try:
            return rows.to_record(row, self._root(row[rows.ROOT_AT]), tuple((key, value) for key, value in labels))
        except (ValueError, InvalidInput) as error:
            raise self._database.failure(error) from error

    def _remember(self, record: SandboxRecord) -> None:
        self._records[record.sandbox_id] = record
        self._records.move_to_end(record.sandbox_id)
        if len(self._records) > CACHED_RECORDS:
            self._records.popitem(last=False)

    def _forget(self, sandbox_id: str) -> None:
        """Before a row is written: when that fails it may be as it was or as it was to be."""
        self._records.pop(sandbox_id, None)

    def _root(self, digest: str) -> RootFilesystem:
        if digest not in self._roots:
            found = self._database.query("SELECT root FROM roots WHERE digest = ?", (digest,))
            if not found or _digest_of(found[0][0]) != digest:
                raise ValueError(f"the root file system {digest} is not what it was")
            self._remember_root(digest, rows.to_root(found[0][0]))
        return self._roots[digest]

    def _digest(self, root: RootFilesystem) -> str:
        """The digest of a root that is in the table, put there if need be: in a transaction of its own, so that what is remembered
        is there whatever comes of the caller's."""
        if root not in self._digests:
            text = rows.to_text(root)
            digest = _digest_of(text)
            with self._database.transaction("root") as connection:
                connection.execute("INSERT OR IGNORE INTO roots (digest, root) VALUES (?, ?)", (digest, text))
            self._remember_root(digest, root)
        return self._digests[root]

    def _remember_root(self, digest: str, root: RootFilesystem) -> None:
        if len(self._roots) >= CACHED_ROOTS:
            self._roots.clear()
            self._digests.clear()
        self._roots[digest] = root
        self._digests[root] = digest


def _check(record: SandboxRecord, event: Event | None) -> None:
    check_record(record)
    if event is not None:
        check_event(event)


@contextlib.contextmanager
def _conflicts(record: SandboxRecord) -> Iterator[None]:
    """What breaks a UNIQUE rule, in words."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        if "sandboxes.name" in str(error):
            hint = "choose another name, or remove that one"
            raise Conflict(f"{record.owner} has a sandbox named {record.name!r}", hint=hint) from error
        if "sandboxes.exec_id" in str(error):
            raise Conflict(f"there is a sandbox for the command {record.exec_id}") from error
        if "sandboxes.sandbox_id" in str(error):
            raise Conflict(f"there is a sandbox with the id {record.sandbox_id}") from error
        raise


def _write_labels(connection: sqlite3.Connection, record: SandboxRecord) -> None:
    for key, value in record.labels:
        connection.execute("INSERT INTO labels (sandbox_id, key, value) VALUES (?, ?, ?)", (record.sandbox_id, key, value))


def _write_event(connection: sqlite3.Connection, event: Event | None) -> int:
    return connection.execute(statements.INSERT_EVENT, rows.to_event_row(event)).lastrowid or 0 if event is not None else 0


def _digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
