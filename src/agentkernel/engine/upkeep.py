"""What is done without being asked: sandboxes expire, idle ones stop, dead ones are noticed, what is left over is removed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

from agentkernel.abc import Caller
from agentkernel.engine.core import Core
from agentkernel.engine.garbage import Garbage
from agentkernel.engine.lifecycle import Lifecycle
from agentkernel.engine.reconcile import AT_ONCE, Reconciler
from agentkernel.engine.registry import Live
from agentkernel.engine.usage import Usage
from agentkernel.errors import AgentKernelError
from agentkernel.failpoints import failpoint
from agentkernel.model.record import SandboxRecord
from agentkernel.model.status import Status

TICK_S: Final = 1.0
EXAMINE_S: Final = 30.0  # a sandbox that was not used for so long is asked whether it lives
RETRY_S: Final = 60.0  # before what could not be done is tried again
COLLECT_S: Final = 600.0


class Upkeep:
    """One task per engine. Wall-clock time decides, so that an expiry holds over restarts and suspends of the host."""

    def __init__(self, core: Core, reconciler: Reconciler, lifecycle: Lifecycle, usage: Usage, garbage: Garbage) -> None:
        self._core = core
        self._reconciler = reconciler
        self._lifecycle = lifecycle
        self._usage = usage
        self._garbage = garbage
        self._tasks: list[asyncio.Task[None]] = []
        self._under_way: dict[str, float] = {}  # what is being done, or was tried and failed: not again before that monotonic time
        self.dispose: Callable[[int], Awaitable[None]] | None = None
        self.end_visit: Callable[[Live], Awaitable[object]] | None = None

    def start(self, first: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Begins, with `first` beside the timer; being told again is fine."""
        if not self._tasks:
            self._tasks.append(asyncio.create_task(self._run()))
            if first is not None:
                self._tasks.append(asyncio.create_task(self._do("first", first())))

    async def close(self) -> None:
        """Ends the timer; what it has begun goes on to its end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def tick(self) -> None:
        """Begins whatever is due now."""
        now, tried = self._core.clock(), asyncio.get_running_loop().time()
        self._under_way = {what: again_at for what, again_at in self._under_way.items() if again_at > tried}
        for sandbox_id in self._core.census.expired(now):
            self._begin(f"expire {sandbox_id}", self._expire, sandbox_id)
        for live in self._core.registry:
            if live.claim_by is not None and live.claim_by <= now:
                self._begin(f"unclaimed {live.sandbox_id}", self._unclaimed, live)
            elif live.visit_by is not None and live.visit_by <= now:
                self._begin(f"unvisited {live.sandbox_id}", self._unvisited, live)
            elif _is_idle(live, now):
                self._begin(f"idle {live.sandbox_id}", self._stop_idle, live)

    async def examine_all(self) -> None:
        """Asks those that nobody has used for a while whether they live, some at a time, and stores when each was used last."""
        slots = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(self._examine(live, slots) for live in self._core.registry))

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        examine_at, settle_at, collect_at = (loop.time() + pause for pause in (EXAMINE_S, RETRY_S, COLLECT_S))
        while True:
            await asyncio.sleep(TICK_S)
            self.tick()
            if loop.time() >= examine_at:
                self._begin("examine", self.examine_all)
                examine_at = loop.time() + EXAMINE_S
            if loop.time() >= settle_at:
                self._begin("settle", self._reconciler.settle_all)
                settle_at = loop.time() + RETRY_S
            if loop.time() >= collect_at:
                self._begin("collect", self._garbage.collect)
                collect_at = loop.time() + COLLECT_S

    def _begin(self, what: str, work: Callable[..., Coroutine[Any, Any, Any]], *arguments: object) -> None:
        """Starts work unless it is under way, or has failed a moment ago."""
        if self._under_way.get(what, 0.0) <= asyncio.get_running_loop().time():
            self._under_way[what] = float("inf")
            self._core.operations.spawn(self._do(what, work(*arguments)))

    async def _do(self, what: str, work: Coroutine[Any, Any, Any]) -> None:
        again_at = asyncio.get_running_loop().time() + RETRY_S
        try:
            await work
            again_at = 0.0
        except (AgentKernelError, OSError):
            again_at = asyncio.get_running_loop().time() + RETRY_S
        finally:  # whatever became of it, it is not under way any more
            self._under_way[what] = again_at

    async def _expire(self, sandbox_id: str) -> None:
        async def act(caller: Caller, record: SandboxRecord) -> SandboxRecord:
            if record.expires_at is None or record.expires_at > self._core.clock():
                return record  # it was given more time
            failpoint("engine.expire.begun")
            return await self._lifecycle.remove(caller, record, force=True, why="expired")

        record = self._core.store.get(sandbox_id)
        if record is not None and not self._core.granting.is_missing(record.backend):
            await self._lifecycle.operate(Caller(principal=record.owner), sandbox_id, act)

    async def _stop_idle(self, live: Live) -> None:
        async def act(caller: Caller, record: SandboxRecord) -> SandboxRecord:
            if record.status is not Status.RUNNING or self._core.live(record) is not live or not _is_idle(live, self._core.clock()):
                return record
            reason = f"nobody used it for {record.idle_s:g} seconds"
            return await self._lifecycle.end_boot(record, caller.principal, "sandbox.stopped", reason)

        await self._lifecycle.operate(Caller(principal=live.record.owner), live.sandbox_id, act)

    async def _unclaimed(self, live: Live) -> None:
        if self.dispose is not None and live.claim_by is not None:
            await self.dispose(live.record.exec_id)

    async def _unvisited(self, live: Live) -> None:
        if self.end_visit is not None:
            await self.end_visit(live)

    async def _examine(self, live: Live, slots: asyncio.Semaphore) -> None:
        async with slots:
            if self._core.clock() - live.used_at >= EXAMINE_S and self._core.live(live.record) is live:
                await self._usage.examine(live)
            row = self._core.store.get(live.sandbox_id)
            if row is not None and live.used_at - row.used_at >= EXAMINE_S:
                self._core.update(replace(row, used_at=live.used_at))


def _is_idle(live: Live, now: float) -> bool:
    idle_s = live.record.idle_s
    return idle_s is not None and not live.record.ephemeral and not live.is_in_use and live.used_at + idle_s <= now
