"""A tree inside a sandbox as a tar archive, made as it is taken.

Modes, owners and times are those inside; sockets, FIFOs and devices are left out; hard links become files of their own. What changes while
it is read cannot spoil the archive: a file that shrank is filled with zeros, one that grew is cut, one that vanished is left out.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import tarfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from agentkernel.abc import Files
from agentkernel.api.streams.places import closing
from agentkernel.errors import FileOperationFailed, OutputTooLarge
from agentkernel.model.inspection import FileRecord

MAX_ENTRIES: Final = 1_000_000
MAX_DEPTH: Final = 200
FLUSH_BYTES: Final = 64 * 1024  # small files leave together
_END: Final = bytes(2 * tarfile.BLOCKSIZE)


async def packed(files: Files, path: str) -> AsyncGenerator[bytes, None]:
    """The archive of what is in a directory, by names relative to it; of a file, the file.

    Raises:
        FileOperationFailed: something cannot be read.
        OutputTooLarge: more than 1,000,000 entries, or directories nested deeper than 200.
    """
    held = bytearray()
    async with aclosing(_pieces(files, path)) as pieces:
        async for piece in pieces:
            held += piece
            if len(held) >= FLUSH_BYTES:
                yield bytes(held)
                held.clear()
    yield bytes(held) + _END


async def _pieces(files: Files, path: str) -> AsyncGenerator[bytes, None]:
    top = await files.stat(path)
    if not stat.S_ISDIR(top.mode):
        async with aclosing(_entry(files, path, os.path.basename(path.rstrip("/")), top)) as pieces:
            async for piece in pieces:
                yield piece
        return
    count = 0
    waiting = [""]
    yield _head("./", top)
    while waiting:
        directory = waiting.pop()
        below: list[str] = []
        for record in await _listed(files, posixpath.join(path, directory)):
            count += 1
            name = posixpath.join(directory, os.fsdecode(record.name))
            if count > MAX_ENTRIES or name.count("/") >= MAX_DEPTH:
                raise OutputTooLarge(f"the tree has more than {MAX_ENTRIES:,} entries, or is deeper than {MAX_DEPTH}")
            async with aclosing(_entry(files, posixpath.join(path, name), name, record)) as pieces:
                async for piece in pieces:
                    yield piece
            if stat.S_ISDIR(record.mode):
                below.append(name)
        waiting += reversed(below)


async def _listed(files: Files, path: str) -> list[FileRecord]:
    try:
        return sorted(await files.list(path), key=lambda record: record.name)
    except FileOperationFailed as failure:
        if failure.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
        return []  # it was removed since


async def _entry(files: Files, path: str, name: str, record: FileRecord) -> AsyncGenerator[bytes, None]:
    if stat.S_ISDIR(record.mode) or stat.S_ISLNK(record.mode):
        yield _head(name, record)
    elif stat.S_ISREG(record.mode):
        async with aclosing(_file(files, path, name, record)) as pieces:
            async for piece in pieces:
                yield piece


async def _file(files: Files, path: str, name: str, record: FileRecord) -> AsyncGenerator[bytes, None]:
    left = record.size_bytes
    async with closing(files.read_stream(path, length=left)) as pieces:
        try:
            piece = await anext(pieces, b"")
        except FileOperationFailed as failure:
            if failure.errno != errno.ENOENT:
                raise
            return
        yield _head(name, record)
        while piece:
            left -= len(piece)
            yield piece
            piece = await anext(pieces, b"")
    while left:
        zeros = bytes(min(left, FLUSH_BYTES))
        left -= len(zeros)
        yield zeros
    yield bytes(-record.size_bytes % tarfile.BLOCKSIZE)


def _head(name: str, record: FileRecord) -> bytes:
    member = tarfile.TarInfo(name)
    member.mode = stat.S_IMODE(record.mode)
    member.uid, member.gid = record.uid, record.gid
    member.mtime = record.modified_ns // 1_000_000_000
    if stat.S_ISDIR(record.mode):
        member.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(record.mode):
        member.type, member.linkname = tarfile.SYMTYPE, os.fsdecode(record.target)
    else:
        member.size = record.size_bytes
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
