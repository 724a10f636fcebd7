"""How much of the daemon the server takes: its connections there, of which the users of the machine need some too."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from agentkernel.errors import Busy

Give = Callable[[], Awaitable[bool]]  # closes a connection that nobody uses; False: there is none


class Seats:
    """One for each connection of a request, or kept for the next one. Belongs to one event loop.

    Args:
        most: at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._givers: list[Give] = []

    @property
    def taken(self) -> int:
        """How many are."""
        return self._taken

    def join(self, give: Give) -> None:
        """From now on this one is asked too when there is none left."""
        self._givers.append(give)

    def leave(self, give: Give) -> None:
        """And no more."""
        self._givers.remove(give)

    async def take(self) -> None:
        """Takes one, which must be left with `free`; connections that are only kept make way.

        Raises:
            Busy: all are in use; nothing was done.
        """
        while self._taken >= self._most:
            if not await self._given():
                raise Busy(f"{self._most} connections to the daemon are in use, which is the most", hint="try again when some have ended")
        self._taken += 1

    def free(self) -> None:
        """Leaves one."""
        self._taken -= 1

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Takes one for a block."""
        await self.take()
        try:
            yield
        finally:
            self.free()

    async def _given(self) -> bool:
        for give in tuple(self._givers):
            if await give():
                return True
        return False
