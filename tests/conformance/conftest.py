"""Every backend is tested with the guest of this tree, and with directories for state and temporary files that belong to the test alone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance.directories import own_temporary_directory

pytest.register_assert_rewrite("agentkernel.testing")

GUEST = "AGENTKERNEL_GUEST"


@pytest.fixture(scope="session", autouse=True)
def _guest(request: pytest.FixtureRequest) -> Iterator[None]:
    """A caller who names a guest (the run as a plain user does) has it tested; else it is compiled."""
    with pytest.MonkeyPatch.context() as patch:
        if GUEST not in os.environ:
            patch.setenv(GUEST, str(request.getfixturevalue("guest_binary")))
        yield


@pytest.fixture(autouse=True)
def _private_temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What appears among the temporary files is ours."""
    tmp_path_factory.getbasetemp()  # pytest's own directory stays where it is
    with own_temporary_directory():
        yield


@pytest.fixture
def state_directory() -> Path:
    """Where a backend may keep its state."""
    directory = Path(tempfile.gettempdir()) / "s"
    directory.mkdir(mode=0o711)
    return directory
