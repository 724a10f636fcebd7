"""Puts the members of a hostile archive beneath a directory inside a sandbox.

Everything is done inside, as the sandbox's user, so it can do no more than a command could. Beyond that nothing of an archive gets out of
the directory: no name is absolute or holds `..`, no directory on the way is a symlink, no directory is replaced, and what an archive says
about owners, devices and setuid bits is left out.
"""

from __future__ import annotations

import asyncio
import errno
import os
import posixpath
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from agentkernel.abc import Files
from agentkernel.api.streams.tarread import Intake, Member, members
from agentkernel.errors import AgentKernelError, FileOperationFailed, InvalidInput
from agentkernel.tarformat import Kind

MAX_MEMBERS: Final = 1_000_000
MAX_DEPTH: Final = 200
MAX_PATH_BYTES: Final = 4096
MAX_NAMES_BYTES: Final = 64 * 1024**2  # of all directories together: they are remembered
SMALL_BYTES: Final = 128 * 1024  # written at once
AT_ONCE: Final = 8  # small files: most of the time of one is waiting for the sandbox
NAMED: Final = 100  # of each list in the report


@dataclass(slots=True)
class Extracted:
    """What an archive came to."""

    files: int = 0
    directories: int = 0
    symlinks: int = 0
    bytes: int = 0
    skipped: list[str] = field(default_factory=list)  # devices and FIFOs; the first 100
    outward: list[str] = field(default_factory=list)  # symlinks that lead out of the directory; the first 100

    def record(self) -> dict[str, Any]:
        """As the answer says it."""
        return {
            "files": self.files,
            "directories": self.directories,
            "symlinks": self.symlinks,
            "bytes": self.bytes,
            "skipped": self.skipped,
            "outward": self.outward,
        }


