"""Files of a sandbox, from threads: the twin of `sdk.aio.files`, whose docstrings tell more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agentkernel.client.transfer import Copied
from agentkernel.model.inspection import FileRecord, WatchEvent
from agentkernel.sdk.aio.files import READ_LIMIT_BYTES, AsyncFiles, Records
from agentkernel.sdk.given import Bytes, Path
from agentkernel.sdk.sync.portal import Portal
from agentkernel.sdk.sync.process import pieces


class Files:
    """File operations, done inside as the sandbox's user. Paths are absolute paths inside, links are those of the sandbox.

    Every call raises FileOperationFailed with the errno (ENOENT, EACCES, ...), InvalidInput for what is no absolute path, and what every
    call of `Sandbox` raises.
    """

    def __init__(self, portal: Portal, files: AsyncFiles) -> None:
        self._portal = portal
        self._async = files

    def read(self, path: Path, *, offset: int = 0, length: int | None = None, limit_bytes: int = READ_LIMIT_BYTES) -> bytes:
        """Reads a regular file, or `length` bytes from `offset` on; raises OutputTooLarge beyond `limit_bytes`."""
        return self._portal.call(lambda: self._async.read(path, offset=offset, length=length, limit_bytes=limit_bytes))

    def read_text(self, path: Path, *, encoding: str = "utf-8", limit_bytes: int = READ_LIMIT_BYTES) -> str:
        """Reads a file as text; raises UnicodeDecodeError where it is none."""
        return self._portal.call(lambda: self._async.read_text(path, encoding=encoding, limit_bytes=limit_bytes))

    def read_stream(self, path: Path, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Reads in chunks of at most 64 KiB; a file of any length."""
        return self._portal.iterate(lambda: self._async.read_stream(path, offset=offset, length=length))

    def write(
        self,
        path: Path,
        data: Bytes | Iterable[bytes],
        *,
        mode: int = 0o644,
        parents: bool = False,
        exclusive: bool = False,
        append: bool = False,
    ) -> None:
        """Creates or replaces (or appends to) a file; one that fails half-way leaves what was written.

        Args:
            data: all of it, or an iterable of pieces of any size.
            mode: permission bits of a new file.
            parents: makes the missing directories above it.
            exclusive: fails with EEXIST when it exists.

        Raises:
            InvalidInput: of what is no bytes no file can be made: text is for `write_text`.
        """
        given = pieces(data) if isinstance(data, Iterable) and not isinstance(data, bytes | bytearray | memoryview | str) else data
        self._portal.call(lambda: self._async.write(path, given, mode=mode, parents=parents, exclusive=exclusive, append=append))

    def write_text(self, path: Path, text: str, *, encoding: str = "utf-8", mode: int = 0o644, parents: bool = False) -> None:
        """Creates or replaces a file with text."""
        self._portal.call(lambda: self._async.write_text(path, text, encoding=encoding, mode=mode, parents=parents))

    def stat(self, path: Path, *, follow: bool = True) -> FileRecord:
        """Describes one path; `follow` says whether a symlink at its end is followed."""
        return self._portal.call(lambda: self._async.stat(path, follow=follow))

    def exists(self, path: Path) -> bool:
        """Whether there is something; a symlink that leads nowhere is nothing."""
        return self._portal.call(lambda: self._async.exists(path))

    def list(self, path: Path) -> Records:
        """Lists a directory, sorted by name; names are bytes as they are. Raises OutputTooLarge above 64 MiB of entries."""
        return self._portal.call(lambda: self._async.list(path))

    def make_directory(self, path: Path, *, mode: int = 0o755, parents: bool = False) -> None:
        """Makes a directory; with `parents` the missing ones above it too, and one that is there is no error."""
        self._portal.call(lambda: self._async.make_directory(path, mode=mode, parents=parents))

    def remove(self, path: Path, *, recursive: bool = False) -> None:
        """Removes a file, an empty directory or, with `recursive`, a whole tree; never follows a symlink."""
        self._portal.call(lambda: self._async.remove(path, recursive=recursive))

    def move(self, source: Path, target: Path) -> None:
        """Renames, replacing a file that is there."""
        self._portal.call(lambda: self._async.move(source, target))

    def symlink(self, target: Path, path: Path) -> None:
        """Makes a symlink at `path` that says `target`, which need not exist."""
        self._portal.call(lambda: self._async.symlink(target, path))

    def change_mode(self, path: Path, mode: int) -> None:
        """Sets the permission bits (0 to 0o7777), following symlinks."""
        self._portal.call(lambda: self._async.change_mode(path, mode))

    def watch(self, path: Path) -> Iterator[WatchEvent]:
        """Yields inotify events of one directory or file, the first with mask 0 when the watch is in place."""
        return self._portal.iterate(lambda: self._async.watch(path))

    def upload(self, source: Path, target: Path) -> Copied:
        """Copies a file or a tree of the host into the sandbox, streamed, with its permission bits and symlinks; see docs/sdk.md.

        What `target` names is made, or replaced file by file where it exists. Raises OSError for what cannot be read on the host, and
        InvalidInput for what is no file, directory or symlink.
        """
        return self._portal.call(lambda: self._async.upload(source, target))

    def download(self, source: Path, target: Path) -> Copied:
        """Copies a file or a tree of the sandbox to the host, streamed, with its permission bits and symlinks; see docs/sdk.md.

        Whatever the sandbox holds, nothing is written outside of `target`, no symlink is followed there, and no device or setuid bit is
        made. Raises OSError for what cannot be written on the host, Refused for names that no file on the host may have.
        """
        return self._portal.call(lambda: self._async.download(source, target))
