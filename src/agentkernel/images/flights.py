"""Work that several callers want at the same time, done once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field

from agentkernel.abc_images import Report
from agentkernel.model.image import Image, ImageProgress


@dataclass(eq=False, slots=True)
class _Flight:
    """Work on its way, and who hears of it."""

    listeners: list[Report] = field(default_factory=list)
    task: asyncio.Task[Image] | None = None

    def tell(self, progress: ImageProgress) -> None:
        for listener in self.listeners:
            listener(progress)


class Flights:
    """What is on its way now, by key."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight] = {}

    async def join(self, key: Hashable, work: Callable[[Report], Awaitable[Image]], report: Report) -> Image:
        """The result of the work of that key, begun now unless it is on its way; it is cancelled with its last caller."""
        flight = self._flights.get(key)
        if flight is None or flight.task is None:
            flight = self._flights[key] = _Flight()
            flight.task = asyncio.ensure_future(self._fly(key, flight, work))
        flight.listeners.append(report)
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.listeners.remove(report)
            if not flight.listeners and not flight.task.done():
                self._forget(key, flight)
                flight.task.cancel()
                await asyncio.gather(flight.task, return_exceptions=True)

    async def _fly(self, key: Hashable, flight: _Flight, work: Callable[[Report], Awaitable[Image]]) -> Image:
        try:
            return await work(flight.tell)
        finally:
            self._forget(key, flight)

    def _forget(self, key: Hashable, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
