"""A store's life: some sandboxes, many faults, and at the end nothing that was not there before."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reliability import leftovers
from reliability.daemon_lives import DaemonLives
from reliability.engine_lives import EngineLives
from reliability.faults import Fault, choose, reachable
from reliability.lives import RECOVERY_S, Hangs, Lives, Nursery
from reliability.process_lives import ProcessLives
from reliability.world import LINES, Box, Violation, World

from agentkernel.errors import StoreFailed
from agentkernel.store.sqlite import SqliteStore
from agentkernel.testing import host

FAULTS = 8  # per episode
BOXES = 3
BEFORE = ("adopt", "die", "members")  # ways that are gone in the life before
DOORS = {"engine": 50, "daemon": 44, "process": 6}  # how the kernel is reached, and how often of a hundred
UNFINISHED_S = 15.0  # within which garbage collection finds what nobody has finished
LOGS_S = 5.0  # within which a background command's output is whole


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


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """What is the same for all episodes."""

    backend: str
    door: str  # one of `DOORS`; empty: sometimes one, sometimes the other


class Episode:
    """Number `number` of a seed: always the same faults and the same operations, though not the same timing."""

    def __init__(self, nursery: Nursery, directory: Path, seed: str, number: int, names: list[str], campaign: Campaign) -> None:
        self._nursery = nursery
        self._dice = random.Random(f"{seed}:{number}")
        self._home = directory / f"home-{number}"
        self._report = Report(episode=number, pooled=self._dice.random() < 0.3)
        self._report.door = campaign.door or self._dice.choices(list(DOORS), list(DOORS.values()))[0]
        self._names = reachable(names, backend=campaign.backend, pooled=self._report.pooled, door=self._report.door)
        work = directory / "work"
        work.mkdir(exist_ok=True)
        environment = _environment(self._home, directory)
        errors = self._home / "errors"
        self._session: Lives
        if self._report.door == "engine":
            arguments = [campaign.backend, str(work), "pooled" if self._report.pooled else ""]
            self._session = EngineLives(nursery, environment, errors, arguments)
        else:
            kind = DaemonLives if self._report.door == "daemon" else ProcessLives
            self._session = kind(nursery, environment, errors, campaign.backend, str(work))
        self._world = World(self._session, f"{seed}:{number}", BOXES)
        self._world.fill_s = 0.2 if self._report.door == "engine" else 1.3
        self._ever: set[str] = set()  # ids of sandboxes of this store
        self._last_event = 0

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
            await self._end(before)
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
        self._report.slowest_recovery_s = round(max(self._session.recoveries_s, default=0.0), 3)
        return self._report

    async def _one(self, fault: Fault) -> None:
        shared, world, session = self._nursery.shared, self._world, self._session
        shared.fired = 0
        told = {"fault": fault.text, "fired": False}
        self._report.faults.append(told)
        world.told.append(f"--- {fault.text}")
        if fault.way in BEFORE:
            await world.go(world.boxes[0], fault.way)
        if fault.way == "die":
            await self._die(world.boxes[0])
        world.tolerant = "error:" in fault.rules or fault.kind == "descriptors"
        await (session.begin(fault.before, fault.rules) if fault.before else session.begin(fault.rules))
        pid = session.pid
        acts = [self._steps(box, fault.way if box is world.boxes[0] else "") for box in world.boxes]
        if self._dice.random() < 0.5:
            acts.append(world.run())
        if self._dice.random() < 0.15:
            acts.append(world.gc())
        disturb = getattr(self, "_" + fault.kind.replace("-", "_"), None)
        if disturb is not None:
            acts.append(disturb(told))
        await _all(acts)
        if session.pid == pid or session.armed:
            await session.kill()
        world.tolerant = False
        told["fired"] = told["fired"] or shared.fired >= fault.acts
        world.told.append(f"--- verify; fired: {told['fired']}; deaths: {session.deaths[-3:]}")
        await self._verify()

    async def _steps(self, box: Box, way: str) -> None:
        if way in BEFORE:
            await self._session.call("settled")
        elif way:
            return await self._world.go(box, way)
        for _ in range(box.dice.randint(1, 3)):
            await self._world.step(box)

    async def _die(self, box: Box) -> None:
        """A sandbox ends while nobody looks."""
        await self._session.kill()
        with contextlib.suppress(OSError, ValueError):
            box.harmed()
            _killed(self._first_process(box))

    def _first_process(self, box: Box) -> int:
        return int((self._home / "run/lasting" / box.sandbox_id / "pid").read_text().split()[0])

    # -- faults from outside

    async def _kill_any_time(self, told: dict[str, Any]) -> None:
        await asyncio.sleep(self._dice.random() * 0.15)
        told["fired"] = True
        await self._session.kill()

    async def _freeze(self, told: dict[str, Any]) -> None:
        await asyncio.sleep(self._dice.random() * 0.1)
        told["fired"] = await _frozen(self._session.pid)

    async def _freeze_agent(self, told: dict[str, Any]) -> None:
        if (found := await self._agent()) is not None:
            told["fired"] = await _frozen(found[1])

    async def _kill_agent(self, told: dict[str, Any]) -> None:
        if (found := await self._agent()) is not None:
            found[0].harmed()
            told["fired"] = _killed(found[1])

    async def _kill_supervisor(self, told: dict[str, Any]) -> None:
        if (found := await self._agent()) is None:
            return
        for _ in range(100):
            children = [each.pid for each in host.host_processes().values() if each.parent == found[1]]
            if children:
                found[0].harmed()
                told["fired"] = _killed(children[0])
                return
            await asyncio.sleep(0.003)

    async def _descriptors(self, told: dict[str, Any]) -> None:
        await asyncio.sleep(self._dice.random() * 0.05)
        with contextlib.suppress(OSError):
            pid = self._session.pid
            usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            taken = len(os.listdir(f"/proc/{pid}/fd"))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (taken + self._dice.randrange(4), usual[1]))
            told["fired"] = True
            await asyncio.sleep(0.1)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)

    async def _clock(self, told: dict[str, Any]) -> None:
        await asyncio.sleep(self._dice.random() * 0.05)
        self._nursery.shared.clock_s += self._dice.choice((-86400.0, -3600.0, -1.0, 1.0, 3600.0, 86400.0))
        told["fired"] = self._report.door != "process"  # which has the time of the kernel

    async def _torn_copy(self, told: dict[str, Any]) -> None:
        await asyncio.sleep(self._dice.random() * 0.1)
        copy = self._home / "copy"
        copy.mkdir(mode=0o700)
        for name in ("store.db", "store.db-wal"):
            with contextlib.suppress(FileNotFoundError):
                data = (self._home / "data/store" / name).read_bytes()
                (copy / name).write_bytes(data[: self._dice.randrange(len(data) + 1)] if name.endswith("wal") else data)
        told["fired"] = True
        with contextlib.suppress(StoreFailed):
            store = SqliteStore(copy)
            store.sandboxes()
            store.close()
        shutil.rmtree(copy)

    async def _agent(self) -> tuple[Box, int] | None:
        """A running sandbox and the pid of its first process, as soon as there is one."""
        for _ in range(50):
            running = [box for box in self._world.boxes if box.running and box.sandbox_id]
            for box in self._dice.sample(running, len(running)):
                with contextlib.suppress(OSError, ValueError):
                    return box, self._first_process(box)
            await asyncio.sleep(0.005)
        return None

    # -- what must be so

    async def _verify(self) -> None:
        world, session = self._world, self._session
        await session.call("settled")
        rows = {name: (sandbox_id, status, reason) for sandbox_id, name, status, reason in (await session.call("list")).result}
        for box in world.boxes:
            if box.agent_harmed:
                box.running = None if box.running else box.running
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
                for path in sorted(box.files):
                    await world.check_file(box, path)
                await self._check_logs(box)
        slow = [f"{took:.2f} s" for took in session.recoveries_s if took > RECOVERY_S]
        if slow:
            raise Violation(f"recovery took {slow}")

    async def _learn_ids(self) -> None:
        for event_id, sandbox_id in (await self._session.call("ids", after=self._last_event)).result:
            self._ever |= {sandbox_id} - {""}
            self._last_event = event_id
        found = leftovers.recorded(self._home)
        self._ever |= found["state"] | found["files"]

    async def _check_host(self) -> None:
        await self._learn_ids()
        passing = set((await self._session.call("passing")).result)
        deadline = time.monotonic() + 2.0
        while True:
            running = {box.sandbox_id for box in self._world.boxes if box.running} | passing
            existing = {box.sandbox_id for box in self._world.boxes if box.exists} | passing
            found = leftovers.foreign(self._home, running, existing, self._ever)
            if self._report.pooled:  # its members have no rows
                found = [each for each in found if not each.startswith(("state", "groups", "files"))]
            if not found:
                return
            if time.monotonic() > deadline:
                raise Violation(f"left behind: {found}")
            await asyncio.sleep(0.02)

    async def _check_logs(self, box: Box) -> None:
        expected = "".join(f"line {number}\n" for number in range(LINES))
        for exec_id in [exec_id for exec_id, whole in box.logs.items() if whole]:
            deadline = time.monotonic() + LOGS_S
            while (said := (await self._session.call("logs", name=box.name, exec_id=exec_id)).result) != expected:
                if time.monotonic() > deadline:
                    raise Violation(f"{box.name}: background command {exec_id:016x} printed {LINES} lines, recorded are {said!r}")
                await asyncio.sleep(0.02)
            del box.logs[exec_id]

    async def _end(self, before: host.HostSnapshot) -> None:
        world, session = self._world, self._session
        world.told.append("--- end")
        for box in world.boxes:
            if box.exists and not box.running:
                await world.start(box)
            for path in sorted(box.files) if box.running else ():
                await world.check_file(box, path)
            if box.exists:
                await world.remove(box)
        if (await session.call("passing")).result:
            self._nursery.shared.clock_s += 1000.0  # nobody comes back for them
        deadline = time.monotonic() + 5.0
        while (passing := (await session.call("passing")).result) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        if passing:
            raise Violation(f"sandboxes of single commands stay: {passing}")
        deadline = time.monotonic() + UNFINISHED_S
        while leftovers.unfinished(self._home) and time.monotonic() < deadline:
            await asyncio.sleep(0.5)
            await world.gc()
        await self._learn_ids()
        try:
            open_files = _open_files(session.pid)
        except FileNotFoundError:
            raise Violation(f"process {session.pid} has ended by itself; the last ends: {session.deaths[-4:]}") from None
        if (status := await session.close()) != 0:
            raise Violation(f"the process did not end as it should: status {status}")
        self._report.violations += [f"left behind: {each}" for each in await _left(before, self._ever)]
        self._report.violations += [f"left behind: {each}" for each in leftovers.rest(self._home)]
        if not self._report.pooled:
            self._report.violations += [f"open though all is removed: {each}" for each in open_files]

    def _errors(self) -> list[str]:
        said: list[str] = []
        for path, count in ((self._home / "data/daemon.log", 12), (self._home / "errors", 60)):
            with contextlib.suppress(OSError):
                said += path.read_text().splitlines()[-count:]
        return said

    async def _clean_up(self, before: host.HostSnapshot) -> None:
        """After a violation the next episode must not find this one's remains."""
        await self._session.kill()
        nursery = self._nursery.process.pid
        for _ in range(20):
            for pid in host.descendants(os.getpid()).keys() - {nursery}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            reap(nursery)
            await asyncio.sleep(0.02)
        for group in sorted(host.take().cgroups - before.cgroups, key=len, reverse=True):
            if not any(ident in group for ident in self._ever):
                continue
            with contextlib.suppress(OSError):
                os.rmdir(group)


