"""Archives that are small to send and large to read: what they say of themselves is not piled up, and nobody waits for them."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import random
import tarfile
from collections.abc import AsyncIterator

import pytest

from agentkernel import tarformat
from agentkernel.api.streams import tarread
from agentkernel.api.streams.tarread import Intake, members
from agentkernel.errors import InvalidInput

END = bytes(2 * tarfile.BLOCKSIZE)


def header(kind: bytes, data: bytes = b"", name: str = "x") -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = kind, len(data)
    return entry.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:
        length += 1
    return str(length).encode() + rest


async def pieces(*each: bytes) -> AsyncIterator[bytes]:
    for piece in each:
        yield piece


async def names(archive: bytes) -> list[bytes]:
    return [member.name async for member in members(Intake(pieces(archive)))]


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
@pytest.mark.parametrize("is_compressed", [False, True])
async def test_headers_without_a_member_are_not_taken_for_ever(kind: bytes, is_compressed: bool) -> None:
    many = b"".join(header(kind, record(b"comment%d" % number, b"x" * 400_000)) for number in range(3)) + END
    with pytest.raises(InvalidInput, match="before one member"):
        await names(gzip.compress(many) if is_compressed else many)


async def test_headers_without_anything_in_them_are_not_either() -> None:
    with pytest.raises(InvalidInput, match="before one member"):
        await names(header(b"x") * (tarformat.MAX_EXTENSION_BYTES // tarformat.BLOCK + 1) + END)


async def test_each_member_may_have_its_own() -> None:
    one = header(b"x", record(b"comment", b"x" * 400_000)) + header(b"x", record(b"path", b"long")) + header(b"5")
    assert await names(one * 4 + END) == [b"long"] * 4


async def test_a_million_streams_of_nothing_end_at_once() -> None:
    with pytest.raises(InvalidInput, match=f"more than {tarformat.STREAMS_FREE} gzip streams"):
        await names(gzip.compress(b"") * 1_000_000)


@pytest.mark.parametrize("piece_bytes", [700, 5000, 1 << 20])
async def test_streams_one_after_the_other_are_one_archive(piece_bytes: int) -> None:
    chance = random.Random(4)
    content = b"".join(header(b"0", chance.randbytes(chance.choice([0, 3, 40_000])), f"file-{number}") for number in range(60)) + END
    cuts = sorted({0, len(content), *(chance.randrange(len(content)) for _ in range(30))})
    data = b"".join(gzip.compress(content[start:end]) for start, end in itertools.pairwise(cuts))
    intake = Intake(pieces(*(data[start : start + piece_bytes] for start in range(0, len(data), piece_bytes))))
    found = []
    async for member in members(intake):
        await intake.skip(member.size)
        found.append(member.name)
    await intake.finish()
    assert found == [b"file-%d" % number for number in range(60)]


async def test_others_have_their_turn_while_little_becomes_much() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    many = header(b"3") * 8192 + END
    beside = asyncio.create_task(others())
    assert len(await names(gzip.compress(many))) == 8192
    beside.cancel()
    assert turns >= len(many) // tarread.PIECE_BYTES
