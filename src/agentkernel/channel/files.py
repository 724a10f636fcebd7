"""Files inside a sandbox: `abc.Files` over the agent's builtins, which run as the sandbox's user and can do no more than a command."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from agentkernel.channel.collect import Collector
from agentkernel.channel.commands import RING_BYTES
from agentkernel.channel.messages import Builtin, Exited, Start, StartFlag
from agentkernel.channel.process import GuestProcess
from agentkernel.channel.records import RecordError, WatchRecords, parse_file_record, parse_file_records
from agentkernel.errors import CommandNotStarted, FileOperationFailed, InvalidInput, OutputTooLarge
from agentkernel.model.inspection import FileRecord, WatchEvent
from agentkernel.model.spec import User

DEFAULT_READ_LIMIT_BYTES: Final = 64 * 1024 * 1024
_LIST_LIMIT_BYTES: Final = 64 * 1024 * 1024

Records = list[FileRecord]  # a name for it, because `list` is a method below


class GuestFiles:
    """Paths are absolute paths inside. Raises FileOperationFailed with the errno, of Linux."""

    def __init__(self, launch: Callable[[Start], GuestProcess], user: User) -> None:
        self._launch = launch
        self._user = user

    async def read(self, path: str, *, offset: int = 0, length: int | None = None, limit_bytes: int = DEFAULT_READ_LIMIT_BYTES) -> bytes:
        """Reads a regular file; raises OutputTooLarge beyond `limit_bytes`."""
        if limit_bytes < 0 or (length or 0) < 0:
            raise InvalidInput("a file has no bytes at negative offsets or lengths")
        wanted = limit_bytes + 1 if length is None else min(length, limit_bytes + 1)
        output = Collector(limit_bytes)
        await self._run("read", path, self._read(path, offset, max(wanted, 1)), output)
        if wanted > limit_bytes and output.truncated(1):
            raise OutputTooLarge(f"{path!r} is longer than {limit_bytes} bytes", hint="read it in parts, or as a stream")
        return output.kept(1)[: max(wanted, 0)]

    async def read_stream(self, path: str, *, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Reads in chunks."""
        if length == 0:
            await self.read(path, length=0)
            return
        process = self._launch(self._read(path, offset, length or 0))
        try:
            with _failures("read", path, process):
                async for _, data in process.output():
                    yield data
                _check("read", path, await process.ended())
        finally:
            process.abandon()

    async def write(
        self,
        path: str,
        data: bytes | AsyncIterator[bytes],
        *,
        mode: int = 0o644,
        parents: bool = False,
        exclusive: bool = False,
        append: bool = False,
    ) -> None:
        """Creates or replaces (or appends to) a file; one that fails half-way leaves what was written."""
        flags = "c" + ("a" if append else "" if exclusive else "t") + ("x" if exclusive else "") + ("p" if parents else "")
        start = self._start(Builtin.WRITE, path, _octal(mode), flags.encode(), stdin=True)
        await self._run("write", path, start, Collector(0), data)

    async def stat(self, path: str, *, follow: bool = True) -> FileRecord:
        """Describes one path."""
        output = Collector(RING_BYTES)
        await self._run("stat", path, self._start(Builtin.STAT, path, b"f" if follow else b"l"), output)
        with _failures("stat", path):
            return parse_file_record(output.kept(1))

    async def list(self, path: str) -> Records:
        """Lists a directory in the kernel's order."""
        output = Collector(_LIST_LIMIT_BYTES)
        await self._run("list", path, self._start(Builtin.LIST, path), output)
        if output.truncated(1):
            raise OutputTooLarge(f"the directory {path!r} has too many entries to list")
        with _failures("list", path):
            return parse_file_records(output.kept(1))

    async def make_directory(self, path: str, *, mode: int = 0o755, parents: bool = False) -> None:
        """Makes a directory; with `parents` also those above it, and one that exists is fine."""
        await self._act("make directory", path, self._start(Builtin.MAKE_DIRECTORY, path, _octal(mode), b"p" if parents else b"-"))

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        """Removes a file or an empty directory; with `recursive` everything below."""
        await self._act("remove", path, self._start(Builtin.REMOVE, path, b"r" if recursive else b"-"))

    async def move(self, source: str, target: str) -> None:
        """Renames, replacing a file that is there."""
        await self._act("move", source, self._start(Builtin.MOVE, source, _path(target)))

    async def symlink(self, target: str, path: str) -> None:
        """Makes `path` a symlink to `target`, which may be relative."""
        await self._act("symlink", path, self._start(Builtin.SYMLINK, None, os.fsencode(target), _path(path)))

    async def change_mode(self, path: str, mode: int) -> None:
        """Sets the permission bits."""
        await self._act("change mode", path, self._start(Builtin.CHANGE_MODE, path, _octal(mode)))

    async def watch(self, path: str) -> AsyncIterator[WatchEvent]:
        """Yields events of one directory or file, the first with mask 0 when the watch is in place."""
        process = self._launch(self._start(Builtin.WATCH, path))
        records = WatchRecords()
        try:
            with _failures("watch", path, process):
                async for _, data in process.output():
                    for event in records.feed(data):
                        yield event
                _check("watch", path, await process.ended())
        finally:
            process.abandon()

    # -- running a builtin

    def _start(self, builtin: Builtin, path: str | None, *arguments: bytes, stdin: bool = False) -> Start:
        first = (_path(path),) if path is not None else ()
        return Start(
            argv=first + arguments,
            uid=self._user.uid,
            gid=self._user.gid,
            flags=StartFlag.STDIN if stdin else 0,
            ring_bytes=RING_BYTES,
            builtin=builtin,
        )

    def _read(self, path: str, offset: int, length: int) -> Start:
        if offset < 0 or length < 0:
            raise InvalidInput("a file has no bytes at negative offsets or lengths")
        return self._start(Builtin.READ, path, b"%d" % offset, b"%d" % length)

    async def _act(self, operation: str, path: str, start: Start) -> None:
        await self._run(operation, path, start, Collector(0))

    async def _run(self, operation: str, path: str, start: Start, output: Collector, data: bytes | AsyncIterator[bytes] = b"") -> None:
        process = self._launch(start)
        process.pour(output)
        try:
            with _failures(operation, path, process):
                if isinstance(data, bytes):
                    await process.write_stdin(data)
                else:
                    async for chunk in data:
                        await process.write_stdin(chunk)
                await process.close_stdin()
                _check(operation, path, await process.ended())
        finally:
            process.abandon()


@contextmanager
def _failures(operation: str, path: str, process: GuestProcess | None = None) -> Iterator[None]:
    try:
        yield
    except CommandNotStarted as error:
        raise FileOperationFailed(operation, path, process.start_errno if process else errno.EIO) from error
    except RecordError as error:
        raise FileOperationFailed(operation, path, errno.EPROTO) from error


def _path(path: str) -> bytes:
    encoded = os.fsencode(path)
    if not encoded.startswith(b"/") or b"\0" in encoded:
        raise InvalidInput(f"{path!r} is no absolute path inside the sandbox")
    return encoded


def _octal(mode: int) -> bytes:
    if not 0 <= mode <= 0o7777:
        raise InvalidInput(f"no file has the mode {mode:o}")
    return b"%o" % mode


def _check(operation: str, path: str, exited: Exited) -> None:
    if exited.signalled:
        raise FileOperationFailed(operation, path, errno.EINTR)
    if exited.value:
        raise FileOperationFailed(operation, path, exited.value)