class Extraction:
    """Of one archive into one directory, which is made where there is none."""

    def __init__(self, files: Files, target: str) -> None:
        self.done = Extracted()
        self._files = files
        self._target = target.rstrip("/") or "/"
        self._known_bytes = 0
        self._known: set[bytes] = {b""}  # directories that are none but directories
        self._modes: list[tuple[bytes, int]] = []  # to be set at the end: who fills a directory must be able to write to it
        self._count = 0
        self._writing: dict[bytes, asyncio.Task[None]] = {}  # small files, by name

    async def run(self, pieces: AsyncIterator[bytes]) -> Extracted:
        """Takes all of it; what was extracted before something is wrong stays.

        Raises:
            InvalidInput: the archive is damaged, ends too early, or holds what may not be.
            FileOperationFailed: something cannot be written inside.
        """
        if self._target != "/":
            await self._files.make_directory(self._target, parents=True)
        intake = Intake(pieces)
        try:
            async for member in members(intake):
                self._count += 1
                if self._count > MAX_MEMBERS:
                    raise InvalidInput(f"the archive has more than {MAX_MEMBERS:,} members")
                await self._member(member, intake)
            await self._written()
        except BaseException as failure:
            await self._left(isinstance(failure, asyncio.CancelledError))
            raise
        for relative, mode in reversed(self._modes):
            await self._files.change_mode(self._at(relative), mode)
        await intake.finish()
        return self.done

    async def _member(self, member: Member, intake: Intake) -> None:
        relative = _checked(member.name)
        if relative and member.kind is Kind.FILE and member.size <= SMALL_BYTES:
            await self._small_file(relative, member, intake)
            return
        await self._written()
        if member.kind is Kind.DIRECTORY:
            await self._directory(relative, member.mode & 0o777)
        elif not relative:
            raise InvalidInput("a member of the archive is called like the directory itself")
        elif member.kind in (Kind.DEVICE, Kind.FIFO):
            _note(self.done.skipped, relative)
        else:
            await self._parents(relative)
            if member.kind is Kind.FILE:
                await self._file(relative, member, intake)
            elif member.kind is Kind.SYMLINK:
                await self._symlink(relative, member.link)
            else:
                await self._hard_link(relative, _checked(member.link))

    async def _directory(self, relative: bytes, mode: int) -> None:
        await self._parents(relative)
        await self._enter(relative)
        if relative:
            self._modes.append((relative, mode))
            self.done.directories += 1

    async def _small_file(self, relative: bytes, member: Member, intake: Intake) -> None:
        """Begins to write it, beside those before it: they are other files, in directories that are there."""
        if relative in self._writing or any(above not in self._known for above in _above(relative)):
            await self._written()
            await self._parents(relative)
        data = await intake.exactly(member.size)
        while len(self._writing) >= AT_ONCE:
            await asyncio.wait(self._writing.values(), return_when=asyncio.FIRST_COMPLETED)
            self._take_ended()
        self._writing[relative] = asyncio.create_task(self._write_small(relative, data, member.mode & 0o777))

    async def _write_small(self, relative: bytes, data: bytes, mode: int) -> None:
        await self._in_place(relative, lambda: self._files.write(self._at(relative), data, mode=mode, exclusive=True))
        self.done.files += 1
        self.done.bytes += len(data)

    def _take_ended(self) -> None:
        for relative in [relative for relative, task in self._writing.items() if task.done()]:
            self._writing.pop(relative).result()

    async def _written(self) -> None:
        """All that was begun has ended; raises what one of them failed with."""
        await asyncio.gather(*self._writing.values(), return_exceptions=True)
        ended, self._writing = self._writing, {}
        for task in ended.values():
            task.result()

    async def _left(self, is_cancelled: bool) -> None:
        """Nothing is written any more: what was begun is ended, or broken off where nobody waits for it."""
        for task in self._writing.values() if is_cancelled else ():
            task.cancel()
        await asyncio.gather(*self._writing.values(), return_exceptions=True)

    async def _file(self, relative: bytes, member: Member, intake: Intake) -> None:
        path, mode = self._at(relative), member.mode & 0o777
        await self._clear(relative)
        try:
            await self._files.write(path, intake.data(member.size), mode=mode, exclusive=True)
        except BaseException:
            with suppress(AgentKernelError):  # the first failure is what counts; no half is to stay
                await self._files.remove(path)
            raise
        self.done.files += 1
        self.done.bytes += member.size

    async def _symlink(self, relative: bytes, link: bytes) -> None:
        if not link or len(link) >= MAX_PATH_BYTES:
            raise InvalidInput(f"{_text(relative)!r} is a symlink to nowhere")
        await self._in_place(relative, lambda: self._files.symlink(os.fsdecode(link), self._at(relative)))
        self.done.symlinks += 1
        if link.startswith(b"/") or posixpath.normpath(posixpath.join(posixpath.dirname(relative), link)).split(b"/")[0] == b"..":
            _note(self.done.outward, relative)

    async def _hard_link(self, relative: bytes, source: bytes) -> None:
        """A copy of what is there by that name: links of the archive's own making are all there can be, and they need not be shared."""
        if source == relative:
            return
        for above in _above(source):
            if above not in self._known:
                raise InvalidInput(f"{_text(relative)!r} is a link to {_text(source)!r}, which does not come before it")
        record = await self._files.stat(self._at(source), follow=False)
        if not stat.S_ISREG(record.mode):
            raise InvalidInput(f"{_text(relative)!r} is a link to {_text(source)!r}, which is no regular file")
        await self._clear(relative)
        copy = self._files.read_stream(self._at(source))
        await self._files.write(self._at(relative), copy, mode=record.mode & 0o777, exclusive=True)
        self.done.files += 1

    async def _parents(self, relative: bytes) -> None:
        for above in _above(relative):
            await self._enter(above)

    async def _enter(self, relative: bytes) -> None:
        """Makes a directory, or makes sure that what is there is one, and not a symlink to one."""
        if relative in self._known:
            return
        try:
            await self._files.make_directory(self._at(relative), mode=0o755)
        except FileOperationFailed as failure:
            if failure.errno != errno.EEXIST:
                raise
            if not stat.S_ISDIR((await self._files.stat(self._at(relative), follow=False)).mode):
                raise InvalidInput(f"{_text(relative)!r} is no directory, and the archive has something in it") from None
        self._known.add(relative)
        self._known_bytes += len(relative)
        if self._known_bytes > MAX_NAMES_BYTES:
            raise InvalidInput("the archive has too many directories with too long names")

    async def _in_place(self, relative: bytes, make: Callable[[], Awaitable[None]]) -> None:
        try:
            await make()
        except FileOperationFailed as failure:
            if failure.errno != errno.EEXIST:
                raise
            await self._clear(relative)
            await make()

    async def _clear(self, relative: bytes) -> None:
        """Removes a file or link that is to be replaced; a directory never is."""
        try:
            record = await self._files.stat(self._at(relative), follow=False)
        except FileOperationFailed as failure:
            if failure.errno != errno.ENOENT:
                raise
            return
        if stat.S_ISDIR(record.mode):
            raise InvalidInput(f"{_text(relative)!r} is a directory, and the archive has something else of that name")
        await self._files.remove(self._at(relative))

    def _at(self, relative: bytes) -> str:
        return posixpath.join(self._target, os.fsdecode(relative)) if relative else self._target


def _checked(name: bytes) -> bytes:
    """A member's name without dots and slashes that mean nothing; raises InvalidInput for one that leads elsewhere. Empty: the top."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if name.startswith(b"/") or b".." in parts or b"\0" in name:
        raise InvalidInput(f"the archive has a member {_text(name)!r}, which leads out of the directory")
    if len(parts) > MAX_DEPTH or len(name) >= MAX_PATH_BYTES or any(len(part) > 255 for part in parts):
        raise InvalidInput(f"the archive has a member {_text(name[:80])!r}..., whose name is too long")
    return b"/".join(parts)


def _above(relative: bytes) -> list[bytes]:
    """The directories on the way to it, the outermost first."""
    parts = relative.split(b"/")[:-1]
    return [b"/".join(parts[: count + 1]) for count in range(len(parts))]


def _text(name: bytes) -> str:
    return os.fsdecode(name)


def _note(names: list[str], name: bytes) -> None:
    if len(names) < NAMED:
        names.append(_text(name))
