"""Where cgroups are made on v2 hosts: on a directory that looks like a cgroup. What a kernel and systemd make of it: tests/vm."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentkernel.backends._linux import delegation
from agentkernel.backends._linux.cgroups import Cgroups
from agentkernel.backends._linux.delegation import CgroupHost
from agentkernel.model.spec import Resources

UNIT = "user.slice/terminal.scope"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree in whose UNIT this process is alone, owned by a plain user; nobody can be asked for a scope."""
    group(tmp_path / UNIT, str(os.getpid()))
    group(tmp_path / UNIT / "agentkernel")
    group(tmp_path / UNIT / delegation.ENGINE_LEAF)
    monkeypatch.setattr(delegation, "_mounts", lambda: {"cgroup2": str(tmp_path)})
    monkeypatch.setattr(delegation, "_own_groups", lambda: {"": f"/{UNIT}"})
    monkeypatch.setattr(delegation, "_is_delegated", lambda _: False)
    monkeypatch.setattr(delegation, "_move_to_scope", lambda: False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return tmp_path


def group(directory: Path, processes: str = "", handed_down: str = "memory") -> None:
    """The files of a cgroup that are read and written here. Plain files: what is written stays as it is written."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cgroup.controllers").write_text("cpu io memory pids")
    (directory / "cgroup.type").write_text("domain")
    (directory / "cgroup.procs").write_text(processes)
    (directory / "cgroup.subtree_control").write_text(handed_down)


def engine_leaf(tree: Path) -> str:
    return (tree / UNIT / delegation.ENGINE_LEAF / "cgroup.procs").read_text()


def test_an_engine_alone_in_its_group_moves_to_a_leaf_and_hands_the_controllers_down(tree: Path) -> None:
    host = delegation.find_host()
    assert engine_leaf(tree) == str(os.getpid())
    assert (tree / UNIT / "cgroup.subtree_control").read_text() == "+pids +cpu"  # memory was there
    assert (host.version, host.agents) == (2, str(tree / UNIT / "agentkernel/agents"))


def test_other_processes_of_a_group_that_is_not_delegated_are_left_alone(tree: Path) -> None:
    group(tree / UNIT, f"{os.getpid()}\n1\n")
    host = delegation.find_host()
    assert engine_leaf(tree) == ""
    assert (tree / UNIT / "cgroup.subtree_control").read_text() == "memory"
    assert (host.version, host.reason) == (0, "no delegated cgroup")


def test_all_processes_of_a_delegated_group_move_to_the_leaf(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delegation, "_is_delegated", lambda _: True)
    group(tree / UNIT, f"{os.getpid()}\n1\n")
    assert delegation.find_host().version == 2
    assert engine_leaf(tree) == "1"  # the last one written


def test_a_crowded_group_is_left_for_a_scope_of_ones_own(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = "user.slice/agentkernel-1234.scope"
    group(tree / UNIT, f"{os.getpid()}\n1\n")

    def move() -> bool:
        group(tree / own, str(os.getpid()))
        group(tree / own / "agentkernel")
        monkeypatch.setattr(delegation, "_own_groups", lambda: {"": f"/{own}"})
        return True

    monkeypatch.setattr(delegation, "_move_to_scope", move)
    assert delegation.find_host().agents == str(tree / own / "agentkernel/agents")


def test_nobody_is_asked_for_a_scope_from_within_a_service(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = "user.slice/editor.service"
    group(tree / service, f"{os.getpid()}\n1\n")
    monkeypatch.setattr(delegation, "_own_groups", lambda: {"": f"/{service}"})
    monkeypatch.setattr(delegation, "_move_to_scope", lambda: pytest.fail("the engine would leave its service"))
    assert delegation.find_host().version == 0


def test_an_engine_in_the_leaf_uses_the_group_around_it(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that a delegated shell starts after the first are born there."""
    group(tree / UNIT)
    monkeypatch.setattr(delegation, "_own_groups", lambda: {"": f"/{UNIT}/{delegation.ENGINE_LEAF}"})
    assert delegation.find_host().agents == str(tree / UNIT / "agentkernel/agents")
    assert not (tree / UNIT / delegation.ENGINE_LEAF / delegation.ENGINE_LEAF).exists()


def test_uid_0_makes_its_groups_at_the_root_and_stays_in_its_unit(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    group(tree, "1\n2\n")
    (tree / "cgroup.type").unlink()  # the root of the hierarchy has none
    group(tree / "agentkernel", handed_down="cpu io memory pids")
    host = delegation.find_host()
    assert host.parents == dict.fromkeys(("memory", "pids", "cpu"), str(tree / "agentkernel"))
    assert (tree / "cgroup.procs").read_text() == "1\n2\n"
    assert engine_leaf(tree) == ""


def test_uid_0_stays_below_a_delegated_unit(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(delegation, "_is_marked", lambda directory: directory == tree / UNIT)
    assert delegation.find_host().agents == str(tree / UNIT / "agentkernel/agents")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives a file to another user")
def test_only_the_list_of_processes_belongs_to_the_sandboxs_agent(tmp_path: Path) -> None:
    path = tmp_path / "agentkernel-1"
    group(path)
    host = CgroupHost(version=2, parents={"memory": str(tmp_path), "pids": str(tmp_path)})
    Cgroups.of(host, "1").create(Resources(memory_bytes=1 << 20, pids=5), 0x70000000)
    assert {entry.name: entry.stat().st_uid for entry in path.iterdir() if entry.stat().st_uid} == {"cgroup.procs": 0x70000000}
    assert (path / "memory.max").read_text() == str(1 << 20)
