"""A store that lasts as long as its process: for an engine in process, which ends its sandboxes when it ends."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from agentkernel.errors import Conflict, NotFound
from agentkernel.model.record import Event, EventFilter, SandboxFilter, SandboxRecord
from agentkernel.store.checks import check_event, check_limit, check_record


class MemoryStore:
    """Implements `abc.Store` in dictionaries; events beyond `prune_events` stay until the process ends."""

    def __init__(self) -> None:
        self._identity = os.urandom(16).hex()
        self._records: dict[str, SandboxRecord] = {}
        self._names: dict[tuple[str, str], str] = {}
        self._execs: dict[int, str] = {}
        self._events: list[Event] = []
        self._last_event = 0

    @property
    def identity(self) -> str:
        """See `abc.Store`."""
        return self._identity

    def insert(self, record: SandboxRecord, event: Event | None = None) -> None:
        """See `abc.Store`."""
        _check(record, event)
        if record.sandbox_id in self._records:
            raise Conflict(f"there is a sandbox with the id {record.sandbox_id}")
        self._check_free(record)
        self._put(record)
        self._add(event)

    def update(self, record: SandboxRecord, event: Event | None = None) -> None:
        """See `abc.Store`."""
        _check(record, event)
        before = self._records.get(record.sandbox_id)
        if before is None:
            raise NotFound(f"there is no sandbox with the id {record.sandbox_id}")
        self._check_free(record)
        self._take_out(before)
        self._put(record)
        self._add(event)

    def delete(self, sandbox_id: str, event: Event | None = None) -> None:
        """See `abc.Store`."""
        if event is not None:
            check_event(event)
        if (record := self._records.get(sandbox_id)) is not None:
            self._take_out(record)
        self._add(event)

    def get(self, sandbox_id: str) -> SandboxRecord | None:
        """See `abc.Store`."""
        return self._records.get(sandbox_id)

    def find(self, owner: str, name: str) -> SandboxRecord | None:
        """See `abc.Store`."""
        return self._records.get(self._names.get((owner, name), ""))

    def find_exec(self, exec_id: int) -> SandboxRecord | None:
        """See `abc.Store`."""
        return self._records.get(self._execs.get(exec_id, ""))

    def sandboxes(self, owner: str = "", wanted: SandboxFilter | None = None) -> Sequence[SandboxRecord]:
        """See `abc.Store`."""
        every = [self._records[sandbox_id] for sandbox_id in sorted(self._records)]
        found = [record for record in every if not owner or record.owner == owner]
        if wanted is None:
            return found
        return [record for record in found if _is_wanted(record, wanted)][: check_limit(wanted.limit)]

    def append(self, event: Event) -> Event:
        """See `abc.Store`."""
        check_event(event)
        self._add(event)
        return self._events[-1]

    def events(self, wanted: EventFilter) -> Sequence[Event]:
        """See `abc.Store`."""
        return [event for event in self._events if _is_told(event, wanted)][: check_limit(wanted.limit)]

    def prune_events(self, before: float, keep: int) -> int:
        """See `abc.Store`."""
        newest = self._events[-keep:] if keep > 0 else []
        staying = [event for event in newest if event.at >= before]
        dropped = len(self._events) - len(staying)
        self._events = staying
        return dropped

    def close(self) -> None:
        """Nothing is to be written."""

    def _check_free(self, record: SandboxRecord) -> None:
        if self._names.get((record.owner, record.name), record.sandbox_id) != record.sandbox_id:
            raise Conflict(f"{record.owner} has a sandbox named {record.name!r}", hint="choose another name, or remove that one")
        if record.exec_id and self._execs.get(record.exec_id, record.sandbox_id) != record.sandbox_id:
            raise Conflict(f"there is a sandbox for the command {record.exec_id}")

    def _put(self, record: SandboxRecord) -> None:
        self._records[record.sandbox_id] = record
        self._names[record.owner, record.name] = record.sandbox_id
        if record.exec_id:
            self._execs[record.exec_id] = record.sandbox_id

    def _take_out(self, record: SandboxRecord) -> None:
        del self._records[record.sandbox_id]
        del self._names[record.owner, record.name]
        self._execs.pop(record.exec_id, None)

    def _add(self, event: Event | None) -> None:
        if event is not None:
            self._last_event += 1
            self._events.append(replace(event, event_id=self._last_event))


def _check(record: SandboxRecord, event: Event | None) -> None:
    check_record(record)
    if event is not None:
        check_event(event)


def _is_wanted(record: SandboxRecord, wanted: SandboxFilter) -> bool:
    return (
        record.sandbox_id > wanted.after
        and (wanted.ephemeral or not record.ephemeral)
        and (not wanted.statuses or record.status in wanted.statuses)
        and (not wanted.backend or record.backend == wanted.backend)
        and set(wanted.labels) <= set(record.labels)
    )


def _is_told(event: Event, wanted: EventFilter) -> bool:
    return (
        event.event_id > wanted.after
        and (not wanted.since or event.at >= wanted.since)
        and (not wanted.sandbox or wanted.sandbox in (event.sandbox_id, event.sandbox))
        and (not wanted.kinds or any(event.kind == kind or (kind.endswith(".") and event.kind.startswith(kind)) for kind in wanted.kinds))
        and (not wanted.principal or event.principal == wanted.principal)
    )
