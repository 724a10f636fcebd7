"""What sandboxes have on the host, and what must not be left of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Collection
from pathlib import Path

from reliability.ground import Ground

from agentkernel.testing.host import CGROUP_ROOT, HostSnapshot, host_processes, take

PATIENCE_S = 5.0
_ID = re.compile(r"[0-9a-f]{16}")
_MAY_STAY = frozenset(
    {
        "run/mount",
        "data/store",
        "run/engines",
        "run/ranges",
        "run/sandboxes",
        "run/lasting",
        "data/sandboxes",
        "data/ranges",
        "data/logs",
        "data/scratch",
    }
)


def recorded(home: Path, ground: Ground) -> dict[str, set[str]]:
    """Ids by where they are: `state` of running sandboxes, `files` of all that ever ran, control `groups`, an engine's `containers`."""
    return {
        "state": _names(ground.lasting(home)) | (_names(ground.passing(home)) - unfinished(home, ground)),
        "files": _names(home / ground.files),
        "containers": ground.contained(),
        "groups": {found[0] for name, _, _ in os.walk(CGROUP_ROOT) if (found := _ID.search(os.path.basename(name)))},
        "logs": _names(home / "data/logs"),
    }


def unfinished(home: Path, ground: Ground) -> set[str]:
    """Directories of sandboxes whose maker died before it could say that they are its own: they are left alone for some seconds."""
    place = ground.passing(home)
    return {name for name in _names(place) if not (place / name / "lease").exists()}


def foreign(home: Path, ground: Ground, running: Collection[str], existing: Collection[str], ever: Collection[str]) -> list[str]:
    """What is there of sandboxes that do not run, or do not exist; of control groups only those of ids that `ever` were this store's."""
    found = recorded(home, ground)
    found["groups"] &= set(ever)
    stopped = {name: set(existing) for name in ("files", "logs", "containers")}
    allowed = {"state": set(running), "groups": set(running), **stopped}
    return sorted(f"{place} of {ident}" for place, idents in found.items() for ident in idents - allowed[place])


def rest(home: Path, ground: Ground) -> list[str]:
    """What is left beneath the home of a store without sandboxes, beside the store itself and what a backend keeps for the next one."""
    found = []
    for top in ("run", "data"):
        for directory, names, files in os.walk(home / top):
            where = os.path.relpath(directory, home)
            found += [f"{where}/{name}" for name in names if f"{where}/{name}" not in _MAY_STAY | ground.stays]
            if where not in ("data/store", "run") and (where not in ground.stays or where.endswith(("/lasting", "/sandboxes"))):
                found += [f"{where}/{name}" for name in files if f"{where}/{name}" != "data/daemon.log"]
    return sorted(found)


def open_files(pid: int) -> list[str]:
    """Descriptors that can only be of a sandbox."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = str(entry.readlink())
            if "pidfd" in target or "/lasting/" in target or "cgroup" in target or target.endswith("(deleted)"):
                found.append(target)
    return found


async def staying(before: HostSnapshot, ever: set[str]) -> list[str]:
    """What stays though nothing should; orphans that have ended are reaped while waiting."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        reap()
        new = [each for each in before.new_in(take()) if not each.startswith("descriptors")]
        found = sorted(each for each in new if not each.startswith("cgroups") or any(ident in each for ident in ever))
        if not found or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.02)


def reap(but: int = 0) -> None:
    """Takes the end of orphans that have become ours."""
    for process in host_processes().values():
        if process.parent == os.getpid() and process.state == "Z" and process.pid != but:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)


def _names(directory: Path) -> set[str]:
    try:
        return {path.name for path in directory.iterdir()}
    except OSError:
        return set()
