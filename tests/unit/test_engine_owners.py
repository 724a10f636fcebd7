"""Owners of an image's files: given by descriptors, to ids that are nobody's, whatever was noted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from agentkernel.config.privilege import has_id_ranges
from agentkernel.engine.owners import give_owners
from agentkernel.owners import ATTRIBUTE, IMAGE_IDS

NOTED = {
    "plain": (b"1234:4322", (1234, 4322)),
    "root": (None, (0, 0)),
    "beyond": (b"65536:70000", (65534, 65534)),
    "negative": (b"-1:5", (65534, 5)),
    "long": (b"0" * 4000 + b":1", (65534, 1)),
    "bytes": (b"\xff\xfe:\xc2\xb2", (65534, 65534)),
    "empty": (b"", (65534, 65534)),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    if not has_id_ranges():
        pytest.skip("needs uid 0 with its capabilities: others cannot give files away")
    made = tmp_path / "rootfs"
    (made / "d" / "inner").mkdir(parents=True)
    try:
        os.setxattr(made, ATTRIBUTE, b"1:1")
        os.removexattr(made, ATTRIBUTE)
    except OSError:
        pytest.skip("the file system of the temporary directory has no user's extended attributes")
    return made


def ids(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid - IMAGE_IDS, status.st_gid - IMAGE_IDS


def test_each_file_belongs_to_whom_was_noted_and_the_notes_are_gone(tree: Path) -> None:
    for name, (noted, _) in NOTED.items():
        (tree / "d" / name).write_bytes(b"x")
        if noted is not None:
            os.setxattr(tree / "d" / name, ATTRIBUTE, noted)
    os.setxattr(tree / "d" / "inner", ATTRIBUTE, b"7:8")
    os.link(tree / "d" / "plain", tree / "again")
    assert give_owners(str(tree))
    assert {name: ids(tree / "d" / name) for name in NOTED} == {name: told for name, (_, told) in NOTED.items()}
    assert (ids(tree / "d" / "inner"), ids(tree / "again"), ids(tree / "d"), ids(tree)) == ((7, 8), (1234, 4322), (0, 0), (0, 0))
    assert [os.listxattr(path) for path in tree.rglob("*")] == [[] for _ in tree.rglob("*")]


def test_nothing_outside_is_touched(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "below").mkdir(parents=True)
    (outside / "file").write_bytes(b"x")
    (tree / "directory").symlink_to(outside)
    (tree / "deep").mkdir()
    deep = os.open(tree / "deep", os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=deep)
        inner = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = inner
    (tree / "d" / "file").symlink_to(outside / "file")
    os.mkfifo(tree / "pipe")
    try:
        assert give_owners(str(tree))
        assert os.fstat(deep).st_uid == IMAGE_IDS
    finally:
        os.close(deep)
        subprocess.run(["rm", "-rf", tree / "deep"], check=True)
    assert {path.lstat().st_uid for path in (outside, outside / "below", outside / "file")} == {0}
    assert {ids(path) for path in (tree / "directory", tree / "d" / "file", tree / "pipe")} == {(0, 0)}
