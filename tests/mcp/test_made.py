"""Sandboxes that exist, held against what the operator allows now, as data; through the official client in test_policy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_examples import HOME, SURROUNDINGS, fingerprint

from agentkernel.config.load import Settings, users_settings
from agentkernel.config.places import Places
from agentkernel.errors import Refused
from agentkernel.mcp.made import check_made
from agentkernel.mcp.wishes import requested, tightened
from agentkernel.model.isolation import Fingerprint, IsolationLevel, Runtime
from agentkernel.model.network import EgressRules, Rule
from agentkernel.model.record import SandboxInfo
from agentkernel.model.spec import SandboxSpec
from agentkernel.model.status import Status
from agentkernel.policy.decide import decide

NOWHERE = Places(operator="/nonexistent/a", user="/nonexistent/b", trusted="/nonexistent/c")
ENVIRONMENT = {"HOME": HOME, "TOKEN": "a-value-of-the-operator", "EXTRA": "1"}
PATHS = ("one", "two", "image", "writable")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with the directories of `PATHS`."""
    found = tmp_path_factory.mktemp("here")
    for name in PATHS:
        (found / name).mkdir()
    (found / "writable" / ".git").mkdir()
    (found / "image.tar").touch()
    return found


def settings_of(here: Path, said: dict[str, Any]) -> Settings:
    """The operator's, with HERE in paths."""
    flags = {key: [each.replace("HERE", str(here)) for each in value] if isinstance(value, list) else value for key, value in said.items()}
    flags = {key: value.replace("HERE", str(here)) if isinstance(value, str) else value for key, value in flags.items()}
    return users_settings(cwd="/", environment={}, flags=flags, places=NOWHERE)


def backend(name: str) -> Fingerprint:
    level = IsolationLevel.USER_KERNEL if name == "gvisor" else IsolationLevel.CONTAINER
    return replace(fingerprint(name, level), runtimes=(Runtime(name="runsc", level=level),))


def made(here: Path, said: dict[str, Any], **wishes: object) -> tuple[SandboxInfo, SandboxSpec]:
    """A sandbox that the model had made when the operator said so."""
    request = requested(tightened(settings_of(here, said), wishes), ENVIRONMENT)
    image = request.image if request.image is not None and not request.image.endswith(".tar") else None
    surroundings = replace(
        SURROUNDINGS,
        cwd_is_project=False,
        image_directory=image,
        image_is_tar=request.image is not None and image is None,
        protected_in_mounts=((f"{here}/writable", ".git"),),
    )
    grant = decide(request, surroundings, [backend(name) for name in ("namespaces", "docker", "gvisor")])
    spec = grant.spec
    info = SandboxInfo(
        sandbox_id="0" * 16, name="older", owner="ada", status=Status.RUNNING, backend=grant.backend, isolation=spec.level,
        image=spec.root.label, profile=spec.profile, created_at=0.0, network=spec.network,
    )  # fmt: skip
    return info, spec


def check(here: Path, said: dict[str, Any], info: SandboxInfo, spec: SandboxSpec, *, may_allow_hosts: bool = False) -> None:
    operator = settings_of(here, said)
    check_made(operator, requested(operator, ENVIRONMENT), info, spec, may_allow_hosts=may_allow_hosts)


