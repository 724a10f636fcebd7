"""Reads a tar archive as a stream, with sparse files put together.

Written by hand because tarfile reads extended headers of any size into memory, and its rules differ between Python versions
(CVE-2019-20907, CVE-2025-8194). Imports nothing but the standard library: it runs inside a sandbox, where hostile bytes belong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from agentkernel.images.decompress import Source
from agentkernel.owners import NOBODY, RANGE_SIZE
from agentkernel.tarformat import BLOCK, OLD_SPARSE, BadArchiveError, Extensions, Header, Kind, decimal, number, parse_header

MAX_SPARSE_PARTS = 100_000


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
    owner: tuple[int, int] = (0, 0)  # uid and gid


def entries(source: Source) -> Iterator[Entry]:
    """The entries in order. After each, its consumer reads exactly `entry.size` bytes of data; the padding is skipped here."""
    extensions = Extensions()
    while (block := _next_block(source)) is not None:
        header = parse_header(block)
        if header.is_extension:
            extensions.take(header, source.read(extensions.announced(header)))
            source.skip(header.padding)
            continue
        parts = _old_sparse(header, source) if header.flag == OLD_SPARSE else None
        header, records = extensions.applied(header)
        entry = _entry(header, records)
        if entry.kind is Kind.FILE:
            entry = _with_map(entry, *parts) if parts is not None else _extend(entry, records, source)
        if entry.kind is Kind.FILE and header.flag in b"0\0" and entry.name.endswith(b"/"):  # (its whole name: a header may hold a part)
            entry = replace(entry, kind=Kind.DIRECTORY, size=0)  # as before POSIX
        yield entry
        source.skip(-entry.size % BLOCK)


def _next_block(source: Source) -> bytes | None:
    """The next header block; None at the end, which is a block of zeros, or the end of the file."""
    first = source.read_some(BLOCK)
    if not first:
        return None
    block = first + (source.read(BLOCK - len(first)) if len(first) < BLOCK else b"")
    return None if block == bytes(BLOCK) else block


def _entry(header: Header, records: Mapping[bytes, bytes]) -> Entry:
    modified = records.get(b"mtime")
    return Entry(
        name=header.name,
        kind=header.kind,
        mode=header.mode,
        size=header.size,
        real_size=header.size,
        modified_s=number(header.block[136:148]) if modified is None else decimal(modified.lstrip(b"-").split(b".", 1)[0]),
        link=header.link,
        owner=(_id(b"uid", header.block[108:116], records), _id(b"gid", header.block[116:124], records)),
    )


def _id(name: bytes, field: bytes, records: Mapping[bytes, bytes]) -> int:
    """One that no sandbox has, or that is no number, is nobody's: nothing else depends on it."""
    try:
        found = decimal(records[name]) if name in records else number(field)
    except BadArchiveError:
        return NOBODY
    return found if found < RANGE_SIZE else NOBODY


def _extend(entry: Entry, records: Mapping[bytes, bytes], source: Source) -> Entry:
    """The file with what its pax headers say of its parts."""
    if records.get(b"GNU.sparse.major") == b"1":
        return _new_sparse(entry, decimal(records.get(b"GNU.sparse.realsize", b"")), source)
    if b"GNU.sparse.map" in records:
        numbers = [decimal(value) for value in records[b"GNU.sparse.map"].split(b",") if value]
        return _with_map(entry, numbers, decimal(records.get(b"GNU.sparse.realsize", records.get(b"GNU.sparse.size", b""))))
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
        numbers.append(decimal(line))
        if len(numbers) == 1:
            wanted = 1 + 2 * numbers[0]
            if numbers[0] > MAX_SPARSE_PARTS:
                raise BadArchiveError("a sparse file has too many parts")
    if used > entry.size:
        raise BadArchiveError("the map of a sparse file is damaged")
    return _with_map(replace(entry, size=entry.size - used), numbers[1:], real_size)


def _old_sparse(header: Header, source: Source) -> tuple[list[int], int]:
    """GNU's old format: four parts in the header, 21 in each block that follows; returns their numbers, and the file's size."""
    numbers: list[int] = []
    real_size = number(header.block[483:495])
    block, start, parts, more = header.block, 386, 4, header.block[482]
    while True:
        for index in range(parts):
            field = block[start + 24 * index : start + 24 * index + 24]
            if field[0] == 0:
                break
            numbers += [number(field[:12]), number(field[12:])]
        if not more:
            return numbers, real_size
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
