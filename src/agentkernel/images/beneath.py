"""Walks paths beneath a directory, with what symbolic links say of them, and never out of it.

Each component is opened by its name in the directory before it, with O_NOFOLLOW; a link is read, and what it says is walked in the same
way, an absolute one from the top. `..` at the top stays there. So no text decides where a path leads (openat2's RESOLVE_IN_ROOT does the
same in the kernel, but Python has no such call). Imports only the standard library: it runs inside a sandbox too.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence

MAX_LINKS = 40  # as the kernel's
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Parts = tuple[bytes, ...]
Make = Callable[[bytes, int, Parts], None]  # makes the missing directory of this name in that one; the last is its whole place


class Walk:
    """One walk from an open directory; holds a descriptor for each component until it is closed.

    Without `follows` a link is no directory.
    """

    def __init__(self, root: int, make: Make | None = None, *, max_depth: int = 256, follows: bool = True) -> None:
        self._open = [os.dup(root)]
        self._make = make
        self._max_depth = max_depth
        self._follows = follows
        self._links = 0
        self.place: list[bytes] = []  # the components of where it stands: directories, no links

    @property
    def descriptor(self) -> int:
        """Where it stands; the walk's own."""
        return self._open[-1]

    def close(self) -> None:
        """Closes all it holds."""
        while self._open:
            os.close(self._open.pop())

    def release(self) -> int:
        """Closes all but where it stands, which is the caller's from now on."""
        kept = self._open.pop()
        self.close()
        return kept

    def go(self, parts: Sequence[bytes]) -> None:
        """Enters one directory after the other.

        Raises:
            FileNotFoundError: one is not there, and none is to be made.
            NotADirectoryError: one is something else.
            OSError: links lead in a circle (ELOOP), it is too deep (ENAMETOOLONG), or the host fails.
        """
        pending = list(reversed(parts))
        while pending:
            name = pending.pop()
            if name == b"..":
                self._up()
            elif name not in {b"", b"."}:
                pending.extend(reversed(self._enter(name)))

    def file(self, parts: Sequence[bytes], flags: int) -> int:
        """Opens what is no directory, following links at its end too; the descriptor is the caller's. Raises as `go` does."""
        pending = tuple(parts)
        while True:
            self.go(pending[:-1])
            name = pending[-1] if pending else b""
            if name in {b"", b".", b".."}:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            try:
                return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.descriptor)
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
            pending = self._target(name)

    def _enter(self, name: bytes) -> Parts:
        """Stands in that directory then; what a link says in its place is returned, to be walked next."""
        try:
            following = os.open(name, DIRECTORY, dir_fd=self.descriptor)
        except FileNotFoundError:
            if self._make is None:
                raise
            self._make(name, self.descriptor, (*self.place, name))
            following = os.open(name, DIRECTORY, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
                raise
            return self._target(name)
        self._open.append(following)
        self.place.append(name)
        if len(self.place) > self._max_depth:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        return ()

    def _target(self, name: bytes) -> Parts:
        if not self._follows or not stat.S_ISLNK(os.stat(name, dir_fd=self.descriptor, follow_symlinks=False).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        self._links += 1
        if self._links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = os.readlink(name, dir_fd=self.descriptor)
        if target.startswith(b"/"):
            while self.place:
                self._up()
        return tuple(target.split(b"/"))

    def _up(self) -> None:
        if self.place:
            self.place.pop()
            os.close(self._open.pop())


def open_file(root: int, path: bytes) -> int:
    """A descriptor for reading of the regular file at `path` beneath the open directory; raises OSError as `Walk.go` does."""
    walk = Walk(root)
    try:
        descriptor = walk.file(tuple(part for part in path.split(b"/") if part), os.O_RDONLY | os.O_NONBLOCK)
    finally:
        walk.close()
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file")
    return descriptor
