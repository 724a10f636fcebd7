"""What a connection is waited for, each for its own time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum, auto


class Wait(Enum):
    """What a connection may be waited for."""

    HEADER = auto()
    BODY = auto()
    ACCEPT = auto()  # of a WebSocket
    WRITE = auto()
    END = auto()  # the last bytes are to be taken


class Timers:
    """The timers of one connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._running: dict[Wait, asyncio.TimerHandle] = {}

    def __contains__(self, wait: Wait) -> bool:
        return wait in self._running

    def arm(self, wait: Wait, delay_s: float, then: Callable[[], None]) -> None:
        """Calls `then` when `delay_s` have passed; an earlier call for the same is off."""
        self.disarm(wait)
        self._running[wait] = self._loop.call_later(delay_s, then)

    def disarm(self, wait: Wait) -> None:
        """It is not waited for any more."""
        running = self._running.pop(wait, None)
        if running is not None:
            running.cancel()

    def forget(self) -> None:
        """Nothing is."""
        for wait in Wait:
            self.disarm(wait)
