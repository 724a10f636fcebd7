"""What this process and its sandboxes hold on the host, by /proc and the places where sandboxes are recorded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from agentkernel.backends.namespaces.delegation import PREFIX, find_host
from agentkernel.config.directories import runtime_directory
from benchmarks.contenders import UnmeasurableError


def resident_kib(*, peak: bool = False) -> int:
    """This process's resident set, or its highest since `reset_peak`."""
    return _status_kib(Path("/proc/self/status"), "VmHWM" if peak else "VmRSS")


def reset_peak() -> None:
    """Lets the highest resident set count from now (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def proportional_kib(pid: int) -> int:
    """The proportional set of a process: pages shared with others count by their share."""
    try:
        return _status_kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss")
    except PermissionError:
        raise UnmeasurableError("an agent's memory map may only be read by root, for agents are not dumpable") from None


def _status_kib(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise UnmeasurableError(f"{path} has no {name}")


def first_processes() -> set[int]:
    """The children of this process: the first process of each of its sandboxes."""
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def _descendants() -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended
    found: set[int] = set()
    layer = {os.getpid()}
    while layer:
        layer = {pid for pid, parent in parents.items() if parent in layer}
        found |= layer
    return found


def _recorded() -> set[str]:
    """Sandboxes that are recorded here and not held by another process: ours, and abandoned ones."""
    base = Path(runtime_directory(os.environ, os.geteuid()), "sandboxes")
    locks = _lock_holders()
    mine = set()
    for directory in base.iterdir() if base.is_dir() else ():
        try:
            holder = locks.get((directory / "lease").stat().st_ino)
        except OSError:
            continue  # being made or removed
        if holder is None or holder == os.getpid():
            mine.add(directory.name)
    return mine


def _lock_holders() -> dict[int, int]:
    """Inode -> pid of whoever holds a flock on it."""
    holders = {}
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if "FLOCK" in words and "->" not in words:
            kind = words.index("FLOCK")
            holders[int(words[kind + 4].rpartition(":")[2])] = int(words[kind + 3])
    return holders


def _groups() -> set[str]:
    """Groups of sandboxes that nobody else has recorded."""
    base = Path(runtime_directory(os.environ, os.geteuid()), "sandboxes")
    others = {directory.name for directory in base.iterdir()} - _recorded() if base.is_dir() else set()
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
    def now(cls) -> Standing:
        """Counts."""
        return cls(
            processes=frozenset(_descendants()),
            mounts=len(Path("/proc/self/mountinfo").read_text().splitlines()),
            groups=frozenset(_groups()),
            descriptors=len(os.listdir("/proc/self/fd")),
            records=frozenset(_recorded()),
            resident_kib=resident_kib(),
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
    def since(cls, before: Standing) -> Leaks:
        """Counts again."""
        after = Standing.now()
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
