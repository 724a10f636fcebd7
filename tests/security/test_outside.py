"""Controls: without a sandbox every program does its harm, to what the test planted; so it proves something when it fails inside."""

from __future__ import annotations

import pytest
from security.catalogue import Program, programs
from security.outside import run_outside
from security.planted import Planted

TRIED = [program for program in programs() if program.control != "none"]


@pytest.mark.parametrize("program", TRIED, ids=lambda program: program.name)
async def test_without_a_sandbox_the_oracle_finds(program: Program, planted: Planted) -> None:
    found, output = await run_outside(program, planted)
    if not found and b"absent: " in output:
        pytest.skip(f"this host has nothing to attack: {output.decode(errors='replace').strip()[:200]}")
    assert found, f"the program does no harm, so it proves nothing; it said {output[-500:]!r}"
