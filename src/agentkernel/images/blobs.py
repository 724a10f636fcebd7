"""Layers and documents of images by what they hold: a file's name is the SHA-256 digest of its bytes.

<directory>/sha256/<hex>         whole and verified; never changed again
<directory>/sha256/<hex>.part    what has come of it so far; locked while somebody writes it. The next transfer goes on where it ends

Whatever is on its way is written by one process; others wait for it, and find it whole.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress

from agentkernel.errors import ImageFailed
from agentkernel.failpoints import failpoint
from agentkernel.images.locks import held, try_hold
from agentkernel.images.manifest import MAX_DOCUMENT_BYTES, Descriptor
from agentkernel.images.threads import to_its_end
from agentkernel.images.transfers import Fetch, Part, Transfer, fill

_PART = ".part"


class Blobs:
    """The blobs of one store."""

    def __init__(self, directory: str, least_bytes_per_s: int = 0) -> None:
        """`least_bytes_per_s`: of each transfer, on an average of a window; slower ones are given up. 0: they are not."""
        self._root = directory
        self._directory = f"{directory}/sha256"
        self._least_bytes_per_s = least_bytes_per_s

    def paced(self, least_bytes_per_s: int) -> Blobs:
        """The same blobs, for transfers that must not be slower."""
        return Blobs(self._root, least_bytes_per_s)

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

        A transfer that breaks off is begun again where it ended (`images.transfers`), and by the next call.

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
                    await self._receive(descriptor, Part(part), fetch, progress)
        except OSError as error:
            raise ImageFailed(f"cannot keep a layer in {self._directory}: {error.strerror}", hint="is the disk full?") from error
        progress(descriptor.size_bytes)

    async def _receive(self, descriptor: Descriptor, part: Part, fetch: Fetch, progress: Callable[[int], None]) -> None:
        path = self.path(descriptor.digest)
        try:
            await to_its_end(part.resume, descriptor.size_bytes)
            is_ours = part.size == 0
            await fill(descriptor, part, fetch, progress, self._least_bytes_per_s)
            if part.digest() != descriptor.digest and not is_ours:
                part.restart()  # what an earlier pull left was damaged, as by a power failure
                await fill(descriptor, part, fetch, progress, self._least_bytes_per_s)
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
