"""The warm pools: sandboxes that are made before anybody asks for them, of any backend. docs/pools.md says what users see of it.

A pool holds fresh sandboxes only: what was taken never comes back, and nothing but the guest itself was ever run in one. A pool begins
when the same thing is asked for again after it has worked once for somebody, is filled in the background, and ends when nobody has asked
for a while.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, Final

from agentkernel.abc import Assignable, Mortal, Sandbox
from agentkernel.engine.ending import LINGER_S, to_the_end
from agentkernel.engine.reserve import Key, Member, PoolSettings, Reserve
from agentkernel.engine.standing import Standing, is_poolable, standing_of
from agentkernel.errors import AgentKernelError, SandboxFailed
from agentkernel.failpoints import failpoint
from agentkernel.model.network import NOTHING, USUAL
from agentkernel.model.record import PoolState
from agentkernel.model.spec import SandboxSpec

Make = Callable[[str, str, SandboxSpec], Awaitable[Sandbox]]  # backend, sandbox id, spec

MAX_POOLS: Final = 8
MAX_NOTED: Final = 64  # made once
MAKE_TIMEOUT_S: Final = 60.0
_KEEPER, _REFILL, _REMOVAL = "pool keeper", "pool refill", "pool removal"


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
        self._pools: dict[Key, Reserve] = {}  # the one asked for last is last
        self._noted: dict[Key, float] = {}  # made once, and when
        self._unfit: set[str] = set()  # backends whose sandboxes are not assignable
        self._held: set[str] = set()
        self._making = 0  # also for pools that have ended meanwhile
        self._tasks: dict[asyncio.Task[None], Reserve | None] = {}  # and for which pool
        self._keeper: asyncio.Task[None] | None = None
        self._bell = asyncio.Event()
        self._closed = False

    def take(self, backend: str, spec: SandboxSpec) -> Sandbox | None:
        """A fresh sandbox of that spec, from now on the caller's; None when there is none, and the caller makes one.

        It has an id of its own (`sandbox_id`), which is in `held` no longer: who keeps a store inserts its row before the next await.
        """
        if not self._serves(backend, spec):
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
        if not pool.is_given_up:
            pool.asked_at = now
        self._remove(pool, (*pool.leave(standing, now), *pool.expire(now)))
        member = self._assigned(pool, spec)
        pool.hits += member is not None
        pool.misses += member is None
        self._bell.set()
        return member.sandbox if member is not None else None

    def worked(self, backend: str, spec: SandboxSpec) -> None:
        """Somebody has got such a sandbox though none was ready: the next who asks for it begins a pool."""
        if not self._serves(backend, spec):
            return
        key = (backend, _template(spec))
        self._noted.pop(key, None)
        if key not in self._pools:
            self._noted[key] = self._clock()
        if len(self._noted) > MAX_NOTED:
            del self._noted[next(iter(self._noted))]

    def held(self) -> AbstractSet[str]:
        """The ids of the sandboxes that are in a pool, on their way into one or being removed; a live view."""
        return self._held

    def specs(self) -> list[SandboxSpec]:
        """What the sandboxes in store are made of."""
        return [spec for _, spec in self._pools]

    def states(self) -> tuple[PoolState, ...]:
        """Every pool at a glance."""
        return tuple(pool.state() for pool in self._pools.values())

    async def end(self, concerns: Callable[[SandboxSpec], bool]) -> bool:
        """Ends the pools of such specs and waits until nothing is left of them; returns whether there were any."""
        ended = [pool for pool in self._pools.values() if concerns(pool.key[1])]
        for pool in ended:
            self._end(pool)
        while tasks := [task for task, pool in self._tasks.items() if pool in ended]:
            await asyncio.wait(tasks)
        return bool(ended)

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

    def _serves(self, backend: str, spec: SandboxSpec) -> bool:
        return not self._closed and self._settings.enabled and backend not in self._unfit and is_poolable(spec)

    def _pool(self, key: Key, standing: Standing, now: float) -> Reserve | None:
        """The key's pool; None when it was not made for anybody in a while."""
        pool = self._pools.pop(key, None)
        if pool is None:
            if now - self._noted.pop(key, -math.inf) > self._settings.idle_s:
                return None
            not_before = now + self._settings.settle_s
            pool = Reserve(key=key, settings=self._settings, asked_at=now, standing=standing, not_before=not_before)
            while len(self._pools) >= MAX_POOLS:
                self._end(next(iter(self._pools.values())))
        self._pools[key] = pool
        if self._keeper is None or self._keeper.done():
            self._keeper = self._spawn(self._keep(), _KEEPER)
        return pool

    def _assigned(self, pool: Reserve, spec: SandboxSpec) -> Member | None:
        """The oldest that still lives."""
        while pool.ready:
            member = pool.ready.popleft()
            try:
                member.assign(spec)
            except AgentKernelError:  # it has died since, killed by the host perhaps, or its backend is away
                self._remove(pool, (member,))
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
        """One round of upkeep, made by a task of its own; returns after how many seconds the next is due, None: no pool is left."""
        now = self._clock()
        for pool in tuple(self._pools.values()):
            if now - pool.asked_at >= self._settings.idle_s:
                self._end(pool)
            self._remove(pool, pool.expire(now))
        while self._making < self._settings.at_once and (wanting := [pool for pool in self._pools.values() if pool.wants(now)]):
            hungriest = min(wanting, key=lambda pool: pool.count)
            hungriest.making += 1
            self._making += 1
            self._spawn(self._fill(hungriest), _REFILL, hungriest)
        return min((pool.due_s(now) for pool in self._pools.values()), default=None)

    async def _fill(self, pool: Reserve) -> None:
        """Makes one sandbox for a pool, which may have ended meanwhile."""
        reason = "it was broken off"
        try:
            member = await self._made(pool)
            reason = ""
            if member is not None:
                self._store(pool, member)
        except AgentKernelError as error:
            reason = error.message
        except OSError as error:  # a TimeoutError is one
            reason = str(error) or "it was not ready in time"
        finally:
            pool.making -= 1
            self._making -= 1
            if reason:
                pool.failed(reason, self._clock())
            if pool.key[0] in self._unfit:
                self._end(pool)
            self._bell.set()

    def _store(self, pool: Reserve, member: Member) -> None:
        pool.failures, pool.reason, pool.has_made = 0, "", True
        if self._pools.get(pool.key) is pool and member.standing == pool.standing:
            pool.ready.append(member)
            if isinstance(member.sandbox, Mortal):
                member.sandbox.when_lost(lambda _: self._lost(pool, member))
        else:
            self._remove(pool, (member,))

    def _lost(self, pool: Reserve, member: Member) -> None:
        """It has died; if nobody has it, it goes and another one comes in its place, but not at once: the next may die as it did."""
        if member in pool.ready:
            pool.ready.remove(member)
            self._remove(pool, (member,))
            pool.failed("one that was ready has died", self._clock())
            self._bell.set()

    async def _made(self, pool: Reserve) -> Member | None:
        """A sandbox whose agent answers; None when it should not be made now. Whatever is raised, nothing is left of it."""
        now, (backend, spec) = self._clock(), pool.key
        standing = self._standing(spec)
        self._remove(pool, pool.leave(standing, now))
        if pool.not_before > now:
            return None
        sandbox_id = os.urandom(8).hex()
        self._held.add(sandbox_id)
        sandbox: Sandbox | None = None
        try:
            failpoint("pool.refill.begin")
            async with asyncio.timeout(MAKE_TIMEOUT_S):
                sandbox = await self._make(backend, sandbox_id, spec)
                failpoint("pool.refill.made")
                await sandbox.statistics()
                # A command of the guest's own: what the first one in a sandbox waits for (in gVisor, a quarter of it) has then happened.
                await sandbox.files.stat("/")
                failpoint("pool.refill.answered")
            if not isinstance(sandbox, Assignable):
                self._unfit.add(backend)
                raise SandboxFailed(f"backend {backend!r} makes no sandboxes beforehand")
        except BaseException:
            try:
                if sandbox is not None:
                    await to_the_end(sandbox.destroy())
            finally:
                self._held.discard(sandbox_id)
            raise
        return Member(sandbox=sandbox, assign=sandbox.assign, sandbox_id=sandbox_id, made_at=now, standing=standing)

    def _end(self, pool: Reserve) -> None:
        if self._pools.get(pool.key) is pool:
            del self._pools[pool.key]
        self._remove(pool, pool.empty())

    def _remove(self, pool: Reserve, members: Iterable[Member]) -> None:
        for member in members:
            self._spawn(self._removed(member), _REMOVAL, pool)

    async def _removed(self, member: Member) -> None:
        try:
            failpoint("pool.remove.begin")
            await member.sandbox.destroy()
        except (AgentKernelError, OSError):
            pass  # it is not held any more, so the engine's next sweep finds what is left of it
        finally:
            self._held.discard(member.sandbox_id)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str, pool: Reserve | None = None) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[task] = pool
        task.add_done_callback(self._tasks.pop)
        return task


def _template(spec: SandboxSpec) -> SandboxSpec:
    """What a sandbox is made of before it is known whose it will be."""
    return replace(spec, name="", environment=(), linger_s=LINGER_S, egress=NOTHING, egress_limits=USUAL, ports=())
