"""Layers and documents of images by what they hold: a file's name is the SHA-256 digest of its bytes.

<directory>/sha256/<hex>         whole and verified; never changed again
<directory>/sha256/<hex>.part    what has come of it so far; locked while somebody writes it. The next transfer goes on where it ends

Whatever is on its way is written by one process; others wait for it, and find it whole.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from agentkernel.errors import ImageFailed
from agentkernel.failpoints import failpoint
from agentkernel.images.locks import held, try_hold
from agentkernel.images.manifest import MAX_DOCUMENT_BYTES, Descriptor
from agentkernel.images.threads import to_its_end

ATTEMPTS = 6  # without a byte in between
FIRST_PAUSE_S = 0.25  # before the second attempt; doubled each time
_PIECE_BYTES = 1024 * 1024  # hashed and written at once, in a thread
_PART = ".part"


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


class Blobs:
    """The blobs of one store."""

    def __init__(self, directory: str) -> None:
        self._directory = f"{directory}/sha256"

    def path(self, digest: str) -> str:
        """Where a blob is, or would be. `digest` is one in its one form."""
        return f"{self._directory}/{digest.removeprefix('sha256:')}"

    def has(self, descriptor: Descriptor) -> bool:
        """Whether it is here, whole; whether its bytes are still the same is `verify`'s."""
        try:
            return os.stat(self.path(descriptor.digest), follow_symlinks=False).st_size == descriptor.size_bytes
        except OSError:
            return False

    def document(self, digest: str) -> bytes | None:
        """A document's verified bytes; None: it is not here, or no longer what it was."""
        try:
            with open(self.path(digest), "rb") as file:
                data = file.read(MAX_DOCUMENT_BYTES + 1)
        except OSError:
            return None
        return data if digest_of(data) == digest else None

    def verified(self, descriptor: Descriptor) -> bool:
        """Whether it is here and its bytes are what its digest says; reads all of it. If they are not, what is here is removed."""
        if digest_of_file(self.path(descriptor.digest)) == descriptor.digest:
            return True
        with suppress(FileNotFoundError):
            os.unlink(self.path(descriptor.digest))
        return False

    async def put(self, data: bytes) -> str:
        """Keeps a document; returns its digest."""
        digest = digest_of(data)
        await self.receive(Descriptor(media_type="", digest=digest, size_bytes=len(data)), _of_bytes(data))
        return digest

    async def receive(self, descriptor: Descriptor, fetch: Fetch, progress: Callable[[int], None] = lambda _bytes: None) -> None:
        """Fetches a blob unless it is here. `progress` is told how many bytes there are so far.

        A transfer that breaks off is begun again where it ended, `ATTEMPTS` times without a byte in between, and by the next call.

        Raises:
            ImageFailed: it does not come, or is not what its digest says (then nothing of it is kept), or cannot be written.
            AgentKernelError: whatever `fetch` raises.
        """
        if self.has(descriptor):
            progress(descriptor.size_bytes)
            return
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            async with held(self.path(descriptor.digest) + _PART) as part:
                if not self.has(descriptor):  # somebody else was at it
                    await self._receive(descriptor, _Part(part), fetch, progress)
        except OSError as error:
            raise ImageFailed(f"cannot keep a layer in {self._directory}: {error.strerror}", hint="is the disk full?") from error
        progress(descriptor.size_bytes)

    async def _receive(self, descriptor: Descriptor, part: _Part, fetch: Fetch, progress: Callable[[int], None]) -> None:
        path = self.path(descriptor.digest)
        try:
            await to_its_end(part.resume, descriptor.size_bytes)
            is_ours = part.size == 0
            await _fill(descriptor, part, fetch, progress)
            if part.digest() != descriptor.digest and not is_ours:
                part.restart()  # what an earlier pull left was damaged, as by a power failure
                await _fill(descriptor, part, fetch, progress)
            if part.digest() != descriptor.digest:
                came = part.digest()[:19]
                part.restart()
                raise ImageFailed(f"what came as {descriptor.digest[:19]} is something else: {came}", hint="try again")
        finally:
            if part.size == 0 and descriptor.size_bytes:
                os.unlink(path + _PART)
        failpoint("images.blob.come")
        await to_its_end(os.fsync, part.descriptor)
        os.rename(path + _PART, path)
        failpoint("images.blob.whole")

    def free_bytes(self) -> int:
        """What the disk has left for blobs."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        status = os.statvfs(self._directory)
        return status.f_bavail * status.f_frsize

    def names(self) -> Iterator[str]:
        """The digests of all that are here."""
        for name in _listed(self._directory):
            if not name.endswith(_PART):
                yield f"sha256:{name}"

    def remove(self, digest: str) -> int:
        """Removes one; returns how many bytes that frees."""
        try:
            size = os.stat(self.path(digest), follow_symlinks=False).st_size
            os.unlink(self.path(digest))
        except FileNotFoundError:
            return 0
        return size

    def remove_parts(self, unused_for_s: float) -> int:
        """Removes what nobody fetches any more and came no further for so long; returns how many bytes that frees."""
        freed = 0
        for name in _listed(self._directory):
            path = f"{self._directory}/{name}"
            if name.endswith(_PART) and (lock := try_hold(path)) is not None:
                try:
                    status = os.fstat(lock)
                    if time.time() - status.st_mtime >= unused_for_s:
                        os.unlink(path)
                        freed += status.st_size
                finally:
                    os.close(lock)
        return freed


class _Part:
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


async def _fill(descriptor: Descriptor, part: _Part, fetch: Fetch, progress: Callable[[int], None]) -> None:
    """Transfers what is missing, by as many attempts as it takes, but not `ATTEMPTS` in vain."""
    failures = 0
    while part.size < descriptor.size_bytes:
        before = part.size
        try:
            await _transfer(descriptor, part, fetch, progress)
            if part.size < descriptor.size_bytes:
                raise BrokenTransfer("it ended early")
        except BrokenTransfer as error:
            failures = 1 if part.size > before else failures + 1
            if failures >= ATTEMPTS:
                kept = f"{part.size} of {descriptor.size_bytes} bytes are here"
                raise ImageFailed(f"{descriptor.digest[:19]} does not come: {error}", hint=f"try again later: {kept}") from None
            await asyncio.sleep(FIRST_PAUSE_S * 2 ** (failures - 1))


async def _transfer(descriptor: Descriptor, part: _Part, fetch: Fetch, progress: Callable[[int], None]) -> None:
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
                progress(part.size + count)
                if count >= _PIECE_BYTES:
                    data, count = b"".join(waiting), 0
                    waiting.clear()
                    await to_its_end(part.add, data)
                    failpoint("images.blob.piece")
        finally:
            part.add(b"".join(waiting))


def _of_bytes(data: bytes) -> Fetch:
    @asynccontextmanager
    async def fetch(descriptor: Descriptor, offset: int) -> AsyncIterator[Transfer]:
        yield Transfer(offset=offset, chunks=_once(data[offset:]))

    return fetch


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def digest_of(data: bytes) -> str:
    """The digest of these bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest_of_file(path: str) -> str:
    """The digest of a file's bytes; empty: it cannot be read."""
    try:
        with open(path, "rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError:
        return ""


def _listed(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
