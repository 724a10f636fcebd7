"""The planted host, the compiled programs and the outer limits, once per run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance.directories import own_temporary_directory
from security.catalogue import compile_programs
from security.guard import outer_limits
from security.inside_suite import Suite
from security.outside import HOST_TOKEN
from security.planted import Planted, plant

from agentkernel.testing.host import adopting_orphans


@pytest.fixture(scope="session")
def limits_missing() -> Iterator[str]:
    """Why bombs cannot be tried here; empty when the outer limits hold."""
    with outer_limits() as missing:
        yield missing


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled programs."""
    found = compile_programs(tmp_path_factory.mktemp("hostile"))
    if found is None:
        pytest.skip("this host has no C compiler for the hostile programs")
    return found


@pytest.fixture(scope="session")
def planted(hostile: Path, limits_missing: str) -> Iterator[Planted]:
    """Everything that the programs could find on the host."""
    with adopting_orphans(), plant(hostile) as found:
        yield found


@pytest.fixture(scope="session")
def guest(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The guest of this tree, as every backend of the run uses it."""
    with pytest.MonkeyPatch.context() as patch:
        if "AGENTKERNEL_GUEST" not in os.environ:
            patch.setenv("AGENTKERNEL_GUEST", str(request.getfixturevalue("guest_binary")))
        yield Path(os.environ["AGENTKERNEL_GUEST"])


@pytest.fixture
def suite(limits_missing: str, planted: Planted, guest: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Suite]:
    """With a state directory that is the test's own."""
    monkeypatch.setenv(HOST_TOKEN, planted.secret)
    with own_temporary_directory() as directory:
        state = directory / "s"
        state.mkdir(mode=0o711)
        yield Suite(state_directory=state, planted=planted, guest=guest, limits_missing=limits_missing)
