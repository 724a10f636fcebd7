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
CAPABILITIES = Path(__file__).parents[2] / "docs" / "backends" / "capabilities.md"
DECLARING = "test_every_feature_is_declared_and_every_lack_is_explained"


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


@pytest.fixture(autouse=True)
def _documented(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a backend declares is what the table of capabilities says, or is recorded for it; asked once for each backend."""
    from agentkernel.model.isolation import Fingerprint, IsolationLevel
    from agentkernel.testing.capabilities import DIRECTORY_VARIABLE, column_of, differences, record, stated

    yield
    found = request.node.funcargs.get("fingerprint") if getattr(request.node, "originalname", "") == DECLARING else None
    if not isinstance(found, Fingerprint) or found.level is IsolationLevel.NONE:
        return
    column = column_of(found, privileged=os.geteuid() == 0)
    if directory := os.environ.get(DIRECTORY_VARIABLE):
        record(column, Path(directory))
        return
    cells = stated(CAPABILITIES.read_text())
    assert column.title in cells, f"{CAPABILITIES.name} has no column {column.title}"
    assert differences(column, cells[column.title]) == []
