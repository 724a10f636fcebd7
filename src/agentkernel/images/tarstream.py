"""Reads a tar archive as a stream: the headers of ustar, pax and GNU tar.

Written by hand because tarfile reads extended headers of any size into memory, and its rules differ between Python versions
(CVE-2019-20907, CVE-2025-8194). Imports nothing but the standard library: it runs inside a sandbox, where hostile bytes belong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from agentkernel.images.decompress import BadArchiveError, Source

BLOCK = 512
MAX_EXTENSION_BYTES = 1024 * 1024  # a pax header or a GNU long name
MAX_SPARSE_PARTS = 100_000


class Kind(Enum):
    """What an entry is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARD_LINK = "hard link"
    DEVICE = "device"
    FIFO = "fifo"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry; names are bytes as they are. `size` bytes of data follow it in the archive."""

    name: bytes
    kind: Kind
    mode: int
    size: int
    modified_s: int
    link: bytes = b""
    real_size: int = 0  # of the file; differs from `size` for sparse ones
    sparse: tuple[tuple[int, int], ...] | None = None  # (offset, length) of the data


def entries(source: Source) -> Iterator[Entry]:
    """The entries in order. After each, its consumer reads exactly `entry.size` bytes of data; the padding is skipped here."""
    extended: dict[bytes, bytes] = {}
    while (header := _next_header(source)) is not None:
        entry, flag = _parse_header(header)
        if flag in b"xLKg":
            if entry.size > MAX_EXTENSION_BYTES:
                raise BadArchiveError(f"an extended header has {entry.size} bytes")
            data = source.read(entry.size)
            source.skip(-entry.size % BLOCK)
            if flag == b"x":
                extended.update(_parse_pax(data))
            elif flag != b"g":  # of global headers nothing says what a file is
                extended[b"path" if flag == b"L" else b"linkpath"] = data.split(b"\0", 1)[0]
            continue
        if flag == b"S":
            entry = _old_sparse(header, entry, source)
        entry = _extend(entry, extended, source)
        extended = {}
        if entry.kind is Kind.FILE and flag in b"0\0" and entry.name.endswith(b"/"):  # (its whole name: a header may hold a part of it)
            entry = replace(entry, kind=Kind.DIRECTORY, size=0)  # as before POSIX
        yield entry
        source.skip(-entry.size % BLOCK)


def _next_header(source: Source) -> bytes | None:
    """The next header block; None at the end, which is a block of zeros, or the end of the file."""
    first = source.read_some(BLOCK)
    if not first:
        return None
    block = first + (source.read(BLOCK - len(first)) if len(first) < BLOCK else b"")
    return None if block == bytes(BLOCK) else block


def _parse_header(block: bytes) -> tuple[Entry, bytes]:
    expected = _number(block[148:156])
    unsigned = sum(block[:148]) + sum(block[156:]) + 8 * 32
    if expected != unsigned:
        raise BadArchiveError("this is not a tar archive, or it is damaged (a header's checksum is wrong)")
    name = block[:100].split(b"\0", 1)[0]
    flag = block[156:157]
    if block[257:263] == b"ustar\0":
        prefix = block[345:500].split(b"\0", 1)[0]
        name = prefix + b"/" + name if prefix else name
    kind = _KINDS.get(flag, Kind.OTHER)
    size = 0 if kind in _WITHOUT_DATA else _number(block[124:136])
    entry = Entry(
        name=name,
        kind=kind,
        mode=_number(block[100:108]) & 0o7777,
        size=size,
        real_size=size,
        modified_s=_number(block[136:148]),
        link=block[157:257].split(b"\0", 1)[0],
    )
    return entry, flag


_KINDS = {
    b"0": Kind.FILE, b"\0": Kind.FILE, b"7": Kind.FILE, b"S": Kind.FILE, b"1": Kind.HARD_LINK, b"2": Kind.SYMLINK,
    b"3": Kind.DEVICE, b"4": Kind.DEVICE, b"5": Kind.DIRECTORY, b"6": Kind.FIFO,
}  # fmt: skip
_WITHOUT_DATA = frozenset({Kind.HARD_LINK, Kind.SYMLINK, Kind.DEVICE, Kind.DIRECTORY, Kind.FIFO})


def _number(field: bytes) -> int:
    """Octal digits, or base 256 where the first bit is set; never negative."""
    if field[0] & 0x80:
        if field[0] & 0x40:
            raise BadArchiveError("a header holds a negative number")
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise BadArchiveError("this is not a tar archive, or it is damaged (a number is not octal)")
    return int(digits, 8) if digits else 0


def _parse_pax(data: bytes) -> dict[bytes, bytes]:
    """Records `length key=value\\n`; each length must be true."""
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


def _extend(entry: Entry, extended: dict[bytes, bytes], source: Source) -> Entry:
    """The entry with what its pax headers say."""
    if not extended:
        return entry
    name = extended.get(b"GNU.sparse.name", extended.get(b"path", entry.name))
    entry = replace(entry, name=name, link=extended.get(b"linkpath", entry.link))
    if b"\0" in entry.name or b"\0" in entry.link:
        raise BadArchiveError("a name holds a NUL")
    if b"mtime" in extended:
        entry = replace(entry, modified_s=_decimal(extended[b"mtime"].lstrip(b"-").split(b".", 1)[0]))
    if entry.kind is not Kind.FILE:
        return entry
    if b"size" in extended:
        size = _decimal(extended[b"size"])
        entry = replace(entry, size=size, real_size=size)
    if extended.get(b"GNU.sparse.major") == b"1":
        return _new_sparse(entry, _decimal(extended.get(b"GNU.sparse.realsize", b"")), source)
    if b"GNU.sparse.map" in extended:
        numbers = [_decimal(value) for value in extended[b"GNU.sparse.map"].split(b",") if value]
        return _with_map(entry, numbers, _decimal(extended.get(b"GNU.sparse.realsize", extended.get(b"GNU.sparse.size", b""))))
    return entry


def _new_sparse(entry: Entry, real_size: int, source: Source) -> Entry:
    """Format 1.0: the map stands before the data, decimal numbers on lines, padded to a block."""
    text, wanted, used = b"", 1, 0
    numbers: list[int] = []
    while len(numbers) < wanted:
        if b"\n" not in text:
            text += source.read(BLOCK)
            used += BLOCK
            continue
        line, _, text = text.partition(b"\n")
        numbers.append(_decimal(line))
        if len(numbers) == 1:
            wanted = 1 + 2 * numbers[0]
            if numbers[0] > MAX_SPARSE_PARTS:
                raise BadArchiveError("a sparse file has too many parts")
    if used > entry.size:
        raise BadArchiveError("the map of a sparse file is damaged")
    return _with_map(replace(entry, size=entry.size - used), numbers[1:], real_size)


def _old_sparse(header: bytes, entry: Entry, source: Source) -> Entry:
    """GNU's old format: four parts in the header, 21 in each block that follows."""
    numbers: list[int] = []
    real_size = _number(header[483:495])
    block, start, parts, more = header, 386, 4, header[482]
    while True:
        for index in range(parts):
            field = block[start + 24 * index : start + 24 * index + 24]
            if field[0] == 0:
                break
            numbers += [_number(field[:12]), _number(field[12:])]
        if not more:
            return _with_map(entry, numbers, real_size)
        if len(numbers) > 2 * MAX_SPARSE_PARTS:
            raise BadArchiveError("a sparse file has too many parts")
        block, start, parts = source.read(BLOCK), 0, 21
        more = block[504]


def _with_map(entry: Entry, numbers: list[int], real_size: int) -> Entry:
    parts = tuple(zip(numbers[::2], numbers[1::2], strict=False))
    end = 0
    for offset, length in parts:
        if offset < end:
            raise BadArchiveError("the parts of a sparse file overlap")
        end = offset + length
    if len(numbers) % 2 or end > real_size or sum(length for _, length in parts) != entry.size or len(parts) > MAX_SPARSE_PARTS:
        raise BadArchiveError("the map of a sparse file is damaged")
    return replace(entry, real_size=real_size, sparse=parts)


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise BadArchiveError("a pax header is damaged (a number)")
    return int(text)
