"""Records and events as rows of the tables, and back. What a row holds that no record can is damage: ValueError or InvalidInput."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agentkernel.model.codec import from_json, to_json
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.network import PublishedPort
from agentkernel.model.record import Event, Labels, SandboxRecord
from agentkernel.model.spec import RootFilesystem, RootKind, SandboxSpec
from agentkernel.model.status import Status

SANDBOX_COLUMNS = (
    "sandbox_id, name, owner, status, backend, isolation, created_at, ephemeral, exec_id, started_at, used_at, expires_at, idle_s, reason, "
    "request_key, published, visited, root, spec"
)
ROOT_AT = 17  # where SANDBOX_COLUMNS has the root's digest
EVENT_COLUMNS = "event_id, kind, at, principal, sandbox_id, sandbox, backend, isolation, outcome, exec_id, details"
_ELSEWHERE = RootFilesystem(kind=RootKind.HOST)  # stands in a stored specification for the root, which has a table of its own
_WORD = 1 << 64


def to_text(value: object) -> str:
    """Compact JSON in ASCII; half surrogate pairs and NUL are escaped, so every text can be stored."""
    return json.dumps(to_json(value), separators=(",", ":"))


def to_spec_text(spec: SandboxSpec) -> str:
    """The JSON of a specification without its root."""
    return to_text(replace(spec, root=_ELSEWHERE))


def to_root(text: str) -> RootFilesystem:
    """The reverse of `to_text` for a root."""
    return from_json(RootFilesystem, json.loads(text))


def to_columns(record: SandboxRecord) -> dict[str, Any]:
    """A record's columns, without `root` and `spec`."""
    return {
        "sandbox_id": record.sandbox_id,
        "name": record.name,
        "owner": record.owner,
        "status": record.status.value,
        "backend": record.backend,
        "isolation": record.isolation.label,
        "created_at": record.created_at,
        "ephemeral": int(record.ephemeral),
        "exec_id": to_signed(record.exec_id),
        "started_at": record.started_at,
        "used_at": record.used_at,
        "expires_at": record.expires_at,
        "idle_s": record.idle_s,
        "reason": record.reason,
        "request_key": record.request_key,
        "published": to_text(record.published),
        "visited": int(record.visited),
    }


def to_record(row: Sequence[Any], root: RootFilesystem, labels: Labels) -> SandboxRecord:
    """A row of SANDBOX_COLUMNS as a record."""
    return SandboxRecord(
        sandbox_id=row[0],
        name=row[1],
        owner=row[2],
        status=Status(row[3]),
        backend=row[4],
        isolation=from_json(IsolationLevel, row[5]),
        created_at=row[6],
        ephemeral=bool(row[7]),
        exec_id=_to_unsigned(row[8]),
        started_at=row[9],
        used_at=row[10],
        expires_at=row[11],
        idle_s=row[12],
        reason=row[13],
        request_key=row[14],
        published=from_json(tuple[PublishedPort, ...], json.loads(row[15])),
        visited=bool(row[16]),
        spec=replace(from_json(SandboxSpec, json.loads(row[ROOT_AT + 1])), root=root),
        labels=labels,
    )


def to_event_row(event: Event) -> tuple[Any, ...]:
    """An event in the order of EVENT_COLUMNS, without an id: the table gives it."""
    return (
        None,
        event.kind,
        event.at,
        event.principal,
        event.sandbox_id,
        event.sandbox,
        event.backend,
        event.isolation,
        event.outcome,
        to_signed(event.exec_id),
        json.dumps(event.details, separators=(",", ":")),
    )


def to_event(row: Sequence[Any]) -> Event:
    """A row of EVENT_COLUMNS as an event."""
    return Event(
        event_id=row[0],
        kind=row[1],
        at=row[2],
        principal=row[3],
        sandbox_id=row[4],
        sandbox=row[5],
        backend=row[6],
        isolation=row[7],
        outcome=row[8],
        exec_id=_to_unsigned(row[9]),
        details=tuple((key, value) for key, value in json.loads(row[10])),
    )


def to_signed(exec_id: int) -> int | None:
    """An unsigned 64-bit id as SQLite's integers hold it; 0 means none."""
    return (exec_id if exec_id < _WORD >> 1 else exec_id - _WORD) or None


def _to_unsigned(stored: int | None) -> int:
    return (stored or 0) % _WORD
