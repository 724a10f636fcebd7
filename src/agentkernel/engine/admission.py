"""How much is done at once: boots in parallel, those that wait, and sandboxes per caller. Beyond that: Busy, before any effect."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from agentkernel.errors import Busy


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one engine takes on."""

    boots: int = field(default_factory=lambda: 2 * (os.cpu_count() or 1))  # at the same time
    queue: int = 1000  # boots that wait for their turn
    sandboxes: int = 1000  # of one caller, those of single commands included


class Boots:
    """Lets `limits.boots` sandboxes be built at the same time; the others wait in the order in which they came."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.boots)
        self._inside = 0  # building or waiting

    @property
    def queued(self) -> int:
        """How many wait."""
        return max(0, self._inside - self._limits.boots)

    def check(self) -> None:
        """Raises Busy when too many wait. It is asked before anything is stored, and with no await until `slot`."""
        if self.queued >= self._limits.queue:
            raise Busy(f"{self.queued} sandboxes wait to be built already", hint="try again in a moment")

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Waits for a turn and holds it for the block."""
        self._inside += 1
        try:
            async with self._slots:
                yield
        finally:
            self._inside -= 1


def check_quota(limits: Limits, principal: str, count: int) -> None:
    """Raises Busy when the caller, who has `count` sandboxes, may have no more."""
    if count >= limits.sandboxes:
        hint = "remove some (`agentkernel list`), or have the limit raised"
        raise Busy(f"{principal} has {count} sandboxes, and may have {limits.sandboxes}", hint=hint)
