"""The contract of stores: what of sandboxes and events is kept, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from agentkernel.model.record import Event, EventFilter, SandboxFilter, SandboxRecord


class Store(Protocol):
    """Sandboxes and events, durable; every call is one transaction and returns when a `kill -9` can no longer undo it.

    Calls are quick (well under a millisecond) and made from the event loop. Raises StoreFailed when the disk does.
    """

    @property
    def identity(self) -> str:
        """32 hexadecimal digits, made with the store, for ever."""
        ...

    def insert(self, record: SandboxRecord, event: Event | None = None) -> None:
        """Adds a sandbox; raises Conflict when its owner has one of that name."""
        ...

    def update(self, record: SandboxRecord, event: Event | None = None) -> None:
        """Replaces a sandbox's row; raises NotFound, and Conflict for a name that is taken."""
        ...

    def delete(self, sandbox_id: str, event: Event | None = None) -> None:
        """Removes the row; none there is fine."""
        ...

    def get(self, sandbox_id: str) -> SandboxRecord | None:
        """By id."""
        ...

    def find(self, owner: str, name: str) -> SandboxRecord | None:
        """By name."""
        ...

    def find_exec(self, exec_id: int) -> SandboxRecord | None:
        """The ephemeral sandbox made for that command."""
        ...

    def sandboxes(self, owner: str = "", wanted: SandboxFilter | None = None) -> Sequence[SandboxRecord]:
        """Those of an owner (of all, when empty) that match, by id; without a filter every one, ephemeral ones too."""
        ...

    def append(self, event: Event) -> Event:
        """Adds an event and returns it with its id."""
        ...

    def events(self, wanted: EventFilter) -> Sequence[Event]:
        """Those that match, oldest first."""
        ...

    def prune_events(self, before: float, keep: int) -> int:
        """Drops events older than `before` and all but the newest `keep`, some at a time; returns how many, and 0 when none is left."""
        ...

    def close(self) -> None:
        """Writes everything back."""
        ...
