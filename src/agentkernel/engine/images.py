"""Images from .tar files: unpacked once, inside a sandbox, into a content-addressed directory of the cache.

images/<sha256>/rootfs     the unpacked image, never changed again (writes of sandboxes go to overlays)
images/<sha256>.lock       held while it is made
images/known/<identity>    the digest of a tar file, by device, inode, size and times: a gigabyte is hashed once
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import agentkernel
from agentkernel.abc import Backend
from agentkernel.engine.ending import LINGER_S, to_the_end
from agentkernel.engine.parts import Parts
from agentkernel.errors import InvalidInput, NotFound, Unsupported
from agentkernel.model.command import Command, ExecResult
from agentkernel.model.names import random_name
from agentkernel.model.spec import Bind, Resources, RootFilesystem, SandboxSpec

MAX_UNPACKED_BYTES = 16 * 1024**3
UNPACK_TIMEOUT_S = 1800.0
_MEMORY_BYTES = 512 * 1024**2
_LOCK_POLL_S = 0.05
_CHUNK_BYTES = 1024 * 1024
_MAX_SAID_BYTES = 4096
_HINT = "make it with `docker export CONTAINER -o image.tar`"
_TAR_INSIDE, _DESTINATION_INSIDE, _PACKAGE_INSIDE = "/mnt/image.tar", "/mnt/rootfs", "/mnt/python/agentkernel"


class TarImages:
    """The unpacked images of one user's cache."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._directory = f"{os.path.realpath(parts.cache_directory)}/images"  # backends follow no links

    async def unpacked(self, tar_path: str, backend: Backend) -> str:
        """Returns the directory of the unpacked image, made now if it is not there; concurrent callers make it once.

        Raises:
            NotFound: there is no such file, or it cannot be read.
            InvalidInput: it is not an image.
            SandboxFailed, Unsupported: it could not be unpacked; nothing of it is left behind.
        """
        try:
            digest = await asyncio.to_thread(self._digest, tar_path)
        except OSError as error:
            raise NotFound(f"cannot read the image {tar_path!r}: {error.strerror}") from error
        rootfs = f"{self._directory}/{digest}/rootfs"
        if _is_there(rootfs):
            return rootfs
        async with _locked(f"{self._directory}/{digest}.lock"):
            if not _is_there(rootfs):
                await self._make(tar_path, digest, backend)
        return rootfs

    async def _make(self, tar_path: str, digest: str, backend: Backend) -> None:
        temporary = f"{self._directory}/{digest}.new"
        shutil.rmtree(temporary, ignore_errors=True)  # of a crash: under the lock nobody else uses it
        os.makedirs(f"{temporary}/rootfs", mode=0o755)
        try:
            result = await self._unpack(tar_path, f"{temporary}/rootfs", backend)
            if result.exit_code != 0:
                raise _failed(tar_path, result)
            os.rename(temporary, f"{self._directory}/{digest}")
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    async def _unpack(self, tar_path: str, destination: str, backend: Backend) -> ExecResult:
        """The tar is hostile: it is parsed in a sandbox that sees it, the destination, and the unpacker's own code."""
        argv = self._parts.images.unpack_argv(_TAR_INSIDE, _DESTINATION_INSIDE, MAX_UNPACKED_BYTES)
        python = _interpreter()
        root = self._parts.images.host_root(argv=(python,), environment=self._parts.environment, home=self._parts.home, uid=self._parts.uid)
        if root is None:
            raise Unsupported("images cannot be unpacked: the Python that runs agentkernel cannot be shown in a sandbox")
        sandbox = await backend.create(self._spec(root, tar_path, destination))
        try:
            words = tuple(os.fsencode(word) for word in argv)
            return await sandbox.exec(Command(argv=(python, *words), timeout_s=UNPACK_TIMEOUT_S))
        finally:
            await to_the_end(sandbox.destroy())

    def _spec(self, root: RootFilesystem, tar_path: str, destination: str) -> SandboxSpec:
        package = os.path.realpath(os.path.dirname(agentkernel.__file__))
        return SandboxSpec(
            name=random_name("unpack"),
            root=root,
            profile="restrictive",
            mounts=(
                Bind(source=tar_path, target=_TAR_INSIDE),
                Bind(source=destination, target=_DESTINATION_INSIDE, writable=True),
                Bind(source=package, target=_PACKAGE_INSIDE),
            ),
            resources=Resources(memory_bytes=_MEMORY_BYTES, cpus=None),
            linger_s=LINGER_S,
            environment=(
                *root.environment,
                ("PATH", ":".join(root.path_directories)),
                ("PYTHONPATH", os.path.dirname(_PACKAGE_INSIDE)),
                ("PYTHONDONTWRITEBYTECODE", "1"),
            ),
        )

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


def _interpreter() -> bytes:
    """The Python that runs this, without its virtual environment: the unpacker needs only the standard library."""
    return os.fsencode(os.path.realpath(sys.executable))


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


def _failed(tar_path: str, result: ExecResult) -> InvalidInput:
    """What the unpacker said in its one line of JSON. It parsed hostile bytes, so its words are text to show and nothing else."""
    said, hint = f"exit status {result.exit_code}", ""
    try:
        record = json.loads(result.stdout[:_MAX_SAID_BYTES])
        said, hint = str(record["error"]), str(record["hint"])
    except (ValueError, KeyError, TypeError):
        lines = result.stderr[-_MAX_SAID_BYTES:].decode(errors="replace").strip().splitlines()
        said = lines[-1] if lines else said
    return InvalidInput(f"cannot unpack the image {tar_path!r}: {said[:300]}", hint=hint[:300] or _HINT)
