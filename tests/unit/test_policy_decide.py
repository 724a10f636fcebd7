"""The decision as a whole: root file systems, names, and that nothing else leaks into a grant."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_examples import HOME, NAMESPACES, PROJECT, REQUEST, ROOT, SURROUNDINGS, granted

from agentkernel.errors import AgentKernelError, CommandNotFound, InvalidInput, NotFound, Unsupported
from agentkernel.model.isolation import BackendKind, IsolationLevel
from agentkernel.model.spec import Bind, NetworkMode, RootKind, WorkspaceMode
from agentkernel.policy.decide import decide
from agentkernel.policy.deny import credential_in, is_within
from agentkernel.policy.profiles import PROFILES
from agentkernel.policy.surroundings import ImageName

ALPINE = ImageName(text="alpine:3.20", reference="docker.io/library/alpine:3.20")


def test_a_command_of_the_host_runs_on_the_host_root() -> None:
    grant = granted()
    assert grant.spec.root is ROOT
    assert (grant.tar_image, grant.backend, grant.chosen, grant.spec.level) == (
        None,
        "namespaces",
        BackendKind.CHOSEN,
        IsolationLevel.CONTAINER,
    )


def test_a_command_that_neither_the_host_nor_the_table_of_languages_has_is_not_found() -> None:
    with pytest.raises(CommandNotFound) as missing:
        granted(replace(SURROUNDINGS, root=None, picked_image=ALPINE), argv=(b"\xff\n",))
    assert missing.value.exit_status == 127
    assert "--image" in missing.value.hint
    assert "\n" not in missing.value.message


def test_a_sandbox_without_a_command_on_a_host_without_a_root_needs_an_image() -> None:
    with pytest.raises(Unsupported) as refused:
        granted(replace(SURROUNDINGS, root=None), argv=())
    assert "--image" in refused.value.hint


def test_an_image_directory_is_the_root_even_when_the_host_has_the_command() -> None:
    grant = granted(replace(SURROUNDINGS, image_directory="/srv/images/alpine"), image="/srv/images/alpine/")
    assert (grant.spec.root.kind, grant.spec.root.directory, grant.spec.root.label) == (RootKind.DIRECTORY, "/srv/images/alpine", "alpine")
    assert grant.tar_image is None


def test_a_tar_image_is_handed_on_to_be_unpacked() -> None:
    surroundings = replace(SURROUNDINGS, image_is_tar=True)
    grant = granted(surroundings, image="/srv/alpine.tar")
    assert (grant.spec.root.kind, grant.spec.root.directory, grant.spec.root.label) == (RootKind.DIRECTORY, "", "alpine.tar")
    assert grant.tar_image == "/srv/alpine.tar"


def test_an_image_that_is_neither_is_not_found() -> None:
    with pytest.raises(NotFound, match="/no/such") as missing:
        granted(image="/no/such")
    assert "--image" in missing.value.hint


def test_a_name_is_kept_or_made_up() -> None:
    assert granted(name="mine").spec.name == "mine"
    made_up = {granted(name=None).spec.name for _ in range(20)}
    assert len(made_up) == 20
    with pytest.raises(InvalidInput):
        granted(name="../mine")


def test_the_same_facts_give_the_same_grant() -> None:
    assert decide(REQUEST, SURROUNDINGS, [NAMESPACES]) == decide(REQUEST, SURROUNDINGS, [NAMESPACES])


SWITCH = st.sampled_from([None, True, False])
PATHS = st.sampled_from(
    [
        "/",
        HOME,
        "/home",
        PROJECT,
        f"{HOME}/.ssh",
        f"{HOME}/.config",
        f"{HOME}/.config/nvim",
        "/etc",
        "/srv/x",
        "/tmp",
        "/run/docker.sock",
        "/var",
    ]
)
REQUESTS = st.fixed_dictionaries(
    {
        "profile": st.sampled_from(sorted(PROFILES)),
        "cwd": PATHS,
        "directory": st.one_of(st.none(), PATHS),
        "network": SWITCH,
        "mount_cwd": SWITCH,
        "mount_home": SWITCH,
        "pass_environment": SWITCH,
        "read_only_root": SWITCH,
        "mounts": st.lists(
            st.builds(Bind, source=PATHS, target=st.sampled_from(["/data", "/mnt/x", "/etc", "/", "/workspace"]), writable=st.booleans()),
            max_size=2,
        ).map(tuple),
        "host_environment": st.just({"GITHUB_TOKEN": "hunter2", "LANG": "hunter3", "LD_PRELOAD": "hunter2"}),
    }
)


@settings(max_examples=600, deadline=None)
@given(REQUESTS, st.booleans())
def test_no_combination_of_switches_shows_a_secret_or_the_hosts_network_by_accident(changes: dict[str, Any], is_project: bool) -> None:
    surroundings = replace(SURROUNDINGS, cwd_is_project=is_project)
    try:
        spec = granted(surroundings, **changes).spec
    except AgentKernelError as refused:
        assert refused.message and refused.hint
        return
    sources = [bind.source for bind in spec.mounts]
    if spec.workspace.mode is not WorkspaceMode.NONE:
        sources.append(spec.workspace.source)
    for source in sources:
        assert credential_in(source, HOME) is None
        assert not is_within(HOME, source)
    if spec.network is NetworkMode.HOST:
        assert changes["profile"] == "permissive" and changes["network"] is not False
    assert spec.home_source in ("", HOME)
    assert not spec.home_source or (".ssh" in spec.home_denied and spec.home_denied == tuple(dict.fromkeys(spec.home_denied)))
    assert "hunter2" not in dict(spec.environment).values()
    assert spec.resources.pids is not None
    assert spec.seccomp == PROFILES[changes["profile"]].seccomp
