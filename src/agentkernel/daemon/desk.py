"""What the parts of the daemon share: the engine, the tasks, the log, and whether it still takes work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from agentkernel.abc import Host
from agentkernel.errors import DaemonUnavailable


class Desk:
    """One daemon's.

    Args:
        log: writes a line to daemon.log.
    """

    def __init__(self, host: Host, log: Callable[[str], None]) -> None:
        self.host = host
        self.log = log
        self.is_draining = False
        self.is_replaced = False  # another version of the package is to follow
        self.clients = 0
        self._ending = asyncio.Event()
        self._reason = ""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._claims: dict[tuple[str, int], list[asyncio.Event]] = {}

    @property
    def reason(self) -> str:
        """Why it is to end."""
        return self._reason

    @property
    def is_ending(self) -> bool:
        """Whether it is to end."""
        return self._ending.is_set()

    def end(self, reason: str, *, is_replaced: bool = False) -> None:
        """Lets the daemon end, in good order; the first reason counts."""
        if not self._ending.is_set():
            self._reason = reason
            self.is_replaced = is_replaced
            self._ending.set()

    async def ending(self) -> None:
        """Waits until it is to end."""
        await self._ending.wait()

    def check(self) -> None:
        """Raises DaemonUnavailable where no new work is taken: nothing was done, the next daemon will."""
        if self.is_draining:
            raise DaemonUnavailable("the daemon is ending", hint="connect again")

    def claim(self, principal: str, exec_id: int, let_go: asyncio.Event) -> None:
        """One more session of a principal's has to do with the sandbox that is made for that command; `let_go` is its own."""
        self._claims.setdefault((principal, exec_id), []).append(let_go)

    def claims(self, principal: str, exec_id: int) -> Sequence[asyncio.Event]:
        """What those sessions wait for that only hold the sandbox."""
        return tuple(self._claims.get((principal, exec_id), ()))

    def unclaim(self, principal: str, exec_id: int, let_go: asyncio.Event) -> bool:
        """That session has ended; whether it was the last one, with which the sandbox goes."""
        claims = self._claims[principal, exec_id]
        claims.remove(let_go)
        if claims:
            return False
        del self._claims[principal, exec_id]
        return True

    def spawn(self, work: Coroutine[Any, Any, object], name: str) -> asyncio.Task[Any]:
        """Runs something to its end beside everything else; what it fails with is logged."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def unfinished(self) -> tuple[asyncio.Task[Any], ...]:
        """What still runs."""
        return tuple(self._tasks)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.log(f"{task.get_name()} failed: {error!r}")
