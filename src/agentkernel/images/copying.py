"""Copies a directory into another one; runs inside a sandbox that sees nothing else, so that no link in it leads anywhere.

Whoever can write there may change it meanwhile; what is copied then is some mixture, and never what lies outside. Imports only the standard
library.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

from agentkernel.images.beneath import DIRECTORY
from agentkernel.images.decompress import CHUNK_BYTES
from agentkernel.images.unpacker import DEFAULT_LIMIT_BYTES, MAX_DEPTH, MAX_ENTRIES, Tally
from agentkernel.tarformat import BadArchiveError

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Copier:
    """Copies into the open directory `root`, which is empty. As with archives, owners, devices and set-user-id bits stay behind."""

    root: int
    limit_bytes: int = DEFAULT_LIMIT_BYTES
    tally: Tally = field(default_factory=Tally)
    _linked: dict[tuple[int, int], bytes] = field(default_factory=dict)  # device and inode of files with several names -> path of the copy

    def copy(self, source: str) -> Tally:
        """Copies all that is in the directory; raises BadArchiveError, OSError, and leaves what was copied until then."""
        descriptor = os.open(source, DIRECTORY)
        try:
            self._directory(descriptor, self.root, b"", 0)
        finally:
            os.close(descriptor)
        return self.tally

    def _directory(self, source: int, target: int, path: bytes, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise BadArchiveError("the directory is too deep")
        for name in sorted(map(os.fsencode, os.listdir(source))):
            status = os.stat(name, dir_fd=source, follow_symlinks=False)
            self._count(status)
            if stat.S_ISDIR(status.st_mode):
                self._enter(source, target, path, name, depth)
            elif stat.S_ISLNK(status.st_mode):
                os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            elif stat.S_ISREG(status.st_mode):
                self._file(source, target, path + b"/" + name, status)
            elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode) or stat.S_ISFIFO(status.st_mode):
                self.tally.devices_skipped += 1
            else:
                self.tally.others_skipped += 1

    def _count(self, status: os.stat_result) -> None:
        self.tally.entries += 1
        if self.tally.entries > MAX_ENTRIES:
            raise BadArchiveError(f"the directory has more than {MAX_ENTRIES} entries")
        if stat.S_ISREG(status.st_mode) and status.st_mode & (stat.S_ISUID | stat.S_ISGID):
            self.tally.set_id_dropped += 1

    def _enter(self, source: int, target: int, path: bytes, name: bytes, depth: int) -> None:
        inner = os.open(name, DIRECTORY, dir_fd=source)
        try:
            os.mkdir(name, 0o700, dir_fd=target)
            copy = os.open(name, DIRECTORY, dir_fd=target)
            try:
                self._directory(inner, copy, path + b"/" + name, depth + 1)
                os.fchmod(copy, os.fstat(inner).st_mode & 0o1777 | 0o700)
            finally:
                os.close(copy)
        finally:
            os.close(inner)

    def _file(self, source: int, target: int, path: bytes, status: os.stat_result) -> None:
        name, identity = os.path.basename(path), (status.st_dev, status.st_ino)
        if identity in self._linked:
            os.link(self._linked[identity], name, src_dir_fd=self.root, dst_dir_fd=target, follow_symlinks=False)
            return
        opened = os.open(name, _FILE, dir_fd=source)
        try:
            status = os.fstat(opened)
            if not stat.S_ISREG(status.st_mode):
                raise BadArchiveError("the directory changes while it is copied")
            copy = os.open(name, _NEW, 0o600, dir_fd=target)
            try:
                self._bytes(opened, copy)
                os.fchmod(copy, status.st_mode & 0o777 | 0o400)
                os.utime(copy, ns=(status.st_mtime_ns, status.st_mtime_ns))
            finally:
                os.close(copy)
        finally:
            os.close(opened)
        if status.st_nlink > 1:
            self._linked[identity] = path.lstrip(b"/")

    def _bytes(self, opened: int, copy: int) -> None:
        while data := os.read(opened, CHUNK_BYTES):
            self.tally.bytes += len(data)
            if self.tally.bytes > self.limit_bytes:
                raise BadArchiveError(f"the directory holds more than {self.limit_bytes} bytes")
            while data:
                data = data[os.write(copy, data) :]
