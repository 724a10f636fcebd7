"""What this process and its sandboxes hold on the host, by /proc and the places where sandboxes are recorded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from agentkernel.backends._linux.delegation import PREFIX, find_host
from agentkernel.config.directories import runtime_directory
from benchmarks.contenders import UnmeasurableError


def resident_kib(pid: int | None = None, *, peak: bool = False) -> int:
    """A process's (this one's) resident set, or its highest since `reset_peak`."""
    return _status_kib(_process(pid) / "status", "VmHWM" if peak else "VmRSS")


def reset_peak() -> None:
    """Lets the highest resident set of this process count from now (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def proportional_kib(pid: int) -> int:
    """The proportional set of a process: pages shared with others count by their share."""
    try:
        return _status_kib(_process(pid) / "smaps_rollup", "Pss")
    except PermissionError:
        raise UnmeasurableError("an agent's memory map may only be read by root, for agents are not dumpable") from None


def _process(pid: int | None) -> Path:
    return Path("/proc", "self" if pid is None else str(pid))


def _status_kib(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise UnmeasurableError(f"{path} has no {name}")


def first_processes(pid: int | None = None) -> set[int]:
    """The children of a process (of this one): the first process of each of its sandboxes."""
    return {int(child) for task in (_process(pid) / "task").iterdir() for child in (task / "children").read_text().split()}


def _descendants(root: int) -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended
    found: set[int] = set()
    layer = {root}
    while layer:
        layer = {pid for pid, parent in parents.items() if parent in layer}
        found |= layer
    return found


def _users_state() -> Path:
    """Where engines of this user record their sandboxes, if nobody says otherwise."""
    return Path(runtime_directory({**os.environ, "AGENTKERNEL_HOME": ""}, os.geteuid()))


def _held_here() -> set[str]:
    """Sandboxes of this process, and abandoned ones: recorded, and not held by another process."""
    locks = _lock_holders()
    mine = set()
    for directory in _those_in(_users_state() / "sandboxes"):
        try:
            holder = locks.get((directory / "lease").stat().st_ino)
        except OSError:
            continue  # being made or removed
        if holder is None or holder == os.getpid():
            mine.add(str(directory))
    return mine


def _kept_in(home: Path) -> set[str]:
    """Everything that a home holds for sandboxes."""
    places = ("run/lasting", "run/sandboxes", "run/ranges", "data/sandboxes", "data/ranges", "data/scratch", "data/logs")
    return {str(path) for place in places for path in _those_in(home / place)}


def _those_in(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []


def _lock_holders() -> dict[int, int]:
    """Inode -> pid of whoever holds a flock on it."""
    holders = {}
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if "FLOCK" in words and "->" not in words:
            kind = words.index("FLOCK")
            holders[int(words[kind + 4].rpartition(":")[2])] = int(words[kind + 3])
    return holders


def _groups(mine: set[str]) -> set[str]:
    """Groups of sandboxes that nobody else has recorded."""
    others = {path.name for place in ("sandboxes", "lasting") for path in _those_in(_users_state() / place)}
    others -= {Path(record).name for record in mine}
    groups = {path for parent in find_host().parents.values() for path in Path(parent).glob(f"{PREFIX}*")}
    return {str(path) for path in groups if path.name.removeprefix(PREFIX) not in others and path.name != f"{PREFIX}engine"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Everything countable at one moment."""

    processes: frozenset[int]
    mounts: int
    groups: frozenset[str]
    descriptors: int
    records: frozenset[str]
    resident_kib: int

    @classmethod
    def now(cls, pid: int | None = None, home: Path | None = None) -> Standing:
        """Counts what this process holds, or the daemon `pid` whose home that is."""
        records = _held_here() if home is None else _kept_in(home)
        return cls(
            processes=frozenset(_descendants(os.getpid() if pid is None else pid)),
            mounts=len((_process(pid) / "mountinfo").read_text().splitlines()),
            groups=frozenset(_groups(records)),
            descriptors=len(os.listdir(_process(pid) / "fd")),
            records=frozenset(records),
            resident_kib=resident_kib(pid),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaks:
    """What is there now and was not there before."""

    processes: int
    mounts: int
    groups: int
    descriptors: int
    records: int
    resident_kib: int  # told, not counted: an allocator keeps what it once had

    @classmethod
    def since(cls, before: Standing, pid: int | None = None, home: Path | None = None) -> Leaks:
        """Counts again."""
        after = Standing.now(pid, home)
        return cls(
            processes=len(after.processes - before.processes),
            mounts=max(0, after.mounts - before.mounts),
            groups=len(after.groups - before.groups),
            descriptors=max(0, after.descriptors - before.descriptors),
            records=len(after.records - before.records),
            resident_kib=after.resident_kib - before.resident_kib,
        )

    @property
    def total(self) -> int:
        """All of them together."""
        return self.processes + self.mounts + self.groups + self.descriptors + self.records

    def __str__(self) -> str:
        return (
            f"processes {self.processes}, mounts {self.mounts}, cgroups {self.groups}, "
            f"descriptors {self.descriptors}, state directories {self.records}"
        )
