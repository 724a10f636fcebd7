"""The handle of one sandbox: opened when first needed, let go when sandbox or daemon is lost, so that the next use finds what runs then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agentkernel.abc import Caller, Kernel, Sandbox
from agentkernel.errors import DaemonUnavailable, SandboxLost


class Live:
    """Made with a `handle` it is a sandbox of a block, whose end is the block's business; else it opens the sandbox `name`."""

    def __init__(self, kernel: Kernel, caller: Caller, name: str, handle: Sandbox | None = None) -> None:
        self._kernel = kernel
        self._caller = caller
        self._name = name
        self._handle = handle
        self._borrowed = handle is not None
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Sandbox]:
        """The running sandbox; raises NotFound, and Conflict when it does not run."""
        async with self._lock:
            if self._handle is None:
                self._handle = await self._kernel.open(self._caller, self._name)
            handle = self._handle
        try:
            yield handle
        except (SandboxLost, DaemonUnavailable):
            if self._handle is handle:
                await self.drop()
            raise

    async def drop(self) -> None:
        """Lets go of the handle; nothing in the sandbox ends but foreground commands."""
        if self._handle is not None and not self._borrowed:
            handle, self._handle = self._handle, None
            await handle.close()
