"""A store's life: some sandboxes, many faults, and at the end nothing that was not there before."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reliability import leftovers
from reliability.daemon_lives import DaemonLives
from reliability.disturbance import Disturbance
from reliability.engine_lives import EngineLives
from reliability.faults import Fault, choose, reachable
from reliability.ground import Ground
from reliability.lives import Hangs, Lives, Nursery
from reliability.operations import Subject
from reliability.oracle import Oracle
from reliability.process_lives import ProcessLives
from reliability.world import Box, Violation, World

from agentkernel.testing import host

FAULTS = 8  # per episode
BOXES = 3
BEFORE = ("adopt", "die", "members")  # ways that are gone in the life before
DOORS = {"engine": 50, "daemon": 44, "process": 6}  # how the kernel is reached, and how often of a hundred


@dataclass
class Report:
    """What became of one episode."""

    episode: int
    pooled: bool
    door: str = ""
    faults: list[dict[str, Any]] = field(default_factory=list)  # each with what it was, and whether it was reached
    operations: int = 0
    seconds: float = 0.0
    slowest_recovery_s: float = 0.0
    violations: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)  # the last operations, when there are violations

    @property
    def reached(self) -> int:
        """How many of the faults came to pass."""
        return sum(each["fired"] for each in self.faults)


class Episode:
    """Number `number` of a seed: always the same faults and the same operations, though not the same timing.

    `door`: one of `DOORS`; empty: now one, now another.
    """

    def __init__(self, nursery: Nursery, directory: Path, ground: Ground, *, seed: str, number: int, names: list[str], door: str) -> None:
        self._nursery = nursery
        self._dice = random.Random(f"{seed}:{number}")
        self._home = directory / f"home-{number}"
        pooled = self._dice.random() < 0.3
        self._report = Report(episode=number, pooled=pooled and ground.backend == "namespaces")
        self._ground = ground
        self._report.door = door or self._dice.choices(list(DOORS), list(DOORS.values()))[0]
        self._names = reachable(names, steps=ground.steps, pooled=self._report.pooled, door=self._report.door)
        work = directory / "work"
        work.mkdir(exist_ok=True)
        environment = {**_environment(self._home, directory), **ground.environment}
        errors = self._home / "errors"
        self._lives: Lives
        if self._report.door == "engine":
            arguments = [ground.backend, ground.image, str(work), "pooled" if self._report.pooled else ""]
            self._lives = EngineLives(nursery, environment, errors, arguments)
        else:
            kind = DaemonLives if self._report.door == "daemon" else ProcessLives
            self._lives = kind(nursery, environment, errors, Subject(backend=ground.backend, image=ground.image, cwd=str(work)))
        self._world = World(self._lives, f"{seed}:{number}", BOXES)
        self._world.fill_s = 0.2 if self._report.door == "engine" else 1.3
        shared = nursery.shared
        self._disturbance = Disturbance(self._lives, self._world, self._home, ground, shared, self._dice)
        self._oracle = Oracle(self._lives, self._world, self._home, ground, shared, self._dice, pooled=self._report.pooled)

    async def run(self, faults: int = FAULTS) -> Report:
        """All of it; violations are in the report."""
        began = time.monotonic()
        self._home.mkdir()
        _configure(self._home, self._report.pooled)
        self._nursery.shared.clock_s = 0.0
        before = host.take()
        try:
            for _ in range(faults):
                await self._one(choose(self._dice, self._names))
            self._report.violations += await self._oracle.finish(before)
        except (Violation, Hangs) as error:
            self._report.violations.append(f"{type(error).__name__}: {error}")
        except Exception:  # a fault of the campaign must not end it
            self._report.violations.append(f"the campaign itself failed: {traceback.format_exc()}")
        if self._report.violations:
            self._report.told = [*self._world.told[-40:], *self._errors()]
            await self._clean_up(before)
        else:
            shutil.rmtree(self._home)
        self._report.operations = self._world.operations
        self._report.seconds = round(time.monotonic() - began, 3)
        self._report.slowest_recovery_s = round(max(self._lives.recoveries_s, default=0.0), 3)
        return self._report

    async def _one(self, fault: Fault) -> None:
        shared, world, lives = self._nursery.shared, self._world, self._lives
        shared.fired = 0
        told = {"fault": fault.text, "fired": False}
        self._report.faults.append(told)
        world.told.append(f"--- {fault.text}")
        if fault.way in BEFORE:
            await world.go(world.boxes[0], fault.way)
        if fault.way == "die":
            await self._disturbance.die_unseen(world.boxes[0])
        world.tolerant = "error:" in fault.rules or fault.kind == "descriptors"
        await (lives.begin(fault.before, fault.rules) if fault.before else lives.begin(fault.rules))
        pid = lives.pid
        acts = [self._steps(box, fault.way if box is world.boxes[0] else "") for box in world.boxes]
        if self._dice.random() < 0.5:
            acts.append(world.run())
        if self._dice.random() < 0.15:
            acts.append(world.gc())
        if (disturb := self._disturbance.of(fault.kind)) is not None:

            async def disturbed() -> None:
                told["fired"] = await disturb()

            acts.append(disturbed())
        await _all(acts)
        if lives.pid == pid or lives.armed:
            await lives.kill()
        world.tolerant = False
        told["fired"] = told["fired"] or shared.fired >= fault.acts
        world.told.append(f"--- verify; fired: {told['fired']}; deaths: {lives.deaths[-3:]}")
        await self._oracle.settle()

    async def _steps(self, box: Box, way: str) -> None:
        if way in BEFORE:
            await self._lives.call("settled")
        elif way:
            return await self._world.go(box, way)
        for _ in range(box.dice.randint(1, 3)):
            await self._world.step(box)

    def _errors(self) -> list[str]:
        said: list[str] = []
        for path, count in ((self._home / "data/daemon.log", 12), (self._home / "errors", 60)):
            with contextlib.suppress(OSError):
                said += path.read_text().splitlines()[-count:]
        return said

    async def _clean_up(self, before: host.HostSnapshot) -> None:
        """After a violation the next episode must not find this one's remains."""
        await self._lives.give_up()
        self._ground.clear()
        nursery = self._nursery.process.pid
        kept = {nursery, *(int(each.split()[0]) for each in before.processes)}  # engines are among them
        for _ in range(20):
            for pid in host.descendants(os.getpid()).keys() - kept:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            leftovers.reap(nursery)
            await asyncio.sleep(0.02)
        for group in sorted(host.take().cgroups - before.cgroups, key=len, reverse=True):
            if not any(ident in group for ident in self._oracle.ever):
                continue
            with contextlib.suppress(OSError):
                os.rmdir(group)


async def _all(acts: list[Coroutine[Any, Any, None]]) -> None:
    """All at once; the first violation is raised when all have ended."""
    for outcome in await asyncio.gather(*acts, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


def _environment(home: Path, directory: Path) -> Mapping[str, str]:
    return {
        "AGENTKERNEL_HOME": str(home),
        "XDG_CACHE_HOME": str(directory / "cache"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "HOME": os.environ.get("HOME", "/"),
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "TMPDIR": tempfile.gettempdir(),
        # Where namespaces cannot be had for a moment another backend would be tried: the faults are theirs alone.
        "AGENTKERNEL_RUNSC": "",
        "AGENTKERNEL_PODMAN": "",
        "DOCKER_HOST": f"unix://{home}/no-engine.sock",
        **{name: os.environ[name] for name in ("AGENTKERNEL_GUEST",) if name in os.environ},
    }


def _configure(home: Path, pooled: bool) -> None:
    """The user's file, which a daemon reads."""
    (home / "config/agentkernel").mkdir(parents=True)
    text = f"[pool]\nenabled = {str(pooled).lower()}\nminimum = 1\nmaximum = 2\n"
    (home / "config/agentkernel/config.toml").write_text(text)
