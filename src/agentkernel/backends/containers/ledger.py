"""Which of an engine's images agentkernel obtained, when, and when they were used last: engines do not tell, and prune must know.

One JSON file per engine, replaced as a whole. Of two writers at once one wins, which costs no more than a date; whatever is wrong with the
file, there is nothing in it, and then nothing is pruned.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_MAX_BYTES = 4 * 1024 * 1024
_USE_GRAIN_S = 3600.0  # a use is noted when the last note is older: a run shall not write a file


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One image, by its reference."""

    identity: str  # the engine's id of it: sha256:...
    obtained_at: float
    used_at: float
    users: tuple[tuple[str, int, int], ...] = ()


class Ledger:
    """The file of one engine."""

    def __init__(self, path: str, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock

    def entries(self) -> dict[str, Entry]:
        """By reference."""
        try:
            with open(self._path, "rb") as file:
                found = json.loads(file.read(_MAX_BYTES))
            return {str(name): _entry(fields) for name, fields in found.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {}

    def age_s(self, entry: Entry) -> float:
        """How long ago it was used last."""
        return self._clock() - max(entry.used_at, entry.obtained_at)

    def obtained(self, reference: str, identity: str, users: tuple[tuple[str, int, int], ...] = ()) -> None:
        """Notes that it is there because of us."""
        now = self._clock()
        self._write({**self.entries(), reference: Entry(identity=identity, obtained_at=now, used_at=now, users=users)})

    def used(self, reference: str) -> None:
        """Notes that it is about to be used; of an image that is not ours nothing is noted."""
        entries = self.entries()
        entry = entries.get(reference)
        now = self._clock()
        if entry is not None and not 0 <= now - entry.used_at < _USE_GRAIN_S:
            fresh = Entry(identity=entry.identity, obtained_at=entry.obtained_at, used_at=now, users=entry.users)
            self._write({**entries, reference: fresh})

    def forget(self, reference: str) -> None:
        """It is gone."""
        entries = self.entries()
        if entries.pop(reference, None) is not None:
            self._write(entries)

    def _write(self, entries: dict[str, Entry]) -> None:
        """Raises OSError."""
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        temporary = f"{self._path}.{os.getpid()}"
        content = {
            name: {"id": entry.identity, "obtained": entry.obtained_at, "used": entry.used_at, "users": entry.users}
            for name, entry in entries.items()
        }
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "w") as file:
            json.dump(content, file)
        os.replace(temporary, self._path)


def _entry(fields: Any) -> Entry:
    return Entry(
        identity=str(fields["id"]),
        obtained_at=float(fields["obtained"]),
        used_at=float(fields["used"]),
        users=tuple((str(name), int(uid), int(gid)) for name, uid, gid in fields["users"]),
    )
