"""Locks between processes that share a store of images; the kernel gives them back when their holder ends, however that comes."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

POLL_S = 0.05


@asynccontextmanager
async def held(path: str, *, shared: bool = False) -> AsyncIterator[int]:
    """Holds the lock for the block, waiting for it so that the wait can be cancelled; yields the file's descriptor."""
    while (descriptor := try_hold(path, shared=shared)) is None:  # noqa: ASYNC110 - what gives it back is another process
        await asyncio.sleep(POLL_S)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def try_hold(path: str, *, shared: bool = False) -> int | None:
    """Takes the lock at once, or not at all; closing the descriptor gives it back."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if is_still(path, descriptor):
            return descriptor
        os.close(descriptor)  # its holder has removed it, or given it another name


def is_still(path: str, descriptor: int) -> bool:
    """Whether the open file is the one of that name."""
    try:
        named, opened = os.stat(path, follow_symlinks=False), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)
