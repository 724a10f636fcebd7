"""The three profiles and their fifteen cells, each as granted and as switched by a request."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from policy_examples import granted

from agentkernel.errors import InvalidInput, UnknownKey
from agentkernel.model.request import Grant
from agentkernel.model.spec import NetworkMode, StorageKind, WorkspaceMode
from agentkernel.policy.profiles import PROFILES, profile

HOST_ENVIRONMENT = {"EDITOR_COLOUR": "green", "GITHUB_TOKEN": "secret", "HOME": "/home/ada"}

# A column's name in a request, and how its yes shows in a grant.
COLUMNS: dict[str, Callable[[Grant], bool]] = {
    "network": lambda grant: grant.spec.network is not NetworkMode.NONE,
    "mount_cwd": lambda grant: grant.spec.workspace.mode is WorkspaceMode.WRITABLE,
    "mount_home": lambda grant: grant.spec.home_source == "/home/ada",
    "pass_environment": lambda grant: dict(grant.spec.environment).get("EDITOR_COLOUR") == "green",
    "read_only_root": lambda grant: grant.spec.read_only_root,
}
PROMISED = {
    "permissive": {"network": True, "mount_cwd": True, "mount_home": True, "pass_environment": True, "read_only_root": False},
    "moderate": {"network": True, "mount_cwd": False, "mount_home": False, "pass_environment": False, "read_only_root": False},
    "restrictive": {"network": False, "mount_cwd": False, "mount_home": False, "pass_environment": False, "read_only_root": True},
}
CELLS = [(name, column) for name in PROMISED for column in COLUMNS]


def test_the_profiles_are_the_promised_ones() -> None:
    assert list(PROFILES) == list(PROMISED)


@pytest.mark.parametrize(("name", "column"), CELLS)
def test_a_cell_of_the_table_is_what_users_were_promised(name: str, column: str) -> None:
    assert COLUMNS[column](granted(profile=name, host_environment=HOST_ENVIRONMENT)) is PROMISED[name][column]


@pytest.mark.parametrize(("name", "column"), CELLS)
@pytest.mark.parametrize("switch", [True, False])
def test_a_request_switches_one_cell_and_no_other(name: str, column: str, switch: bool) -> None:
    grant = granted(profile=name, host_environment=HOST_ENVIRONMENT, **{column: switch})
    assert {each: shows(grant) for each, shows in COLUMNS.items()} == PROMISED[name] | {column: switch}


@pytest.mark.parametrize("name", PROMISED)
def test_the_hosts_network_is_permissives_alone(name: str) -> None:
    assert (granted(profile=name).spec.network is NetworkMode.HOST) is (name == "permissive")
    assert granted(profile=name, network=False).spec.network is NetworkMode.NONE


def test_secrets_are_not_passed_even_when_the_environment_is() -> None:
    for name in PROMISED:
        assert "GITHUB_TOKEN" not in dict(granted(profile=name, pass_environment=True, host_environment=HOST_ENVIRONMENT).spec.environment)


@pytest.mark.parametrize(
    ("name", "memory_mib", "cpus", "seccomp"),
    [("permissive", None, None, "moderate"), ("moderate", 512, 1.0, "moderate"), ("restrictive", 256, 0.5, "restrictive")],
)
def test_a_profile_brings_its_limits(name: str, memory_mib: int | None, cpus: float | None, seccomp: str) -> None:
    spec = granted(profile=name).spec
    assert spec.resources.memory_bytes == (None if memory_mib is None else memory_mib * 2**20)
    assert spec.resources.cpus == cpus
    assert spec.seccomp == seccomp


@pytest.mark.parametrize("name", PROMISED)
def test_no_profile_lets_processes_or_disk_grow_without_end(name: str) -> None:
    limits = granted(profile=name).spec.resources
    assert limits.pids is not None and 0 < limits.pids <= 4096
    assert 0 < limits.disk_bytes <= 8 * 2**30


@pytest.mark.parametrize("name", PROMISED)
def test_the_users_own_limits_override_a_profiles_either_way(name: str) -> None:
    for memory, cpus, pids, disk in ((16 * 2**20, 0.01, 1, 2**20), (2**46, 1024.0, 4194304, 2**50)):
        limits = granted(profile=name, memory_bytes=memory, cpus=cpus, pids=pids, disk_bytes=disk).spec.resources
        assert (limits.memory_bytes, limits.cpus, limits.pids, limits.disk_bytes) == (memory, cpus, pids, disk)


@pytest.mark.parametrize(
    "limit",
    [
        {"memory_bytes": 16 * 2**20 - 1},
        {"memory_bytes": 0},
        {"memory_bytes": -1},
        {"memory_bytes": 2**46 + 1},
        {"cpus": 0.0},
        {"cpus": 0.009},
        {"cpus": 1024.5},
        {"cpus": float("nan")},
        {"cpus": float("inf")},
        {"cpus": -1.0},
        {"pids": 0},
        {"pids": 4194305},
        {"disk_bytes": 0},
        {"disk_bytes": 2**50 + 1},
    ],
)
def test_a_limit_that_no_host_can_mean_is_refused_with_the_range(limit: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match="out of range") as refused:
        granted(profile="permissive", **limit)
    assert "between" in refused.value.hint


def test_writes_go_to_memory_unless_asked_otherwise() -> None:
    assert granted().spec.storage is StorageKind.MEMORY
    assert granted(storage=StorageKind.DISK).spec.storage is StorageKind.DISK


@pytest.mark.parametrize(
    ("name", "hint"), [("restrctive", "'restrictive'"), ("Moderate", "'moderate'"), ("x", "moderate, permissive, restrictive")]
)
def test_an_unknown_profile_is_an_error_with_a_suggestion_never_another_profile(name: str, hint: str) -> None:
    for act in (lambda: profile(name), lambda: granted(profile=name)):
        with pytest.raises(UnknownKey) as unknown:
            act()
        assert hint in unknown.value.hint
