"""Files of a sandbox."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterable, AsyncIterator
from typing import Final

from agentkernel.client.transfer import Copied, download, upload
from agentkernel.errors import FileOperationFailed
from agentkernel.model.inspection import FileRecord, WatchEvent
from agentkernel.sdk.aio.live import Live
from agentkernel.sdk.given import Bytes, Path, contents, number
from agentkernel.sdk.given import path as text_of

READ_LIMIT_BYTES: Final = 64 * 1024 * 1024
Records = list[FileRecord]  # a name for it, because `list` is a method below


class AsyncFiles:
    """File operations, done inside as the sandbox's user. Paths are absolute paths inside, links are those of the sandbox.

    Every call raises FileOperationFailed with the errno (ENOENT, EACCES, ...), InvalidInput for what is no absolute path, and what every
    call of `AsyncSandbox` raises.
    """

    def __init__(self, live: Live) -> None:
        self._live = live

    async def read(self, path: Path, *, offset: int = 0, length: int | None = None, limit_bytes: int = READ_LIMIT_BYTES) -> bytes:
        """Reads a regular file, or `length` bytes from `offset` on; raises OutputTooLarge beyond `limit_bytes`."""
        async with self._live.use() as sandbox:
            return await sandbox.files.read(text_of(path), offset=offset, length=length, limit_bytes=limit_bytes)

    async def read_text(self, path: Path, *, encoding: str = "utf-8", limit_bytes: int = READ_LIMIT_BYTES) -> str:
        """Reads a file as text; raises UnicodeDecodeError where it is none."""
        return (await self.read(path, limit_bytes=limit_bytes)).decode(encoding)

    async def read_stream(self, path: Path, *, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Reads in chunks of at most 64 KiB; a file of any length."""
        async with self._live.use() as sandbox:
            async for chunk in sandbox.files.read_stream(text_of(path), offset=offset, length=length):
                yield chunk

    async def write(
        self,
        path: Path,
        data: Bytes | AsyncIterable[bytes],
        *,
        mode: int = 0o644,
        parents: bool = False,
        exclusive: bool = False,
        append: bool = False,
    ) -> None:
        """Creates or replaces (or appends to) a file; one that fails half-way leaves what was written.

        Args:
            data: all of it, or an async iterator of pieces of any size.
            mode: permission bits of a new file.
            parents: makes the missing directories above it.
            exclusive: fails with EEXIST when it exists.

        Raises:
            InvalidInput: of what is no bytes no file can be made: text is for `write_text`.
        """
        given, bits = contents(data), number("mode", mode)
        async with self._live.use() as sandbox:
            await sandbox.files.write(text_of(path), given, mode=bits, parents=parents, exclusive=exclusive, append=append)

    async def write_text(self, path: Path, text: str, *, encoding: str = "utf-8", mode: int = 0o644, parents: bool = False) -> None:
        """Creates or replaces a file with text."""
        await self.write(path, text.encode(encoding), mode=mode, parents=parents)

    async def stat(self, path: Path, *, follow: bool = True) -> FileRecord:
        """Describes one path; `follow` says whether a symlink at its end is followed."""
        async with self._live.use() as sandbox:
            return await sandbox.files.stat(text_of(path), follow=follow)

    async def exists(self, path: Path) -> bool:
        """Whether there is something; a symlink that leads nowhere is nothing."""
        try:
            await self.stat(path)
        except FileOperationFailed as failure:
            if failure.errno in (errno.ENOENT, errno.ENOTDIR):
                return False
            raise
        return True

    async def list(self, path: Path) -> Records:
        """Lists a directory, sorted by name; names are bytes as they are. Raises OutputTooLarge above 64 MiB of entries."""
        async with self._live.use() as sandbox:
            return sorted(await sandbox.files.list(text_of(path)), key=lambda record: record.name)

    async def make_directory(self, path: Path, *, mode: int = 0o755, parents: bool = False) -> None:
        """Makes a directory; with `parents` the missing ones above it too, and one that is there is no error."""
        async with self._live.use() as sandbox:
            await sandbox.files.make_directory(text_of(path), mode=number("mode", mode), parents=parents)

    async def remove(self, path: Path, *, recursive: bool = False) -> None:
        """Removes a file, an empty directory or, with `recursive`, a whole tree; never follows a symlink."""
        async with self._live.use() as sandbox:
            await sandbox.files.remove(text_of(path), recursive=recursive)

    async def move(self, source: Path, target: Path) -> None:
        """Renames, replacing a file that is there."""
        async with self._live.use() as sandbox:
            await sandbox.files.move(text_of(source), text_of(target))

    async def symlink(self, target: Path, path: Path) -> None:
        """Makes a symlink at `path` that says `target`, which need not exist."""
        async with self._live.use() as sandbox:
            await sandbox.files.symlink(text_of(target), text_of(path))

    async def change_mode(self, path: Path, mode: int) -> None:
        """Sets the permission bits (0 to 0o7777), following symlinks."""
        async with self._live.use() as sandbox:
            await sandbox.files.change_mode(text_of(path), number("mode", mode))

    async def watch(self, path: Path) -> AsyncIterator[WatchEvent]:
        """Yields inotify events of one directory or file, the first with mask 0 when the watch is in place."""
        async with self._live.use() as sandbox:
            async for event in sandbox.files.watch(text_of(path)):
                yield event

    async def upload(self, source: Path, target: Path) -> Copied:
        """Copies a file or a tree of the host into the sandbox, streamed, with its permission bits and symlinks; see docs/sdk.md.

        What `target` names is made, or replaced file by file where it exists. Raises OSError for what cannot be read on the host, and
        InvalidInput for what is no file, directory or symlink.
        """
        async with self._live.use() as sandbox:
            return await upload(sandbox.files, source, text_of(target))

    async def download(self, source: Path, target: Path) -> Copied:
        """Copies a file or a tree of the sandbox to the host, streamed, with its permission bits and symlinks; see docs/sdk.md.

        Whatever the sandbox holds, nothing is written outside of `target`, no symlink is followed there, and no device or setuid bit is
        made. Raises OSError for what cannot be written on the host, Refused for names that no file on the host may have.
        """
        async with self._live.use() as sandbox:
            return await download(sandbox.files, text_of(source), target)
