"""From a spec to a container: what it may do, what it is made of, and how Docker is asked for it. Nothing is run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkernel.backends.containers.configuration import configuration_of, fingerprint_of
from agentkernel.backends.containers.dialect import EngineBind, EngineFacts
from agentkernel.backends.containers.docker import body_of, facts_of
from agentkernel.backends.containers.fingerprint import ready
from agentkernel.backends.containers.mounting import owner_map
from agentkernel.backends.containers.plan import GUEST, Naming, Stream, plan_of
from agentkernel.backends.containers.profile import profile
from agentkernel.backends.containers.shown import Mount, Showing, parents_of, shown
from agentkernel.errors import Unsupported
from agentkernel.model.isolation import Feature, IsolationLevel, Support
from agentkernel.model.spec import (
    Bind,
    NetworkMode,
    Resources,
    RootFile,
    RootFilesystem,
    RootKind,
    SandboxSpec,
    StorageKind,
    User,
    Workspace,
    WorkspaceMode,
)
from agentkernel.policy.syscall_numbers import NUMBERS
from agentkernel.policy.syscall_tables import TABLES

SPEC = SandboxSpec(name="x", profile="moderate", root=RootFilesystem(kind=RootKind.IMAGE, reference="docker.io/library/alpine:3"))
FACTS = EngineFacts(version="1", architecture="x86_64", local=True)
NAMING = Naming(
    sandbox_id="a" * 16,
    owner="b" * 32,
    version="0",
    guest_volume="agentkernel-guest-0",
    stream=Stream.SOCKET,
    run_directory="/state/run",
    apart=True,
    fingerprint="f",
)
ROOT = User(uid=0, gid=0, name="root", home="/root")
INFORMATION: dict[str, Any] = {
    "OSType": "linux",
    "Architecture": "aarch64",
    "ServerVersion": "27.1",
    "DockerRootDir": "/var/lib/docker",
    "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"],
    "MemoryLimit": True,
    "PidsLimit": True,
    "CpuCfsQuota": True,
    "Runtimes": {"runc": {"path": "runc"}, "nvidia": {"path": "nvidia-container-runtime"}},
    "DefaultRuntime": "runc",
}


def body(spec: SandboxSpec = SPEC, naming: Naming = NAMING, facts: EngineFacts = FACTS, *binds: EngineBind) -> dict[str, Any]:
    return body_of(plan_of(spec, naming), spec, facts, binds)


# --- walls


@pytest.mark.parametrize("network", NetworkMode)
@pytest.mark.parametrize("user", [User(), ROOT], ids=["user", "root"])
@pytest.mark.parametrize("sealed", [False, True])
def test_every_container_is_hardened(network: NetworkMode, user: User, sealed: bool) -> None:
    host = body(replace(SPEC, network=network, user=user, read_only_root=sealed))["HostConfig"]
    assert (host["CapDrop"], host["Privileged"], host["ReadonlyRootfs"], host["Init"]) == (["ALL"], False, sealed, False)
    assert {"SYS_ADMIN", "NET_ADMIN", "NET_RAW", "SYS_PTRACE", "MKNOD", "SYS_CHROOT"}.isdisjoint(host["CapAdd"])
    assert "no-new-privileges" in host["SecurityOpt"] and any(option.startswith("seccomp={") for option in host["SecurityOpt"])
    assert host["NetworkMode"] == ("host" if network is NetworkMode.HOST else "none")
    assert {"/proc/kcore", "/proc/keys", "/sys/firmware", "/sys/kernel"} <= set(host["MaskedPaths"])
    assert "/proc/sys" in host["ReadonlyPaths"]
    assert (host["LogConfig"]["Type"], host["RestartPolicy"]["Name"], host["IpcMode"]) == ("none", "no", "private")
    assert "Devices" not in host and "Binds" not in host


def test_port_53_takes_one_capability_more_and_only_where_it_is_served() -> None:
    assert "NET_BIND_SERVICE" in body(replace(SPEC, network=NetworkMode.FILTERED))["HostConfig"]["CapAdd"]
    assert "NET_BIND_SERVICE" not in body()["HostConfig"]["CapAdd"]


def test_nothing_of_the_image_reaches_the_agent() -> None:
    made = body()
    assert (made["Entrypoint"][0], made["Cmd"], made["User"], made["WorkingDir"], made["Env"]) == (GUEST, [], "0:0", "/", [])
    assert made["Healthcheck"] == {"Test": ["NONE"]}
    image = {"Env": ["PATH=/x", "NVIDIA_VISIBLE_DEVICES=all", "=odd"], "Volumes": {"/data/": {}, "/tmp": {}}}
    plan = plan_of(replace(SPEC, read_only_root=True), NAMING)
    made = body_of(plan, SPEC, FACTS, (), image)
    assert made["Env"] == ["PATH", "NVIDIA_VISIBLE_DEVICES"], "names without a value: the engine removes them"
    assert made["HostConfig"]["ReadonlyPaths"] == [*plan.read_only, "/data"]


@pytest.mark.parametrize("architecture", sorted(NUMBERS))
@pytest.mark.parametrize("table", sorted(TABLES))
def test_the_profile_decides_every_call_once_and_allows_no_more_than_the_table(table: str, architecture: str) -> None:
    found = profile(table, architecture)
    names = [name for rule in found["syscalls"] for name in rule["names"]]
    assert sorted(names) == sorted(NUMBERS[architecture])
    allowed = next(rule["names"] for rule in found["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW")
    assert set(allowed) <= TABLES[table].allowed | set(TABLES[table].rules)
    assert {"mount", "unshare", "setns", "bpf", "kexec_load", "init_module", "pivot_root"}.isdisjoint(allowed)
    assert found["defaultErrnoRet"] == 38


def test_an_architecture_without_numbers_is_refused() -> None:
    with pytest.raises(Unsupported, match="s390x"):
        profile("moderate", "s390x")


# --- limits


def test_limits_are_the_engines_where_it_enforces_them_and_the_agents_where_not() -> None:
    spec = replace(SPEC, resources=Resources(memory_bytes=64 << 20, cpus=1.5, pids=10))
    host = body(spec)["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (64 << 20, 64 << 20, 1_500_000_000, 12)
    weak = replace(FACTS, enforced=frozenset())
    host = body(spec, NAMING, weak)["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (0, 0, None)
    plain, sampled = configuration_of(spec, FACTS), configuration_of(spec, weak)
    assert plain.seccomp != sampled.seccomp
    assert {number for number, _, _ in sampled.rlimits} - {number for number, _, _ in plain.rlimits}
    assert ready("docker", weak, mounts=False, sampled=False).support(Feature.MEMORY_LIMIT) is Support.EMULATED


def test_descriptors_are_no_more_than_this_host_may_give() -> None:
    few = replace(FACTS, open_files=1000)
    assert body(SPEC, NAMING, few)["HostConfig"]["Ulimits"][0] == {"Name": "nofile", "Soft": 1000, "Hard": 1000}
    assert all(hard <= 1000 for _, _, hard in configuration_of(SPEC, few).rlimits)


def test_gvisor_is_not_asked_for_limits_that_it_lets_nobody_set() -> None:
    inside = configuration_of(replace(SPEC, level=IsolationLevel.USER_KERNEL), FACTS)
    assert len(inside.rlimits) < len(configuration_of(SPEC, FACTS).rlimits)


# --- files


def test_own_places_are_in_memory_or_in_the_layer() -> None:
    memory, disk = plan_of(SPEC, NAMING), plan_of(replace(SPEC, storage=StorageKind.DISK), NAMING)
    assert {"/home/user", "/workspace", "/tmp", "/var/tmp"} <= {each.target for each in memory.tmpfs} and memory.entries == ()
    assert {each.target for each in disk.tmpfs} == {"/tmp", "/.agentkernel", "/.agentkernel/closed"}
    assert {(each.path, each.uid) for each in disk.entries} == {("/home/user", 1000), ("/workspace", 1000), ("/var/tmp", 0)}
    sealed = plan_of(replace(SPEC, storage=StorageKind.DISK, read_only_root=True), NAMING)
    assert sealed.entries == () and not any(each.writable for each in sealed.tmpfs if each.target in ("/home/user", "/var/tmp"))


def test_small_files_are_shown_but_for_those_that_the_engine_writes() -> None:
    root = replace(SPEC.root, files=(RootFile(path="/etc/hosts", content=b""), RootFile(path="/etc/own", content=b"x")))
    plan = plan_of(replace(SPEC, root=root, network=NetworkMode.FILTERED, user=ROOT), NAMING)
    assert [file.path for file in plan.files] == ["/etc/own", "/etc/agentkernel/apt.conf", "/etc/ssh/ssh_config.d/agentkernel.conf"]
    assert plan.resolver == "127.0.0.1"


def test_the_guest_is_shown_to_programs_only_where_the_network_is_filtered() -> None:
    shown = "/etc/agentkernel/bin"
    for network in NetworkMode:
        directories = plan_of(replace(SPEC, network=network), NAMING).guest_directories
        assert directories == (("/.agentkernel/bin", shown) if network is NetworkMode.FILTERED else ("/.agentkernel/bin",))


def test_what_is_shown_of_the_host_comes_outer_places_first() -> None:
    workspace = Workspace(mode=WorkspaceMode.WRITABLE, source="/p", protected=(".git/hooks", "agentkernel.toml"))
    found = shown(replace(SPEC, workspace=workspace, mounts=(Bind(source="/a", target="/workspace/sub/a"), Bind(source="/b", target="/b"))))
    assert [mount.target for mount in found] == ["/workspace", "/b", "/workspace/sub/a"]
    assert parents_of(found[0].protected) == (".git",)
    private = shown(replace(SPEC, workspace=Workspace(mode=WorkspaceMode.COPY_ON_WRITE, source="/p")))
    assert private == (Mount(source="/p", target="/workspace", showing=Showing.PRIVATE, writable=True),)


def test_an_engine_is_told_to_protect_paths_and_what_is_above_them() -> None:
    bind = EngineBind(source="/p", target="/workspace", writable=True, protected=(".git/hooks",))
    mounts = {
        mount["Target"]: mount["ReadOnly"] for mount in body(SPEC, NAMING, FACTS, bind)["HostConfig"]["Mounts"] if mount["Type"] == "bind"
    }
    assert mounts == {"/.agentkernel/closed/run": False, "/workspace": False, "/workspace/.git": False, "/workspace/.git/hooks": True}


@given(owner=st.integers(0, 100_000), user=st.integers(0, 60_000), base=st.sampled_from([0, 100_000]))
def test_an_id_map_exchanges_two_owners_and_keeps_all_others(owner: int, user: int, base: int) -> None:
    seen: dict[int, int] = {}
    total = 0
    for line in owner_map(owner, user, base).splitlines():
        start, outside, count = map(int, line.split())
        assert count > 0
        total += count
        for offset in {0, count - 1}:
            seen[start + offset] = outside + offset
    assert (seen[owner], seen[user]) == (base + user, base + owner)
    assert total >= min(65_536, 2**32 - 1)
    assert all(outside == base + inside for inside, outside in seen.items() if inside not in (owner, user))


# --- what an engine says of itself


def test_an_engine_is_read_from_its_information() -> None:
    facts = facts_of(INFORMATION, is_local=True)
    assert (facts.architecture, facts.rootless, facts.id_base, facts.gpus) == ("aarch64", False, 0, True)
    assert facts.enforced == {"memory", "pids", "cpu"}
    remapped = {**INFORMATION, "DockerRootDir": "/var/lib/docker/231072.231072", "SecurityOptions": ["name=userns"]}
    facts = facts_of(remapped, is_local=True)
    assert (facts.id_base, facts.agent_uid, facts.seccomp) == (231_072, 231_072, False)
    rootless = facts_of({**INFORMATION, "SecurityOptions": ["name=rootless"], "MemoryLimit": False}, is_local=True)
    assert rootless.rootless and "memory" not in rootless.enforced


def test_what_a_boot_is_told_anew_does_not_make_another_container() -> None:
    same = replace(SPEC, name="y", environment=(("A", "b"),), linger_s=3.0, level=IsolationLevel.CONTAINER)
    assert fingerprint_of(same) == fingerprint_of(SPEC)
    for other in (replace(SPEC, read_only_root=True), replace(SPEC, resources=Resources(pids=3)), replace(SPEC, runtime="runsc")):
        assert fingerprint_of(other) != fingerprint_of(SPEC)
