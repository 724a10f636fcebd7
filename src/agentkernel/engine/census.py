"""Which sandboxes there are, in memory: ids that no sweep may touch, how many each caller has, and when they expire."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from agentkernel.model.record import SandboxRecord


@dataclass(frozen=True, slots=True)
class _Entry:
    owner: str
    expires_at: float | None
    request_key: str


class Census:
    """Follows the store: told of every row before it is inserted and after it is deleted. A `Collection` of ids, always up to date."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._counts: Counter[str] = Counter()
        self._keys: dict[tuple[str, str], str] = {}

    def __contains__(self, sandbox_id: object) -> bool:
        return sandbox_id in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, record: SandboxRecord) -> None:
        """It is there, and so it is now."""
        self.discard(record.sandbox_id)
        self._entries[record.sandbox_id] = _Entry(record.owner, record.expires_at, record.request_key)
        self._counts[record.owner] += 1
        if record.request_key:
            self._keys[record.owner, record.request_key] = record.sandbox_id

    def discard(self, sandbox_id: str) -> None:
        """It is gone; unknown ids are fine."""
        entry = self._entries.pop(sandbox_id, None)
        if entry is None:
            return
        self._counts[entry.owner] -= 1
        if not self._counts[entry.owner]:
            del self._counts[entry.owner]
        self._keys.pop((entry.owner, entry.request_key), None)

    def count(self, owner: str) -> int:
        """How many an owner has."""
        return self._counts[owner]

    def made_for(self, owner: str, request_key: str) -> str:
        """The id of what the owner's request of that key made; empty: nothing."""
        return self._keys.get((owner, request_key), "") if request_key else ""

    def expired(self, now: float) -> list[str]:
        """Whose time is over."""
        return [sandbox_id for sandbox_id, entry in self._entries.items() if entry.expires_at is not None and entry.expires_at <= now]
