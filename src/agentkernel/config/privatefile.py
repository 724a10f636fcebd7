"""Small files that are this user's alone: each is changed as a whole, by one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def exclusive(path: str) -> Iterator[None]:
    """Nobody else is in such a block for the same file meanwhile; its directory is there. Leaves `path`.lock behind."""
    with _private(f"{path}.lock", os.O_RDWR | os.O_CREAT) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def write_private(path: str, content: str) -> None:
    """Puts a file of mode 0600 in the place of whatever is at `path`, at once or not at all; to be called in an `exclusive` block."""
    fresh = f"{path}.new"
    with suppress(FileNotFoundError):
        os.unlink(fresh)  # of a writer that died
    with _private(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor:
        os.write(descriptor, content.encode())
        os.fsync(descriptor)
    os.replace(fresh, path)


@contextmanager
def _private(path: str, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
