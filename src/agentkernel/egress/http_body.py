"""Where a message's body ends, and its bytes on their way: read in one framing, written in another, never kept."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, NamedTuple

from agentkernel.egress.http_fields import BadMessage, Fields, parse_fields, values

LINE_LIMIT: Final = 1024  # bytes of a chunk's size and extensions
EXTENSIONS_LIMIT: Final = 16384  # bytes of extensions of all chunks: they are dropped, and nobody may make work of them
TRAILER_LIMIT: Final = 8192

_LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(;[\t\x20-\x7e]*)?")


class Kind(StrEnum):
    """How a body's end is known."""

    NONE = "none"  # there is none
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"  # of a response: with the connection


class Framing(NamedTuple):
    """A kind, and the number of bytes where that is known."""

    kind: Kind
    length: int = 0

    @property
    def fields(self) -> bytes:
        """The head's line that says so."""
        if self.kind is Kind.LENGTH:
            return b"Content-Length: %d\r\n" % self.length
        return b"Transfer-Encoding: chunked\r\n" if self.kind is Kind.CHUNKED else b""


def declared_framing(fields: Fields, minor: int) -> Framing:
    """What Content-Length or Transfer-Encoding declare of an HTTP/1.`minor` message; NONE where neither stands.

    Raises:
        BadMessage: they stand together, repeatedly, or say what not everybody reads alike.
    """
    codings, lengths = values(fields, b"transfer-encoding"), values(fields, b"content-length")
    if codings and lengths:
        raise BadMessage("Content-Length and Transfer-Encoding contradict each other")
    if codings:
        if minor == 0:
            raise BadMessage("HTTP/1.0 has no Transfer-Encoding")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise BadMessage("Transfer-Encoding may be `chunked` and nothing else", 501)
        return Framing(Kind.CHUNKED)
    if not lengths:
        return Framing(Kind.NONE)
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise BadMessage("Content-Length is one decimal number")
    return Framing(Kind.LENGTH, int(lengths[0]))


class BodyReader:
    """Takes a body out of its framing as it comes. Keeps at most one line of chunked framing."""

    def __init__(self, framing: Framing) -> None:
        self.done = framing.kind is Kind.NONE or framing == (Kind.LENGTH, 0)
        self.rest = b""  # what came after the end
        self._kind = framing.kind
        self._left = framing.length  # of the body, or of the chunk that is being read
        self._chunks = _Chunks() if framing.kind is Kind.CHUNKED else None

    def feed(self, data: bytes | memoryview) -> list[memoryview]:
        """The payload in `data`, in order; the pieces are parts of it where the framing is not chunked. What follows is added to `rest`.

        Raises:
            BadMessage: the framing is broken; pieces of this call are lost, and nothing more can be read.
        """
        if self.done:
            self.rest += data
            return []
        if self._chunks is not None:
            pieces, used = self._chunks.feed(bytes(data))
            self.done = self._chunks.done
        else:
            used = len(data) if self._kind is Kind.CLOSE else min(self._left, len(data))
            self._left -= used
            self.done = self._kind is Kind.LENGTH and not self._left
            pieces = [memoryview(data)[:used]] if used else []
        if self.done:
            self.rest = bytes(data[used:])
        return pieces

    def end(self) -> None:
        """The connection has ended: raises BadMessage where that cuts the body off."""
        if not self.done and self._kind is not Kind.CLOSE:
            raise BadMessage("the connection ended in the middle of a body")
        self.done = True


class _Chunks:
    """Chunked framing: `size CRLF data CRLF ... 0 CRLF trailers CRLF`."""

    def __init__(self) -> None:
        self.done = False
        self._left = 0  # bytes of the chunk
        self._ends_chunk = False  # the line that is read is the empty one after a chunk's data
        self._is_trailer = False
        self._line = bytearray()  # a line that has not come whole
        self._extensions = 0
        self._trailer = 0
        self._trailer_lines: list[bytes] = []

    def feed(self, data: bytes) -> tuple[list[memoryview], int]:
        """The payload, and how many bytes belonged to the body."""
        view = memoryview(data)
        pieces: list[memoryview] = []
        at = 0
        while at < len(data) and not self.done:
            if self._left:
                taken = min(self._left, len(data) - at)
                pieces.append(view[at : at + taken])
                self._left -= taken
                self._ends_chunk = not self._left
                at += taken
            else:
                at = self._read_line(data, at)
        return pieces, at

    def _read_line(self, data: bytes, at: int) -> int:
        limit = 2 if self._ends_chunk else TRAILER_LIMIT if self._is_trailer else LINE_LIMIT
        end = data.find(b"\n", at, at + limit)
        if end < 0:
            self._line += data[at : at + limit]
            if len(self._line) >= limit:
                raise BadMessage("a line of chunked framing is too long")
            return len(data)
        self._line += data[at : end + 1]
        line = bytes(self._line)
        self._line.clear()
        if len(line) > limit:
            raise BadMessage("a line of chunked framing is too long")
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            raise BadMessage("a line of chunked framing does not end with CR LF")
        self._take_line(line[:-2])
        return end + 1

    def _take_line(self, line: bytes) -> None:
        if self._ends_chunk:
            if line:
                raise BadMessage("a chunk is longer than its size")
            self._ends_chunk = False
        elif self._is_trailer:
            self._take_trailer(line)
        else:
            self._take_size(line)

    def _take_size(self, line: bytes) -> None:
        found = _SIZE.fullmatch(line)
        if found is None:
            raise BadMessage("a chunk's size is a hexadecimal number")
        self._extensions += len(found[2] or b"")
        if self._extensions > EXTENSIONS_LIMIT:
            raise BadMessage("there are too many chunk extensions")
        self._left = int(found[1], 16)
        self._is_trailer = not self._left

    def _take_trailer(self, line: bytes) -> None:
        self._trailer += len(line) + 2
        if self._trailer > TRAILER_LIMIT:
            raise BadMessage("the trailer is too long", 431)
        if line:
            self._trailer_lines.append(line)
            return
        parse_fields(self._trailer_lines)  # dropped, but nothing that is none is passed over
        self.done = True


def framed(kind: Kind, piece: bytes | memoryview) -> bytes | memoryview:
    """A piece of payload as it is written in that framing; an empty one writes nothing."""
    return b"".join((b"%x\r\n" % len(piece), piece, b"\r\n")) if kind is Kind.CHUNKED and len(piece) else piece


def last_piece(kind: Kind) -> bytes:
    """What ends a body in that framing."""
    return b"0\r\n\r\n" if kind is Kind.CHUNKED else b""
