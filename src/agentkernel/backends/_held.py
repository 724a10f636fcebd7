"""The half of a boundary that ends it: what it holds on the host is let go, stopped or removed, by whoever comes first, and once."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

from agentkernel.backends._records import LEFT_HINT, failing_as
from agentkernel.errors import SandboxFailed, Unsupported


class Holding(Protocol):
    """What a sandbox holds on the host, as one backend records it."""

    @property
    def sandbox_id(self) -> str:
        """The id that everything is named by."""
        ...

    @property
    def owner(self) -> str:
        """The identity of the store that it was booted for; empty: it ends with this process."""
        ...

    async def let_go(self) -> None:
        """Frees what only this process needs; the sandbox lives on and can be recovered."""
        ...

    async def release_or_let_go(self, act: str, *, keep_files: bool = False) -> None:
        """Ends and removes it; should that fail, what is left can be taken up again by its records. `act` names the failpoints."""
        ...


H = TypeVar("H", bound=Holding)


class Held(ABC, Generic[H]):
    """Implements the ends of `channel.boundary.Boundary`."""

    def __init__(self, holdings: H, *, keeps_files: bool) -> None:
        self.sandbox_id = holdings.sandbox_id
        self._holdings: H | None = holdings
        self._owner = holdings.owner
        self._keeps_files = keeps_files
        self._ending = asyncio.Lock()
        self._end = ""  # how this process ended it, if it did

    @abstractmethod
    async def _recorded(self) -> H | None:
        """Takes what is recorded of a booted sandbox up again; None where nothing is left."""

    async def close(self) -> None:
        """Lets go of a booted sandbox, which lives on; one that was not booted stays this process's to destroy."""
        async with self._ending:
            if self._owner and self._holdings is not None:
                holdings, self._holdings, self._end = self._holdings, None, "let go"
                await asyncio.shield(holdings.let_go())

    async def stop(self) -> None:
        """Kills everything inside and frees all but the files; raises Unsupported where none are kept."""
        if not self._keeps_files:
            raise Unsupported("nothing would be left of this sandbox, whose files are in memory or which was not booted", hint="destroy it")
        await asyncio.shield(self._finish("stopped", keep_files=True))

    async def destroy(self) -> None:
        """Kills everything inside and removes every trace on the host."""
        await asyncio.shield(self._finish("destroyed", keep_files=False))

    async def _finish(self, how: str, *, keep_files: bool) -> None:
        self._end = how
        with failing_as(SandboxFailed, f"the sandbox cannot be {how}", LEFT_HINT):
            async with self._ending:
                holdings, self._holdings = self._holdings, None
                if holdings is None and self._owner:  # it was let go, or stopped
                    holdings = await self._recorded()
                if holdings is not None:
                    act = "stop" if keep_files else "discard" if self._owner else "destroy"
                    await holdings.release_or_let_go(act, keep_files=keep_files)
