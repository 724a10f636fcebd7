"""Reads a tar archive as it comes: ustar, pax and GNU's long names, plain or compressed by gzip. Nothing in it is believed.

Not the one of images, whose reader is fed by a file and puts sparse files together: this one waits for a client, and refuses those.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from agentkernel.errors import InvalidInput

BLOCK: Final = 512
MAX_EXTENSION_BYTES: Final = 1024 * 1024  # of all the headers before one member: pax headers and GNU's long names
MAX_TRAILER_BYTES: Final = 1024 * 1024  # behind the end of the archive
PIECE_BYTES: Final = 256 * 1024
_GZIP: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 31  # zlib's number for gzip


class Kind(Enum):
    """What a member is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARD_LINK = "hard link"
    SPECIAL = "device or FIFO"


_KINDS: Final = {
    b"0": Kind.FILE, b"\0": Kind.FILE, b"7": Kind.FILE, b"1": Kind.HARD_LINK, b"2": Kind.SYMLINK, b"3": Kind.SPECIAL, b"4": Kind.SPECIAL,
    b"5": Kind.DIRECTORY, b"6": Kind.SPECIAL,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member; names are bytes as they are. `size` bytes of data follow."""

    name: bytes
    kind: Kind
    mode: int
    size: int
    link: bytes = b""


class Intake:
    """The bytes of a body, taken as they are wanted; a compressed one is never unpacked further than that."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._buffer = b""
        self._inflating: AsyncGenerator[bytes, None] | None = None
        self._begun = False

    async def exactly(self, size: int) -> bytes:
        """So many bytes; raises InvalidInput where the body ends before."""
        found = bytearray()
        async for piece in self.data(size):
            found += piece
        return bytes(found)

    async def data(self, size: int) -> AsyncGenerator[bytes, None]:
        """So many bytes, in pieces; raises InvalidInput where the body ends before."""
        while size:
            if not self._buffer and not await self._more():
                raise InvalidInput("the archive ends too early")
            piece, self._buffer = self._buffer[:size], self._buffer[size:]
            size -= len(piece)
            yield piece

    async def skip(self, size: int) -> None:
        """Passes over so many bytes."""
        async for _ in self.data(size):
            pass

    async def block(self) -> bytes | None:
        """The next header; None at the end of the archive, which is a block of zeros or the end of the body."""
        if not self._buffer and not await self._more():
            return None
        block = await self.exactly(BLOCK)
        return None if block == bytes(BLOCK) else block

    async def finish(self) -> None:
        """Takes what is behind the end of the archive."""
        left = MAX_TRAILER_BYTES
        while await self._more():
            left -= len(self._buffer)
            self._buffer = b""
            if left < 0:
                raise InvalidInput("something else is behind the end of the archive")

    async def _more(self) -> bool:
        if not self._begun:
            self._begun = True
            while len(self._buffer) < len(_GZIP) and (piece := await anext(self._pieces, b"")):
                self._buffer += piece
            if self._buffer.startswith(_GZIP):
                self._inflating = self._inflated(self._buffer)
                self._buffer = b""
        if not self._buffer:
            source: AsyncIterator[bytes] = self._inflating or self._pieces
            self._buffer = await anext(source, b"")
        return bool(self._buffer)

    async def _inflated(self, first: bytes) -> AsyncGenerator[bytes, None]:
        inflater, data = zlib.decompressobj(_GZIP_WINDOW), first
        try:
            while data or (data := await anext(self._pieces, b"")):
                if inflater.eof:
                    inflater = zlib.decompressobj(_GZIP_WINDOW)  # one more stream behind the first
                if made := inflater.decompress(data, PIECE_BYTES):
                    yield made
                    await asyncio.sleep(0)  # little that came may be much: others have their turn
                data = inflater.unconsumed_tail or inflater.unused_data
        except zlib.error as error:
            raise InvalidInput(f"the archive is damaged: {error}") from None
        if not inflater.eof:
            raise InvalidInput("the archive ends too early")


async def members(intake: Intake) -> AsyncGenerator[Member, None]:
    """The members in order. Behind each its consumer takes exactly `size` bytes of data; the padding is passed over here."""
    extended: dict[bytes, bytes] = {}
    extension_bytes = 0  # since the last member
    while (header := await intake.block()) is not None:
        member, flag = _header(header)
        if flag in (b"x", b"L", b"K", b"g"):
            extension_bytes += BLOCK + member.size
            if extension_bytes > MAX_EXTENSION_BYTES:
                raise InvalidInput(f"extended headers of the archive have {extension_bytes} bytes before one member")
            data = await intake.exactly(member.size)
            await intake.skip(-member.size % BLOCK)
            if flag == b"x":
                extended |= _pax(data)
            elif flag != b"g":  # of global headers nothing says what a file is
                extended[b"path" if flag == b"L" else b"linkpath"] = data.split(b"\0", 1)[0]
            continue
        if flag not in _KINDS or any(key.startswith(b"GNU.sparse") for key in extended):
            raise InvalidInput(f"{member.name[:80]!r} is of a kind that is not taken up here", hint="make the archive without --sparse")
        member, extended, extension_bytes = _extend(member, extended), {}, 0
        padding = -member.size % BLOCK
        if member.kind is Kind.FILE and member.name.endswith(b"/"):  # a directory, as before POSIX
            await intake.skip(member.size)
            member = replace(member, kind=Kind.DIRECTORY, size=0)
        yield member
        await intake.skip(padding)


def _header(block: bytes) -> tuple[Member, bytes]:
    if _number(block[148:156]) != sum(block[:148]) + sum(block[156:]) + 8 * 32:
        raise InvalidInput("this is no tar archive, or it is damaged (a checksum is wrong)")
    name, flag = block[:100].split(b"\0", 1)[0], block[156:157]
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].split(b"\0", 1)[0]):
        name = prefix + b"/" + name
    kind = _KINDS.get(flag, Kind.FILE)
    return Member(
        name=name,
        kind=kind,
        mode=_number(block[100:108]) & 0o7777,
        size=_number(block[124:136]) if kind is Kind.FILE else 0,
        link=block[157:257].split(b"\0", 1)[0],
    ), flag


def _number(field: bytes) -> int:
    """Octal digits, or base 256 where the first bit is set; never negative."""
    if field[0] & 0x80:
        if field[0] & 0x40:
            raise InvalidInput("a header of the archive holds a negative number")
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise InvalidInput("this is no tar archive, or it is damaged (a number is not octal)")
    return int(digits, 8) if digits else 0


def _pax(data: bytes) -> dict[bytes, bytes]:
    """Records `length key=value\\n`; each length must be true."""
    found: dict[bytes, bytes] = {}
    start = 0
    while start < len(data):
        digits, space, _ = data[start : start + 20].partition(b" ")
        end = start + (int(digits) if digits.isdigit() else 0)
        key, equals, value = data[start + len(digits) + 1 : end].partition(b"=")
        if not space or not equals or not value.endswith(b"\n") or end > len(data):
            raise InvalidInput("an extended header of the archive is damaged")
        found[key] = value[:-1]
        start = end
    return found


def _extend(member: Member, extended: dict[bytes, bytes]) -> Member:
    """The member with what its extended headers say."""
    member = replace(member, name=extended.get(b"path", member.name), link=extended.get(b"linkpath", member.link))
    size = extended.get(b"size")
    if size is not None and member.kind is Kind.FILE:
        if not size.isdigit() or len(size) > 19:
            raise InvalidInput("an extended header of the archive is damaged (a number)")
        member = replace(member, size=int(size))
    return member
