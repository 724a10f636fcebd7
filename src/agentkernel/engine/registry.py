"""The sandboxes that run and that this engine is attached to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from agentkernel.abc import Sandbox
from agentkernel.model.record import SandboxRecord
from agentkernel.model.request import Grant

ENDED_KEPT: Final = 1024  # as many ended commands as an agent remembers: nobody takes up others


class Recorded:
    """Exec ids of detached commands whose output, and end, is recorded: those that run, and those that ended last."""

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._ended: dict[int, None] = {}  # the oldest first

    def __contains__(self, exec_id: int) -> bool:
        return exec_id in self._running or exec_id in self._ended

    def __len__(self) -> int:
        return len(self._running) + len(self._ended)

    def begin(self, exec_id: int) -> None:
        """Its recording begins, perhaps again."""
        self._ended.pop(exec_id, None)
        self._running.add(exec_id)

    def end(self, exec_id: int) -> None:
        """Its recording is over."""
        self._running.discard(exec_id)
        self._ended[exec_id] = None
        if len(self._ended) > ENDED_KEPT:
            del self._ended[next(iter(self._ended))]


@dataclass(slots=True, kw_only=True)
class Live:
    """One running sandbox: its row as last stored, and the one handle on it that everybody shares."""

    record: SandboxRecord
    sandbox: Sandbox
    used_at: float  # Unix seconds
    grant: Grant | None = None  # of one that was made for a command in this engine's life
    claim_by: float | None = None  # made for a command and adopted after a crash: removed then, unless its client comes back before
    commands: set[int] = field(default_factory=set)  # exec ids that somebody waits for
    recorded: Recorded = field(default_factory=Recorded)
    unnamed: int = 0  # more of them, whose ids are not known
    connections: int = 0  # to its published ports
    visits: int = 0  # of those who need it running for a while
    visit_by: float | None = None  # it runs for visitors alone and has none: stopped then, unless one comes before

    @property
    def sandbox_id(self) -> str:
        """Its id."""
        return self.record.sandbox_id

    @property
    def is_in_use(self) -> bool:
        """Whether somebody waits for a command in it, is connected to a port of its, or visits it."""
        return bool(self.commands) or self.unnamed > 0 or self.connections > 0 or self.visits > 0


class Registry:
    """By id. `begun` and `ended` are told of each that is added and taken out."""

    def __init__(self, begun: Callable[[Live], None], ended: Callable[[Live], None]) -> None:
        self._begun = begun
        self._ended = ended
        self._live: dict[str, Live] = {}

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Live]:
        return iter(tuple(self._live.values()))

    def add(self, live: Live) -> Live:
        """It runs."""
        self._live[live.sandbox_id] = live
        self._begun(live)
        return live

    def get(self, sandbox_id: str) -> Live | None:
        """The running sandbox of that id."""
        return self._live.get(sandbox_id)

    def pop(self, sandbox_id: str) -> Live | None:
        """It is about to end: from now on nobody finds it here."""
        live = self._live.pop(sandbox_id, None)
        if live is not None:
            self._ended(live)
        return live

    def commands(self) -> int:
        """How many commands somebody waits for."""
        return sum(len(live.commands) + live.unnamed for live in self._live.values())
