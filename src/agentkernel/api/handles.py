"""Opened sandboxes of one caller, kept for its next request: to open one costs a connection and two questions."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from agentkernel.abc import Caller, Kernel, Sandbox
from agentkernel.errors import AgentKernelError, DaemonUnavailable, SandboxLost
from agentkernel.model.record import SandboxInfo
from agentkernel.model.status import Status

MOST: Final = 64  # idle ones, of one caller


@dataclass(eq=False)
class _Opened:
    """One boot of a sandbox. `users` are requests under way; a connection that they share must not be closed under them."""

    started_at: float | None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    sandbox: Sandbox | None = None
    users: int = 0
    dropped: bool = False


class Handles:
    """By sandbox id and boot: a name may be another's by the next request, and after a stop nothing of the old boot answers."""

    def __init__(self, kernel: Kernel, caller: Caller, most: int = MOST) -> None:
        self._kernel = kernel
        self._caller = caller
        self._most = most
        self._opened: OrderedDict[str, _Opened] = OrderedDict()

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[tuple[SandboxInfo, Sandbox]]:
        """The running sandbox of that name or id; raises NotFound, and Conflict when it does not run."""
        info = await self._kernel.info(self._caller, name)
        opened = await self._of(info)
        opened.users += 1
        try:
            async with opened.lock:
                if opened.sandbox is None:
                    opened.sandbox = await self._kernel.open(self._caller, info.sandbox_id)
            yield info, opened.sandbox
        except (SandboxLost, DaemonUnavailable):
            self._drop(info.sandbox_id, opened)
            raise
        finally:
            opened.users -= 1
            await self._settle(opened)
            await self._bound()

    async def close(self) -> None:
        """Closes all that is idle, and the rest when it is."""
        for sandbox_id, opened in list(self._opened.items()):
            self._drop(sandbox_id, opened)
            await self._settle(opened)

    async def _of(self, info: SandboxInfo) -> _Opened:
        opened = self._opened.get(info.sandbox_id)
        if opened is not None and (opened.started_at != info.started_at or info.status is not Status.RUNNING):
            self._drop(info.sandbox_id, opened)
            await self._settle(opened)
            opened = self._opened.get(info.sandbox_id)  # somebody may have come meanwhile
        if opened is None:
            opened = self._opened[info.sandbox_id] = _Opened(info.started_at)
        self._opened.move_to_end(info.sandbox_id)
        return opened

    def _drop(self, sandbox_id: str, opened: _Opened) -> None:
        opened.dropped = True
        if self._opened.get(sandbox_id) is opened:
            del self._opened[sandbox_id]

    async def _settle(self, opened: _Opened) -> None:
        """Closes one that was dropped, when nobody uses it any more."""
        if opened.dropped and not opened.users and opened.sandbox is not None:
            sandbox, opened.sandbox = opened.sandbox, None
            with suppress(AgentKernelError):  # of a connection that is broken anyhow
                await sandbox.close()

    async def _bound(self) -> None:
        while len(self._opened) > self._most:
            found = next(((ident, each) for ident, each in self._opened.items() if not each.users), None)
            if found is None:
                return
            self._drop(*found)
            await self._settle(found[1])
