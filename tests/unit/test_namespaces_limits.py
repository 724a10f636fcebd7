"""The resource limits of a sandbox's processes."""

from __future__ import annotations

import dataclasses
import resource
from pathlib import Path

import pytest

from agentkernel.backends._linux.cgroups import Cgroups
from agentkernel.backends._linux.delegation import CgroupHost
from agentkernel.backends.namespaces.configuration import workload_limits
from agentkernel.model.spec import Resources, RootFilesystem, RootKind, SandboxSpec

SPEC = SandboxSpec(name="one", profile="moderate", root=RootFilesystem(kind=RootKind.HOST))


def limits(spec: SandboxSpec = SPEC, *, pids_by_group: bool = True) -> dict[int, int]:
    found = workload_limits(spec, pids_by_group=pids_by_group)
    assert all(soft == hard for _, soft, hard in found)
    return {number: hard for number, _, hard in found}


def test_a_sandbox_leaves_the_host_user_most_of_what_is_counted_for_both():
    for number in (resource.RLIMIT_SIGPENDING, resource.RLIMIT_MSGQUEUE):
        own = resource.getrlimit(number)[0]
        assert 0 < limits()[number] <= (4096 if own == resource.RLIM_INFINITY else own // 4)


def test_priorities_that_the_host_lends_its_user_stay_outside():
    assert limits()[resource.RLIMIT_RTPRIO] == limits()[resource.RLIMIT_NICE] == 0


def test_processes_are_limited_one_by_one_only_where_no_group_counts_them():
    spec = dataclasses.replace(SPEC, resources=Resources(pids=77))
    assert resource.RLIMIT_NPROC not in limits(spec)
    assert limits(spec, pids_by_group=False)[resource.RLIMIT_NPROC] == 77


def test_no_limit_is_above_what_this_process_may_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resource, "getrlimit", lambda number: (100, 100))
    assert max(limits().values()) <= 100


@pytest.mark.parametrize("version", [1, 2])
def test_a_group_may_hold_exactly_as_many_processes_as_were_granted(tmp_path: Path, version: int):
    groups = Cgroups.of(CgroupHost(version=version, parents={"pids": str(tmp_path)}), "one")
    groups.create(Resources(pids=77), None)
    assert Path(groups.paths[0], "pids.max").read_text() == "77"


def test_what_a_v1_host_counts_apart_is_limited_too(tmp_path: Path):
    """The kernel buffers of sockets are in no other limit, and all of the host's sockets share theirs (tcp_mem)."""
    groups = Cgroups.of(CgroupHost(version=1, parents={"memory": str(tmp_path)}), "one")
    groups.create(Resources(memory_bytes=64 << 20), None)
    (directory,) = groups.paths
    assert int(Path(directory, "memory.limit_in_bytes").read_text()) == 64 << 20
    assert int(Path(directory, "memory.kmem.tcp.limit_in_bytes").read_text()) == 16 << 20
