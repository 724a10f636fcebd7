"""Images from .tar files: unpacked once, inside a sandbox, into a content-addressed directory of the cache.

images/<sha256>/rootfs     the unpacked image, never changed again (writes of sandboxes go to overlays)
images/<sha256>.lock       held while it is made
images/known/<identity>    the digest of a tar file, by device, inode, size and times: a gigabyte is hashed once
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agentkernel.engine.parts import Unpack
from agentkernel.errors import InvalidInput, NotFound

_LOCK_POLL_S = 0.05
_CHUNK_BYTES = 1024 * 1024


class TarImages:
    """The unpacked images of one user's cache."""

    def __init__(self, cache_directory: str, unpack: Unpack) -> None:
        self._unpack = unpack
        self._directory = f"{os.path.realpath(cache_directory)}/images"  # backends follow no links

    async def digest(self, tar_path: str) -> str:
        """The SHA-256 of an archive, 64 hexadecimal digits; raises NotFound."""
        try:
            return await asyncio.to_thread(self._digest, tar_path)
        except OSError as error:
            raise NotFound(f"cannot read the image {tar_path!r}: {error.strerror}") from error

    async def unpacked(self, tar_path: str) -> str:
        """Returns the directory of the unpacked image, made now if it is not there; concurrent callers make it once.

        Raises:
            NotFound: there is no such file, or it cannot be read.
            InvalidInput: it is not an image.
            SandboxFailed, Unsupported: it could not be unpacked; nothing of it is left behind.
        """
        digest = await self.digest(tar_path)
        rootfs = f"{self._directory}/{digest}/rootfs"
        if _is_there(rootfs):
            return rootfs
        async with _locked(f"{self._directory}/{digest}.lock"):
            if not _is_there(rootfs):
                await self._make(tar_path, digest)
        return rootfs

    async def _make(self, tar_path: str, digest: str) -> None:
        temporary = f"{self._directory}/{digest}.new"
        shutil.rmtree(temporary, ignore_errors=True)  # of a crash: under the lock nobody else uses it
        os.makedirs(f"{temporary}/rootfs", mode=0o755)
        try:
            await self._unpack((), (tar_path,), f"{temporary}/rootfs")
            os.rename(temporary, f"{self._directory}/{digest}")
        except InvalidInput as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise InvalidInput(f"cannot unpack the image {tar_path!r}: {error.message}", hint=error.hint) from error
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _digest(self, tar_path: str) -> str:
        with open(tar_path, "rb") as file:
            status = os.fstat(file.fileno())
            identity = f"{status.st_dev}-{status.st_ino}-{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"
            known = f"{self._directory}/known/{identity}"
            try:
                with open(known) as remembered:
                    digest = remembered.read(64)
                if len(digest) == 64 and set(digest) <= set("0123456789abcdef"):
                    return digest
            except OSError:
                pass
            hasher = hashlib.sha256()
            while chunk := file.read(_CHUNK_BYTES):
                hasher.update(chunk)
        digest = hasher.hexdigest()
        os.makedirs(os.path.dirname(known), mode=0o700, exist_ok=True)
        fresh = f"{known}.{os.urandom(4).hex()}"  # of this call alone: others hash the same file at the same time
        with open(fresh, "w") as remembered:
            remembered.write(digest)
        os.replace(fresh, known)
        return digest


def _is_there(directory: str) -> bool:
    return os.path.isdir(directory)


@asynccontextmanager
async def _locked(path: str) -> AsyncIterator[None]:
    """An exclusive flock, polled so that waiting can be cancelled."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)
