"""Ending the processes of a sandbox that has no process namespace."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

_KILL_PASSES = 100


def kill_descendants(pid: int) -> None:
    """Kills everything below a sandbox's agent, which is a subreaper: without a pid namespace its own death would set them free."""
    for _ in range(_KILL_PASSES):
        descendants = _descendants(pid)
        if not descendants:
            return
        for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first: what is stopped forks no more
            for descendant in descendants:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(descendant, number)


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = Path("/proc", entry, "stat").read_bytes().rpartition(b")")[2].split()
                if fields[0] != b"Z":
                    children.setdefault(int(fields[1]), []).append(int(entry))
    found: list[int] = []
    pending = [pid]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found
