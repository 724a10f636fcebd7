"""The recorded output of one sandbox's detached commands: two files of bounded size, the newer one appended to.

Each entry is a header and its bytes, written in one call, so that a crash leaves at most one cut entry at the end:

    f64 time | u64 exec id | u64 offset in the stream | u32 length | u8 kind | 3 zero bytes        (little-endian)

`kind` is the stream (1, 2); 17 or 18: no bytes, the recording of that stream goes on at the offset; 32: the command has ended; 65 or 66:
u64, so many bytes of that stream, from the offset on, were not recorded.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO, Final, NamedTuple

HEADER: Final = struct.Struct("<dQQIB3x")
GENERATION_BYTES: Final = 8 * 1024 * 1024
PIECE_BYTES: Final = 16 * 1024  # of output in one entry: a frame of the door holds it in JSON, where a byte takes six at worst
MAX_ENTRY_BYTES: Final = 1024 * 1024
TICK_S: Final = 1e-6  # times of one log differ by at least this, so that a time says where to go on
NEWER, OLDER = "output.log", "output.1.log"
_STREAMS, _POSITION, _ENDED, _MISSING = (1, 2), 16, 32, 64
_COUNT: Final = struct.Struct("<Q")


class Entry(NamedTuple):
    """One entry as it is in the file."""

    at: float
    exec_id: int
    offset: int
    kind: int
    data: bytes

    @property
    def is_output(self) -> bool:
        """Whether it is something that a command printed."""
        return self.kind in _STREAMS

    @property
    def stream(self) -> int:
        """1 or 2, for all but the end of a command."""
        return self.kind & 3

    @property
    def missing(self) -> int:
        """How many bytes were not recorded, of an entry that tells that; else 0."""
        return int(_COUNT.unpack(self.data)[0]) if self.kind & _MISSING and len(self.data) == _COUNT.size else 0


class LogFile:
    """Appends to one sandbox's log, and knows where each command's recording stands. One at a time per directory."""

    def __init__(self, directory: str, generation_bytes: int = GENERATION_BYTES) -> None:
        """Opens or makes it, without the cut entry of a crash; raises OSError."""
        self._directory = directory
        self._limit = generation_bytes
        self._positions: dict[int, tuple[int, int]] = {}  # of commands that are not known to have ended
        self._ended: set[int] = set()
        self._last_at = 0.0
        for made in (os.path.dirname(directory), directory):  # the first one's names are those of the sandboxes
            os.makedirs(made, mode=0o700, exist_ok=True)
        for path in (self._path(OLDER), self._path(NEWER)):
            end = self._learn(path)
        self._file = os.open(self._path(NEWER), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.ftruncate(self._file, end)
        self._size = end

    def position(self, exec_id: int) -> tuple[int, int]:
        """Where the recording of stdout and stderr stands: the offsets after the last byte."""
        return self._positions.get(exec_id, (0, 0))

    def has_ended(self, exec_id: int) -> bool:
        """Whether a command was recorded to its end."""
        return exec_id in self._ended

    def write(self, at: float, exec_id: int, stream: int, offset: int, data: bytes) -> None:
        """Appends output, in pieces; what is there already is not written again, and of what is missing before it the amount is told.

        Raises OSError, and then the rest is not there.
        """
        position = self.position(exec_id)[stream - 1]
        if offset > position:
            self._append(Entry(at, exec_id, position, _MISSING + stream, _COUNT.pack(offset - position)))
        known = max(0, position - offset)
        for begin in range(known, len(data), PIECE_BYTES):
            self._append(Entry(at, exec_id, offset + begin, stream, bytes(data[begin : begin + PIECE_BYTES])))

    def end(self, at: float, exec_id: int) -> None:
        """Notes that a command has ended; raises OSError."""
        self._append(Entry(at, exec_id, 0, _ENDED, b""))

    def close(self) -> None:
        """Closes the file; repeating it is fine."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, entry: Entry) -> None:
        if self._size + HEADER.size + len(entry.data) > self._limit:
            self._turn(entry.at)
        entry = entry._replace(at=max(entry.at, self._last_at + TICK_S))
        self._put(entry)
        self._note(entry)

    def _turn(self, at: float) -> None:
        """Begins a new generation, which starts with what reading the old one would have told."""
        os.rename(self._path(NEWER), self._path(OLDER))
        self.close()
        self._file = os.open(self._path(NEWER), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = 0
        for exec_id, position in self._positions.items():
            for stream, offset in zip(_STREAMS, position, strict=True):
                self._put(Entry(at, exec_id, offset, _POSITION + stream, b""))

    def _put(self, entry: Entry) -> None:
        raw = HEADER.pack(entry.at, entry.exec_id, entry.offset, len(entry.data), entry.kind) + entry.data
        try:
            if os.write(self._file, raw) < len(raw):
                raise OSError("the disk took only a part of it")
        except OSError:
            with suppress(OSError):  # the next start cuts it off
                os.ftruncate(self._file, self._size)
            raise
        self._size += len(raw)

    def _learn(self, path: str) -> int:
        """Reads what a file says; returns the length of what is whole in it."""
        end = 0
        with suppress(FileNotFoundError), open(path, "rb") as file:
            for entry in read(file):
                self._note(entry)
                end += HEADER.size + len(entry.data)
        return end

    def _note(self, entry: Entry) -> None:
        self._last_at = max(self._last_at, entry.at)
        if entry.kind == _ENDED:
            self._positions.pop(entry.exec_id, None)
            self._ended.add(entry.exec_id)
            return
        stdout, stderr = self.position(entry.exec_id)
        reached = entry.offset + (entry.missing or len(entry.data))
        to_stderr = entry.stream == _STREAMS[1]
        self._positions[entry.exec_id] = (stdout, max(stderr, reached)) if to_stderr else (max(stdout, reached), stderr)

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"


class Mark(NamedTuple):
    """Where an entry is."""

    inode: int
    begin: int
    at: float


class Reader:
    """Reads a log from its beginning or behind a marked entry, and then what has come since, also over the turn of a generation."""

    def __init__(self, directory: str, behind: Mark | None = None) -> None:
        self._directory = directory
        self._path = f"{directory}/{NEWER}"
        self._behind = behind
        self._files: list[BinaryIO] = []
        self._current: BinaryIO | None = None
        self._begun = False

    def more(self) -> Iterator[Entry]:
        """What was not read yet, as far as it is whole; raises OSError."""
        if not self._begun:
            self._begun = True
            self._files = [file for name in (OLDER, NEWER) if (file := _opened(f"{self._directory}/{name}")) is not None]
            self._go_behind()
        while True:
            for file in self._files:
                self._current = file
                yield from read(file)
            newest = _opened(self._path)
            if newest is None or (self._files and os.path.sameopenfile(newest.fileno(), self._files[-1].fileno())):
                if newest is not None:
                    newest.close()
                return
            self.close()
            self._files = [newest]

    def mark(self, entry: Entry) -> Mark:
        """Where the entry is that was yielded last."""
        if self._current is None:
            raise ValueError("nothing has been read yet")
        return Mark(_inode(self._current), self._current.tell() - HEADER.size - len(entry.data), entry.at)

    def close(self) -> None:
        """Closes the files."""
        for file in self._files:
            file.close()
        self._files = []

    def _go_behind(self) -> None:
        """Passes over what is before the mark; all is read where that leads nowhere (any more)."""
        for number, file in enumerate(self._files):
            if self._behind is not None and _inode(file) == self._behind.inode:
                file.seek(self._behind.begin)
                found = next(read(file), None)
                if found is not None and found.at == self._behind.at:
                    for before in self._files[:number]:
                        before.close()
                    self._files = self._files[number:]
                else:
                    file.seek(0)
                return


def read(file: BinaryIO) -> Iterator[Entry]:
    """The whole entries from where the file stands; it then stands before whatever is not whole."""
    while True:
        here = file.tell()
        head = file.read(HEADER.size)
        if len(head) == HEADER.size:
            at, exec_id, offset, length, kind = HEADER.unpack(head)
            data = file.read(length) if length <= MAX_ENTRY_BYTES else b""
            if len(data) == length:
                yield Entry(at, exec_id, offset, kind, data)
                continue
        file.seek(here)
        return


def _inode(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_ino


def _opened(path: str) -> BinaryIO | None:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        return None
