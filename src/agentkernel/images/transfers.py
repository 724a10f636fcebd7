"""Transfers of blobs: what breaks off goes on where it ended, and what hardly comes at all is given up; what has come is kept."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from agentkernel.errors import ImageFailed
from agentkernel.failpoints import failpoint
from agentkernel.images.manifest import Descriptor
from agentkernel.images.threads import to_its_end
from agentkernel.units import format_duration, format_size

ATTEMPTS = 6  # without a byte in between
FIRST_PAUSE_S = 0.25  # before the second attempt; doubled each time
WINDOW_S = 60.0  # in which so much must come as the least rate makes of it, all attempts and pauses included
_PIECE_BYTES = 1024 * 1024  # hashed and written at once, in a thread


class BrokenTransfer(Exception):
    """The connection was lost, or the server failed: what has come is right, and the rest may come by another attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Bytes on their way, from an offset that the other side chose: the one that was asked for, or 0."""

    offset: int
    chunks: AsyncIterator[bytes]


class Fetch(Protocol):
    """Begins a transfer of one blob; raises BrokenTransfer, or an AgentKernelError for which another attempt is of no use."""

    def __call__(self, descriptor: Descriptor, offset: int) -> AbstractAsyncContextManager[Transfer]: ...


class Part:
    """A blob that is not whole yet: its file, and the digest of what is in it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size = 0
        self._hasher = hashlib.sha256()

    def resume(self, limit_bytes: int) -> None:
        """Takes up what is in the file; more than there can be is dropped."""
        if os.fstat(self.descriptor).st_size > limit_bytes:
            os.ftruncate(self.descriptor, 0)
        while data := os.pread(self.descriptor, _PIECE_BYTES, self.size):
            self._hasher.update(data)
            self.size += len(data)

    def restart(self) -> None:
        """Drops what is there."""
        os.ftruncate(self.descriptor, 0)
        self.size, self._hasher = 0, hashlib.sha256()

    def add(self, data: bytes) -> None:
        """Writes and hashes more."""
        self._hasher.update(data)
        while data:
            written = os.pwrite(self.descriptor, data, self.size)
            self.size += written
            data = data[written:]

    def digest(self) -> str:
        return f"sha256:{self._hasher.hexdigest()}"


class Pace:
    """How fast a transfer is; `limit` ends it when too little has come for a whole window."""

    def __init__(self, least_bytes_per_s: int) -> None:
        self.wanted_bytes = int(least_bytes_per_s * WINDOW_S)
        self.limit = asyncio.timeout(WINDOW_S if least_bytes_per_s else None)
        self._since_bytes = 0

    def came(self, count: int) -> None:
        """So many bytes more; enough of them open the next window."""
        self._since_bytes += count
        if 0 < self.wanted_bytes <= self._since_bytes:
            self._since_bytes = 0
            self.limit.reschedule(asyncio.get_running_loop().time() + WINDOW_S)


async def fill(descriptor: Descriptor, part: Part, fetch: Fetch, progress: Callable[[int], None], least_bytes_per_s: int) -> None:
    """Transfers what is missing, by as many attempts as it takes, but not `ATTEMPTS` in vain, nor slower than that (0: however slow).

    Raises:
        ImageFailed: it does not come, or too slowly; what has come stays in `part`.
        AgentKernelError: whatever `fetch` raises.
    """
    pace = Pace(least_bytes_per_s)
    try:
        async with pace.limit:
            await _filled(descriptor, part, fetch, progress, pace)
    except TimeoutError:
        if not pace.limit.expired():
            raise
        slow = f"less than {format_size(pace.wanted_bytes)} in {format_duration(WINDOW_S)}"
        hint = f"try again later, it goes on where it ended: {_kept(descriptor, part)}; images.least_rate says how slow it may be"
        raise ImageFailed(f"{descriptor.digest[:19]} comes too slowly: {slow}", hint=hint) from None


async def _filled(descriptor: Descriptor, part: Part, fetch: Fetch, progress: Callable[[int], None], pace: Pace) -> None:
    failures = 0
    while part.size < descriptor.size_bytes:
        before = part.size
        try:
            await _transfer(descriptor, part, fetch, progress, pace)
            if part.size < descriptor.size_bytes:
                raise BrokenTransfer("it ended early")
        except BrokenTransfer as error:
            failures = 1 if part.size > before else failures + 1
            if failures >= ATTEMPTS:
                hint = f"try again later: {_kept(descriptor, part)}"
                raise ImageFailed(f"{descriptor.digest[:19]} does not come: {error}", hint=hint) from None
            await asyncio.sleep(FIRST_PAUSE_S * 2 ** (failures - 1))


def _kept(descriptor: Descriptor, part: Part) -> str:
    return f"{part.size} of {descriptor.size_bytes} bytes are here"


async def _transfer(descriptor: Descriptor, part: Part, fetch: Fetch, progress: Callable[[int], None], pace: Pace) -> None:
    """One attempt; what has come of it is kept, however it ends."""
    async with fetch(descriptor, part.size) as transfer:
        if transfer.offset != part.size:
            part.restart()
        waiting: list[bytes] = []
        count = 0
        try:
            async for chunk in transfer.chunks:
                waiting.append(chunk)
                count += len(chunk)
                if part.size + count > descriptor.size_bytes:
                    part.restart()
                    waiting.clear()
                    raise ImageFailed(f"more comes as {descriptor.digest[:19]} than the {descriptor.size_bytes} bytes that it has")
                pace.came(len(chunk))
                progress(part.size + count)
                if count >= _PIECE_BYTES:
                    data, count = b"".join(waiting), 0
                    waiting.clear()
                    await to_its_end(part.add, data)
                    failpoint("images.blob.piece")
        finally:
            part.add(b"".join(waiting))
