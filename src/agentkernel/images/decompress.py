"""An archive's bytes as a stream, decompressed with limits. Imports only the standard library: it runs inside a sandbox."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol

from agentkernel.images import zstd
from agentkernel.tarformat import FIRST_FEED_BYTES, BadArchiveError, Streams

CHUNK_BYTES = 256 * 1024
MAX_RATIO = 250  # archives of file systems reach 10; 42.zip and its like reach a million
RATIO_FREE_BYTES = 64 * 1024 * 1024  # below this a high ratio does no harm
LZMA_MEMORY_BYTES = 256 * 1024 * 1024
MAX_TRAILING_BYTES = 64 * 1024 * 1024  # zeros after a tar archive's end: tar(1) fills up a record of 10 KiB, tapes had larger ones

ZSTD_MAGIC, ZSTD_SKIPPED, ZIP_MAGIC = b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18", b"PK\x03\x04"  # (RFC 8878: a skipped frame's first byte varies)


class _Decompressor(Protocol):
    """What bz2 and lzma offer, and zlib with a little help."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """zlib's decompressor, keeping the input that did not fit into the output."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        output = self._zlib.decompress(self._zlib.unconsumed_tail + data, max(max_length, 0))
        self.needs_input = len(output) < max_length  # a full output may leave more behind
        return output


class Source:
    """The archive's bytes, decompressed as they are asked for; never holds more than a chunk. `seen` gets each of them once, in order."""

    def __init__(self, raw: BinaryIO, seen: Callable[[bytes], None] = lambda _data: None) -> None:
        self._raw = raw
        self._seen = seen
        self._pending, self._used = raw.read(CHUNK_BYTES), 0  # compressed bytes that were read, and how many of them are used
        self._ready, self._place = b"", 0  # decompressed bytes, and how many of them are given out
        self._read = len(self._pending)
        self._given = 0
        self._kind = _compression(self._pending)
        self._decompressor: _Decompressor | None = None
        self._decompressor = self._fresh()
        self._feed_bytes = FIRST_FEED_BYTES
        self._streams = Streams(self._kind)

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes; raises BadArchiveError when the archive ends before."""
        parts = []
        while size:
            part = self.read_some(size)
            if not part:
                raise BadArchiveError("the archive is cut short")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def read_some(self, limit: int) -> bytes:
        """At least one and at most `limit` bytes; none at the archive's end."""
        if self._place == len(self._ready):
            self._ready, self._place = self._more(), 0
            self._seen(self._ready)
        part = self._ready[self._place : self._place + limit]
        self._place += len(part)
        return part

    def skip(self, size: int) -> None:
        """Discards `size` bytes."""
        while size:
            part = self.read_some(min(size, CHUNK_BYTES))
            if not part:
                raise BadArchiveError("the archive is cut short")
            size -= len(part)

    def drain(self) -> None:
        """Reads to the end, of which the archive does not need all; raises BadArchiveError where that is far."""
        left = MAX_TRAILING_BYTES
        while part := self.read_some(CHUNK_BYTES):
            left -= len(part)
            if left < 0:
                raise BadArchiveError(f"more than {MAX_TRAILING_BYTES} bytes follow the archive")

    def _fresh(self) -> _Decompressor | None:
        if self._kind == "gzip":
            return _Gzip()
        if self._kind == "bzip2":
            return bz2.BZ2Decompressor()
        if self._kind == "zstd":
            return _zstd(self._decompressor)
        return lzma.LZMADecompressor(memlimit=LZMA_MEMORY_BYTES) if self._kind == "xz" else None

    def _more(self) -> bytes:
        """The next bytes; none at the end."""
        while True:
            decompressor = self._decompressor
            wants = decompressor is None or decompressor.eof or decompressor.needs_input
            if wants and self._used == len(self._pending) and not self._refill():
                if decompressor is not None and not decompressor.eof:
                    raise BadArchiveError(f"the {self._kind} stream is cut short")
                return b""
            if decompressor is None:
                data, self._used = self._pending[self._used :], len(self._pending)
            elif decompressor.eof:  # archives may be several streams, one after the other
                data = self._next_stream()
            else:
                data = self._decompressed(decompressor, self._fed() if wants else b"")
            if data:
                return data

    def _refill(self) -> bool:
        """Whether there are more compressed bytes."""
        self._pending, self._used = self._raw.read(CHUNK_BYTES), 0
        self._read += len(self._pending)
        return bool(self._pending)

    def _fed(self) -> bytes:
        """The next compressed bytes, more of them the longer the stream is."""
        data = self._pending[self._used : self._used + self._feed_bytes]
        self._used += len(data)
        self._feed_bytes = min(2 * self._feed_bytes, CHUNK_BYTES)
        return data

    def _next_stream(self) -> bytes:
        """The first bytes of the next stream, behind zeros that fill up; none if there is none in what was read."""
        self._feed_bytes = FIRST_FEED_BYTES
        data = self._fed().lstrip(b"\0")
        if not data:
            return b""
        self._streams.another(self._given)
        fresh = self._decompressor = self._fresh()
        return self._decompressed(fresh, data) if fresh is not None else b""

    def _decompressed(self, decompressor: _Decompressor, data: bytes) -> bytes:
        try:
            output = decompressor.decompress(data, CHUNK_BYTES)
        except (zlib.error, lzma.LZMAError, zstd.ZstdError, OSError, ValueError, EOFError) as error:
            raise BadArchiveError(f"the {self._kind} stream is damaged: {error}") from None
        if decompressor.eof:
            self._used -= len(decompressor.unused_data)  # the end of what was fed last
        self._given += len(output)
        if self._given > RATIO_FREE_BYTES and self._given > MAX_RATIO * self._read:
            raise BadArchiveError(f"the archive unpacks to more than {MAX_RATIO} times its size: it is a decompression bomb")
        return output


def _zstd(last: _Decompressor | None) -> _Decompressor:
    if isinstance(last, zstd.Decompressor):
        last.again()
        return last
    decompressor = zstd.decompressor()
    if decompressor is None:
        raise BadArchiveError(
            "the archive is compressed with zstd, and libzstd is missing", "install the package libzstd1 (Debian) or zstd-libs (Alpine)"
        )
    return decompressor


def _compression(head: bytes) -> str:
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"BZh"):
        return "bzip2"
    if head.startswith(b"\xfd7zXZ\0"):
        return "xz"
    if head.startswith(ZSTD_MAGIC) or (head[1:4] == ZSTD_SKIPPED and head[0] & 0xF0 == 0x50):
        return "zstd"
    if head.startswith(ZIP_MAGIC):
        raise BadArchiveError("this is a zip file, not a tar archive")
    return "plain"
