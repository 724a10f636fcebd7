"""The contract of a sandbox's files, whatever its backend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from agentkernel.model.inspection import FileRecord, WatchEvent


class Files(Protocol):
    """File operations, done inside as the sandbox's user, so they can do no more than a command could.

    Paths are absolute paths inside. Raises FileOperationFailed with the errno.
    """

    async def read(self, path: str, *, offset: int = 0, length: int | None = None, limit_bytes: int = ...) -> bytes:
        """Reads a regular file; raises OutputTooLarge beyond `limit_bytes`."""
        ...

    def read_stream(self, path: str, *, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Reads in chunks."""
        ...

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
        """Creates or replaces (or appends to) a file."""
        ...

    async def stat(self, path: str, *, follow: bool = True) -> FileRecord:
        """Describes one path."""
        ...

    async def list(self, path: str) -> list[FileRecord]:
        """Lists a directory in the kernel's order."""
        ...

    async def make_directory(self, path: str, *, mode: int = 0o755, parents: bool = False) -> None:
        """Makes a directory; with `parents` the missing ones above it too, and one that is there is no error."""
        ...

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        """Removes a file, an empty directory or, with `recursive`, a whole tree; never follows a symlink."""
        ...

    async def move(self, source: str, target: str) -> None:
        """Renames, replacing a file that is there."""
        ...

    async def symlink(self, target: str, path: str) -> None:
        """Makes a symlink at `path` that says `target`, which need not exist."""
        ...

    async def change_mode(self, path: str, mode: int) -> None:
        """Sets the permission bits, following symlinks."""
        ...

    def watch(self, path: str) -> AsyncIterator[WatchEvent]:
        """Yields events of one directory or file, the first with mask 0 when the watch is in place."""
        ...
