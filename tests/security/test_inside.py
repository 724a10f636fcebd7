"""The hostile programs in sandboxes of the namespaces backend: nothing of the host is read, changed, slowed or left dirty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance.directories import own_temporary_directory
from conformance.roots import ENVIRONMENT, host_root
from security.catalogue import Program, programs
from security.inside import Attack
from security.oracle import Oracle
from security.outside import HOST_TOKEN
from security.planted import Planted

from agentkernel.abc import Backend
from agentkernel.backends.namespaces.backend import NamespacesBackend
from agentkernel.model.spec import SandboxSpec

BASE = SandboxSpec(name="security", profile="moderate", root=host_root(), environment=ENVIRONMENT)


@pytest.fixture
def state_directory(limits_missing: str, planted: Planted) -> Iterator[Path]:
    """The backend's own state, and the only temporary files of the test."""
    with own_temporary_directory() as directory:
        state = directory / "s"
        state.mkdir(mode=0o711)
        yield state


@pytest.fixture
async def backend(state_directory: Path, guest: Path) -> Backend:
    """Ready, with everything made that it makes once."""
    made = NamespacesBackend(state_directory)
    fingerprint = await made.probe()
    if not fingerprint.ready:
        pytest.skip(f"the namespaces backend is not ready on this host: {fingerprint.reason}")
    return made


@pytest.mark.parametrize("program", programs(), ids=lambda program: program.name)
async def test_in_a_sandbox(
    program: Program,
    backend: Backend,
    planted: Planted,
    guest: Path,
    state_directory: Path,
    limits_missing: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if program.bomb and limits_missing:
        pytest.skip(f"bombs need limits of the test's own: {limits_missing}")
    monkeypatch.setenv(HOST_TOKEN, planted.secret)
    oracle = Oracle(planted=planted, guest=guest, directories=[state_directory / name for name in ("sandboxes", "ranges", "mount")])
    attack = Attack(program=program, planted=planted, backend=backend, base=BASE, oracle=oracle)
    found = await attack.run()
    assert found == [], f"{program.claim}: {program.path.name} said {attack.output[-800:]!r}"
