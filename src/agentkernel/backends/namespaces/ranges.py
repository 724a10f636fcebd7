"""Leases of user id ranges: as root, each sandbox's ids 0-65535 are a range of its own on the host.

The pool is 0x70000000-0x7FFEFFFF: above what systemd gives to containers (0x80000-0x6FFFFFFF, see systemd's UIDS-GIDS) and
below the ids that old interfaces take for negative.
"""

from __future__ import annotations

import os
from pathlib import Path

from agentkernel.errors import LaunchFailed

FIRST_ID = 0x70000000
RANGE_SIZE = 0x10000
RANGE_COUNT = 0xFFF


def lease_range(directory: Path, sandbox_id: str) -> int:
    """Leases a free range for a sandbox and returns its first id; raises LaunchFailed when all are taken."""
    start = int.from_bytes(os.urandom(4), "little") % RANGE_COUNT
    for step in range(RANGE_COUNT):
        number = (start + step) % RANGE_COUNT
        try:
            fd = os.open(directory / str(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            continue
        try:
            os.write(fd, sandbox_id.encode())
        finally:
            os.close(fd)
        return FIRST_ID + number * RANGE_SIZE
    raise LaunchFailed(f"all {RANGE_COUNT} user id ranges are in use", hint="stop some sandboxes")


def release_range(directory: Path, first_id: int) -> None:
    """Gives a range back; a range that is not leased is no error."""
    (directory / str((first_id - FIRST_ID) // RANGE_SIZE)).unlink(missing_ok=True)


def sweep_ranges(directory: Path, sandboxes: Path) -> None:
    """Gives back the ranges of sandboxes whose directory is gone (it is made before the lease and removed after it)."""
    for entry in directory.iterdir():
        try:
            owner = entry.read_text()
        except OSError:
            continue
        if owner and not (sandboxes / owner).exists():
            entry.unlink(missing_ok=True)
