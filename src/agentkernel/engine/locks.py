"""One lock for each thing that is worked on, work that goes on when whoever asked has gone, and what the host refuses to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from agentkernel.errors import SandboxFailed

T = TypeVar("T")


class Locks:
    """A lock per key; it is there only while somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        """Waits for the key's lock and holds it for the block."""
        lock, users = self._locks.get(key) or (asyncio.Lock(), 0)
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            users = self._locks[key][1] - 1
            if users:
                self._locks[key] = (lock, users)
            else:
                del self._locks[key]

    def held(self, key: str) -> bool:
        """Whether somebody works on it now."""
        return key in self._locks


class Operations:
    """Work that is brought to its end whatever becomes of those who wait for it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which goes on when the caller is cancelled; what the host refuses is SandboxFailed."""
        with host_errors():
            return await asyncio.shield(self.spawn(work))

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Starts `work` without waiting for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self) -> None:
        """Waits until nothing is under way."""
        while others := [task for task in self._tasks if task is not asyncio.current_task()]:
            await asyncio.wait(others)


@contextmanager
def host_errors() -> Iterator[None]:
    """An OSError of the block is SandboxFailed to whoever called; what it broke off is settled by the next request, or the timer."""
    try:
        yield
    except OSError as error:
        hint = "when the host is in order again, try again; `agentkernel gc` removes what may be left"
        raise SandboxFailed(f"the host refused it: {error or type(error).__name__}", hint=hint) from error
