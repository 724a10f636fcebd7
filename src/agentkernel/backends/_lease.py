"""Who holds a directory: a flock'ed file in it, which the kernel unlocks when its holder ends, however that comes."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

LEASE = "lease"
UNFINISHED_LEASE = "lease.new"
UNFINISHED_AGE_S = 10.0
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


def new_lease(path: Path) -> int:
    """The lease appears when it is locked already: between its making and its locking another engine's sweep would take it."""
    unfinished = path / UNFINISHED_LEASE
    fd = os.open(unfinished, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.link(unfinished, path / LEASE)
        unfinished.unlink()
    except BaseException:
        os.close(fd)
        raise
    return fd


def taken_lease(path: Path, unfinished_age_s: float = UNFINISHED_AGE_S) -> int:
    """Locks the lease of a directory whose holder is gone; raises BlockingIOError when it is not, FileNotFoundError for no directory.

    A directory without a lease is one that its maker has not finished; its age tells a crash from a start under way. Who knows that
    nobody else makes it gives an age of 0.
    """
    try:
        fd = os.open(path / LEASE, _FLAGS)
    except FileNotFoundError:
        if unfinished_age_s and time.time() - path.stat().st_mtime <= unfinished_age_s:
            raise
        fd = os.open(path / LEASE, _FLAGS | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd
