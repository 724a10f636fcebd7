"""An outer limit for bombs: a control group of the test's own around everything that it starts, so that even a boundary without limits harms no host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MEMORY_BYTES = 3 * 1024**3
PROCESSES = 1500
LIMITS = (("memory", "memory.limit_in_bytes", MEMORY_BYTES, "-1"), ("pids", "pids.max", PROCESSES, "max"))  # the last: none
ROOT = Path("/sys/fs/cgroup")


@contextmanager
def outer_limits() -> Iterator[str]:
    """Moves this process into limits and back; yields why there are none, or nothing. Limits that it was started in are good enough."""
    if is_limited(os.getpid()):
        yield ""
        return
    homes = _own_groups()
    made: list[tuple[Path, Path]] = []
    try:
        for controller, name, value, _ in LIMITS:
            home = homes.get(controller)
            if home is None or not os.access(home, os.W_OK):
                yield f"the test may not make a {controller} group"
                return
            group = home / f"aktest-{os.getpid()}"
            group.mkdir()
            made.append((group, home))
            (group / name).write_text(str(value))
            (group / "cgroup.procs").write_text(str(os.getpid()))
        yield ""
    finally:
        for group, home in made:
            for pid in (group / "cgroup.procs").read_text().split():
                (home / "cgroup.procs").write_text(pid)
            group.rmdir()


@contextmanager
def limited_groups(name: str) -> Iterator[str]:
    """Limits the groups of that name, beneath which an engine makes those of its containers; yields why that cannot be, or nothing.

    They are the host's, so they are left alone where containers of somebody else are in them.
    """
    groups = [ROOT / controller / name for controller, _, _, _ in LIMITS]
    if not all(os.access(group.parent, os.W_OK) for group in groups):
        yield "the test may make no groups for an engine's containers"
        return
    if any(each.read_text() for group in groups for each in group.rglob("cgroup.procs")):
        yield f"containers of another engine are in the control group {name}"
        return
    there = {group for group in groups if group.is_dir()}
    try:
        for group, (_, file, value, _) in zip(groups, LIMITS, strict=True):
            group.mkdir(exist_ok=True)
            (group / file).write_text(str(value))
        yield ""
    finally:
        for group, (_, file, _, none) in zip(groups, LIMITS, strict=True):
            (group / file).write_text(none)
            if group not in there:
                _remove(group)


def _remove(group: Path) -> None:
    """With the empty groups that the engine has left in it; one in which something still runs stays."""
    for directory, _, _ in os.walk(group, topdown=False):
        with suppress(OSError):
            os.rmdir(directory)


def is_limited(pid: int) -> bool:
    """Whether both limits, or tighter ones, hold for a process: looked up before a bomb is let loose."""
    groups = _groups(pid)
    return _bounded(groups.get("memory"), "memory.limit_in_bytes", MEMORY_BYTES) and _bounded(groups.get("pids"), "pids.max", PROCESSES)


def _bounded(group: Path | None, name: str, most: int) -> bool:
    while group is not None and (group / name).exists():
        value = (group / name).read_text().strip()
        if value != "max" and int(value) <= most:
            return True
        group = group.parent
    return False


def _own_groups() -> dict[str, Path]:
    return _groups(os.getpid())


def _groups(pid: int) -> dict[str, Path]:
    """Controller -> directory, of the v1 hierarchies."""
    found = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            mount = ROOT / (controllers if (ROOT / controllers).is_dir() else controller)
            if controller and mount.is_dir():
                found[controller] = Path(f"{mount}{path}")
    return found
