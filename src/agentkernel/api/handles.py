"""Opened sandboxes of one caller, kept for its next request: to open one costs a connection and two questions."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar, runtime_checkable

from agentkernel.abc import Caller, Kernel, Sandbox
from agentkernel.api.seats import Seats
from agentkernel.errors import AgentKernelError, DaemonUnavailable, NotFound, SandboxLost
from agentkernel.model.record import SandboxInfo
from agentkernel.model.status import Status

MOST: Final = 64  # idle ones, of one caller
T = TypeVar("T")


@runtime_checkable
class Addressed(Protocol):
    """A sandbox (of `client`) whose commands say for whom they are: whether there still is such a one is found out with each of them."""

    @property
    def address(self) -> str:
        """What it was opened by: an id, or NAME@ID. A command that is for no such sandbox by then is NotFound, with nothing done."""
        ...


@dataclass(eq=False)
class _Opened:
    """One boot of a sandbox, by one of its names. `users` are requests under way: the connection that they share must not be closed."""

    info: SandboxInfo
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    sandbox: Sandbox | None = None
    is_addressed: bool = False  # `Addressed`, found out once: to ask costs as much as a small request
    users: int = 0
    dropped: bool = False


class Handles:
    """By the name or id that requests give. A name may be another sandbox's by the next request; then that one is meant."""

    def __init__(self, kernel: Kernel, caller: Caller, seats: Seats, most: int = MOST) -> None:
        self._kernel = kernel
        self._caller = caller
        self._seats = seats
        self._most = most
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        seats.join(self._give)

    async def start(self, name: str, work: Callable[[SandboxInfo, Sandbox], Awaitable[T]]) -> T:
        """Does what begins with one command (or operation on files) in the running sandbox; raises NotFound, and Conflict.

        Where the command itself says whom it is for, nobody is asked before; one that was for another sandbox was not begun.
        """
        opened = self._opened.get(name)
        if opened is not None and opened.is_addressed:
            try:
                async with self._held(name, opened) as sandbox:
                    return await work(opened.info, sandbox)
            except NotFound:
                self._drop(name, opened)
                await self._settle(opened)
        async with self.use(name) as (info, sandbox):
            return await work(info, sandbox)

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[tuple[SandboxInfo, Sandbox]]:
        """The running sandbox of that name or id; raises NotFound, and Conflict when it does not run."""
        info = await self._kernel.info(self._caller, name)
        opened = await self._of(name, info)
        async with self._held(name, opened) as sandbox:
            yield info, sandbox

    async def close(self) -> None:
        """Closes all that is idle, and the rest when it is."""
        self._seats.leave(self._give)
        for name, opened in list(self._opened.items()):
            self._drop(name, opened)
            await self._settle(opened)

    @asynccontextmanager
    async def _held(self, name: str, opened: _Opened) -> AsyncIterator[Sandbox]:
        opened.users += 1
        try:
            async with opened.lock:
                if opened.sandbox is None:
                    ident = opened.info.sandbox_id
                    opened.sandbox = await self._open(ident if name == ident else f"{name}@{ident}")
                    opened.is_addressed = isinstance(opened.sandbox, Addressed)
            yield opened.sandbox
        except (SandboxLost, DaemonUnavailable):
            self._drop(name, opened)
            raise
        finally:
            opened.users -= 1
            await self._settle(opened)
            await self._bound()

    async def _open(self, address: str) -> Sandbox:
        await self._seats.take()
        try:
            return await self._kernel.open(self._caller, address)
        except BaseException:
            self._seats.free()
            raise

    async def _of(self, name: str, info: SandboxInfo) -> _Opened:
        opened = self._opened.get(name)
        if opened is not None and not _is_same(opened.info, info):
            self._drop(name, opened)
            await self._settle(opened)
            opened = self._opened.get(name)  # somebody may have come meanwhile
        if opened is None:
            opened = self._opened[name] = _Opened(info)
        self._opened.move_to_end(name)
        return opened

    def _drop(self, name: str, opened: _Opened) -> None:
        opened.dropped = True
        if self._opened.get(name) is opened:
            del self._opened[name]

    async def _settle(self, opened: _Opened) -> None:
        """Closes one that was dropped, when nobody uses it any more."""
        if opened.dropped and not opened.users and opened.sandbox is not None:
            sandbox, opened.sandbox = opened.sandbox, None
            try:
                with suppress(AgentKernelError):  # of a connection that is broken anyhow
                    await sandbox.close()
            finally:
                self._seats.free()

    async def _bound(self) -> None:
        while len(self._opened) > self._most and await self._give():
            pass

    async def _give(self) -> bool:
        """Closes the one that was used the longest ago and is not used now, if there is one."""
        found = next(((name, each) for name, each in self._opened.items() if not each.users), None)
        if found is None:
            return False
        self._drop(*found)
        await self._settle(found[1])
        return True


def _is_same(before: SandboxInfo, now: SandboxInfo) -> bool:
    """Whether what was opened then is what runs now: after a stop nothing of the old boot answers."""
    return now.status is Status.RUNNING and (before.sandbox_id, before.started_at) == (now.sandbox_id, now.started_at)
