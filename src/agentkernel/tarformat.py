"""What tar archives look like: headers of ustar, pax and GNU tar, and the bounds of what comes before a member. No I/O.

For readers that are fed by a file and for those that wait for a client. Nothing of an archive is believed: numbers are never negative, the
lengths of records are true, extended headers are bounded. Imports only the standard library: images are unpacked inside a sandbox.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

BLOCK: Final = 512
MAX_EXTENSION_BYTES: Final = 1024 * 1024  # of all the headers before one member: pax headers and GNU's long names
MAX_STREAMS: Final = 5_000_000  # compressed ones, one after the other; eStargz and its like have two for a file, bgzip one for 64 KiB
STREAMS_FREE: Final = 10_000  # below this they may be empty
STREAM_LEAST_BYTES: Final = 64  # that each holds on an average
FIRST_FEED_BYTES: Final = 4 * 1024  # of what may be a short stream: what is left of it is copied


class BadArchiveError(Exception):
    """The archive is damaged, hostile, or of a kind that is not read; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Kind(Enum):
    """What a member is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARD_LINK = "hard link"
    DEVICE = "device"
    FIFO = "fifo"
    OTHER = "other"


_KINDS: Final = {
    b"0": Kind.FILE, b"\0": Kind.FILE, b"7": Kind.FILE, b"S": Kind.FILE, b"1": Kind.HARD_LINK, b"2": Kind.SYMLINK,
    b"3": Kind.DEVICE, b"4": Kind.DEVICE, b"5": Kind.DIRECTORY, b"6": Kind.FIFO,
}  # fmt: skip
_WITHOUT_DATA: Final = frozenset({Kind.HARD_LINK, Kind.SYMLINK, Kind.DEVICE, Kind.DIRECTORY, Kind.FIFO})
OLD_SPARSE: Final = b"S"  # a file in parts, which GNU tar wrote before it knew pax
_EXTENSIONS: Final = (b"x", b"L", b"K", b"g")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """One header; names are bytes as they are. `size` bytes of data follow, and then what fills up the block."""

    name: bytes
    kind: Kind
    flag: bytes  # one byte: the kind as the archive has it
    mode: int
    size: int
    link: bytes
    block: bytes  # all of it

    @property
    def is_extension(self) -> bool:
        """Whether it says something about the next member, and is none itself."""
        return self.flag in _EXTENSIONS

    @property
    def padding(self) -> int:
        """How many bytes fill up the block behind the data."""
        return -self.size % BLOCK


def parse_header(block: bytes) -> Header:
    """Reads a block of 512 bytes; raises BadArchiveError."""
    if _checksum(block[148:156]) != sum(block[:148]) + sum(block[156:]) + 8 * 32:
        raise BadArchiveError("this is not a tar archive, or it is damaged (a header's checksum is wrong)")
    name, flag = _text(block[:100]), block[156:157]
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        name = prefix + b"/" + name
    kind = _KINDS.get(flag, Kind.OTHER)
    return Header(
        name=name,
        kind=kind,
        flag=flag,
        mode=number(block[100:108]) & 0o7777,
        size=0 if kind in _WITHOUT_DATA else number(block[124:136]),
        link=_text(block[157:257]),
        block=block,
    )


def _checksum(field: bytes) -> int:
    """What is no number is no checksum either: of something that is no archive, no more needs to be said."""
    try:
        return number(field)
    except BadArchiveError:
        return -1


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def number(field: bytes) -> int:
    """Octal digits, or base 256 where the first bit is set; never negative."""
    if field[0] & 0x80:
        if field[0] & 0x40:
            raise BadArchiveError("a header holds a negative number")
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise BadArchiveError("this is not a tar archive, or it is damaged (a number is not octal)")
    return int(digits, 8) if digits else 0


def decimal(text: bytes) -> int:
    """A number as pax headers have it."""
    if not text.isdigit() or len(text) > 19:
        raise BadArchiveError("a pax header is damaged (a number)")
    return int(text)


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """Records `length key=value\\n`; each length must be true. The parts of a sparse file are together in `GNU.sparse.map`."""
    found: dict[bytes, bytes] = {}
    sparse: list[bytes] = []
    start = 0
    while start < len(data):
        digits, space, _ = data[start : start + 20].partition(b" ")
        end = start + (int(digits) if digits.isdigit() else 0)
        key, equals, value = data[start + len(digits) + 1 : end].partition(b"=")
        if not space or not equals or not value.endswith(b"\n") or end > len(data):
            raise BadArchiveError("a pax header is damaged")
        if key in {b"GNU.sparse.offset", b"GNU.sparse.numbytes"}:
            sparse.append(value[:-1])
        found[key] = value[:-1]
        start = end
    if sparse:
        found[b"GNU.sparse.map"] = b",".join(sparse)
    return found


@dataclass(slots=True)
class Extensions:
    """What is said of the next member before it comes."""

    records: dict[bytes, bytes] = field(default_factory=dict)
    _bytes: int = 0

    def announced(self, header: Header) -> int:
        """How many bytes of data to read for `take`; raises BadArchiveError where that is too much."""
        self._bytes += BLOCK + header.size
        if self._bytes > MAX_EXTENSION_BYTES:
            raise BadArchiveError(f"extended headers have {self._bytes} bytes before one member")
        return header.size

    def take(self, header: Header, data: bytes) -> None:
        """Takes up one of them."""
        if header.flag == b"x":
            self.records |= parse_pax(data)
        elif header.flag != b"g":  # of global headers nothing says what a file is
            self.records[b"path" if header.flag == b"L" else b"linkpath"] = _text(data)

    def applied(self, header: Header) -> tuple[Header, dict[bytes, bytes]]:
        """The member's header with its whole names and its size, and all that was said; the next one begins anew."""
        records, self.records, self._bytes = self.records, {}, 0
        if not records:
            return header, records
        name = records.get(b"GNU.sparse.name", records.get(b"path", header.name))
        link = records.get(b"linkpath", header.link)
        if b"\0" in name or b"\0" in link:
            raise BadArchiveError("a name holds a NUL")
        size = decimal(records[b"size"]) if b"size" in records and header.kind is Kind.FILE else header.size
        return replace(header, name=name, link=link, size=size), records


@dataclass(slots=True)
class Streams:
    """Counts the compressed streams of one archive: very many that hold hardly anything cost work and give nothing."""

    kind: str  # gzip, zstd, ...
    count: int = 1

    def another(self, given_bytes: int) -> None:
        """One more begins, after so many bytes of all before; raises BadArchiveError where there are too many."""
        self.count += 1
        if self.count > MAX_STREAMS or (self.count > STREAMS_FREE and given_bytes < STREAM_LEAST_BYTES * self.count):
            raise BadArchiveError(f"the archive is more than {self.count - 1} {self.kind} streams that hold hardly anything: it is a bomb")
