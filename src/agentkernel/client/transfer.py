"""Copies files and trees between the host and a sandbox, streamed, over `abc.Files`: the same in process and behind the daemon.

Permission bits and symlinks are kept; owners, times, hard links, setuid bits and devices are not. `target` is the copy's own name: what is
there is replaced file by file, directories are merged. What fails half-way, or is killed, leaves what was copied, and whatever it was to
replace is there as it was or whole and new. On the host no file is ever there in part; inside one of at most 256 KiB may be, where none
was before. What else a kill leaves has a name that begins with `.agentkernel-`; a directory that was being filled may have another mode.
"""

from __future__ import annotations

import asyncio
import errno
import os
import posixpath
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

from agentkernel.abc import Files
from agentkernel.client.hosttree import Place, place_of, temporary_name
from agentkernel.errors import AgentKernelError, FileOperationFailed, InvalidInput, OutputTooLarge
from agentkernel.failpoints import failpoint
from agentkernel.model.inspection import FileRecord

DEFAULT_LIMIT_BYTES: Final = 16 * 1024**3
MAX_ENTRIES: Final = 1_000_000
AT_ONCE: Final = 8  # files of one directory: most of a small one's time is waiting for the sandbox
FORGET_S: Final = 5.0  # for the removal of a file that is not whole
_CHUNK_BYTES: Final = 256 * 1024
_NAMED: Final = 100  # entries that a report names


T = TypeVar("T")


@dataclass(slots=True)
class Copied:
    """What a copy came to."""

    files: int = 0
    directories: int = 0
    symlinks: int = 0
    bytes: int = 0
    skipped: list[str] = field(default_factory=list)  # sockets, FIFOs and devices; the first 100
    outward: list[str] = field(default_factory=list)  # symlinks that lead out of the copy; the first 100


async def upload(files: Files, source: str | os.PathLike[str], target: str) -> Copied:
    """Copies `source` of the host to `target`, an absolute path inside, whose missing parents are made.

    Raises:
        OSError: something of the host cannot be read.
        InvalidInput: `source` is no file, directory or symlink.
        FileOperationFailed: something cannot be written inside.
    """
    copied = Copied()
    failpoint("client.copy.begun")
    with place_of(source) as place:
        if not _copyable(place.status().st_mode):
            raise InvalidInput(f"{os.fspath(source)!r} is no file, directory or symlink")
        parent = posixpath.dirname(target.rstrip("/"))
        if parent not in ("", "/"):
            await files.make_directory(parent, parents=True)
        await _Upload(files, copied).entry(place, target.rstrip("/") or "/", "")
    failpoint("client.copy.done")
    return copied


