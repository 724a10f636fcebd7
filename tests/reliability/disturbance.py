"""Faults that come from outside the process under test, while operations are under way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from reliability.ground import Ground
from reliability.lives import Lives
from reliability.shared import Shared
from reliability.world import Box, World

from agentkernel.errors import StoreFailed
from agentkernel.store.sqlite import SqliteStore
from agentkernel.testing.host import host_processes

STILL_S = 0.2
JUMPS_S = (-86400.0, -3600.0, -1.0, 1.0, 3600.0, 86400.0)


class Disturbance:
    """Each returns whether it came to pass; `of` finds it by its kind."""

    def __init__(self, lives: Lives, world: World, home: Path, ground: Ground, shared: Shared, dice: random.Random) -> None:
        self._lives = lives
        self._world = world
        self._home = home
        self._ground = ground
        self._shared = shared
        self._dice = dice

    def of(self, kind: str) -> Callable[[], Awaitable[bool]] | None:
        """None for the kinds that the process under test does to itself."""
        return {
            "kill-any-time": self._kill_any_time,
            "freeze": self._freeze,
            "freeze-agent": self._freeze_agent,
            "kill-agent": self._kill_agent,
            "kill-supervisor": self._kill_supervisor,
            "descriptors": self._descriptors,
            "clock": self._clock,
            "torn-copy": self._torn_copy,
        }.get(kind)

    async def die_unseen(self, box: Box) -> None:
        """The process under test is killed, and then the agent of a box."""
        await self._lives.kill()
        with contextlib.suppress(OSError, ValueError):
            box.harmed()
            _killed(self._first_process(box))

    async def _kill_any_time(self) -> bool:
        await asyncio.sleep(self._dice.random() * 0.15)
        await self._lives.kill()
        return True

    async def _freeze(self) -> bool:
        await asyncio.sleep(self._dice.random() * 0.1)
        return await _frozen(self._lives.pid)

    async def _freeze_agent(self) -> bool:
        found = await self._agent()
        return found is not None and await _frozen(found[1])

    async def _kill_agent(self) -> bool:
        if (found := await self._agent()) is None:
            return False
        found[0].harmed()
        return _killed(found[1])

    async def _kill_supervisor(self) -> bool:
        """The agent's children are the supervisors of commands."""
        if (found := await self._agent()) is None:
            return False
        for _ in range(100):
            children = [each.pid for each in host_processes().values() if each.parent == found[1]]
            if children:
                found[0].harmed()
                return _killed(children[0])
            await asyncio.sleep(0.003)
        return False

    async def _descriptors(self) -> bool:
        """For a moment there are no more descriptors than there are open."""
        await asyncio.sleep(self._dice.random() * 0.05)
        pid = self._lives.pid
        try:
            usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            taken = len(os.listdir(f"/proc/{pid}/fd"))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (taken + self._dice.randrange(4), usual[1]))
            await asyncio.sleep(0.1)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
        except OSError:  # it has ended meanwhile
            return False
        return True

    async def _clock(self) -> bool:
        await asyncio.sleep(self._dice.random() * 0.05)
        self._shared.clock_s += self._dice.choice(JUMPS_S)
        return self._lives.has_shared_clock

    async def _torn_copy(self) -> bool:
        """A copy of the store as a copying program would see it now, its log cut off anywhere: readable, or refused as damaged."""
        await asyncio.sleep(self._dice.random() * 0.1)
        copy = self._home / "copy"
        copy.mkdir(mode=0o700)
        for name in ("store.db", "store.db-wal"):
            with contextlib.suppress(FileNotFoundError):
                data = (self._home / "data/store" / name).read_bytes()
                (copy / name).write_bytes(data[: self._dice.randrange(len(data) + 1)] if name.endswith("wal") else data)
        with contextlib.suppress(StoreFailed):
            store = SqliteStore(copy)
            try:
                store.sandboxes()
            finally:
                store.close()
        shutil.rmtree(copy)
        return True

    async def _agent(self) -> tuple[Box, int] | None:
        """A running sandbox and the pid of its first process, as soon as there is one."""
        for _ in range(50):
            running = [box for box in self._world.boxes if box.running and box.sandbox_id]
            for box in self._dice.sample(running, len(running)):
                with contextlib.suppress(OSError, ValueError):
                    return box, self._first_process(box)
            await asyncio.sleep(0.005)
        return None

    def _first_process(self, box: Box) -> int:
        """Raises OSError or ValueError where there is none (any more)."""
        pid, started = map(int, (self._ground.lasting(self._home) / box.sandbox_id / "pid").read_text().split()[:2])
        found = host_processes().get(pid)
        if found is None or found.started_ticks != started:
            raise ProcessLookupError(pid)
        return pid


async def _frozen(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(STILL_S)
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return False
    return True


def _killed(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
