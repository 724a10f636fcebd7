"""Images that are not pulled but handed over: an archive of a root file system, of `docker save` or an OCI layout, or a directory.

What an archive is shows when it is unpacked, which is done where hostile bytes may be parsed; on the host only the documents of a layout
are read.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat

from agentkernel.errors import InvalidInput, NotFound
from agentkernel.images import platforms
from agentkernel.images.blobs import Blobs, digest_of_file
from agentkernel.images.layout import Layout
from agentkernel.images.pull import Fetched, Report, fetch
from agentkernel.images.records import Record
from agentkernel.images.roots import Roots
from agentkernel.images.unpack import ANY_KIND, COPY
from agentkernel.images.unpacker import SYSTEM_NAMES
from agentkernel.model.image import ImageConfig

_CHUNK_BYTES = 1024 * 1024


class Archives:
    """Takes up what is handed over."""

    def __init__(self, roots: Roots, blobs: Blobs) -> None:
        self._roots = roots
        self._blobs = blobs

    async def take(self, path: str, reference: str, report: Report) -> Fetched | Record:
        """An image with layers, whose blobs are here now and which is to be unpacked; or the record of a root file system that is.

        Raises:
            NotFound: there is nothing, or it cannot be read.
            InvalidInput: it is no image.
        """
        try:
            is_directory = stat.S_ISDIR(os.stat(path).st_mode)
        except OSError as error:
            raise NotFound(f"cannot read the image {path!r}: {error.strerror}") from error
        if is_directory and Layout(path).kind() and not _is_root(path):
            return await self._from_layout(path, reference, report)
        return await self._unpacked(path, reference, report, is_directory=is_directory)

    async def _unpacked(self, path: str, reference: str, report: Report, *, is_directory: bool) -> Fetched | Record:
        digest = "" if is_directory else await asyncio.to_thread(digest_of_file, path)
        if not is_directory and not digest:
            raise NotFound(f"cannot read the image {path!r}")
        staged = await self._roots.stage("import", (COPY if is_directory else ANY_KIND,), (path,))
        try:
            root = f"{staged}/rootfs"
            if not is_directory and Layout(root).kind() and not _is_root(root):
                return await self._from_layout(root, reference, report)
            digest = digest or await asyncio.to_thread(digest_of_tree, root)
            size = await asyncio.to_thread(_size_of_tree, root)
            await self._roots.keep(staged, digest, ImageConfig())
            return Record(reference=reference, digest=digest, size_bytes=size)
        finally:
            await self._roots.discard(staged)

    async def _from_layout(self, directory: str, reference: str, report: Report) -> Fetched:
        layout = Layout(directory)
        try:
            first = await layout.first(reference)
            return await fetch(layout, first, self._blobs, platforms.of_host(), report)
        except InvalidInput as error:
            raise InvalidInput(f"{directory!r}: {error.message}", hint=error.hint) from error


def _is_root(directory: str) -> bool:
    return any(os.path.lexists(os.path.join(os.fsencode(directory), name)) for name in SYSTEM_NAMES)


def digest_of_tree(directory: str) -> str:
    """One digest for equal directories: of all names, kinds, modes, links and bytes. Nobody may change it meanwhile."""
    hasher = hashlib.sha256()
    for path, directories, files, descriptor in os.fwalk(os.fsencode(directory), follow_symlinks=False):
        directories.sort()
        for name in sorted([*directories, *files]):
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            place = os.path.relpath(os.path.join(path, name), os.fsencode(directory))
            target = os.readlink(name, dir_fd=descriptor) if stat.S_ISLNK(status.st_mode) else b""
            hasher.update(repr((place, status.st_mode, target)).encode())
            if stat.S_ISREG(status.st_mode):
                _hash_file(hasher, name, descriptor)
    return f"sha256:{hasher.hexdigest()}"


def _hash_file(hasher: hashlib._Hash, name: bytes, directory: int) -> None:
    with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory), "rb") as file:
        hasher.update(b"%d:" % os.fstat(file.fileno()).st_size)
        while chunk := file.read(_CHUNK_BYTES):
            hasher.update(chunk)


def _size_of_tree(directory: str) -> int:
    """What its files hold, each counted once."""
    sizes: dict[int, int] = {}
    for _, _, files, descriptor in os.fwalk(os.fsencode(directory), follow_symlinks=False):
        for name in files:
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            sizes[status.st_ino] = status.st_size
    return sum(sizes.values())