async def download(files: Files, source: str, target: str | os.PathLike[str], *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> Copied:
    """Copies `source`, an absolute path inside, to `target` on the host, whose directory exists.

    Nothing is written but beneath `target`, whatever the sandbox holds or does meanwhile.

    Raises:
        FileOperationFailed: something cannot be read inside.
        OSError: something cannot be written on the host; ELOOP or ENOTDIR where a symlink is in the place of a directory.
        OutputTooLarge: more than `limit_bytes` (a sparse file counts in full), or more than 1,000,000 entries.
        Refused: a name that no file on the host may have, or directories nested deeper than 200.
    """
    copied = Copied()
    failpoint("client.copy.begun")
    record = await files.stat(source, follow=False)
    if not _copyable(record.mode):
        raise FileOperationFailed("copy", source, errno.EINVAL)
    with place_of(target) as place:
        await _Download(files, copied, limit_bytes).entry(record, source.rstrip("/") or "/", place, "")
    failpoint("client.copy.done")
    return copied


class _Upload:
    def __init__(self, files: Files, copied: Copied) -> None:
        self._files = files
        self._copied = copied

    async def entry(self, place: Place, target: str, relative: str) -> None:
        """Copies what is at a place."""
        status = place.status()
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            await self._directory(place, target, relative, mode)
        elif stat.S_ISLNK(mode):
            link = os.fsdecode(place.link_target())
            await self._in_place(target, lambda name: self._files.symlink(link, name))
            self._copied.symlinks += 1
        elif stat.S_ISREG(mode):
            place_it = self._in_place if status.st_size <= _CHUNK_BYTES else self._from_beside
            await place_it(target, lambda name: self._file(place, name, mode))
            self._copied.files += 1
        else:
            _note(self._copied.skipped, relative)
            return
        failpoint("client.copy.placed")

    async def _directory(self, place: Place, target: str, relative: str, mode: int) -> None:
        wanted = mode & 0o777
        try:
            await self._files.make_directory(target, mode=wanted | 0o700)
        except FileOperationFailed as failure:
            if failure.errno != errno.EEXIST or not stat.S_ISDIR((await self._files.stat(target)).mode):
                raise
        failpoint("client.copy.directory")
        with place.opened() as descriptor:
            below = [place.below(descriptor, os.fsencode(name)) for name in sorted(os.listdir(descriptor))]
            await _each(below, lambda each: stat.S_ISDIR(each.status().st_mode), lambda each: self._below(each, target, relative))
        failpoint("client.copy.filled")
        await self._files.change_mode(target, wanted)
        self._copied.directories += 1

    async def _below(self, place: Place, target: str, relative: str) -> None:
        name = os.fsdecode(place.name)
        await self.entry(place, posixpath.join(target, name), posixpath.join(relative, name))

    async def _file(self, place: Place, target: str, mode: int) -> None:
        await self._files.write(target, self._pieces(place), mode=mode & 0o777, exclusive=True)

    async def _pieces(self, place: Place) -> AsyncIterator[bytes]:
        with place.reading() as descriptor:
            while data := await asyncio.to_thread(os.read, descriptor, _CHUNK_BYTES):
                self._copied.bytes += len(data)
                failpoint("client.copy.piece")
                yield data

    async def _in_place(self, target: str, make: Callable[[str], Awaitable[None]]) -> None:
        """Makes something new where there may be something old, which stays until the new is whole, and does not show through."""
        try:
            await make(target)
        except FileOperationFailed as failure:
            if failure.errno != errno.EEXIST:
                raise
            await self._from_beside(target, make)

    async def _from_beside(self, target: str, make: Callable[[str], Awaitable[None]]) -> None:
        beside = posixpath.join(posixpath.dirname(target), temporary_name().decode())
        try:
            await make(beside)
            failpoint("client.copy.beside")
            await self._files.move(beside, target)
        except BaseException:
            with suppress(AgentKernelError, TimeoutError):  # whoever asked is told what has failed before
                await asyncio.wait_for(self._files.remove(beside), FORGET_S)
            raise


class _Download:
    def __init__(self, files: Files, copied: Copied, limit_bytes: int) -> None:
        self._files = files
        self._copied = copied
        self._limit_bytes = limit_bytes
        self._begun = 0

    async def entry(self, record: FileRecord, source: str, place: Place, relative: str) -> None:
        """Copies what a record describes to a place."""
        self._begun += 1
        if self._begun > MAX_ENTRIES:
            raise OutputTooLarge(f"the tree has more than {MAX_ENTRIES:,} entries", hint="copy a part of it")
        if stat.S_ISDIR(record.mode):
            await self._directory(record, source, place, relative)
        elif stat.S_ISLNK(record.mode):
            place.make_symlink(record.target)
            self._copied.symlinks += 1
            if _leads_out(relative, os.fsdecode(record.target)):
                _note(self._copied.outward, relative or source)
        elif stat.S_ISREG(record.mode):
            await self._file(record, source, place)
        else:
            _note(self._copied.skipped, relative)
            return
        failpoint("client.copy.placed")

    async def _directory(self, record: FileRecord, source: str, place: Place, relative: str) -> None:
        new = place.make_directory()
        failpoint("client.copy.directory")
        with place.opened() as descriptor:
            found = [(each, place.below(descriptor, each.name)) for each in sorted(await self._files.list(source), key=_name)]
            await _each(found, lambda each: stat.S_ISDIR(each[0].mode), lambda each: self._below(each, source, relative))
            failpoint("client.copy.filled")
            if new:
                os.fchmod(descriptor, record.mode & 0o777)
        self._copied.directories += 1

    async def _below(self, found: tuple[FileRecord, Place], source: str, relative: str) -> None:
        record, place = found
        name = os.fsdecode(record.name)
        await self.entry(record, posixpath.join(source, name), place, posixpath.join(relative, name))

    async def _file(self, record: FileRecord, source: str, place: Place) -> None:
        with place.writing(record.mode) as descriptor:
            async for data in self._files.read_stream(source):
                self._copied.bytes += len(data)
                if self._copied.bytes > self._limit_bytes:
                    raise OutputTooLarge(f"the files hold more than {self._limit_bytes:,} bytes", hint="copy a part of them")
                await asyncio.to_thread(_write_all, descriptor, data)
                failpoint("client.copy.piece")
        self._copied.files += 1


async def _each(items: Sequence[T], is_directory: Callable[[T], bool], copy: Callable[[T], Awaitable[None]]) -> None:
    """Copies the entries of a directory: first what is none, some side by side; then, one after the other, the directories in it.

    The first failure ends the rest.
    """
    running: set[asyncio.Future[None]] = set()
    try:
        for item in items:
            if not is_directory(item):
                running.add(asyncio.ensure_future(copy(item)))
                if len(running) >= AT_ONCE:
                    running = await _some_ended(running)
        while running:
            running = await _some_ended(running)
        for item in items:
            if is_directory(item):
                await copy(item)
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _some_ended(running: set[asyncio.Future[None]]) -> set[asyncio.Future[None]]:
    """Those that still run when some have ended; raises what one of these failed with."""
    done, rest = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    failures = [failure for each in done if (failure := each.exception()) is not None]
    if failures:
        raise failures[0]
    return rest


def _name(record: FileRecord) -> bytes:
    return record.name


def _copyable(mode: int) -> bool:
    return stat.S_ISDIR(mode) or stat.S_ISLNK(mode) or stat.S_ISREG(mode)


def _leads_out(relative: str, target: str) -> bool:
    """Whether a symlink, at its place in the copy, says something outside of the copy."""
    if target.startswith("/"):
        return True
    return posixpath.normpath(posixpath.join(posixpath.dirname(relative), target)).split("/")[0] == ".."


def _note(names: list[str], name: str) -> None:
    if len(names) < _NAMED:
        names.append(name)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
