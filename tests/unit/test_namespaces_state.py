"""What the namespaces backend leaves on the host, and how it finds it again."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentkernel.backends._linux import ranges
from agentkernel.backends._linux.disk import remove_trees, usage_bytes
from agentkernel.backends._linux.host import Host
from agentkernel.backends._linux.removal import remove_tree
from agentkernel.backends._linux.state import abandoned, create_state, open_state_root
from agentkernel.errors import LaunchFailed

UID = os.geteuid()


@pytest.fixture
def root(tmp_path: Path):
    return open_state_root(tmp_path / "state", UID, "namespaces")


def test_state_and_files_are_beneath_the_users_home_for_agentkernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AGENTKERNEL_HOME", str(tmp_path))
    host = Host("namespaces")
    assert (host.state.path, host.data.path) == (tmp_path / "run", tmp_path / "data")
    assert set(host.own_directories) == {str(tmp_path / "run"), str(tmp_path / "data")}


@pytest.mark.skipif(UID != 0, reason="needs root: others walk to the mount point")
def test_in_a_directory_that_is_closed_to_others_the_mount_point_is_elsewhere(tmp_path: Path):
    tmp_path.chmod(0o700)
    assert open_state_root(tmp_path / "state", UID, "namespaces").mount_point == Path("/run/agentkernel-mount")


def test_a_base_that_others_can_write_is_refused(tmp_path: Path):
    base = tmp_path / "state"
    open_state_root(base, UID, "namespaces")
    base.chmod(0o777)
    with pytest.raises(LaunchFailed, match="not a directory that only uid"):
        open_state_root(base, UID, "namespaces")


def test_a_base_that_is_a_symlink_is_refused(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "state").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LaunchFailed, match="not a directory that only uid"):
        open_state_root(tmp_path / "state", UID, "namespaces")


def test_a_leased_sandbox_is_not_abandoned_and_a_released_one_is_gone(root):
    state = create_state(root, "a1")
    assert abandoned(root) == []
    state.record("pid", "1 2")
    state.release()
    assert list(root.sandboxes.iterdir()) == []


def test_a_sandbox_that_is_being_made_is_never_swept(root, monkeypatch: pytest.MonkeyPatch):
    stolen = []
    lock = fcntl.flock

    def another_engine_is_quicker(fd: int, operation: int) -> None:
        monkeypatch.undo()
        stolen.extend(abandoned(root))
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", another_engine_is_quicker)
    state = create_state(root, "a1")
    assert stolen == abandoned(root) == []
    state.release()
    assert list(root.sandboxes.iterdir()) == []


def test_a_sandbox_of_a_killed_engine_is_abandoned(root):
    program = (
        "import os,sys,pathlib; from agentkernel.backends._linux.state import *;"
        "root = open_state_root(pathlib.Path(sys.argv[1]), os.geteuid(), 'namespaces'); create_state(root, 'b2').record('pid', '1 2'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(root.path)], check=False)
    (found,) = abandoned(root)
    assert found.sandbox_id == "b2" and found.recorded("pid") == "1 2"
    assert abandoned(root) == [], "it is leased now"
    found.release()


def test_a_directory_without_a_lease_is_somebody_starting_until_it_is_old(root):
    (root.sandboxes / "c3").mkdir()
    assert abandoned(root) == []
    long_ago = time.time() - 3600
    os.utime(root.sandboxes / "c3", (long_ago, long_ago))
    (found,) = abandoned(root)
    found.release()
    assert list(root.sandboxes.iterdir()) == []


def test_ranges_are_disjoint_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ranges, "RANGE_COUNT", 4)
    leased = {ranges.lease_range(tmp_path, f"s{n}") for n in range(4)}
    assert len(leased) == 4 and all(first % ranges.RANGE_SIZE == 0 for first in leased)
    with pytest.raises(LaunchFailed, match="in use"):
        ranges.lease_range(tmp_path, "s4")
    ranges.release_range(tmp_path, leased.pop())
    assert ranges.lease_range(tmp_path, "s5")


def test_ranges_of_sandboxes_that_are_gone_are_swept(tmp_path: Path):
    directory, sandboxes = tmp_path / "ranges", tmp_path / "sandboxes"
    directory.mkdir()
    (sandboxes / "alive").mkdir(parents=True)
    ranges.lease_range(directory, "alive")
    ranges.lease_range(directory, "dead")
    ranges.sweep_ranges(directory, (tmp_path / "absent", sandboxes))
    assert [os.readlink(entry) for entry in directory.iterdir()] == ["alive"]


def test_a_range_that_is_leased_in_the_other_directory_is_not_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ranges, "RANGE_COUNT", 2)
    kept, temporary = tmp_path / "kept", tmp_path / "temporary"
    kept.mkdir()
    temporary.mkdir()
    first = ranges.lease_range(kept, "stopped", temporary)
    second = ranges.lease_range(temporary, "running", kept)
    assert first != second
    assert ranges.find_range(kept, "stopped") == first and ranges.find_range(kept, "running") is None
    for directory, other in ((kept, temporary), (temporary, kept)):
        with pytest.raises(LaunchFailed, match="in use"):
            ranges.lease_range(directory, "third", other)


def test_the_ranges_stay_clear_of_other_users_of_ids():
    last = ranges.FIRST_ID + ranges.RANGE_COUNT * ranges.RANGE_SIZE
    assert ranges.FIRST_ID > 0x6FFFFFFF, "systemd's container range ends there"
    assert last <= 0x7FFFFFFF, "beyond it some programs take ids for negative"


def deep_tree(top: Path, depth: int) -> None:
    """Deeper than PATH_MAX allows to name."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


def test_a_tree_deeper_than_any_path_is_removed(tmp_path: Path):
    data = tmp_path / "data"
    data.mkdir()
    deep_tree(data, 3000)
    remove_tree(data)
    assert not data.exists()


def test_removal_never_follows_a_link_and_opens_locked_directories(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    data = tmp_path / "data"
    (data / "a" / "b" / "c").mkdir(parents=True)
    (data / "a" / "link").symlink_to(outside)
    (data / "link").symlink_to(outside)
    (data / "a" / "b" / "file").write_text("x")
    os.mkfifo(data / "fifo")
    (data / "a" / "b").chmod(0)
    remove_tree(data)
    assert not data.exists()
    assert (outside / "kept").read_text() == "kept"


async def test_a_data_directory_is_removed(tmp_path: Path):
    (tmp_path / "data" / "home").mkdir(parents=True)
    await remove_trees([tmp_path / "data"], None)
    assert not (tmp_path / "data").exists()


@pytest.mark.skipif(UID != 0, reason="needs root: files of an id range")
async def test_files_of_an_id_range_are_removed_without_root_reading_them(tmp_path: Path):
    base = 0x70000000
    tmp_path.chmod(0o700)  # the way to the data is closed to the range's ids
    data = tmp_path / "data"
    (data / "home" / "x").mkdir(parents=True)
    for path in (data, data / "home", data / "home" / "x"):
        os.chown(path, base + 1000, base + 1000)
    await remove_trees([data], base)
    assert not data.exists()


def test_usage_counts_blocks_not_sizes(tmp_path: Path):
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 1 << 40)
    assert usage_bytes(tmp_path) < 1 << 20
    (tmp_path / "real").write_bytes(b"x" * (1 << 20))
    assert usage_bytes(tmp_path) >= 1 << 20
