"""The SQL that is put together: which sandboxes, which events. Only names of columns are put in; values are always parameters."""

# ruff: noqa: S608 - see above

from __future__ import annotations

from functools import cache
from typing import Any, Final

from agentkernel.model.record import EventFilter, SandboxFilter
from agentkernel.store.checks import check_limit
from agentkernel.store.rows import EVENT_COLUMNS, SANDBOX_COLUMNS

INSERT_SANDBOX: Final = f"INSERT INTO sandboxes ({SANDBOX_COLUMNS}) VALUES (:{SANDBOX_COLUMNS.replace(', ', ', :')})"
SELECT_SANDBOXES: Final = f"SELECT {SANDBOX_COLUMNS} FROM sandboxes"
SELECT_LABELS: Final = "SELECT key, value FROM labels WHERE sandbox_id = ? ORDER BY key"
INSERT_EVENT: Final = f"INSERT INTO events ({EVENT_COLUMNS}) VALUES ({', '.join('?' * (EVENT_COLUMNS.count(',') + 1))})"
PRUNE_BY_AGE: Final = "DELETE FROM events WHERE event_id IN (SELECT event_id FROM events WHERE at < ? ORDER BY at LIMIT ?)"
PRUNE_BY_NUMBER: Final = """
    DELETE FROM events WHERE event_id <= min(
        (SELECT event_id FROM events ORDER BY event_id DESC LIMIT 1 OFFSET ?), (SELECT min(event_id) FROM events) + ?
    )
"""
DROP_UNUSED_ROOTS: Final = "DELETE FROM roots WHERE digest NOT IN (SELECT root FROM sandboxes)"
_AFTER_DOT: Final = chr(ord(".") + 1)


@cache
def update_sandbox(columns: tuple[str, ...]) -> str:
    """An UPDATE of these columns of the sandbox `:this`."""
    return f"UPDATE sandboxes SET {', '.join(f'{column} = :{column}' for column in columns)} WHERE sandbox_id = :this"


def select_sandboxes(owner: str, wanted: SandboxFilter | None) -> tuple[str, list[Any]]:
    """The sandboxes of `abc.Store.sandboxes`."""
    conditions: list[str] = []
    values: list[Any] = []
    if owner:
        conditions.append("owner = ?")
        values.append(owner)
    if wanted is None:
        return f"{SELECT_SANDBOXES}{_where(conditions)} ORDER BY sandbox_id", values
    conditions.append("sandbox_id > ?")
    values.append(wanted.after)
    if not wanted.ephemeral:
        conditions.append("ephemeral = 0")
    if wanted.statuses:
        conditions.append(f"status IN ({', '.join('?' * len(wanted.statuses))})")
        values += [status.value for status in wanted.statuses]
    if wanted.backend:
        conditions.append("backend = ?")
        values.append(wanted.backend)
    for label in wanted.labels:
        conditions.append("sandbox_id IN (SELECT sandbox_id FROM labels WHERE key = ? AND value = ?)")
        values += label
    return f"{SELECT_SANDBOXES}{_where(conditions)} ORDER BY sandbox_id LIMIT ?", [*values, check_limit(wanted.limit)]


def select_events(wanted: EventFilter) -> tuple[str, list[Any]]:
    """The events of `abc.Store.events`."""
    conditions = ["event_id > ?"]
    values: list[Any] = [wanted.after]
    if wanted.since:
        conditions.append("at >= ?")
        values.append(wanted.since)
    if wanted.sandbox:
        conditions.append("(sandbox_id = ? OR sandbox = ?)")
        values += [wanted.sandbox, wanted.sandbox]
    if wanted.kinds:
        kinds = [_kind(kind) for kind in wanted.kinds]
        conditions.append(f"({' OR '.join(condition for condition, _ in kinds)})")
        values += [value for _, some in kinds for value in some]
    if wanted.principal:
        conditions.append("principal = ?")
        values.append(wanted.principal)
    statement = f"SELECT {EVENT_COLUMNS} FROM events{_where(conditions)} ORDER BY event_id LIMIT ?"
    return statement, [*values, check_limit(wanted.limit)]


def _kind(kind: str) -> tuple[str, list[str]]:
    return ("(kind >= ? AND kind < ?)", [kind, kind[:-1] + _AFTER_DOT]) if kind.endswith(".") else ("kind = ?", [kind])


def _where(conditions: list[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""
