"""The gVisor backend's pure parts: bundle, plan, configuration, what is remembered of runsc, memory that is counted."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from agentkernel.backends._linux.cgroups import CgroupPlan
from agentkernel.backends._linux.facts import HostFacts
from agentkernel.backends._linux.plan import CloneFlag, Op, Step, Text, encode
from agentkernel.backends._linux.tree import Surroundings
from agentkernel.backends.gvisor import runtime as module
from agentkernel.backends.gvisor.bundle import GUEST, config
from agentkernel.backends.gvisor.configuration import configuration_of
from agentkernel.backends.gvisor.layout import build_plan
from agentkernel.backends.gvisor.memory import OVERHEAD_BYTES, MemoryGauge, group_limits, storage_bytes
from agentkernel.backends.gvisor.refusal import require
from agentkernel.backends.gvisor.runtime import Runtime, find_runtime, with_platform
from agentkernel.errors import BackendUnavailable, Unsupported
from agentkernel.model.spec import (
    Bind,
    NetworkMode,
    Resources,
    RootFilesystem,
    RootKind,
    SandboxSpec,
    StorageKind,
    Workspace,
    WorkspaceMode,
)

MIB = 2**20
FACTS = HostFacts(
    uid=0,
    gid=0,
    privileged=True,
    architecture="x86_64",
    kernel="6.12",
    landlock_abi=6,
    sys_binds=(),
    devices=("null",),
    cgroup_namespace=True,
    sysctl_writable=True,
)
IMAGE = RootFilesystem(kind=RootKind.DIRECTORY, directory="/images/debian")
SPEC = SandboxSpec(name="one", profile="moderate", root=RootFilesystem(kind=RootKind.HOST, binds=(Bind(source="/usr", target="/usr"),)))


def document(spec: SandboxSpec, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(config(spec, root="/root", open_files=20_000, **more))
    return found


def mounts(spec: SandboxSpec, **more: Any) -> dict[str, list[str]]:
    return {mount["destination"]: mount["options"] for mount in document(spec, **more)["mounts"]}


def plan(spec: SandboxSpec = SPEC, **more: Any) -> tuple[Step, ...]:
    around = Surroundings(facts=FACTS, mount_point="/run/x/mount", cgroups=CgroupPlan(), id_base=0x70000000, storage_bytes=MIB, **more)
    return build_plan(spec, around, programs=("/usr/bin/runsc", "/lib/guest"), words=("run", "id"), config=b"{}", devices=())


def the(steps: tuple[Step, ...], op: Op) -> Step:
    (found,) = [step for step in steps if step.op is op]
    return found


def test_the_agent_is_the_first_process_with_five_capabilities_and_no_variables() -> None:
    process = document(SPEC)["process"]
    assert process["args"] == [GUEST, "agent", "--stream", "0"]
    assert (process["env"], process["noNewPrivileges"], process["user"]) == ([], True, {"uid": 0, "gid": 0})
    assert {len(names) for names in process["capabilities"].values()} == {5}


def test_only_a_sandbox_on_the_hosts_network_shares_it() -> None:
    for network in NetworkMode:
        kinds = {each["type"] for each in document(dataclasses.replace(SPEC, network=network))["linux"]["namespaces"]}
        assert ("network" in kinds) is (network is not NetworkMode.HOST)


def test_what_others_may_change_and_what_must_not_run_are_mounts_of_their_own() -> None:
    shown = (Bind(source="/data", target="/mnt/data", executable=False), Bind(source="/out", target="/mnt/out", writable=True))
    workspace = Workspace(mode=WorkspaceMode.WRITABLE, source="/project", protected=(".git/hooks",))
    found = mounts(dataclasses.replace(SPEC, mounts=shown, workspace=workspace, home_source="/home/me"), sealed=(".git/hooks",))
    assert found["/mnt/data"][-2:] == ["ro", "noexec"]
    assert "ro" not in found["/mnt/out"] and "ro" not in found["/workspace"]
    assert "ro" in found["/workspace/.git/hooks"] and "ro" in found["/home/user"]
    assert "/usr" not in found


def test_a_limit_of_files_is_what_the_host_allows() -> None:
    few = json.loads(config(SPEC, root="/root", open_files=500))["process"]["rlimits"]
    assert few == [{"type": "RLIMIT_NOFILE", "hard": 500, "soft": 500}]


def test_runsc_sees_nothing_of_the_host_but_itself_and_the_sandboxs_files() -> None:
    steps = plan()
    order = [step.op for step in steps]
    assert order.index(Op.PIVOT) == order.index(Op.PROGRAM) - 1
    sources = {step.arguments[1].value for step in steps if step.op is Op.TREE and isinstance(step.arguments[1], Text)}
    assert sources == {"/usr/bin/runsc", "/usr", "/lib/guest"}
    flags = CloneFlag(the(steps, Op.CLONE).arguments[0])
    assert flags & CloneFlag.NEWPID and flags & CloneFlag.NEWUSER and not flags & CloneFlag.NEWNET
    assert the(steps, Op.PROGRAM).arguments[2:] == (Text("/runsc"), b"runsc\0run\0id\0")
    assert encode(steps)


def test_the_guest_is_shown_twice_where_programs_may_run_it() -> None:
    for shown in (False, True):
        steps = plan(guest="/lib/guest" if shown else "")
        targets = {step.arguments[1] for step in steps if step.op is Op.ATTACH}
        assert Text("root/.agentkernel/bin/agentkernel-guest") in targets
        assert (Text("root/etc/agentkernel/bin/agentkernel-guest") in targets) is shown


@pytest.mark.parametrize(("spec", "read_only"), [(SPEC, True), (dataclasses.replace(SPEC, root=IMAGE), False)])
def test_the_hosts_root_is_read_only_and_an_images_is_not(spec: SandboxSpec, read_only: bool) -> None:
    assert (Op.REMOUNT in [step.op for step in plan(spec)]) is read_only
    assert Op.REMOUNT in [step.op for step in plan(dataclasses.replace(spec, read_only_root=True))]


def test_files_on_disk_are_the_sandboxs_directory_and_in_memory_a_file_system_of_its_size() -> None:
    on_disk = plan(dataclasses.replace(SPEC, storage=StorageKind.DISK), data_directory="/var/lib/x")
    assert "/var/lib/x" in {step.arguments[1].value for step in on_disk if step.op is Op.TREE and isinstance(step.arguments[1], Text)}
    (in_memory,) = [step for step in plan() if step.op is Op.TMPFS and step.arguments[0] == Text("data")]
    assert in_memory.arguments[1] == Text(f"size={MIB},nr_inodes=1024,mode=755")


def test_processes_are_limited_inside_and_the_resolver_is_the_agents() -> None:
    found = configuration_of(dataclasses.replace(SPEC, network=NetworkMode.FILTERED), "x86_64", memory_by_group=True)
    assert (resource.RLIMIT_NPROC, 512, 512) in found.rlimits
    assert found.network is not None and found.network.transparent == 0


def test_memory_that_no_process_maps_is_refused_where_no_group_counts_it() -> None:
    counted, unseen = (configuration_of(SPEC, "x86_64", memory_by_group=by_group).seccomp for by_group in (True, False))
    assert counted != unseen


def test_the_groups_limit_is_above_that_of_the_processes() -> None:
    spec = dataclasses.replace(SPEC, resources=Resources(memory_bytes=64 * MIB, pids=10, cpus=0.5, disk_bytes=1024 * MIB))
    assert storage_bytes(spec) == 64 * MIB
    limits = group_limits(spec, storage_bytes(spec))
    assert (limits.memory_bytes, limits.cpus) == (128 * MIB + OVERHEAD_BYTES, 0.5)
    assert limits.pids is not None and limits.pids > 20
    assert group_limits(dataclasses.replace(spec, storage=StorageKind.DISK), 1).memory_bytes == 64 * MIB + OVERHEAD_BYTES


@pytest.mark.parametrize(
    ("version", "said"), [(1, "cache 9\nrss 1000\nshmem 500\ntotal_rss 7\n"), (2, "anon 1000\nfile 9\nshmem 500\n")], ids=["v1", "v2"]
)
def test_memory_is_that_of_processes_less_what_gvisor_had_before(tmp_path: Path, version: int, said: str) -> None:
    (tmp_path / "memory.stat").write_text(said)
    gauge = MemoryGauge(version=version, directory=str(tmp_path))
    assert gauge.used() == 1500
    assert dataclasses.replace(gauge, baseline_bytes=400).used() == 1100
    assert dataclasses.replace(gauge, baseline_bytes=9999).used() == 0
    assert dataclasses.replace(gauge, directory="/absent").used() == 0


def runsc(directory: Path, version: str) -> Path:
    """A program that answers as runsc does."""
    program = directory / "runsc"
    program.write_text(f"#!/bin/sh\necho x >> {directory}/calls\ncase $1 in flags) printf '  -platform string\\n  -overlay2 value\\n';;\n")
    with program.open("a") as file:
        file.write(f"*) echo 'runsc version {version}';; esac\n")
    program.chmod(0o755)
    return program


def test_what_was_found_out_about_runsc_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = runsc(tmp_path, "release-20240729.0")
    monkeypatch.setattr(module, "find_program", lambda name: str(program))
    memory = tmp_path / "memory"
    found = find_runtime(memory)
    assert (found.release, found.is_old, found.flags) == (20240729, False, ("overlay2", "platform"))
    with_platform(found, "systrap", memory)
    assert find_runtime(memory).platform == "systrap"
    assert (tmp_path / "calls").read_text().count("x") == 2
    os.utime(program, ns=(1, 1))
    assert find_runtime(memory).platform == ""
    memory.write_text("cut sho")
    assert find_runtime(memory).release == 20240729


@pytest.mark.parametrize(("version", "old"), [("0.0~20221219.0", True), ("release-20230102.0", False), ("VERSION_MISSING", False)])
def test_a_release_of_2022_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, old: bool) -> None:
    monkeypatch.setattr(module, "find_program", lambda name: str(runsc(tmp_path, version)))
    found = find_runtime(tmp_path / "memory")
    if old:
        with pytest.raises(BackendUnavailable, match="2022-12"):
            found.require_new()
    else:
        found.require_new()


def test_a_runsc_that_fails_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_program", lambda name: "/bin/false")
    with pytest.raises(BackendUnavailable, match="fails"):
        find_runtime(tmp_path / "memory")
    monkeypatch.setattr(module, "find_program", lambda name: "")
    with pytest.raises(BackendUnavailable, match="not installed"):
        find_runtime(tmp_path / "memory")


@pytest.mark.parametrize("changes", [{"transparent_network": True}, {"gpus": "all"}, {"runtime": "kata"}])
def test_what_it_cannot_do_is_refused(changes: dict[str, Any]) -> None:
    require(SPEC, FACTS)
    with pytest.raises(Unsupported):
        require(dataclasses.replace(SPEC, **changes), FACTS)


def test_a_plain_user_is_told_why() -> None:
    with pytest.raises(BackendUnavailable, match="uid 0"):
        require(SPEC, dataclasses.replace(FACTS, privileged=False))


def test_runtime_is_what_it_says_of_itself() -> None:
    assert Runtime(path="/r", identity="", version="20240729", flags=()).release == 20240729
