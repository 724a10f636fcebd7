"""The warm pools: sandboxes that are made before anybody asks for them, of any backend. docs/pools.md says what users see of it.

A pool holds fresh sandboxes only: what was taken never comes back, and nothing was ever run in one. A pool begins when the same thing is
asked for a second time, is filled in the background, and ends when nobody has asked for a while.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, Final

from agentkernel.abc import Assignable, Sandbox
from agentkernel.engine.ending import LINGER_S, to_the_end
from agentkernel.engine.standing import Standing, is_poolable, standing_of
from agentkernel.errors import AgentKernelError, SandboxFailed, SandboxLost
from agentkernel.failpoints import failpoint
from agentkernel.model.record import PoolState
from agentkernel.model.spec import SandboxSpec

Make = Callable[[str, str, SandboxSpec], Awaitable[Sandbox]]  # backend, sandbox id, spec

MAX_POOLS: Final = 8
MAX_NOTED: Final = 64  # asked for once
MAKE_TIMEOUT_S: Final = 60.0
BACKOFF_FIRST_S: Final = 1.0
BACKOFF_MAX_S: Final = 60.0
_Key = tuple[str, SandboxSpec]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """Below `minimum` ready ones a pool is filled up to `maximum`. Times are seconds."""

    enabled: bool = True
    minimum: int = 3
    maximum: int = 5
    age_s: float = 600.0  # older ones are replaced
    idle_s: float = 300.0  # a pool that nobody asked for so long ends
    settle_s: float = 1.0  # backends remember for so long where a path leads, and might still bind what has just been replaced
    at_once: int = max(1, (os.cpu_count() or 1) // 2)  # sandboxes being made, of all pools together


@dataclass(slots=True, kw_only=True, eq=False)
class _Member:
    """A sandbox that nobody has."""

    sandbox: Sandbox
    assign: Callable[[SandboxSpec], None]
    sandbox_id: str
    made_at: float
    standing: Standing


@dataclass(slots=True, kw_only=True)
class _Pool:
    """The sandboxes of one key."""

    backend: str
    spec: SandboxSpec
    asked_at: float
    standing: Standing
    not_before: float  # nothing is made before: what is shown has changed, or the last one failed
    ready: deque[_Member] = field(default_factory=deque)
    making: int = 0
    filling: bool = True
    failures: int = 0  # in a row
    reason: str = ""
    hits: int = 0
    misses: int = 0

    @property
    def key(self) -> _Key:
        return self.backend, self.spec

    @property
    def count(self) -> int:
        return len(self.ready) + self.making

    def state(self, settings: PoolSettings) -> PoolState:
        return PoolState(
            backend=self.backend,
            image=self.spec.root.label,
            profile=self.spec.profile,
            ready=len(self.ready),
            making=self.making,
            minimum=settings.minimum,
            maximum=settings.maximum,
            hits=self.hits,
            misses=self.misses,
            reason=self.reason,
        )


class Pools:
    """All pools of an engine. `make` boots or creates a sandbox under an id; what it raises is tried again later, ever more rarely."""

    def __init__(
        self,
        make: Make,
        settings: PoolSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        standing: Callable[[SandboxSpec], Standing] = standing_of,
    ) -> None:
        self._make = make
        self._settings = settings
        self._clock = clock
        self._standing = standing
        self._pools: dict[_Key, _Pool] = {}  # the one asked for last is last
        self._noted: dict[_Key, float] = {}
        self._unfit: set[str] = set()  # backends whose sandboxes are not assignable
        self._held: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._bell = asyncio.Event()
        self._closed = False

    def take(self, backend: str, spec: SandboxSpec) -> Sandbox | None:
        """A fresh sandbox of that spec, from now on the caller's; None when there is none, and the caller makes one.

        It has an id of its own (`sandbox_id`), which is in `held` no longer: who keeps a store inserts its row before the next await.
        """
        if self._closed or not self._settings.enabled or backend in self._unfit or not is_poolable(spec):
            return None
        now = self._clock()
        try:
            failpoint("pool.take.begin")
            standing = self._standing(spec)
        except OSError:
            return None  # what cannot be compared is not handed out; whoever makes one now learns why
        pool = self._pool((backend, _template(spec)), standing, now)
        if pool is None:
            return None
        pool.asked_at = now
        self._notice(pool, standing, now)
        member = self._fresh(pool, spec, now)
        pool.hits += member is not None
        pool.misses += member is None
        self._bell.set()
        return member.sandbox if member is not None else None

    def held(self) -> AbstractSet[str]:
        """The ids of the sandboxes that are in a pool, on their way into one or being removed; a live view."""
        return self._held

    def states(self) -> tuple[PoolState, ...]:
        """Every pool at a glance."""
        return tuple(pool.state(self._settings) for pool in self._pools.values())

    async def close(self) -> None:
        """Removes every sandbox in store; those handed out are their owners'. Repeating it is fine."""
        self._closed = True
        await to_the_end(self._close())

    async def _close(self) -> None:
        for task in self._tasks:
            if task.get_name() != _REMOVAL:
                task.cancel()
        for pool in tuple(self._pools.values()):
            self._end(pool)
        while self._tasks:
            await asyncio.wait(self._tasks)

    # -- taking

    def _pool(self, key: _Key, standing: Standing, now: float) -> _Pool | None:
        """The key's pool; None when this is the first time in a while that it is asked for."""
        pool = self._pools.pop(key, None)
        if pool is None:
            if now - self._noted.pop(key, -math.inf) > self._settings.idle_s:
                self._noted[key] = now
                while len(self._noted) > MAX_NOTED:
                    del self._noted[next(iter(self._noted))]
                return None
            pool = _Pool(backend=key[0], spec=key[1], asked_at=now, standing=standing, not_before=now + self._settings.settle_s)
            while len(self._pools) >= MAX_POOLS:
                self._end(next(iter(self._pools.values())))
        self._pools[key] = pool
        if self._keeper is None or self._keeper.done():
            self._keeper = self._spawn(self._keep(), _KEEPER)
        return pool

    def _notice(self, pool: _Pool, standing: Standing, now: float) -> None:
        """Drops what was made of something else than there is now."""
        if pool.standing != standing:
            pool.standing = standing
            pool.not_before = max(pool.not_before, now + self._settings.settle_s)
            self._clear(pool)

    def _fresh(self, pool: _Pool, spec: SandboxSpec, now: float) -> _Member | None:
        self._expire(pool, now)
        while pool.ready:
            member = pool.ready.popleft()
            try:
                member.assign(spec)
            except SandboxFailed:  # it has died since, killed by the host perhaps
                self._remove(member)
                continue
            self._held.discard(member.sandbox_id)
            return member
        return None

    # -- upkeep

    async def _keep(self) -> None:
        while (pause_s := self.tend()) is not None:
            self._bell.clear()
            try:
                async with asyncio.timeout(pause_s):
                    await self._bell.wait()
            except TimeoutError:
                continue

    def tend(self) -> float | None:
        """One round of upkeep, made by a task of the pools' own; returns after how many seconds the next is due; None: no pool is left."""
        now = self._clock()
        for pool in tuple(self._pools.values()):
            if now - pool.asked_at >= self._settings.idle_s:
                self._end(pool)
                continue
            self._expire(pool, now)
            if pool.count < self._settings.minimum:
                pool.filling = True
        room = self._settings.at_once - sum(pool.making for pool in self._pools.values())
        while room > 0 and (hungry := self._hungriest(now)) is not None:
            hungry.making += 1
            room -= 1
            self._spawn(self._fill(hungry), _REFILL)
        return min((max(0.0, moment - now) for pool in self._pools.values() for moment in self._moments(pool, now)), default=None)

    def _moments(self, pool: _Pool, now: float) -> list[float]:
        """When something is to be done for a pool."""
        moments = [pool.asked_at + self._settings.idle_s]
        if pool.ready:
            moments.append(pool.ready[0].made_at + self._settings.age_s)
        if pool.filling and pool.not_before > now:
            moments.append(pool.not_before)
        return moments

    def _hungriest(self, now: float) -> _Pool | None:
        for pool in self._pools.values():
            pool.filling = pool.filling and pool.count < self._settings.maximum
        wanting = [pool for pool in self._pools.values() if pool.filling and pool.not_before <= now]
        return min(wanting, key=lambda pool: pool.count, default=None)

    async def _fill(self, pool: _Pool) -> None:
        """Makes one sandbox for a pool, which may have ended meanwhile."""
        failed = True
        try:
            member = await self._made(pool)
            failed = False
            if member is not None:
                pool.failures, pool.reason = 0, ""
                self._store(pool, member)
        except (AgentKernelError, OSError) as error:  # a TimeoutError is one
            pool.reason = error.message if isinstance(error, AgentKernelError) else str(error) or "it was not ready in time"
        finally:
            pool.making -= 1
            if failed:
                pool.not_before = self._clock() + min(BACKOFF_FIRST_S * 2**pool.failures, BACKOFF_MAX_S)
                pool.failures += 1
            if pool.backend in self._unfit:
                self._end(pool)
            self._bell.set()

    def _store(self, pool: _Pool, member: _Member) -> None:
        if self._pools.get(pool.key) is pool and member.standing == pool.standing:
            pool.ready.append(member)
        else:
            self._remove(member)

    async def _made(self, pool: _Pool) -> _Member | None:
        """A sandbox whose agent answers; None when it should not be made now. Whatever is raised, nothing is left of it."""
        standing, now = self._standing(pool.spec), self._clock()
        if standing != pool.standing:
            self._notice(pool, standing, now)
            return None
        sandbox_id = os.urandom(8).hex()
        self._held.add(sandbox_id)
        sandbox: Sandbox | None = None
        try:
            failpoint("pool.refill.begin")
            async with asyncio.timeout(MAKE_TIMEOUT_S):
                sandbox = await self._make(pool.backend, sandbox_id, pool.spec)
                failpoint("pool.refill.made")
                await sandbox.statistics()
                failpoint("pool.refill.answered")
            if not isinstance(sandbox, Assignable):
                self._unfit.add(pool.backend)
                raise SandboxLost("the backend's sandboxes cannot be made beforehand")
        except BaseException:
            try:
                if sandbox is not None:
                    await to_the_end(sandbox.destroy())
            finally:
                self._held.discard(sandbox_id)
            raise
        return _Member(sandbox=sandbox, assign=sandbox.assign, sandbox_id=sandbox_id, made_at=now, standing=standing)

    def _expire(self, pool: _Pool, now: float) -> None:
        for member in tuple(pool.ready):
            if now - member.made_at >= self._settings.age_s:
                pool.ready.remove(member)
                self._remove(member)

    def _end(self, pool: _Pool) -> None:
        """A pool that is being filled now gives nothing to anybody any more, either."""
        if self._pools.get(pool.key) is pool:
            del self._pools[pool.key]
        self._clear(pool)

    def _clear(self, pool: _Pool) -> None:
        while pool.ready:
            self._remove(pool.ready.popleft())

    def _remove(self, member: _Member) -> None:
        self._spawn(self._removed(member), _REMOVAL)

    async def _removed(self, member: _Member) -> None:
        try:
            failpoint("pool.remove.begin")
            await member.sandbox.destroy()
        except (AgentKernelError, OSError):
            pass  # it is not held any more, so the engine's next sweep finds what is left of it
        finally:
            self._held.discard(member.sandbox_id)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


_KEEPER, _REFILL, _REMOVAL = "pool keeper", "pool refill", "pool removal"


def _template(spec: SandboxSpec) -> SandboxSpec:
    """What a sandbox is made of before it is known whose it will be."""
    return replace(spec, name="", environment=(), linger_s=LINGER_S)