SECRET = "TOKEN@api.example.com"
DIFFERENCES = [
    ({"security.profile": "permissive"}, {}, "security.profile"),
    ({}, {"security.network": False}, "security.network"),
    ({"security.profile": "permissive"}, {"security.profile": "permissive", "security.domains.block": ["a.example"]}, "security.network"),
    ({}, {"security.domains.allowlist_only": True, "security.domains.allow": ["a.example"]}, "security.domains.allowlist_only"),
    ({"security.domains.allow": ["a.example"]}, {}, "security.domains.allow"),
    ({"security.domains.allow": ["10.0.0.0/8:5432"]}, {"security.domains.allow": ["a.example"]}, "security.domains.allow"),
    ({}, {"security.domains.block": ["b.example"]}, "security.domains.block"),
    ({}, {"network.max_connections": 8}, "network.max_connections"),
    ({}, {"network.max_bytes": "1MB"}, "network.max_bytes"),
    ({"network.ports": ["8080:80"]}, {}, "network.ports"),
    ({"dir": "HERE/one"}, {}, "dir"),
    ({"dir": "HERE/one"}, {"dir": "HERE/two"}, "dir"),
    ({"dir": "HERE/one", "security.mount_cwd": True}, {"dir": "HERE/one"}, "security.mount_cwd"),
    ({"mounts": ["HERE/one:/data:ro"]}, {}, "mounts"),
    ({"mounts": ["HERE/one:/data:ro"]}, {"mounts": ["HERE/two:/data:ro"]}, "mounts"),
    ({"mounts": ["HERE/one:/data:ro"]}, {"mounts": ["HERE/one:/other:ro"]}, "mounts"),
    ({"mounts": ["HERE/writable:/data"]}, {"mounts": ["HERE/writable:/data:ro"]}, "mounts"),
    ({"security.mount_home": True}, {}, "security.mount_home"),
    ({"secrets": [SECRET]}, {"security.domains.allow": ["api.example.com:443"]}, "secrets"),
    ({"secrets": [SECRET]}, {"secrets": ["TOKEN@POST:api.example.com/v1"]}, "secrets"),
    ({"environment": ["TOKEN"]}, {}, "environment"),
    ({"security.pass_env": True}, {}, "environment"),
    ({"sandbox.base_image": "HERE/image"}, {}, "sandbox.base_image"),
    ({"sandbox.base_image": "HERE/image"}, {"sandbox.base_image": "HERE/one"}, "sandbox.base_image"),
    ({}, {"sandbox.base_image": "alpine"}, "sandbox.base_image"),
    ({"user": "root"}, {}, "user"),
    ({"sandbox.gpus": "all"}, {}, "sandbox.gpus"),
    ({"backend": "namespaces"}, {"backend": "gvisor"}, "backend"),
    ({"backend": "docker"}, {"backend": "docker", "sandbox.container_runtime": "runsc"}, "sandbox.container_runtime"),
    ({"backend": "namespaces"}, {"isolation.minimum": "user-kernel"}, "isolation.minimum"),
    ({"storage": "disk"}, {"storage": "memory"}, "storage"),
    ({"resources.memory": "4GiB"}, {}, "resources.memory"),
    ({"resources.cpus": 2.0}, {}, "resources.cpus"),
    ({"resources.pids": 5000}, {}, "resources.pids"),
    ({"resources.disk": "8GiB"}, {}, "resources.disk"),
    ({}, {"security.read_only": True}, "security.read_only"),
]  # fmt: skip


@pytest.mark.parametrize(("then", "now", "setting"), DIFFERENCES)
def test_one_that_has_more_than_is_allowed_now_is_refused_and_the_setting_is_named(
    here: Path, then: dict[str, Any], now: dict[str, Any], setting: str
) -> None:
    info, spec = made(here, then)
    with pytest.raises(Refused) as refused:
        check(here, now, info, spec)
    assert f"({setting})" in refused.value.message and "'older'" in refused.value.message
    assert f"setting {setting}" in refused.value.hint and "--share older" in refused.value.hint
    check(here, then, info, spec)


def test_a_host_that_was_allowed_while_it_ran_counts_too_unless_the_model_may_do_that(here: Path) -> None:
    info, spec = made(here, {})
    spec = replace(spec, egress=EgressRules(allow=(Rule(host="a.example"),)))
    with pytest.raises(Refused):
        check(here, {}, info, spec)
    check(here, {}, info, spec, may_allow_hosts=True)


THEN = st.fixed_dictionaries(
    {"security.profile": st.sampled_from(["restrictive", "moderate", "permissive"])},
    optional={
        "security.domains.allow": st.just(["a.example"]),
        "dir": st.sampled_from(["HERE/one", "HERE/writable"]),
        "security.mount_cwd": st.booleans(),
        "security.pass_env": st.booleans(),
        "mounts": st.sampled_from([["HERE/writable:/data"], ["HERE/one:/data:ro"]]),
        "environment": st.just(["TOKEN", "EXTRA=2"]),
        "sandbox.base_image": st.sampled_from(["HERE/image", "HERE/image.tar"]),
        "resources.memory": st.sampled_from(["64MiB", "2GiB"]),
        "user": st.sampled_from(["root", "1234"]),
    },
)
WISHES = st.fixed_dictionaries(
    {},
    optional={
        "profile": st.sampled_from(["restrictive", "moderate"]),
        "network": st.just(False),
        "read_only": st.just(True),
        "memory_mb": st.just(32),
        "deny_hosts": st.just(("b.example",)),
    },
)


@given(then=THEN, wishes=WISHES)
def test_what_was_made_under_the_settings_of_now_is_used_whatever_was_wished(here: Path, then: dict[str, Any], wishes: Any) -> None:
    try:
        info, spec = made(here, then, **wishes)
    except Refused:
        return  # it wished for more
    check(here, then, info, spec)
