"""A host of scripted sandboxes and a clock of its own, for tests of the warm pools."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agentkernel.engine.pool import Pools
from agentkernel.engine.reserve import PoolSettings
from agentkernel.errors import AgentKernelError, LaunchFailed, SandboxLost
from agentkernel.model.spec import Resources, RootFilesystem, RootKind, SandboxSpec

ENVIRONMENT = (("HOME", "/home/user"), ("PATH", "/usr/bin"))


def spec_of(pids: int = 1, **fields: Any) -> SandboxSpec:
    """Specs with other `pids` need other sandboxes."""
    root = RootFilesystem(kind=RootKind.HOST)
    return SandboxSpec(**{"name": "one", "root": root, "profile": "moderate", "resources": Resources(pids=pids), **fields})


@dataclass(eq=False)
class Made:
    """A sandbox that was made, and what became of it."""

    world: World
    backend: str
    sandbox_id: str
    spec: SandboxSpec
    made_at: float
    shows: int  # what the host was like then
    alive: bool = True
    destroyed: bool = False
    taken: bool = False
    mourners: list[Callable[[AgentKernelError], None]] = field(default_factory=list)

    def die(self) -> None:
        """It dies, and says so."""
        self.alive = False
        for tell in self.mourners:
            tell(SandboxLost("it has died"))

    def when_lost(self, tell: Callable[[AgentKernelError], None]) -> None:
        self.mourners.append(tell)

    def assign(self, spec: SandboxSpec) -> None:
        if not self.alive:
            raise SandboxLost("it has died")
        assert not self.taken
        self.spec = spec

    async def statistics(self) -> None:
        await asyncio.sleep(0)
        if not self.alive:
            raise SandboxLost("it has died")

    @property
    def files(self) -> Made:
        return self

    async def stat(self, path: str) -> None:
        await self.statistics()

    async def destroy(self) -> None:
        await asyncio.sleep(0)
        self.destroyed = True
        if self.world.removal_fails:
            raise OSError("the disk is broken")


class Unassignable:
    """A sandbox without the optional power."""

    def __init__(self, made: Made) -> None:
        self.statistics, self.files, self.destroy = made.statistics, made.files, made.destroy


@dataclass
class World:
    """Makes sandboxes. `gate` closed: they are not ready before it opens."""

    settings: PoolSettings
    now: float = 1000.0
    shows: int = 0
    fails: bool = False
    removal_fails: bool = False
    assignable: bool = True
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    made: list[Made] = field(default_factory=list)
    attempts: int = 0
    under_way: int = 0
    most_under_way: int = 0

    def __post_init__(self) -> None:
        self.gate.set()
        self.pools = Pools(self.make, self.settings, clock=lambda: self.now, standing=lambda spec: (self.shows,))

    async def make(self, backend: str, sandbox_id: str, spec: SandboxSpec) -> Any:
        self.attempts += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(0)
            if self.fails:
                raise LaunchFailed("the host is full")
            sandbox = Made(world=self, backend=backend, sandbox_id=sandbox_id, spec=spec, made_at=self.now, shows=self.shows)
            self.made.append(sandbox)
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                await sandbox.destroy()
                raise
            return sandbox if self.assignable else Unassignable(sandbox)
        finally:
            self.under_way -= 1

    def take(self, spec: SandboxSpec, backend: str = "one") -> Made | None:
        """Takes and checks what every taken sandbox must be; who gets none makes one, which works unless the host is full."""
        found: Any = self.pools.take(backend, spec)
        if found is None:
            if not self.fails:
                self.pools.worked(backend, spec)
            return None
        assert isinstance(found, Made)
        assert found.alive and not found.destroyed and not found.taken
        assert (found.backend, found.spec, found.shows) == (backend, spec, self.shows)
        assert self.now - found.made_at < self.settings.age_s
        assert found.sandbox_id not in self.pools.held()
        found.taken = True
        return found

    async def later(self, seconds: float = 0.0) -> None:
        """Lets time pass, and the pools do what is then due."""
        self.now += seconds
        for _ in range(8):
            self.pools.tend()
            for _ in range(12):
                await asyncio.sleep(0)

    async def warm(self, spec: SandboxSpec, backend: str = "one") -> None:
        """Asks until there is a full pool."""
        assert self.take(spec, backend) is None
        assert self.take(spec, backend) is None
        await self.later(self.settings.settle_s)

    @property
    def stored(self) -> list[Made]:
        return [made for made in self.made if not made.taken and not made.destroyed]
