"""The same scenarios through every front: the engine in process and the daemon's client, async and from threads."""

from __future__ import annotations

from pathlib import Path

import pytest
from parity import image_scenarios, network_scenarios
from parity.fronts import open_front
from parity.scenarios import SCENARIOS, Scenario

assert network_scenarios.__doc__ and image_scenarios.__doc__  # importing them has put their scenarios into the list
FRONTS = ("async-local", "sync-local", "async-daemon", "sync-daemon")


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_a_scenario(scenario: Scenario, front: str, home: Path, tmp_path: Path) -> None:
    async with open_front(front) as client:
        await scenario(client, tmp_path)
