"""The host's side of a copy: reads and writes beneath a directory descriptor, one component at a time, and follows no symlink there.

What comes out of a sandbox is hostile: names, links and types that change while they are read. Nothing in here takes a path of it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from agentkernel.errors import InvalidInput, Refused
from agentkernel.failpoints import failpoint

MAX_DEPTH = 200
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO would hold the opener up
_OWN = 0o700  # what a directory needs while it is filled


def checked_name(name: bytes) -> bytes:
    """A name of one directory entry; raises Refused for what no entry can be called, such as `..` or a path."""
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name or len(name) > 255:
        raise Refused(f"the sandbox lists a file named {name[:80]!r}, which no file on the host may have")
    return name


def temporary_name() -> bytes:
    """A name for what is not whole, or not in its place."""
    return b".agentkernel-" + os.urandom(8).hex().encode()


class Place:
    """One entry to be, or to be read, in a directory: its descriptor (owned by whoever opened it) and a checked name."""

    def __init__(self, directory: int, name: bytes, depth: int = 0) -> None:
        self.directory = directory
        self.name = name
        self.depth = depth

    @contextmanager
    def opened(self) -> Iterator[int]:
        """The descriptor of the directory that is here; raises OSError for anything else, symlinks too."""
        if self.depth >= MAX_DEPTH:
            raise Refused(f"directories are nested deeper than {MAX_DEPTH}")
        descriptor = os.open(self.name, _DIRECTORY, dir_fd=self.directory)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def below(self, descriptor: int, name: bytes) -> Place:
        """An entry of the directory that is here."""
        return Place(descriptor, checked_name(name), self.depth + 1)

    # -- writing

    def make_directory(self) -> bool:
        """Makes a directory, or takes the one that is here; returns whether it is new."""
        try:
            os.mkdir(self.name, _OWN, dir_fd=self.directory)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(self.name, dir_fd=self.directory, follow_symlinks=False).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(self.name)) from None
            return False
        return True

    def make_symlink(self, target: bytes) -> None:
        """Makes a symlink, in place of a file or link that is here."""
        self._put(lambda temporary: os.symlink(target, temporary, dir_fd=self.directory))

    @contextmanager
    def writing(self, mode: int) -> Iterator[int]:
        """The descriptor of a new file, which takes the place of a file or link that is here when the block ends well.

        Until then it has no name where the file system allows that, so nothing is left of it when this process is killed.
        """
        descriptor = self._open_nameless()
        if descriptor is None:
            with self._writing_beside(mode) as descriptor:
                yield descriptor
            return
        try:
            yield descriptor
            os.fchmod(descriptor, mode & 0o777)
            source = f"/proc/self/fd/{descriptor}"
            self._put(lambda temporary: os.link(source, temporary, dst_dir_fd=self.directory, follow_symlinks=True))
        finally:
            os.close(descriptor)

    def _open_nameless(self) -> int | None:
        """A file without a name (open(2), O_TMPFILE); None where there is no such thing."""
        if not hasattr(os, "O_TMPFILE") or not os.path.isdir("/proc/self/fd"):
            return None
        try:
            return os.open(b".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=self.directory)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
                return None
            raise

    @contextmanager
    def _writing_beside(self, mode: int) -> Iterator[int]:
        temporary = temporary_name()
        descriptor = os.open(temporary, _NEW_FILE, 0o600, dir_fd=self.directory)
        try:
            try:
                yield descriptor
                os.fchmod(descriptor, mode & 0o777)
            finally:
                os.close(descriptor)
            self._rename(temporary)
        except BaseException:
            self._unlink(temporary)
            raise

    def _put(self, make: Callable[[bytes], None]) -> None:
        """Makes something whole here: at once where nothing is, else beside it and then in its place."""
        try:
            make(self.name)
        except FileExistsError:
            temporary = temporary_name()
            make(temporary)
            try:
                self._rename(temporary)
            except BaseException:
                self._unlink(temporary)
                raise

    def _rename(self, temporary: bytes) -> None:
        failpoint("client.copy.beside")
        os.rename(temporary, self.name, src_dir_fd=self.directory, dst_dir_fd=self.directory)

    def _unlink(self, temporary: bytes) -> None:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=self.directory)

    # -- reading

    def status(self) -> os.stat_result:
        """What is here; a symlink is not followed."""
        return os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)

    def link_target(self) -> bytes:
        """What the symlink here says."""
        return os.readlink(self.name, dir_fd=self.directory)

    @contextmanager
    def reading(self) -> Iterator[int]:
        """The descriptor of the regular file that is here."""
        descriptor = os.open(self.name, _OLD_FILE, dir_fd=self.directory)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InvalidInput(f"{os.fsdecode(self.name)!r} is no regular file any more")
            yield descriptor
        finally:
            os.close(descriptor)


@contextmanager
def place_of(path: str | os.PathLike[str]) -> Iterator[Place]:
    """The entry that a path of the caller's names. Its directory is the caller's word, links in it are followed; its last component is not.

    Raises:
        InvalidInput: the path names no entry of a directory (`/`, `..`).
        OSError: its directory cannot be opened.
    """
    raw = os.fsencode(os.path.abspath(path) if os.fspath(path) in ("", ".") else os.fspath(path))
    parent, name = os.path.split(raw.rstrip(b"/") or raw)
    if name in (b"", b".", b".."):
        parent, name = os.path.split(os.path.realpath(raw))
    if not name:
        raise InvalidInput(f"{os.fsdecode(raw)!r} cannot be copied as a whole", hint="name a directory in it")
    descriptor = os.open(parent or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Place(descriptor, name)
    finally:
        os.close(descriptor)
