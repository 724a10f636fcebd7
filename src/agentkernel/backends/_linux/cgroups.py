"""Limits by cgroup, v1 and v2, and what hit them.

The sandbox's group holds the workload only; the agent stays in the engine's own group (v1) or in one beside it (v2). Each started
process joins the group itself (v1) or is cloned into it (v2), so the limit can never end the agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from dataclasses import dataclass
from pathlib import Path

from agentkernel.backends._linux.delegation import PREFIX, CgroupHost, words
from agentkernel.backends._records import write_file
from agentkernel.errors import LaunchFailed
from agentkernel.model.command import LimitHit
from agentkernel.model.spec import Resources

CPU_PERIOD_US = 100_000
SOCKET_SHARE = 4  # v1: of the memory limit, on top of it; v2 counts sockets with all else
REMOVAL_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupPlan:
    """The groups of one sandbox: (version, directory) pairs; empty where the host grants none."""

    directories: tuple[tuple[int, str], ...] = ()
    agents: str = ""  # v2: where the first process is born


class Cgroups:
    """The groups of one sandbox."""

    def __init__(self, version: int, directories: dict[str, str], agents: str = "") -> None:
        """`directories`: controller -> group; `agents`: with v2, the group where first processes are born."""
        self._version = version
        self._agents = agents
        self._directories = directories
        self._seen: dict[LimitHit, int] = {}
        self._counters: dict[LimitHit, _Counter] = {}

    @classmethod
    def of(cls, host: CgroupHost, sandbox_id: str) -> Cgroups:
        """The groups that a new sandbox gets."""
        directories = {controller: f"{parent}/{PREFIX}{sandbox_id}" for controller, parent in host.parents.items()}
        return cls(host.version, directories, host.agents)

    @classmethod
    def recorded(cls, record: str) -> Cgroups:
        """Those that `record` describes, wherever this process itself could make groups now."""
        version, directories = 0, {}
        for line in record.splitlines():
            fields = line.split(" ", 2)
            if len(fields) == 3 and fields[0].isdecimal():
                version = int(fields[0])
                directories[fields[1]] = fields[2]
        return cls(version, directories)

    @property
    def record(self) -> str:
        """One line for each controller: version, controller, directory."""
        return "\n".join(f"{self._version} {controller} {path}" for controller, path in self._directories.items())

    @property
    def paths(self) -> tuple[str, ...]:
        """Every directory, each once."""
        return tuple(dict.fromkeys(self._directories.values()))

    def limits(self, controller: str) -> bool:
        """Whether a controller (memory, pids, cpu) limits this sandbox."""
        return controller in self._directories

    def group(self, controller: str) -> tuple[int, str] | None:
        """(version, directory) of the group of a controller."""
        directory = self._directories.get(controller)
        return None if directory is None else (self._version, directory)

    def plan(self) -> CgroupPlan:
        """What the launch plan opens."""
        return CgroupPlan(directories=tuple((self._version, path) for path in self.paths), agents=self._agents)

    def create(self, resources: Resources, agent: int | None) -> None:
        """Makes the groups and sets the limits; raises LaunchFailed.

        `agent` is the uid whose processes are cloned into a v2 group: of an id range, its first.
        """
        try:
            for path in self.paths:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path)
                if self._version == 2 and agent is not None:
                    os.chown(f"{path}/cgroup.procs", agent, -1)
            if self._version == 1:
                self._limit_v1(resources)
            elif self._version == 2:
                self._limit_v2(resources)
            self._open_counters()
        except OSError as error:
            raise LaunchFailed(f"cannot set the limits of the sandbox: {error}", hint="run `agentkernel doctor`") from error

    def _limit_v1(self, resources: Resources) -> None:
        memory, pids, cpu = (self._directories.get(name) for name in ("memory", "pids", "cpu"))
        if memory and resources.memory_bytes is not None:
            write_file(f"{memory}/memory.limit_in_bytes", str(resources.memory_bytes))
            with contextlib.suppress(OSError):  # only where the kernel accounts swap
                write_file(f"{memory}/memory.memsw.limit_in_bytes", str(resources.memory_bytes))
            with contextlib.suppress(OSError):  # what sockets hold counts apart, and against what all of the host's sockets may hold
                write_file(f"{memory}/memory.kmem.tcp.limit_in_bytes", str(resources.memory_bytes // SOCKET_SHARE))
        if pids and resources.pids is not None:
            write_file(f"{pids}/pids.max", str(resources.pids))
        if cpu and resources.cpus is not None:
            write_file(f"{cpu}/cpu.cfs_period_us", str(CPU_PERIOD_US))
            write_file(f"{cpu}/cpu.cfs_quota_us", str(max(1000, int(resources.cpus * CPU_PERIOD_US))))

    def _limit_v2(self, resources: Resources) -> None:
        memory, pids, cpu = (self._directories.get(name) for name in ("memory", "pids", "cpu"))
        if memory and resources.memory_bytes is not None:
            write_file(f"{memory}/memory.max", str(resources.memory_bytes))
            with contextlib.suppress(OSError):  # only where the kernel has swap
                write_file(f"{memory}/memory.swap.max", "0")
        if pids and resources.pids is not None:
            write_file(f"{pids}/pids.max", str(resources.pids))
        if cpu and resources.cpus is not None:
            write_file(f"{cpu}/cpu.max", f"{max(1000, int(resources.cpus * CPU_PERIOD_US))} {CPU_PERIOD_US}")

    def limits_hit(self) -> tuple[LimitHit, ...]:
        """Which limits ended or refused something since the last call."""
        hits = []
        for limit, counter in self._counters.items():
            count = counter.read()
            if count > self._seen.get(limit, 0):
                hits.append(limit)
            self._seen[limit] = count
        return tuple(hits)

    def take_up(self) -> None:
        """Goes on with groups that are there: what hits their limits from now on."""
        self._open_counters()
        self.limits_hit()

    def _open_counters(self) -> None:
        memory, pids = self._directories.get("memory"), self._directories.get("pids")
        if memory:
            name = "memory.oom_control" if self._version == 1 else "memory.events"
            self._counters[LimitHit.MEMORY] = _Counter(f"{memory}/{name}", b"oom_kill")
        if pids:
            self._counters[LimitHit.PIDS] = _Counter(f"{pids}/pids.events", b"max")

    def let_go(self) -> None:
        """Leaves the groups as they are."""
        for counter in self._counters.values():
            counter.close()
        self._counters.clear()

    async def remove(self) -> None:
        """Removes the groups, waiting a moment for dying processes to leave them; raises OSError when they do not go."""
        self.let_go()
        await remove_groups(self.paths)


class _Counter:
    """One number of a `key value` file, kept open: it is read after every command."""

    def __init__(self, path: str, key: bytes) -> None:
        self._key = key
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # this kernel does not count it
            self._fd = -1

    def read(self) -> int:
        """The number; 0 where the kernel does not count it."""
        if self._fd < 0:
            return 0
        for line in os.pread(self._fd, 4096, 0).splitlines():
            name, _, value = line.partition(b" ")
            if name == self._key:
                return int(value)
        return 0

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


async def remove_groups(paths: tuple[str, ...]) -> None:
    """Kills what is left in the groups and removes them; raises OSError for those that do not go within two seconds."""
    deadline = time.monotonic() + REMOVAL_PATIENCE_S
    pause_s = 0.0005
    left = [path for path in paths if not _removed(path)]
    while left and time.monotonic() < deadline:
        for path in left:
            _kill_members(path)
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.05)
        left = [path for path in left if not _removed(path)]
    if left:
        raise OSError(errno.EBUSY, f"the control group {left[0]} cannot be removed")


def _removed(path: str) -> bool:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _kill_members(path: str) -> None:
    for pid in words(Path(path, "cgroup.procs")):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(int(pid), 9)
