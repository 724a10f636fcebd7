"""The engine of a process that owns a durable store: sandboxes outlive it, and the next one takes them up."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from agentkernel.abc import Caller, Sandbox
from agentkernel.engine import access
from agentkernel.engine.ending import to_the_end
from agentkernel.engine.engine import Engine
from agentkernel.engine.ephemeral import Ephemerals
from agentkernel.engine.handle import SharedSandbox
from agentkernel.engine.parts import Parts
from agentkernel.engine.registry import Live
from agentkernel.errors import ProtocolViolation, SandboxFailed, SandboxLost
from agentkernel.model.command import Command, ExitStatus
from agentkernel.model.request import Grant, SandboxRequest

_OF_THE_SANDBOX = frozenset(kind.code for kind in (SandboxFailed, SandboxLost, ProtocolViolation))


class HostEngine(Engine):
    """Implements `abc.Host`."""

    durable = True

    def __init__(self, parts: Parts, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(parts, clock=clock)
        self._ephemerals = Ephemerals(self._core, self._reconciler)
        self._settled = asyncio.Event()
        self._core.adopted = self._adopted
        self._core.gone = self._logs.forget

    @property
    def identity(self) -> str:
        """See `abc.Host`."""
        return self._core.store.identity

    async def recover(self) -> None:
        """See `abc.Host`. Returns at once: a request for a sandbox that is not settled yet waits for it alone."""
        self._reconciler.take_stock()
        self._upkeep.dispose = self._ephemerals.dispose
        self._upkeep.start(self._settle)

    def _adopted(self, live: Live) -> None:
        self._core.operations.spawn(self._logs.resume(live))

    async def settled(self) -> None:
        """Waits until what an earlier engine left is settled and swept, as far as that can be done now."""
        await self._settled.wait()

    async def _settle(self) -> None:
        try:
            await self._reconciler.settle_all()
            for sandbox_id in self._logs.orphans():  # their rows went just before a crash
                self._logs.forget(sandbox_id)
            await self._reconciler.sweep_all()
        finally:
            self._settled.set()

    @asynccontextmanager
    async def _sandbox(self, caller: Caller, request: SandboxRequest) -> AsyncIterator[tuple[Sandbox, Grant]]:
        exec_id = int.from_bytes(os.urandom(8), "little") or 1
        try:
            yield await self.ephemeral(caller, request, exec_id)
        finally:
            await to_the_end(self.dispose(exec_id))

    async def ephemeral(self, caller: Caller, request: SandboxRequest, exec_id: int, *, fetches: bool = True) -> tuple[Sandbox, Grant]:
        """See `abc.Host`."""
        live, grant = await self._ephemerals.acquire(caller, request, exec_id, fetches=fetches)
        return SharedSandbox(live, self._usage, caller), grant

    async def ephemeral_of(self, caller: Caller, exec_id: int) -> Sandbox:
        """See `abc.Host`."""
        access.require(caller, "run")
        return SharedSandbox(await self._ephemerals.find(caller, exec_id), self._usage, caller)

    async def dispose(self, exec_id: int, caller: Caller | None = None) -> None:
        """See `abc.Host`."""
        await self._ephemerals.dispose(exec_id, caller)

    def started(self, caller: Caller, sandbox: Sandbox, command: Command, exec_id: int) -> None:
        """See `abc.Host`."""
        if (live := self._live(sandbox)) is not None:
            self._usage.started(caller, live, command, exec_id)

    def resumed(self, caller: Caller, sandbox: Sandbox, exec_id: int) -> None:
        """See `abc.Host`."""
        if (live := self._live(sandbox)) is not None:
            self._usage.resumed(live, exec_id)

    def ended(self, caller: Caller, sandbox: Sandbox, exec_id: int, status: ExitStatus | None, error: str = "") -> None:
        """See `abc.Host`."""
        if (live := self._live(sandbox)) is not None:
            self._usage.ended(caller, live, exec_id, status, error)
            if error in _OF_THE_SANDBOX:
                self._usage.suspect(live, SandboxLost("a command was lost"))

    def busy(self) -> int:
        """See `abc.Host`."""
        return len(self._core.operations) + self._core.registry.commands() + (len(self._images.jobs) if self._has_images else 0)

    async def close(self) -> None:
        """Lets go of everything; sandboxes live on."""
        core = self._core
        await self._let_go()
        try:
            for live in core.registry:
                core.registry.pop(live.sandbox_id)
                await live.sandbox.close()
        finally:
            await core.close()

    def _live(self, sandbox: Sandbox) -> Live | None:
        """What the engine knows of a sandbox: of its own handle, also when that has ended meanwhile."""
        return sandbox.live if isinstance(sandbox, SharedSandbox) else self._core.registry.get(sandbox.sandbox_id)
