"""Lets one hostile program loose in a sandbox of a backend and holds it to the program's claim; the same for every backend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from security.catalogue import Program
from security.inside import Attack
from security.oracle import Oracle
from security.planted import Planted

from agentkernel.abc import Backend
from agentkernel.model.spec import SandboxSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """What a test of this kind needs of the host."""

    state_directory: Path  # the backend's own, and the only temporary files of the test
    planted: Planted
    guest: Path
    limits_missing: str

    async def holds(self, program: Program, backend: Backend, base: SandboxSpec, *own: str) -> None:
        """Fails with what was found. `own`: directories of the backend beneath its state in which nothing may be left."""
        if program.bomb and self.limits_missing:
            pytest.skip(f"bombs need limits of the test's own: {self.limits_missing}")
        oracle = Oracle(planted=self.planted, guest=self.guest, directories=[self.state_directory / name for name in own])
        attack = Attack(program=program, planted=self.planted, backend=backend, base=base, oracle=oracle)
        found = await attack.run()
        assert found == [], f"{program.claim}: {found}; {program.path.name} said {attack.output[-800:]!r}"
