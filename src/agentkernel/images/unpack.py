"""Unpacks the tar archive of a root file system; a program that runs inside a sandbox, where hostile bytes belong.

    python3 -S -P -m agentkernel.images.unpack [--limit-bytes N] TAR DESTINATION         (TAR `-`: standard input)

Names are never joined to paths: each component is opened beneath the destination's descriptor with O_NOFOLLOW, so that no link in the
archive leads out of it, whatever the order of its entries (CVE-2007-4559, CVE-2025-4517). It prints one line of JSON. Owners are dropped:
all belongs to whoever unpacks it, who may always read and change it; set-user-id bits are dropped for the same reason.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from dataclasses import dataclass, field

from agentkernel.images.decompress import CHUNK_BYTES, BadArchiveError, Source
from agentkernel.images.tarstream import Entry, Kind, entries

DEFAULT_LIMIT_BYTES = 16 * 1024**3
MAX_ENTRIES = 2_000_000
MAX_DEPTH = 128
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4095
LAYOUT_HINT = "flatten it first: docker create --name x IMAGE && docker export x -o rootfs.tar"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LAYOUT_FILES = frozenset({(b"manifest.json",), (b"oci-layout",)})
_SYSTEM_NAMES = frozenset({b"bin", b"sbin", b"usr", b"etc", b"lib"})

Parts = tuple[bytes, ...]


def arguments(tar_path: str, destination: str, limit_bytes: int) -> tuple[str, ...]:
    """The arguments for a Python interpreter that finds this package in PYTHONPATH."""
    return ("-S", "-P", "-m", "agentkernel.images.unpack", "--limit-bytes", str(limit_bytes), tar_path, destination)


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
    """Unpacks entries beneath the open directory `root`."""

    root: int
    limit_bytes: int = DEFAULT_LIMIT_BYTES
    tally: Tally = field(default_factory=Tally)
    _modes: dict[Parts, int] = field(default_factory=dict)  # of directories, set at the end: some cannot be written to
    _parent: tuple[Parts, int] | None = None  # the directory of the last entry, kept open
    _top: set[Parts] = field(default_factory=set)

    def unpack(self, source: Source) -> Tally:
        """Unpacks all entries; raises BadArchiveError, and leaves what was unpacked until then."""
        try:
            for entry in entries(source):
                self._count(entry)
                self._one(entry, _parts(entry.name), source)
            self._check_kind()
            self._set_modes()
        finally:
            self._leave()
        return self.tally

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
        parent = self._enter(parts[:-1])
        try:
            os.mkdir(parts[-1], 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(_mode_at(parts[-1], parent)):
                self._clear(parts, parent)
                os.mkdir(parts[-1], 0o700, dir_fd=parent)
        self._modes[parts] = entry.mode & 0o1777 | 0o700

    def _file(self, parts: Parts, entry: Entry, source: Source) -> None:
        parent = self._enter(parts[:-1])
        self._clear(parts, parent)
        descriptor = os.open(parts[-1], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
        try:
            for offset, length in entry.sparse if entry.sparse is not None else ((0, entry.size),):
                _copy(source, descriptor, offset, length)
            if entry.sparse is not None:
                os.ftruncate(descriptor, entry.real_size)
            os.fchmod(descriptor, entry.mode & 0o777 | 0o400)
            os.utime(descriptor, (entry.modified_s, entry.modified_s))
        except OverflowError:
            raise BadArchiveError(f"{_shown(parts)} is from an impossible time") from None
        finally:
            os.close(descriptor)

    def _symlink(self, parts: Parts, target: bytes) -> None:
        if not 0 < len(target) <= MAX_PATH_BYTES:
            raise BadArchiveError(f"the symbolic link {_shown(parts)} has a target of {len(target)} bytes")
        parent = self._enter(parts[:-1])
        self._clear(parts, parent)
        os.symlink(target, parts[-1], dir_fd=parent)

    def _hard_link(self, parts: Parts, target: Parts) -> None:
        """A link to what the archive brought: a file, or a symbolic link, which is copied and never followed."""
        if not target or parts == target:
            raise BadArchiveError(f"the hard link {_shown(parts)} leads to itself, or nowhere")
        source = -1
        try:
            source = os.dup(self._enter(target[:-1], create=False))
            mode = _mode_at(target[-1], source)
            if stat.S_ISLNK(mode):
                self._symlink(parts, os.readlink(target[-1], dir_fd=source))
            elif stat.S_ISREG(mode):
                parent = self._enter(parts[:-1])
                self._clear(parts, parent)
                os.link(target[-1], parts[-1], src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            else:
                raise BadArchiveError(f"the hard link {_shown(parts)} does not lead to a file")
        except FileNotFoundError:
            raise BadArchiveError(
                f"the hard link {_shown(parts)} leads to {_shown(target)}, which is not in the archive before it"
            ) from None
        finally:
            if source >= 0:
                os.close(source)

    def _enter(self, parts: Parts, *, create: bool = True) -> int:
        """The descriptor of a directory, made where missing; valid until the next call."""
        if self._parent is not None and self._parent[0] == parts:
            return self._parent[1]
        current = os.dup(self.root)
        try:
            for depth, name in enumerate(parts):
                following = self._step(current, name, parts[: depth + 1], create)
                os.close(current)
                current = following
        except BaseException:
            os.close(current)
            raise
        self._leave()
        self._parent = (parts, current)
        return current

    def _step(self, current: int, name: bytes, upto: Parts, create: bool) -> int:
        try:
            return os.open(name, _DIRECTORY, dir_fd=current)
        except FileNotFoundError:
            if not create:
                raise
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENOTDIR}:
                raise BadArchiveError(f"the archive has entries beneath {_shown(upto)}, which is no directory in it") from None
            raise
        os.mkdir(name, 0o700, dir_fd=current)
        self._modes[upto] = 0o755
        return os.open(name, _DIRECTORY, dir_fd=current)

    def _clear(self, parts: Parts, parent: int) -> None:
        """Removes what an earlier entry of the same name left; a later entry wins, but does not remove a filled directory."""
        try:
            mode = _mode_at(parts[-1], parent)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(mode):
            os.unlink(parts[-1], dir_fd=parent)
            return
        try:
            os.rmdir(parts[-1], dir_fd=parent)
        except OSError:
            raise BadArchiveError(f"the archive replaces the directory {_shown(parts)}, which has entries, by something else") from None
        self._modes.pop(parts, None)

    def _leave(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None

    def _check_kind(self) -> None:
        if self._top & _LAYOUT_FILES and not any(parts[0] in _SYSTEM_NAMES for parts in self._top):
            raise BadArchiveError("this is an archive of image layers (docker save, OCI layout), not of a root file system", LAYOUT_HINT)
        if not self._top:
            raise BadArchiveError("the archive is empty")

    def _set_modes(self) -> None:
        """Deepest first, so that a directory that cannot be searched is set after what lies in it."""
        for parts, mode in sorted(self._modes.items(), key=lambda item: len(item[0]), reverse=True):
            os.fchmod(self._enter(parts, create=False), mode)


def _parts(name: bytes) -> Parts:
    """The components of a name; a leading `/` counts for nothing, `..` never is one."""
    parts = tuple(part for part in name.split(b"/") if part not in {b"", b"."})
    if b".." in parts:
        raise BadArchiveError(f"the archive wants to write outside of its root: {_shown((name,))}")
    if len(name) > MAX_PATH_BYTES or len(parts) > MAX_DEPTH or any(len(part) > MAX_NAME_BYTES for part in parts):
        raise BadArchiveError(f"a name in the archive is too long or too deep: {_shown((name[:80],))}")
    return parts


def _shown(parts: Parts) -> str:
    return ascii(os.fsdecode(b"/".join(parts)))


def _mode_at(name: bytes, directory: int) -> int:
    return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode


def _copy(source: Source, descriptor: int, offset: int, length: int) -> None:
    os.lseek(descriptor, offset, os.SEEK_SET)
    while length:
        data = source.read_some(min(length, CHUNK_BYTES))
        if not data:
            raise BadArchiveError("the archive is cut short")
        length -= len(data)
        while data:
            data = data[os.write(descriptor, data) :]


def main(argv: list[str]) -> int:
    """Unpacks as the arguments say; 0, or 1 with the reason as the last line of stderr."""
    limit_bytes = DEFAULT_LIMIT_BYTES
    if argv[:1] == ["--limit-bytes"]:
        limit_bytes, argv = int(argv[1]), argv[2:]
    tar_path, destination = argv
    os.umask(0o077)
    try:
        root = os.open(destination, _DIRECTORY)
        with open(0 if tar_path == "-" else tar_path, "rb", buffering=0) as raw:
            tally = Unpacker(root, limit_bytes).unpack(Source(raw))
    except (BadArchiveError, OSError) as error:
        hint = error.hint if isinstance(error, BadArchiveError) else ""
        _say({"ok": False, "error": str(error), "hint": hint})
        sys.stderr.write(f"{error}; {hint}\n" if hint else f"{error}\n")
        return 1
    _say({"ok": True, **{name: getattr(tally, name) for name in Tally.__slots__}})
    return 0


def _say(result: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
