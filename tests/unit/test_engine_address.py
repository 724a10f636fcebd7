"""NAME@ID: a sandbox by its id, as long as it has that name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from unit.engine_world import ANN, World

from agentkernel.errors import NotFound
from agentkernel.model.record import CreateOptions


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    found = World(directory=tmp_path)
    yield found
    await found.end()


async def test_an_address_is_good_until_the_name_is_another_s(world: World) -> None:
    engine = world.engine()
    box = await engine.create(ANN, world.request(), CreateOptions(name="box", start=True))
    address = f"box@{box.sandbox_id}"
    assert (await engine.info(ANN, address)).sandbox_id == box.sandbox_id
    assert (await engine.open(ANN, address)).sandbox_id == box.sandbox_id
    await engine.rename(ANN, "box", "old")
    other = await engine.create(ANN, world.request(), CreateOptions(name="box", start=True))
    for gone in (address, "box@", f"box@{'0' * 16}", f"nobody@{other.sandbox_id}", f"@{other.sandbox_id}"):
        with pytest.raises(NotFound):
            await engine.open(ANN, gone)
    assert (await engine.open(ANN, f"{box.sandbox_id}@{box.sandbox_id}")).sandbox_id == box.sandbox_id
