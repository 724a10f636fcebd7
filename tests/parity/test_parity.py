"""The same scenarios through every front of the SDK: the engine in process, the daemon's client and a server's, async and from threads."""

from __future__ import annotations

from pathlib import Path

import pytest
from parity import image_scenarios, network_scenarios
from parity.fronts import open_front
from parity.scenarios import SCENARIOS, Scenario

assert network_scenarios.__doc__ and image_scenarios.__doc__  # importing them has put their scenarios into the list
FRONTS = ("async-local", "sync-local", "async-daemon", "sync-daemon", "async-remote")
NOT_ELSEWHERE = {  # and why
    "an_archive_is_imported_and_pruned": "an archive of this machine is none of the server's",
    "what_cannot_be_had_is_refused_before_anything_is_done": "a mount of this machine is `unsupported` there, before any policy is asked",
}
OF_THE_HOST = {"rules_are_shown_and_changed_while_it_runs", "attempts_go_by_the_rules_and_are_told"}  # they open networks of the host
PLAYED = [
    (scenario, front) for scenario in SCENARIOS for front in FRONTS if front != "async-remote" or scenario.__name__ not in NOT_ELSEWHERE
]


@pytest.mark.parametrize(("scenario", "front"), PLAYED, ids=lambda value: value if isinstance(value, str) else value.__name__)
async def test_a_scenario(scenario: Scenario, front: str, home: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    there = "elsewhere_with_host" if scenario.__name__ in OF_THE_HOST else "elsewhere"
    elsewhere = request.getfixturevalue(there) if front == "async-remote" else None
    async with open_front(front, elsewhere) as client:
        await scenario(client, tmp_path)


def test_who_is_left_out_is_a_scenario() -> None:
    assert NOT_ELSEWHERE.keys() | OF_THE_HOST <= {scenario.__name__ for scenario in SCENARIOS}
