"""An outer limit for bombs: a control group of the test's own around everything that it starts, so that even a boundary without limits harms no host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY_BYTES = 3 * 1024**3
PROCESSES = 1500


@contextmanager
def outer_limits() -> Iterator[str]:
    """Moves this process into limits and back; yields why there are none, or nothing. Limits that it was started in are good enough."""
    if is_limited(os.getpid()):
        yield ""
        return
    homes = _own_groups()
    made: list[tuple[Path, Path]] = []
    try:
        for controller, name, value in (("memory", "memory.limit_in_bytes", MEMORY_BYTES), ("pids", "pids.max", PROCESSES)):
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
            mount = Path("/sys/fs/cgroup", controllers if Path("/sys/fs/cgroup", controllers).is_dir() else controller)
            if controller and mount.is_dir():
                found[controller] = Path(f"{mount}{path}")
    return found