async def _all(acts: list[Any]) -> None:
    """All at once; the first violation is raised when all have ended."""
    for outcome in await asyncio.gather(*acts, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


async def _frozen(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(0.2)
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


def _open_files(pid: int) -> list[str]:
    """Descriptors that can only be of a sandbox."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = str(entry.readlink())
            if "pidfd" in target or "/lasting/" in target or "cgroup" in target or target.endswith("(deleted)"):
                found.append(target)
    return found


async def _left(before: host.HostSnapshot, ever: set[str]) -> list[str]:
    """What stays though nothing should; orphans that have ended are reaped while waiting."""
    deadline = time.monotonic() + 5.0
    while True:
        reap()
        new = [each for each in before.new_in(host.take()) if not each.startswith("descriptors")]
        found = sorted(each for each in new if not each.startswith("cgroups") or any(ident in each for ident in ever))
        if not found or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.02)


def reap(but: int = 0) -> None:
    """Takes the end of orphans that have become ours."""
    for process in host.host_processes().values():
        if process.parent == os.getpid() and process.state == "Z" and process.pid != but:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)


def _environment(home: Path, directory: Path) -> Mapping[str, str]:
    return {
        "AGENTKERNEL_HOME": str(home),
        "XDG_CACHE_HOME": str(directory / "cache"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "HOME": os.environ.get("HOME", "/"),
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "TMPDIR": tempfile.gettempdir(),
        **{name: os.environ[name] for name in ("AGENTKERNEL_GUEST",) if name in os.environ},
    }


def _configure(home: Path, pooled: bool) -> None:
    """The user's file, which a daemon reads."""
    (home / "config/agentkernel").mkdir(parents=True)
    text = f"[pool]\nenabled = {str(pooled).lower()}\nminimum = 1\nmaximum = 2\n"
    (home / "config/agentkernel/config.toml").write_text(text)
