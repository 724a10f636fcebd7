"""Directories for the length of a build; those of processes that were killed are known by locks that nobody holds."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from agentkernel.images.locks import try_hold

_PREFIX, _LOCK = "build-", ".lock"


@asynccontextmanager
async def room(directory: str) -> AsyncIterator[str]:
    """An empty directory of this caller's in that one, removed afterwards; first those are that nobody needs any more. Raises OSError."""
    os.makedirs(directory, mode=0o711, exist_ok=True)
    await asyncio.to_thread(sweep, directory)
    place = f"{directory}/{_PREFIX}{os.urandom(8).hex()}"
    lock = try_hold(place + _LOCK)
    try:
        os.mkdir(place, 0o700)
        yield place
    finally:
        await asyncio.to_thread(_remove, place)
        if lock is not None:
            os.close(lock)


def sweep(directory: str) -> None:
    """Removes what killed processes left."""
    with suppress(FileNotFoundError):
        for place in sorted({f"{directory}/{name.removesuffix(_LOCK)}" for name in os.listdir(directory) if name.startswith(_PREFIX)}):
            lock = try_hold(place + _LOCK)
            if lock is not None:
                _remove(place)
                os.close(lock)


def _remove(place: str) -> None:
    shutil.rmtree(place, ignore_errors=True)  # our own files
    with suppress(FileNotFoundError):
        os.unlink(place + _LOCK)
