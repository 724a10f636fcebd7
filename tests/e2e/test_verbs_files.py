"""`agentkernel cp`: trees in and out, as they are, and nowhere else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from e2e.conftest import AgentKernel


@pytest.fixture
def box(behind_daemon: AgentKernel) -> Iterator[AgentKernel]:
    """With a running sandbox `box`."""
    assert behind_daemon("create", "-q", "--start", "box").returncode == 0
    yield behind_daemon


def _tree(base: Path) -> Path:
    top = base / "tree"
    (top / "deep" / "er").mkdir(parents=True)
    (top / "deep" / "er" / "binary").write_bytes(bytes(range(256)) * 1024)
    (top / "script").write_text("#!/bin/sh\n")
    (top / "script").chmod(0o750)
    (top / "link").symlink_to("deep/er/binary")
    (top / "outward").symlink_to("/etc/hostname")
    (top / "empty").mkdir(mode=0o700)
    os.mkfifo(top / "pipe")
    return top


def _seen(base: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted(base.rglob("*")):
        name = str(path.relative_to(base))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = (path.stat().st_mode & 0o777, path.read_bytes())
        elif path.is_dir():
            found[name] = path.stat().st_mode & 0o777
    return found


def test_a_tree_goes_in_and_comes_back_as_it_was(box: AgentKernel) -> None:
    top = _tree(box.directory)
    into = box("cp", "tree", "box:/home/user/copy")
    assert (into.returncode, b"pipe" in into.stderr) == (0, True)
    assert (
        box("exec", "box", "sh", "-c", "~/copy/script && stat -c %a ~/copy/script; readlink ~/copy/link").stdout == b"750\ndeep/er/binary\n"
    )
    back = box("cp", "-q", "box:/home/user/copy", "back")
    assert (back.returncode, back.stdout) == (0, b"")
    assert _seen(box.directory / "back") == _seen(top)


def test_a_directory_that_is_there_gets_the_copy_into_it(box: AgentKernel) -> None:
    (box.directory / "file").write_text("text")
    (box.directory / "place").mkdir()
    assert box("cp", "file", "box:/home/user").stdout.startswith(b"Copied 1 entry (4B)")
    assert box("exec", "box", "cat", "/home/user/file").stdout == b"text"
    box("cp", "box:/home/user/file", "place")
    assert (box.directory / "place" / "file").read_text() == "text"
    box("cp", "place/.", "box:/home/user/more")
    assert box("exec", "box", "ls", "/home/user/more").stdout == b"file\n"
    box("cp", "box:/home/user/more/.", "place")
    assert sorted(os.listdir(box.directory / "place")) == ["file"]


def test_a_stopped_sandbox_is_started_for_it_and_stopped_again(box: AgentKernel) -> None:
    box("stop", "box")
    (box.directory / "file").write_text("text")
    done = box("cp", "file", "box:/home/user/file")
    assert (done.returncode, b"was started for this and stopped again" in done.stderr) == (0, True)
    assert json.loads(box("info", "--json", "box").stdout)["status"] == "stopped"
    assert box("cp", "-q", "box:/home/user/file", "back").returncode == 0
    assert (box.directory / "back").read_text() == "text"
    gone = box("cp", "-q", "file", "box:/tmp/file")  # where it would be gone with the stop
    assert (gone.returncode, b"what is in /tmp ends with its next stop" in gone.stderr) == (125, True)
    assert box("cp", "-q", "box:/home/user/missing", "back").returncode == 125
    assert json.loads(box("info", "--json", "box").stdout)["status"] == "stopped"


def test_copies_of_a_stopped_sandbox_do_not_stop_it_under_each_other(box: AgentKernel) -> None:
    box("stop", "box")
    many = box.directory / "many"
    many.mkdir()
    for number in range(200):
        (many / str(number)).write_text("text")
    with ThreadPoolExecutor(3) as threads:
        done = list(threads.map(lambda number: box("cp", "many", f"box:/home/user/copy-{number}"), range(3)))
    assert [each.returncode for each in done] == [0, 0, 0], [each.stderr for each in done]
    assert json.loads(box("info", "--json", "box").stdout)["status"] == "stopped"


def test_a_hostile_tree_stays_in_its_place(box: AgentKernel) -> None:
    """A link in place of the directory that was announced, and links that lead out: nothing of them is followed on the host."""
    outside = box.directory / "outside"
    outside.mkdir()
    (box.directory / "target").mkdir()
    (box.directory / "target" / "tree").mkdir()
    (box.directory / "target" / "tree" / "sub").symlink_to(outside)
    box("exec", "box", "sh", "-c", "mkdir -p ~/tree/sub; echo evil > ~/tree/sub/file; ln -s /etc ~/tree/etc")
    done = box("cp", "box:/home/user/tree", "target")
    assert os.listdir(outside) == []
    assert done.returncode == 125 or not (box.directory / "target" / "tree" / "sub").is_symlink()


def test_what_was_copied_is_told_as_json(box: AgentKernel) -> None:
    _tree(box.directory)
    record = json.loads(box("cp", "--json", "tree", "box:/home/user/copy").stdout)
    assert (record["files"], record["symlinks"], record["skipped"]) == (2, 2, ["pipe"])


def test_what_cannot_be_copied_is_an_error(box: AgentKernel) -> None:
    for words in (("none", "box:/tmp/x"), ("box:/none", "here"), ("box:/etc/passwd", "no/such/directory/x"), ("none:/x", "y")):
        done = box("cp", *words)
        assert (done.returncode, done.stderr.startswith(b"error: "), b"Traceback" in done.stderr) == (125, True, False), words
