"""The model's wishes against the operator's settings, as data."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkernel.config.load import users_settings
from agentkernel.config.places import Places
from agentkernel.errors import AgentKernelError, Refused
from agentkernel.mcp.tools import TOOLS
from agentkernel.mcp.wishes import KEYS, requested, tightened
from agentkernel.model.request import SandboxRequest

MIB = 1024 * 1024
PROFILES = ("restrictive", "moderate", "permissive")
NETWORK = {"restrictive": False, "moderate": True, "permissive": True}


def request_of(wishes: dict[str, object], **operator: object) -> SandboxRequest:
    """What is asked for when the operator's command line says so much."""
    nothing = Places(operator="/nonexistent/a", user="/nonexistent/b", trusted="/nonexistent/c")
    flags = {key.replace("__", "."): value for key, value in operator.items()}
    settings = users_settings(cwd="/", environment={}, flags=flags, places=nothing)
    return requested(tightened(settings, wishes), {})


@pytest.mark.parametrize(
    ("wishes", "operator", "setting"),
    [
        ({"profile": "permissive"}, {}, "security.profile"),
        ({"profile": "moderate"}, {"security__profile": "restrictive"}, "security.profile"),
        ({"network": True}, {"security__network": False}, "security.network"),
        ({"network": True}, {"security__profile": "restrictive"}, "security.network"),
        ({"min_isolation": "container"}, {"isolation__minimum": "vm"}, "isolation.minimum"),
        ({"memory_mb": 513}, {}, "resources.memory"),
        ({"memory_mb": 129}, {"resources__memory": "128MiB"}, "resources.memory"),
        ({"vcpus": 2.0}, {}, "resources.cpus"),
        ({"pids": 513}, {}, "resources.pids"),
        ({"disk_mb": 1025}, {}, "resources.disk"),
        ({"read_only": False}, {"security__read_only": True}, "security.read_only"),
        ({"timeout_s": 61.0}, {"timeout": "60s"}, "timeout"),
        ({"timeout_s": 0.0}, {"timeout": "60s"}, "timeout"),
        ({"image": "/etc"}, {}, "sandbox.base_image"),
        ({"image": "./here"}, {}, "sandbox.base_image"),
        ({"image": "image.tar"}, {}, "sandbox.base_image"),
    ],
)
def test_a_looser_wish_is_refused_and_the_setting_is_named(wishes: dict[str, object], operator: dict[str, object], setting: str) -> None:
    with pytest.raises(Refused) as refused:
        request_of(wishes, **operator)
    assert next(iter(wishes)) in refused.value.message
    assert setting in refused.value.hint


def test_a_tighter_wish_holds() -> None:
    request = request_of(
        {
            "profile": "restrictive",
            "network": False,
            "min_isolation": "vm",
            "memory_mb": 64,
            "vcpus": 0.5,
            "pids": 8,
            "disk_mb": 16,
            "read_only": True,
            "deny_hosts": ("*.example.com",),
            "image": "python:3.12-alpine",
        },
        isolation__minimum="container",
    )
    assert (request.profile, request.network, request.min_isolation.label) == ("restrictive", False, "vm")
    assert (request.memory_bytes, request.cpus, request.pids, request.disk_bytes) == (64 * MIB, 0.5, 8, 16 * MIB)
    assert (request.read_only_root, request.image) == (True, "python:3.12-alpine")
    assert [str(rule) for rule in request.deny_hosts] == ["*.example.com"]


OPERATORS = st.fixed_dictionaries(
    {"security__profile": st.sampled_from(PROFILES)},
    optional={
        "security__network": st.booleans(),
        "security__read_only": st.booleans(),
        "resources__memory": st.sampled_from(["64MiB", "256MiB", "2GiB"]),
        "resources__pids": st.sampled_from([16, 4096]),
        "isolation__minimum": st.sampled_from(["none", "container", "vm"]),
    },
)
WISHES = st.fixed_dictionaries(
    {},
    optional={
        "profile": st.sampled_from(PROFILES),
        "network": st.booleans(),
        "read_only": st.booleans(),
        "memory_mb": st.integers(1, 4096),
        "pids": st.integers(1, 8192),
        "min_isolation": st.sampled_from(["none", "process", "container", "user-kernel", "vm"]),
    },
)


@given(operator=OPERATORS, wishes=WISHES)
def test_no_wishes_together_come_to_more_than_the_operator_gives(operator: dict[str, Any], wishes: dict[str, object]) -> None:
    bare = request_of({}, **operator)
    try:
        wished = request_of(wishes, **operator)
    except AgentKernelError:
        return

    def network(request: SandboxRequest) -> bool:
        return NETWORK[request.profile] if request.network is None else request.network

    assert PROFILES.index(wished.profile) <= PROFILES.index(bare.profile)
    assert network(wished) <= network(bare)
    assert wished.min_isolation >= bare.min_isolation
    assert bool(wished.read_only_root) >= bool(bare.read_only_root)
    assert bare.memory_bytes is None or (wished.memory_bytes or 0) <= bare.memory_bytes
    assert bare.pids is None or (wished.pids or 0) <= bare.pids
    for name in ("mounts", "directory", "backend", "runtime", "secrets", "allow_hosts", "ports", "user", "pass_environment", "mount_home"):
        assert getattr(wished, name) == getattr(bare, name)
    assert (wished.mount_cwd, wished.cwd) == (False, "/nonexistent")


def test_every_argument_about_a_sandbox_is_one_that_is_held_against_a_setting() -> None:
    run, create = TOOLS["sandbox_run"].arguments.model_fields, TOOLS["sandbox_create"].arguments.model_fields
    assert set(run) - set(KEYS) == {"command", "workdir", "env", "stdin"}
    assert set(create) - set(KEYS) == {"name", "labels", "ttl_s", "idle_s", "temporary"}
