"""Takes the trail of engines in process into a durable store's.

<data directory>/audit/passing.jsonl     they append to it, one line of JSON per event; flock: shared to write, exclusive to rename
<data directory>/audit/passing.1.jsonl   the one before, which was full; what was in an earlier one is dropped
<data directory>/audit/taken.jsonl       is being taken in; after a crash some of it perhaps twice
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from agentkernel.engine.audit import Journal
from agentkernel.errors import InvalidInput
from agentkernel.model.record import Event

AT_ONCE: Final = 100  # events that are taken in before others have their turn
_WORDS: Final = ("kind", "principal", "sandbox_id", "sandbox", "backend", "isolation", "outcome")


class Taker:
    """Of one journal."""

    def __init__(self, journal: Journal) -> None:
        self._newer, self._older, self._taken = journal.newer, journal.older, f"{journal.directory}/taken.jsonl"

    async def take(self, append: Callable[[Event], object]) -> None:
        """Gives every event to `append`, oldest first, and forgets it; what cannot be given stays for the next time. One at a time."""
        await self._take_in(append)  # what a crash left
        for rename in (self._rename_older, self._rename_newer):
            try:
                rename()
            except OSError:
                continue  # there is none; or somebody writes to it just now, and then it is there the next time
            await self._take_in(append)

    def _rename_older(self) -> None:
        os.rename(self._older, self._taken)

    def _rename_newer(self) -> None:
        descriptor = os.open(self._newer, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(self._newer, self._taken)
        finally:
            os.close(descriptor)

    async def _take_in(self, append: Callable[[Event], object]) -> None:
        lines = _lines(self._taken)
        for number, line in enumerate(lines, 1):
            if (event := _event(line)) is not None:
                with suppress(InvalidInput):  # it is no event
                    append(event)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        with suppress(FileNotFoundError):
            os.unlink(self._taken)


def _lines(path: str) -> list[bytes]:
    try:
        with open(path, "rb") as file:
            return file.readlines()
    except FileNotFoundError:
        return []


def _event(line: bytes) -> Event | None:
    """None for what is none: the cut line of a crash or of a full disk."""
    try:
        found = json.loads(line)
        found["details"] = tuple((name, text) for name, text in found.get("details", ()))
        event = Event(**found)
    except (ValueError, TypeError, AttributeError):
        return None
    words = (getattr(event, name) for name in _WORDS)
    is_one = all(isinstance(word, str) for word in (*words, *(word for pair in event.details for word in pair)))
    numbers = isinstance(event.at, float) and isinstance(event.exec_id, int) and 0 <= event.exec_id < 1 << 64
    return event if is_one and numbers and event.event_id == 0 else None
