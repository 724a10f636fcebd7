"""Controls: without a sandbox every program does its harm, to what the test planted; so it proves something when it fails inside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from security.catalogue import Program, programs
from security.outside import run_outside
from security.planted import Planted, plant

TRIED = [program for program in programs() if program.control != "none"]


@pytest.fixture(scope="module")
def prey(planted: Planted, hostile: Path) -> Iterator[Planted]:
    """Planted for these alone: they kill what they find, which the programs in sandboxes are to find alive."""
    del planted  # which has orphans adopted
    with plant(hostile) as found:
        yield found


@pytest.mark.parametrize("program", TRIED, ids=lambda program: program.name)
async def test_without_a_sandbox_the_oracle_finds(program: Program, prey: Planted) -> None:
    found, output = await run_outside(program, prey)
    if not found and b"absent: " in output:
        pytest.skip(f"this host has nothing to attack: {output.decode(errors='replace').strip()[:200]}")
    assert found, f"the program does no harm, so it proves nothing; it said {output[-500:]!r}"
