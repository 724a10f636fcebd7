"""What must be so after every fault, and at the end of an episode."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

from reliability import leftovers
from reliability.ground import Ground
from reliability.lives import RECOVERY_S, Lives
from reliability.shared import Shared
from reliability.world import LINES, Box, Violation, World

from agentkernel.testing.host import HostSnapshot

SWEPT_S = 2.0  # within which the host is as the rows say
LOGS_S = 5.0  # within which a background command's output is whole
UNCLAIMED_S = 5.0  # within which a command's sandbox goes when nobody comes back for it
UNFINISHED_S = 15.0  # within which garbage collection finds what nobody has finished
FAR_FUTURE_S = 1000.0


class Oracle:
    """Judges one episode; `pooled`: warm sandboxes, which have no rows, may be there as long as the process is."""

    def __init__(
        self, lives: Lives, world: World, home: Path, ground: Ground, shared: Shared, dice: random.Random, *, pooled: bool
    ) -> None:
        self._lives = lives
        self._world = world
        self._home = home
        self._ground = ground
        self._shared = shared
        self._dice = dice
        self._pooled = pooled
        self._last_event = 0
        self.ever: set[str] = set()  # ids of sandboxes of this store

    async def settle(self) -> None:
        """After a fault: rows, host, files and logs are what was acknowledged; raises Violation."""
        world, lives = self._world, self._lives
        await lives.call("settled")
        rows = {name: (sandbox_id, status, reason) for sandbox_id, name, status, reason in (await lives.call("list")).result}
        for box in world.boxes:
            if box.agent_harmed and box.running:
                box.running = None
            world.compare(box, rows)
        between = [f"{name} is {status}" for name, (_, status, _) in rows.items() if status not in ("running", "stopped")]
        unknown = rows.keys() - {box.name for box in world.boxes}
        if between or unknown:
            raise Violation(f"settled, and yet {between or f'there are sandboxes that nobody made: {unknown}'}")
        await self._check_host()
        for box in world.boxes:
            box.agent_harmed = False
            if box.exists and not box.running and box.files and self._dice.random() < 0.3:
                await world.start(box)
            if box.running:
                await self._check_inside(box)
        slow = [f"{took:.2f} s" for took in lives.recoveries_s if took > RECOVERY_S * self._ground.slowness]
        if slow:
            raise Violation(f"recovery took {slow}")

    async def finish(self, before: HostSnapshot) -> list[str]:
        """At the end: everything is removed, and nothing is there that was not before; returns what is."""
        world, lives = self._world, self._lives
        for box in world.boxes:
            if box.exists and not box.running:
                await world.start(box)
            if box.running:
                await self._check_inside(box)
            if box.exists:
                await world.remove(box)
        await self._wait_for_passing()
        deadline = time.monotonic() + UNFINISHED_S
        while leftovers.unfinished(self._home, self._ground) and time.monotonic() < deadline:
            await asyncio.sleep(0.5)
            await world.gc()
        await self._learn_ids()
        try:
            held = [] if self._pooled else leftovers.open_files(lives.pid)
        except FileNotFoundError:
            raise Violation(f"process {lives.pid} has ended by itself; the last ends: {lives.deaths[-4:]}") from None
        if (status := await lives.close()) != 0:
            raise Violation(f"the process did not end as it should: status {status}")
        left = [*await leftovers.staying(before, self.ever), *leftovers.rest(self._home, self._ground)]
        return [*(f"left behind: {each}" for each in left), *(f"open though all is removed: {each}" for each in held)]

    async def _wait_for_passing(self) -> None:
        """Sandboxes of single commands whose asker was killed go when nobody comes back for them."""
        if (await self._lives.call("passing")).result:
            self._shared.clock_s += FAR_FUTURE_S
        deadline = time.monotonic() + UNCLAIMED_S * self._ground.slowness
        while passing := (await self._lives.call("passing")).result:
            if time.monotonic() > deadline:
                raise Violation(f"sandboxes of single commands stay: {passing}")
            await asyncio.sleep(0.05)

    async def _learn_ids(self) -> None:
        for event_id, sandbox_id in (await self._lives.call("ids", after=self._last_event)).result:
            self.ever |= {sandbox_id} - {""}
            self._last_event = event_id
        found = leftovers.recorded(self._home, self._ground)
        self.ever |= found["state"] | found["files"] | found["containers"]

    async def _check_host(self) -> None:
        await self._learn_ids()
        passing = set((await self._lives.call("passing")).result)
        running = {box.sandbox_id for box in self._world.boxes if box.running} | passing
        existing = {box.sandbox_id for box in self._world.boxes if box.exists} | passing
        deadline = time.monotonic() + SWEPT_S * self._ground.slowness
        while True:
            found = leftovers.foreign(self._home, self._ground, running, existing, self.ever)
            if self._pooled:
                found = [each for each in found if not each.startswith(("state", "groups", "files"))]
            if not found:
                return
            if time.monotonic() > deadline:
                raise Violation(f"left behind: {found}")
            await asyncio.sleep(0.02)

    async def _check_inside(self, box: Box) -> None:
        for path in sorted(box.files):
            await self._world.check_file(box, path)
        expected = "".join(f"line {number}\n" for number in range(LINES))
        for exec_id in [exec_id for exec_id, whole in box.logs.items() if whole]:
            deadline = time.monotonic() + LOGS_S
            while (said := (await self._lives.call("logs", name=box.name, exec_id=exec_id)).result) != expected:
                if time.monotonic() > deadline:
                    raise Violation(f"{box.name}: background command {exec_id:016x} printed {LINES} lines, recorded are {said!r}")
                await asyncio.sleep(0.02)
            del box.logs[exec_id]
