"""Waiting for state that others change."""

from __future__ import annotations

import asyncio


class Bell:
    """Wakes everyone who waits for something to change; what it is they look up themselves."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Returns at the next `ring`."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        finally:
            if future in self._waiting:
                self._waiting.remove(future)  # cancelled

    def ring(self) -> None:
        """Wakes the waiting."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)
