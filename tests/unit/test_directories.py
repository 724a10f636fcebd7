"""Where state lies: beneath AGENTKERNEL_HOME, in the runtime directory, or in memory where that is on a disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentkernel.config import directories


def test_home_moves_everything() -> None:
    environment = {"AGENTKERNEL_HOME": "/elsewhere/", "XDG_RUNTIME_DIR": "/run/user/7"}
    assert directories.runtime_directory(environment, 7) == directories.state_directory(environment, 7) == "/elsewhere/run"
    assert directories.data_directory(environment, 7) == "/elsewhere/data"


@pytest.mark.parametrize(
    ("environment", "uid", "directory"),
    [
        ({}, 0, "/run/agentkernel"),
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, 0, "/run/agentkernel"),
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, 7, "/run/user/7/agentkernel"),
        ({"XDG_RUNTIME_DIR": "relative"}, 7, "/tmp/agentkernel-7"),
        ({"XDG_RUNTIME_DIR": "/" + "long" * 11}, 7, "/tmp/agentkernel-7"),
    ],
)
def test_the_runtime_directory(environment: dict[str, str], uid: int, directory: str) -> None:
    assert directories.runtime_directory(environment, uid) == directory


def test_the_state_of_sandboxes_is_in_memory_where_the_runtime_directory_is_on_the_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    in_memory = os.stat("/dev/shm").st_dev != os.stat("/").st_dev
    on_disk = os.stat("/tmp").st_dev == os.stat("/").st_dev
    wanted = "/dev/shm/agentkernel-7" if in_memory and on_disk else "/tmp/agentkernel-7"
    assert directories.state_directory({}, 7) == wanted
    monkeypatch.setattr(directories, "_MEMORY", str(tmp_path / "none"))
    assert directories.state_directory({}, 7) == "/tmp/agentkernel-7"


def test_a_runtime_directory_in_memory_holds_the_state_too() -> None:
    proc_is_apart = {"XDG_RUNTIME_DIR": "/proc/self"}  # whatever is not the root file system
    assert directories.state_directory(proc_is_apart, 7) == "/proc/self/agentkernel"
