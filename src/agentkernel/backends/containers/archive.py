"""Tar streams for and from an engine: a host directory to be copied in, a small file to be read."""

from __future__ import annotations

import errno
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from agentkernel.errors import InvalidInput, Unsupported

_CHUNK_BYTES = 256 * 1024
_MAX_PASSWD_BYTES = 1024 * 1024
MAX_USERS = 1024
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyLimits:
    """What is copied at most; beyond it nothing is."""

    total_bytes: int = 1024**3
    entries: int = 200_000


def tar_of_directory(path: str, *, owner: tuple[int, int] | None = None, limits: CopyLimits | None = None) -> Iterator[bytes]:
    """The tree beneath a directory as a tar archive, read as it is sent; sockets and devices are left out.

    `owner`: (uid, gid) of everything in it; None: as they are. No link is followed. Raises Unsupported beyond `limits`, InvalidInput for
    what is no directory.
    """
    try:
        top = os.open(path, _FLAGS | os.O_DIRECTORY)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be copied: {os.strerror(error.errno or 0)}") from error
    try:
        yield from _Copy(owner, limits).tree(top)
    finally:
        os.close(top)


class _Copy:
    """One copy under way."""

    def __init__(self, owner: tuple[int, int] | None, limits: CopyLimits | None) -> None:
        self._owner = owner
        self._limits = limits
        self._bytes = self._entries = 0

    def tree(self, top: int) -> Iterator[bytes]:
        """Iterative: a tree may be deeper than Python's stack, and each directory is opened again beneath the first one."""
        pending = [""]
        while pending:
            relative = pending.pop()
            directory = _open_beneath(top, relative)
            if directory is None:
                continue
            try:
                for name in sorted(os.listdir(directory)):
                    inner = f"{relative}/{name}" if relative else name
                    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    yield from self._entry(directory, name, inner, found)
                    if stat.S_ISDIR(found.st_mode):
                        pending.append(inner)
            finally:
                os.close(directory)
        yield bytes(2 * tarfile.BLOCKSIZE)

    def _entry(self, directory: int, name: str, inner: str, found: os.stat_result) -> Iterator[bytes]:
        member = tarfile.TarInfo(inner)
        member.mode = stat.S_IMODE(found.st_mode)
        member.mtime = int(found.st_mtime)
        member.uid, member.gid = self._owner or (found.st_uid, found.st_gid)
        if stat.S_ISDIR(found.st_mode):
            member.type = tarfile.DIRTYPE
        elif stat.S_ISLNK(found.st_mode):
            member.type, member.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=directory)
        elif stat.S_ISREG(found.st_mode):
            yield from self._file(directory, name, member)
            return
        else:
            return
        self._count(0)
        yield _head(member)

    def _file(self, directory: int, name: str, member: tarfile.TarInfo) -> Iterator[bytes]:
        fd = os.open(name, _FLAGS | os.O_NONBLOCK, dir_fd=directory)
        with open(fd, "rb", buffering=0) as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return
            member.size = found.st_size
            self._count(member.size)
            yield _head(member)
            left = member.size
            while left:
                chunk = file.read(min(left, _CHUNK_BYTES)) or bytes(min(left, _CHUNK_BYTES))  # it was cut meanwhile
                left -= len(chunk)
                yield chunk
        yield bytes(-member.size % tarfile.BLOCKSIZE)

    def _count(self, size: int) -> None:
        self._bytes += size
        self._entries += 1
        limits = self._limits
        if limits is not None and (self._bytes > limits.total_bytes or self._entries > limits.entries):
            raise Unsupported(
                f"the directory is too large to be copied in (more than {limits.total_bytes // 1024**2} MiB or {limits.entries} files)",
                hint="name a smaller one with --dir, or use a backend that can show it: run `agentkernel backends`",
            )


def _open_beneath(top: int, relative: str) -> int | None:
    """A directory below `top`, one name after the other, so that no link is followed; None: it is gone, or is none any more."""
    current = os.dup(top)
    for name in filter(None, relative.split("/")):
        try:
            following = os.open(name, _FLAGS | os.O_DIRECTORY, dir_fd=current)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise
        finally:
            os.close(current)
        current = following
    return current


def _head(member: tarfile.TarInfo) -> bytes:
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def single_file(name: str, content: bytes, *, mode: int = 0o644) -> bytes:
    """An archive with one file of root's."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    padding = bytes(-len(content) % tarfile.BLOCKSIZE)
    return _head(member) + content + padding + bytes(2 * tarfile.BLOCKSIZE)


def users_of_archive(archive: bytes) -> tuple[tuple[str, int, int], ...]:
    """(name, uid, gid) of the lines of the one file in an archive, an image's /etc/passwd: what is no such line is left out."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive[: _MAX_PASSWD_BYTES + 65_536]), mode="r:") as opened:
            member = opened.next()
            file = opened.extractfile(member) if member is not None and member.isreg() else None
            content = file.read(_MAX_PASSWD_BYTES) if file is not None else b""
    except (tarfile.TarError, OSError, ValueError):
        return ()
    users = []
    for line in content.decode("utf-8", "replace").splitlines():
        fields = line.split(":")
        if len(fields) >= 4 and fields[0] and fields[2].isdecimal() and fields[3].isdecimal():
            uid, gid = int(fields[2]), int(fields[3])
            if uid < 2**32 - 1 and gid < 2**32 - 1:
                users.append((fields[0], uid, gid))
    return tuple(users[:MAX_USERS])
