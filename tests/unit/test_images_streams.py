"""Archives that are many compressed streams, one after the other: those of known tools are read, those of nothing end at once."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from registry_world import tar_of

from agentkernel import tarformat
from agentkernel.images import decompress, zstd
from agentkernel.images.decompress import Source
from agentkernel.images.layers import LayerUnpacker
from agentkernel.tarformat import FIRST_FEED_BYTES, STREAMS_FREE, BadArchiveError

EMPTY_FRAME = bytes.fromhex("28b52ffd2000010000")
SKIPPED_FRAME = bytes.fromhex("502a4d1800000000")
needs_zstd = pytest.mark.skipif(zstd.decompressor() is None, reason="needs libzstd")


class Counted(io.BytesIO):
    """Notes how much of it was read."""

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.count = getattr(self, "count", 0) + len(data)
        return data


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    made = tmp_path / "rootfs"
    made.mkdir()
    return made


def unpack(data: bytes, destination: Path) -> None:
    root = os.open(destination, os.O_RDONLY | os.O_DIRECTORY)
    try:
        LayerUnpacker(root).unpack(Source(io.BytesIO(data)))
    finally:
        os.close(root)


@pytest.mark.parametrize(
    ("kind", "empty"),
    [
        ("gzip", gzip.compress(b"")),
        ("gzip", gzip.compress(b"x")),
        ("bzip2", bz2.compress(b"")),
        ("xz", lzma.compress(b"")),
        pytest.param("zstd", EMPTY_FRAME, marks=needs_zstd),
        pytest.param("zstd", SKIPPED_FRAME, marks=needs_zstd),
    ],
)
def test_a_million_streams_of_nothing_end_at_once(kind: str, empty: bytes) -> None:
    """What is read of them is bounded, and so is the work for each."""
    raw = Counted(empty * 1_000_000)
    source = Source(raw)
    with pytest.raises(BadArchiveError, match=f"more than {STREAMS_FREE} {kind} streams that hold hardly anything"):
        source.drain()
    assert raw.count <= (STREAMS_FREE + 1) * len(empty) + decompress.CHUNK_BYTES


def test_no_archive_is_more_streams_than_any_tool_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarformat, "MAX_STREAMS", 10)
    with pytest.raises(BadArchiveError, match="more than 10 gzip streams"):
        Source(io.BytesIO(gzip.compress(b"x" * 1000) * 11)).drain()


def test_what_follows_a_stream_is_not_copied_for_each() -> None:
    """Short streams are fed by pieces of their own size, long ones by larger ones."""
    fed: list[int] = []

    class Noted(decompress._Gzip):
        def decompress(self, data: bytes, max_length: int = -1) -> bytes:
            fed.append(len(data))
            return super().decompress(data, max_length)

    source = Source(io.BytesIO(gzip.compress(random.Random(1).randbytes(2_000_000)) + gzip.compress(b"x" * 100) * 1000))
    source._fresh = Noted  # type: ignore[method-assign,assignment]
    source.skip(2_000_000 + 100_000)
    assert fed
    assert max(fed[-900:]) <= FIRST_FEED_BYTES


@pytest.mark.parametrize("stream_bytes", [512, 65_280], ids=["estargz", "bgzip"])
def test_a_layer_of_many_members_is_read(destination: Path, stream_bytes: int) -> None:
    """eStargz has a stream for each header and each file, with an empty one as footer; bgzip and `pigz -i` cut where they like."""
    layer = tar_of(*[(f"file-{number:05}", b"%d" % number) for number in range(6000)])
    data = b"".join(gzip.compress(layer[start : start + stream_bytes], 1) for start in range(0, len(layer), stream_bytes))
    unpack(data + gzip.compress(b""), destination)
    assert len(os.listdir(destination)) == 6000
    assert (destination / "file-05999").read_bytes() == b"5999"


@needs_zstd
@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs zstd(1)")
def test_a_layer_of_many_frames_is_read(destination: Path) -> None:
    """zstd:chunked has a frame for each file, and its table in a skipped one."""
    layer = tar_of(("noise", random.Random(2).randbytes(300_000)), ("text", b"text " * 100_000))
    pieces = [layer[start : start + 40_000] for start in range(0, len(layer), 40_000)]
    frames = [subprocess.run(["zstd", "-q", "-c"], input=piece, capture_output=True, check=True).stdout for piece in pieces]
    unpack(SKIPPED_FRAME.join(frames) + SKIPPED_FRAME, destination)
    assert (destination / "noise").read_bytes() == random.Random(2).randbytes(300_000)
    assert (destination / "text").read_bytes() == b"text " * 100_000


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_streams_are_read_wherever_they_are_cut(compress) -> None:
    """Zeros between them fill up; every cut falls somewhere else in what is fed."""
    chance = random.Random(3)
    content = [chance.randbytes(chance.choice([0, 1, 5000, 70_000, 600_000])) for _ in range(15)]
    data = b"".join(compress(each) + bytes(chance.choice([0, 1, 700])) for each in content)
    source = Source(io.BytesIO(data))
    whole = b"".join(iter(lambda: source.read_some(100_000), b""))
    assert whole == b"".join(content)


def test_what_is_behind_the_last_stream_is_no_archive() -> None:
    with pytest.raises(BadArchiveError, match="damaged"):
        Source(io.BytesIO(gzip.compress(bytes(tarfile.BLOCKSIZE)) + b"junk" * 10)).drain()
