"""What sandboxes may not leave on the host."""

from __future__ import annotations

import fcntl
import glob
import os
import time
from collections.abc import Callable
from pathlib import Path

from agentkernel.config.directories import state_directory

SETTLE_S = 5.0  # the kernel removes namespaces and cgroups after the last process, not with it


class Host:
    """Looks for state of sandboxes that nobody holds any more, and for mounts and cgroups that belong to no sandbox."""

    def __init__(self, state: Path | None = None) -> None:
        """`state` is where sandboxes are recorded, by default the user's own."""
        self._state = state or Path(state_directory(os.environ, os.geteuid()))

    def leftovers(self, before: frozenset[str] = frozenset()) -> list[str]:
        """Waits a little for what is still going away; what comes and goes meanwhile, or was there before, belongs to other programs."""
        return _what_stays(lambda: [path for path in self._found() if path not in before])

    def lasting(self) -> list[str]:
        """What is there of sandboxes that outlive processes, whoever holds them; waits as `leftovers` does."""
        return _what_stays(lambda: [str(path) for path in self._sandboxes()])

    def present(self) -> frozenset[str]:
        """What looks left over now: before a test, it is none of that test's."""
        return frozenset(self._found())

    def _found(self) -> list[str]:
        live = self._live()
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        left = [path for path in mounts if path.startswith(str(self._state))]
        names = glob.iglob("/sys/fs/cgroup/**/agentkernel-*", recursive=True)  # unlike Path.glob it stands directories that go away
        groups = [path for path in map(Path, names) if len(path.name) == len("agentkernel-") + 16]
        empty = [path for path in groups if path.name[-16:] not in live and _is_empty(path)]
        left += [str(path) for path in empty if not _is_open(path.name[-16:])]
        left += [str(path) for path in self._sandboxes() if path.name not in live]
        return left

    def _sandboxes(self) -> list[Path]:
        return [path for kind in ("sandboxes", "lasting") if (self._state / kind).is_dir() for path in (self._state / kind).iterdir()]

    def _live(self) -> set[str]:
        """Sandboxes whose lease somebody holds: of other programs on this host."""
        return {path.name for path in self._sandboxes() if _is_leased(path)}


def _what_stays(found: Callable[[], list[str]]) -> list[str]:
    deadline = time.monotonic() + SETTLE_S
    left = set(found())
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left &= set(found())
    return sorted(left)


def _is_empty(group: Path) -> bool:
    """A cgroup without processes is one that somebody forgot."""
    try:
        return not (group / "cgroup.procs").read_text()
    except OSError:
        return False


def _is_open(sandbox_id: str) -> bool:
    """Whether some process has a file of that sandbox open: it is idle, in a home that this test does not know."""
    for descriptor in glob.iglob("/proc/[0-9]*/fd/*"):
        try:
            if sandbox_id in os.readlink(descriptor):
                return True
        except OSError:
            continue
    return False


def _is_leased(sandbox: Path) -> bool:
    try:
        with open(sandbox / "lease", "rb") as lease:
            fcntl.flock(lease, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def processes_named(marker: str) -> list[int]:
    """Processes on the host whose command line holds `marker`, this one not counted."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(word == marker.encode() for word in words):
                found.append(int(entry.name))
    return found


def wait_until(condition: object, deadline_s: float = 20.0) -> None:
    """Polls a function until it is true."""
    assert callable(condition)
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
