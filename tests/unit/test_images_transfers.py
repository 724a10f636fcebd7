"""Transfers that are hardly any: what comes too slowly, or takes too long, is given up, and what has come is kept."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentkernel.assembly import image_limits
from agentkernel.errors import ImageFailed
from agentkernel.images import transfers
from agentkernel.images.blobs import Blobs
from agentkernel.images.manifest import Descriptor
from agentkernel.images.transfers import BrokenTransfer, Pace, Transfer
from agentkernel.model.image import ImageLimits

DATA = b"0123456789" * 100
LAYER = Descriptor(media_type="", digest=f"sha256:{hashlib.sha256(DATA).hexdigest()}", size_bytes=len(DATA))


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "WINDOW_S", 0.2)
    monkeypatch.setattr(transfers, "FIRST_PAUSE_S", 0.001)


class Dripping:
    """A registry that gives `drop` bytes of each request, and then nothing more, or ends the connection."""

    def __init__(self, drop: int, *, ends: bool = False) -> None:
        self.drop = drop
        self.ends = ends
        self.offsets: list[int] = []

    @asynccontextmanager
    async def fetch(self, descriptor: Descriptor, offset: int) -> AsyncIterator[Transfer]:
        self.offsets.append(offset)
        yield Transfer(offset=offset, chunks=self.chunks(offset))

    async def chunks(self, offset: int) -> AsyncIterator[bytes]:
        yield DATA[offset : offset + self.drop]
        if self.ends:
            raise BrokenTransfer("the connection was lost")
        if offset + self.drop < len(DATA):
            await asyncio.Event().wait()


async def test_what_drips_is_given_up_and_kept(tmp_path: Path) -> None:
    slow = Dripping(10)
    with pytest.raises(ImageFailed, match=r"comes too slowly: less than .* in 200ms") as caught:
        await Blobs(str(tmp_path), least_bytes_per_s=1000).receive(LAYER, slow.fetch)
    assert "10 of 1000 bytes are here" in caught.value.hint
    assert "images.least_rate" in caught.value.hint
    whole = Dripping(len(DATA))
    await Blobs(str(tmp_path)).receive(LAYER, whole.fetch)
    assert whole.offsets == [10]


async def test_what_breaks_off_after_every_byte_is_given_up(tmp_path: Path) -> None:
    """Each attempt brings something, and none of them much."""
    broken = Dripping(1, ends=True)
    with pytest.raises(ImageFailed, match="comes too slowly"):
        await Blobs(str(tmp_path)).paced(1_000_000).receive(LAYER, broken.fetch)
    assert broken.offsets == list(range(len(broken.offsets)))


async def test_what_comes_fast_enough_has_one_window_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "WINDOW_S", 100.0)
    pace = Pace(10)
    async with pace.limit as limit:
        first = limit.when()
        assert first is not None
        monkeypatch.setattr(transfers, "WINDOW_S", 900.0)
        pace.came(999)
        assert limit.when() == first
        pace.came(1)
        assert (limit.when() or 0.0) > first + 700


def test_the_users_file_says_how_slow_it_may_be(tmp_path: Path) -> None:
    file = tmp_path / ".config/agentkernel/config.toml"
    file.parent.mkdir(parents=True)
    file.write_text('[images]\ntimeout = "10m"\nleast_rate = "10KiB"\n')
    assert image_limits({"HOME": str(tmp_path)}) == ImageLimits(work_s=600.0, least_bytes_per_s=10240)
    file.write_text("")
    assert image_limits({"HOME": str(tmp_path)}) == ImageLimits()
