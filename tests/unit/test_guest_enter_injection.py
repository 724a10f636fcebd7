"""Every system call of the launcher fails once, and it is killed at every one: no sandbox is ever reported that is not whole, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import struct
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.launch_samples import host_mounts, processes, root_steps, status
from unit.plan_wire import FAILED, MALFORMED, READY, STATUS_FD, Launch, encode, start

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: id ranges"),
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]

# Calls without which the sandbox would be another than planned.
NEEDED = [
    "openat2",
    "open_tree",
    "move_mount",
    "mount_setattr",
    "mount",
    "mkdirat",
    "symlinkat",
    "fchdir",
    "fstat",
    "openat",
    "pivot_root",
    "umount2",
    "chdir",
    "sethostname",
    "socket",
    "ioctl",
    "prlimit64",
    "capset",
    "capget",
    "setgroups",
    "setresuid",
    "setresgid",
    "landlock_create_ruleset",
    "landlock_add_rule",
    "landlock_restrict_self",
    "getsockopt",
    "unshare",
    "close_range",
    "clone",
    "pidfd_open",
    "pipe2",
    "dup3",
    "mmap",
    "ppoll",
    "read",
    "fchown",
]
# Calls whose failure may end the launcher without a report: there is no status descriptor yet, or it must take its caller for dead.
SILENT = ("pipe2", "dup3", "ppoll")
STRIDE = int(os.environ.get("AGENTKERNEL_KILL_STRIDE", "8"))  # 1: at every single call


@pytest.fixture(autouse=True)
def _nothing_is_left(guest: Path, place: Path) -> Iterator[None]:
    before = host_mounts(place)
    yield
    deadline = time.monotonic() + 5
    while processes(guest) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert processes(guest) == set()
    assert host_mounts(place) == before


def inject(guest: Path, plan: bytes, what: str) -> Launch:
    """Runs the launcher under strace with this injection until it has reported."""
    return start(guest, plan, wrapper=("/usr/bin/strace", "-f", "-qqq", "-o", "/dev/null", "-e", f"inject={what}"))


def kinds_of(data: bytes) -> list[int]:
    return [record[0] for record in struct.iter_unpack("<IIII", data)]


def settle(launch: Launch, guest: Path) -> list[int]:
    """Waits until the launcher has reported its end or is gone, ends the sandbox, and returns the kinds of its records.

    strace holds the status descriptor too, so there is no end of file before strace ends; and it reaps the sandbox.
    """
    deadline = time.monotonic() + 10
    data = b""
    while READY not in kinds_of(data) and os.waitid(os.P_PID, launch.enter, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        assert time.monotonic() < deadline, "the launcher hangs"
        if select.select([launch.status], [], [], 0.002)[0]:
            data += os.read(launch.status, 4096)
    for pid in processes(guest):
        if READY in kinds_of(data) and status(pid)["NoNewPrivs"] == "1":
            assert status(pid)["CapBnd"] == "0" * 16
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    launch.finish()
    launch.close()
    return [*kinds_of(data), *(record.kind for record in launch.records)]


@pytest.mark.parametrize("call", NEEDED)
def test_a_failing_call_is_reported(guest: Path, place: Path, call: str) -> None:
    kinds = settle(inject(guest, encode(root_steps(place)), f"{call}:error=EIO:when=1"), guest)
    assert READY not in kinds
    assert kinds.count(FAILED) + kinds.count(MALFORMED) == 1 or call in SILENT


def calls_until_ready(guest: Path, place: Path, plan: bytes) -> list[tuple[str, int]]:
    """Each system call of a launch, with how often its process had made it by then: what strace's injections count."""
    log = place / "calls"
    launch = start(guest, plan, wrapper=("/usr/bin/strace", "-f", "-qqq", "-o", str(log)))
    assert READY in settle(launch, guest)
    counts: Counter[tuple[str, str]] = Counter()
    calls = []
    for line in log.read_text(errors="replace").splitlines():
        if (found := re.match(r"(\d+) +(\w+)\(", line)) and found[2] != "execve":
            counts[found[1], found[2]] += 1
            calls.append((found[2], counts[found[1], found[2]]))
        if f'write({STATUS_FD}, "\\4' in line:
            break
    return calls


@pytest.mark.parametrize("chunk", range(8))
def test_killed_at_any_call_it_leaves_nothing(guest: Path, place: Path, chunk: int) -> None:
    plan = encode(root_steps(place))
    calls = calls_until_ready(guest, place, plan)
    assert len(calls) > 200
    for call, count in calls[chunk :: 8 * STRIDE]:
        kinds = settle(inject(guest, plan, f"{call}:signal=SIGKILL:when={count}"), guest)
        # Unless it was the report itself, or the end of the outer process, whose work was done.
        assert READY not in kinds or call in ("write", "exit_group"), (call, count)
