"""Leases of user id ranges: as root, each sandbox's ids 0-65535 are a range of its own on the host.

The pool is 0x70000000-0x7FFEFFFF: above what systemd gives to containers (0x80000-0x6FFFFFFF, see systemd's UIDS-GIDS) and
below the ids that old interfaces take for negative.

A lease is a symlink that says the sandbox's id: made whole by one system call, or not at all. There are two directories of them, one that
goes with the host's next start and one for sandboxes whose files stay, on the disk (docs/adr/0017-ranges-of-kept-files.md).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from agentkernel.errors import LaunchFailed
from agentkernel.owners import RANGE_SIZE

FIRST_ID = 0x70000000
RANGE_COUNT = 0xFFF


def lease_range(directory: Path, sandbox_id: str, other: Path | None = None) -> int:
    """Leases in `directory` a range that is free in `other`, too, and returns its first id; raises LaunchFailed when all are taken.

    Each engine makes its lease before it looks into the other directory: so of two that want the same range one at least sees the other's.
    """
    start = int.from_bytes(os.urandom(4), "little") % RANGE_COUNT
    for step in range(RANGE_COUNT):
        number = (start + step) % RANGE_COUNT
        lease = f"{directory}/{number}"
        try:
            os.symlink(sandbox_id, lease)
        except FileExistsError:
            continue
        if other is not None and os.path.lexists(f"{other}/{number}"):
            os.unlink(lease)
            continue
        return FIRST_ID + number * RANGE_SIZE
    raise LaunchFailed(f"all {RANGE_COUNT} user id ranges are in use", hint="remove some sandboxes")


def find_range(directory: Path, sandbox_id: str) -> int | None:
    """The range that is leased for a sandbox."""
    for number, holder in _leases(directory):
        if holder == sandbox_id:
            return FIRST_ID + number * RANGE_SIZE
    return None


def release_range(directory: Path, first_id: int) -> None:
    """Gives a range back; a range that is not leased is no error."""
    (directory / str((first_id - FIRST_ID) // RANGE_SIZE)).unlink(missing_ok=True)


def sweep_ranges(directory: Path, homes: Sequence[Path]) -> None:
    """Gives back the ranges of sandboxes that have a directory in none of `homes` (it is made before the lease and removed after it)."""
    for number, holder in _leases(directory):
        if not any((home / holder).exists() for home in homes):
            (directory / str(number)).unlink(missing_ok=True)


def _leases(directory: Path) -> list[tuple[int, str]]:
    found = []
    for name in os.listdir(directory):
        try:
            found.append((int(name), os.readlink(f"{directory}/{name}")))
        except (OSError, ValueError):
            continue  # given back meanwhile, or no lease
    return found
