"""Reads a tar archive as it comes: ustar, pax and GNU's long names, plain or compressed by gzip. Nothing in it is believed.

Headers are read by `agentkernel.tarformat`, as those of images are, whose reader is fed by a file and puts sparse files together: this one
waits for a client, and refuses those.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from agentkernel.errors import InvalidInput
from agentkernel.tarformat import BLOCK, FIRST_FEED_BYTES, OLD_SPARSE, BadArchiveError, Extensions, Header, Kind, Streams, parse_header

MAX_TRAILER_BYTES: Final = 1024 * 1024  # behind the end of the archive
PIECE_BYTES: Final = 256 * 1024
_GZIP: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 31  # zlib's number for gzip


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

    async def _inflated(self, data: bytes) -> AsyncGenerator[bytes, None]:
        inflater, streams, given = zlib.decompressobj(_GZIP_WINDOW), Streams("gzip"), 0
        place, feed = 0, FIRST_FEED_BYTES
        try:
            while data:
                if inflater.eof:
                    streams.another(given)  # one more stream behind the first
                    inflater, feed = zlib.decompressobj(_GZIP_WINDOW), FIRST_FEED_BYTES
                    await asyncio.sleep(0)  # each may hold next to nothing, and there may be many
                fed = data[place : place + feed]
                place, feed = place + len(fed), min(2 * feed, PIECE_BYTES)
                while made := inflater.decompress(fed, PIECE_BYTES):
                    given, fed = given + len(made), inflater.unconsumed_tail
                    yield made
                    await asyncio.sleep(0)  # little that came may be much: others have their turn
                place -= len(inflater.unused_data)
                if place == len(data):
                    data, place = await anext(self._pieces, b""), 0
        except zlib.error as error:
            raise InvalidInput(f"the archive is damaged: {error}") from None
        except BadArchiveError as error:
            raise InvalidInput(str(error)) from None
        if not inflater.eof:
            raise InvalidInput("the archive ends too early")


async def members(intake: Intake) -> AsyncGenerator[Member, None]:
    """The members in order. Behind each its consumer takes exactly `size` bytes of data; the padding is passed over here.

    Raises InvalidInput for what is damaged or not taken up.
    """
    extensions = Extensions()
    try:
        while (block := await intake.block()) is not None:
            header = parse_header(block)
            if header.is_extension:
                extensions.take(header, await intake.exactly(extensions.announced(header)))
                await intake.skip(header.padding)
                continue
            member = _member(*extensions.applied(header))
            padding = -member.size % BLOCK
            if member.kind is Kind.FILE and member.name.endswith(b"/"):  # a directory, as before POSIX
                await intake.skip(member.size)
                member = replace(member, kind=Kind.DIRECTORY, size=0)
            yield member
            await intake.skip(padding)
    except BadArchiveError as error:
        raise InvalidInput(str(error), hint=error.hint) from None


def _member(header: Header, records: Mapping[bytes, bytes]) -> Member:
    if header.kind is Kind.OTHER or header.flag == OLD_SPARSE or any(key.startswith(b"GNU.sparse") for key in records):
        raise InvalidInput(f"{header.name[:80]!r} is of a kind that is not taken up here", hint="make the archive without --sparse")
    return Member(name=header.name, kind=header.kind, mode=header.mode, size=header.size, link=header.link)
