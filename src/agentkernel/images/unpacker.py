"""Unpacks the entries of a tar archive beneath an open directory.

Names are never joined to paths: each component is opened beneath the destination's descriptor with O_NOFOLLOW, so that no link in the
archive leads out of it, whatever the order of its entries (CVE-2007-4559, CVE-2025-4517). All belongs to whoever unpacks it, who may
always read and change it; whose it is in the image stands in an extended attribute, for whoever may give it to them. Set-user-id bits and
the archive's own extended attributes are dropped. Imports only the standard library: it runs inside a sandbox, where hostile bytes belong.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from typing import ClassVar

from agentkernel.images.beneath import DIRECTORY, Parts, Walk
from agentkernel.images.decompress import CHUNK_BYTES, Source
from agentkernel.images.tarstream import Entry, entries
from agentkernel.owners import ATTRIBUTE, note
from agentkernel.tarformat import BadArchiveError, Kind

DEFAULT_LIMIT_BYTES = 16 * 1024**3
MAX_ENTRIES = 2_000_000
MAX_DEPTH = 128
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4095
LAYOUT_HINT = "import it first: agentkernel image import ARCHIVE NAME; then --image NAME"
_LAYOUT_FILES = frozenset({(b"manifest.json",), (b"oci-layout",)})
SYSTEM_NAMES = frozenset({b"bin", b"sbin", b"usr", b"etc", b"lib"})


@dataclass(slots=True, kw_only=True)
class Tally:
    """What was unpacked, and what was left out."""

    entries: int = 0
    bytes: int = 0
    devices_skipped: int = 0
    others_skipped: int = 0
    set_id_dropped: int = 0


@dataclass(slots=True)
class Unpacker:
    """Unpacks the archive of one root file system beneath the open directory `root`, which is empty.

    `any_kind`: also an archive of something else, as one of image layers.
    """

    follows: ClassVar[bool] = False  # whether entries may lie beneath a symbolic link, which is then followed beneath the root

    root: int
    limit_bytes: int = DEFAULT_LIMIT_BYTES
    any_kind: bool = False
    tally: Tally = field(default_factory=Tally)
    _modes: dict[Parts, int] = field(default_factory=dict)  # of directories, by place: set when all in them is there
    _parent: tuple[Parts, Parts, int] | None = None  # the directory of the last entry, kept open: its name, its place, its descriptor
    _top: set[Parts] = field(default_factory=set)

    def unpack(self, source: Source) -> Tally:
        """Unpacks all entries; raises BadArchiveError, and leaves what was unpacked until then."""
        try:
            self._entries(source)
            self._check_kind()
        finally:
            self._leave()
        return self.tally

    def _entries(self, source: Source) -> None:
        for entry in entries(source):
            self._count(entry)
            self._one(entry, _parts(entry.name), source)
        self._set_modes()

    def _count(self, entry: Entry) -> None:
        self.tally.entries += 1
        self.tally.bytes += max(entry.size, entry.real_size)
        if self.tally.entries > MAX_ENTRIES:
            raise BadArchiveError(f"the archive has more than {MAX_ENTRIES} entries")
        if self.tally.bytes > self.limit_bytes:
            raise BadArchiveError(f"the archive unpacks to more than {self.limit_bytes} bytes")
        if entry.mode & (stat.S_ISUID | stat.S_ISGID) and entry.kind is Kind.FILE:
            self.tally.set_id_dropped += 1

    def _one(self, entry: Entry, parts: Parts, source: Source) -> None:
        if not parts:
            if entry.kind is not Kind.DIRECTORY:
                raise BadArchiveError("an entry that is not a directory has no name")
            return
        self._top.add(parts[:1])
        if entry.kind is Kind.DIRECTORY:
            self._directory(parts, entry)
        elif entry.kind is Kind.FILE:
            self._file(parts, entry, source)
        elif entry.kind is Kind.SYMLINK:
            self._symlink(parts, entry.link)
        elif entry.kind is Kind.HARD_LINK:
            self._hard_link(parts, _parts(entry.link))
        else:
            source.skip(entry.size)
            if entry.kind is Kind.OTHER:
                self.tally.others_skipped += 1
            else:
                self.tally.devices_skipped += 1

    def _directory(self, parts: Parts, entry: Entry) -> None:
        place, parent = self._enter(parts[:-1])
        whole = (*place, parts[-1])
        try:
            os.mkdir(parts[-1], 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(mode_at(parts[-1], parent)):
                self._clear(whole, parent)
                os.mkdir(parts[-1], 0o700, dir_fd=parent)
        self._modes[whole] = entry.mode & 0o1777 | 0o700
        descriptor = os.open(parts[-1], DIRECTORY, dir_fd=parent)
        try:
            _note_owner(descriptor, entry.owner, is_new=False)
        finally:
            os.close(descriptor)
        self._brought(whole)

    def _file(self, parts: Parts, entry: Entry, source: Source) -> None:
        parent = self._room(parts)
        descriptor = os.open(parts[-1], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
        try:
            for offset, length in entry.sparse if entry.sparse is not None else ((0, entry.size),):
                _copy(source, descriptor, offset, length)
            if entry.sparse is not None:
                os.ftruncate(descriptor, entry.real_size)
            _note_owner(descriptor, entry.owner, is_new=True)  # first: attributes are for those who may write to it
            os.fchmod(descriptor, entry.mode & 0o777 | 0o400)
            os.utime(descriptor, (entry.modified_s, entry.modified_s))
        except OverflowError:
            raise BadArchiveError(f"{shown(parts)} is from an impossible time") from None
        finally:
            os.close(descriptor)

    def _symlink(self, parts: Parts, target: bytes) -> None:
        if not 0 < len(target) <= MAX_PATH_BYTES:
            raise BadArchiveError(f"the symbolic link {shown(parts)} has a target of {len(target)} bytes")
        os.symlink(target, parts[-1], dir_fd=self._room(parts))

    def _hard_link(self, parts: Parts, target: Parts) -> None:
        """A link to what the archive brought: a file, or a symbolic link, which is copied and never followed."""
        if not target or parts == target:
            raise BadArchiveError(f"the hard link {shown(parts)} leads to itself, or nowhere")
        source = -1
        try:
            source = os.dup(self._enter(target[:-1], create=False)[1])
            mode = mode_at(target[-1], source)
            if stat.S_ISLNK(mode):
                self._symlink(parts, os.readlink(target[-1], dir_fd=source))
            elif stat.S_ISREG(mode):
                os.link(target[-1], parts[-1], src_dir_fd=source, dst_dir_fd=self._room(parts), follow_symlinks=False)
            else:
                raise BadArchiveError(f"the hard link {shown(parts)} does not lead to a file")
        except FileNotFoundError:
            raise BadArchiveError(f"the hard link {shown(parts)} leads to {shown(target)}, which is not in the archive before it") from None
        finally:
            if source >= 0:
                os.close(source)

    def _room(self, parts: Parts) -> int:
        """The descriptor of the directory that something new is to be in, under a name that is free now; valid until the next call."""
        place, parent = self._enter(parts[:-1])
        whole = (*place, parts[-1])
        self._clear(whole, parent)
        self._brought(whole)
        return parent

    def _enter(self, parts: Parts, *, create: bool = True) -> tuple[Parts, int]:
        """Where a directory really is, and its descriptor, valid until the next call; made where it is missing."""
        if self._parent is not None and self._parent[0] == parts:
            return self._parent[1:]
        walk = Walk(self.root, self._make if create else None, max_depth=MAX_DEPTH, follows=self.follows)
        try:
            walk.go(parts)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG}:
                upto = shown(parts[: len(walk.place) + 1])
                raise BadArchiveError(f"the archive has entries beneath {upto}, which is no directory in it") from None
            raise
        else:
            self._leave()
            self._parent = (parts, tuple(walk.place), walk.release())
        finally:
            walk.close()
        return self._parent[1:]

    def _make(self, name: bytes, parent: int, whole: Parts) -> None:
        os.mkdir(name, 0o700, dir_fd=parent)
        self._modes[whole] = 0o755
        self._brought(whole)

    def _brought(self, whole: Parts) -> None:
        """Something of the archive is at this place now."""

    def _clear(self, whole: Parts, parent: int) -> None:
        """Removes what an earlier entry of the same name left; a later entry wins, but does not remove a filled directory."""
        try:
            mode = mode_at(whole[-1], parent)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(mode):
            os.unlink(whole[-1], dir_fd=parent)
            return
        try:
            os.rmdir(whole[-1], dir_fd=parent)
        except OSError:
            raise BadArchiveError(f"the archive replaces the directory {shown(whole)}, which has entries, by something else") from None
        self._modes.pop(whole, None)

    def _leave(self) -> None:
        if self._parent is not None:
            os.close(self._parent[2])
            self._parent = None

    def _check_kind(self) -> None:
        layout = self._top & _LAYOUT_FILES and not any(parts[0] in SYSTEM_NAMES for parts in self._top)
        if layout and not self.any_kind:
            raise BadArchiveError("this is an archive of image layers (docker save, OCI layout), not of a root file system", LAYOUT_HINT)
        if not self._top:
            raise BadArchiveError("the archive is empty")

    def _set_modes(self) -> None:
        """Deepest first, so that a directory that cannot be searched is set after what lies in it."""
        for parts, mode in sorted(self._modes.items(), key=lambda item: len(item[0]), reverse=True):
            os.fchmod(self._enter(parts, create=False)[1], mode)
        self._modes.clear()


def _parts(name: bytes) -> Parts:
    """The components of a name; a leading `/` counts for nothing, `..` never is one."""
    parts = tuple(part for part in name.split(b"/") if part not in {b"", b"."})
    if b".." in parts:
        raise BadArchiveError(f"the archive wants to write outside of its root: {shown((name,))}")
    if len(name) > MAX_PATH_BYTES or len(parts) > MAX_DEPTH or any(len(part) > MAX_NAME_BYTES for part in parts):
        raise BadArchiveError(f"a name in the archive is too long or too deep: {shown((name[:80],))}")
    return parts


def shown(parts: Parts) -> str:
    """A name for people."""
    return ascii(os.fsdecode(b"/".join(parts)))


def mode_at(name: bytes, directory: int) -> int:
    """The mode of what is there, itself and not what it leads to."""
    return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode


def _note_owner(descriptor: int, owner: tuple[int, int], *, is_new: bool) -> None:
    """Where file systems have no such attributes, all stays with whoever unpacks it."""
    try:
        if owner != (0, 0):
            os.setxattr(descriptor, ATTRIBUTE, note(*owner))
        elif not is_new:
            os.removexattr(descriptor, ATTRIBUTE)
    except OSError as error:
        if error.errno not in {errno.ENOTSUP, errno.ENODATA, errno.EPERM}:
            raise


def _copy(source: Source, descriptor: int, offset: int, length: int) -> None:
    os.lseek(descriptor, offset, os.SEEK_SET)
    while length:
        data = source.read_some(min(length, CHUNK_BYTES))
        if not data:
            raise BadArchiveError("the archive is cut short")
        length -= len(data)
        while data:
            data = data[os.write(descriptor, data) :]
