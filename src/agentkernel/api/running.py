"""What is under way, and for whom: so that it can be ended when a token is removed, and waited for when the server ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from agentkernel.abc import Caller
from agentkernel.errors import Unauthorized


class Running:
    """The tasks that answer requests. Belongs to one event loop."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[object], Caller] = {}
        self._ending: set[asyncio.Task[object]] = set()

    @contextmanager
    def entered(self, caller: Caller) -> Iterator[None]:
        """The current task answers a request of the caller in this block. Raises Unauthorized when `end` has ended it."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a request is answered by a task")
        self._tasks[task] = caller
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._ending:
                raise
            task.uncancel()
            raise Unauthorized("the token was removed") from None
        finally:
            del self._tasks[task]
            self._ending.discard(task)

    def end(self, caller: Caller) -> None:
        """Cancels what the caller has under way."""
        for task in [task for task, of in self._tasks.items() if of == caller]:
            self._ending.add(task)
            task.cancel()

    async def idle(self, timeout_s: float) -> None:
        """Waits until nothing is under way, for that long at most."""
        others = self._tasks.keys() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=timeout_s)
