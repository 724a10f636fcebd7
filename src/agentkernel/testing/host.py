"""What a sandbox must not leave on the host: processes, mounts, control groups, namespaces, descriptors and files, before and after.

Linux only. Other programs come and go while a test runs, so only what stays for the whole of a patience counts as left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
PR_SET_CHILD_SUBREAPER = 36


@contextlib.contextmanager
def adopting_orphans() -> Iterator[None]:
    """For the block this process is the parent of every orphan below it, so that a process which got away is still seen as its
    descendant. Orphans that have ended by its end are reaped."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    own = {pid for pid, process in host_processes().items() if process.parent == os.getpid()}
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        for process in host_processes().values():
            if process.parent == os.getpid() and process.state == "Z" and process.pid not in own:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostProcess:
    """One process of the host, told from a later one with the same pid by its start time."""

    pid: int
    parent: int
    state: str
    name: str
    started_ticks: int


def host_processes() -> dict[int, HostProcess]:
    """Every process that this one may see."""
    found: dict[int, HostProcess] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            text = (entry / "stat").read_bytes().decode(errors="replace")
        except OSError:
            continue  # it ended meanwhile
        name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
        pid = int(entry.name)
        found[pid] = HostProcess(pid=pid, state=rest[0], parent=int(rest[1]), name=name, started_ticks=int(rest[19]))
    return found


def descendants(of: int) -> dict[int, HostProcess]:
    """The processes below `of`, without itself."""
    everything = host_processes()
    found: dict[int, HostProcess] = {}
    wave = {of}
    while wave:
        wave = {pid for pid, process in everything.items() if process.parent in wave and pid not in found and pid != of}
        found.update((pid, everything[pid]) for pid in wave)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSnapshot:
    """The host as far as sandboxes could change it; each field holds printable facts."""

    processes: frozenset[str]
    mounts: frozenset[str]
    cgroups: frozenset[str]
    namespaces: frozenset[str]
    descriptors: frozenset[str]
    files: frozenset[str]

    def new_in(self, later: HostSnapshot) -> frozenset[str]:
        """What `later` has and this one has not, each with the name of its kind."""
        return frozenset(
            f"{field.name}: {fact}" for field in fields(self) for fact in getattr(later, field.name) - getattr(self, field.name)
        )


def take(directories: Sequence[Path] = ()) -> HostSnapshot:
    """Looks at the host now; `directories` are watched for new entries beside the directory for temporary files."""
    return HostSnapshot(
        processes=frozenset(
            f"{p.pid} {p.name} {p.state if p.state == 'Z' else ''} {p.started_ticks}" for p in descendants(os.getpid()).values()
        ),
        mounts=frozenset(_mounts()),
        cgroups=frozenset(name for name, _, _ in os.walk(CGROUP_ROOT)),
        namespaces=frozenset(_namespaces()),
        descriptors=frozenset(_descriptors()),
        files=frozenset(_entries([Path(tempfile.gettempdir()), *directories])),
    )


async def leftovers(before: HostSnapshot, directories: Sequence[Path] = (), *, patience_s: float = 6.0) -> list[str]:
    """What was not there before and does not go away in `patience_s`; empty when all is clean (then it returns at once)."""
    deadline = time.monotonic() + patience_s
    staying = before.new_in(take(directories))
    while staying and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
        staying &= before.new_in(take(directories))
    return sorted(staying)


def _mounts() -> Iterator[str]:
    """Without storages of Podman: whichever runs on this host mounts its own when it starts, and unmounts it when no container is there."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        root, point = line.split(" ")[3:5]
        if not (root.endswith("/overlay") and point.endswith("/overlay")):  # a directory of that name, mounted over itself
            yield line.split(" ", 2)[2]


def _namespaces() -> Iterator[str]:
    for pid in descendants(os.getpid()):
        for kind in NAMESPACES:
            try:
                yield str(Path(f"/proc/{pid}/ns/{kind}").readlink())
            except OSError:
                continue  # it ended meanwhile, or may not be looked at


def _descriptors() -> Iterator[str]:
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue  # the descriptor of this very listing
        if not target.startswith("/proc/"):
            yield f"{entry.name} {target}"


def _entries(directories: Sequence[Path]) -> Iterator[str]:
    for directory in directories:
        try:
            yield from map(str, directory.iterdir())
        except OSError:
            continue  # there is none
