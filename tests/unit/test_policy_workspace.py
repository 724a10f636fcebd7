"""What of the host is shown inside: the working directory, mounts, HOME."""

from __future__ import annotations

from dataclasses import replace

import pytest
from policy_examples import HOME, PROJECT, SURROUNDINGS, codes, granted

from agentkernel.errors import InvalidInput, Refused
from agentkernel.model.spec import Bind, Workspace, WorkspaceMode
from agentkernel.policy.deny import denied_in_home

EMPTY = Workspace()
NO_PROJECT = replace(SURROUNDINGS, cwd_is_project=False)
NAMED = replace(SURROUNDINGS, named_files=("script.py", "data/in.csv"))


def test_permissive_shows_the_directory_itself_with_protected_files_read_only() -> None:
    surroundings = replace(NO_PROJECT, protected_present=(".git/hooks", ".envrc"))
    expected = Workspace(mode=WorkspaceMode.WRITABLE, source=PROJECT, protected=(".git/hooks", ".envrc"))
    assert granted(surroundings, profile="permissive").spec.workspace == expected
    assert granted(surroundings, mount_cwd=True).spec.workspace == expected


def test_moderate_shows_a_private_view_of_a_project() -> None:
    assert granted().spec.workspace == Workspace(mode=WorkspaceMode.COPY_ON_WRITE, source=PROJECT)
    assert granted(profile="permissive", mount_cwd=False).spec.workspace == Workspace(mode=WorkspaceMode.COPY_ON_WRITE, source=PROJECT)


def test_moderate_shows_nothing_of_a_directory_that_is_no_project() -> None:
    grant = granted(NO_PROJECT, network=False)
    assert grant.spec.workspace == EMPTY
    assert codes(grant) == []


@pytest.mark.parametrize("profile", ["permissive", "moderate"])
@pytest.mark.parametrize("cwd", [HOME, "/", "/home", "/home/ada/.config", "/etc"])
def test_a_directory_that_gives_the_user_away_is_left_out_with_a_notice(profile: str, cwd: str) -> None:
    grant = granted(profile=profile, cwd=cwd, network=False)
    assert grant.spec.workspace == EMPTY
    assert codes(grant) == ["workspace-left-out"]


@pytest.mark.parametrize(
    "directory", [HOME, "/", "/home", "/home/ada/.ssh", "/home/ada/.config", "/etc", "/proc/self", "/run", "/home/bob/.aws"]
)
@pytest.mark.parametrize("profile", ["permissive", "moderate", "restrictive"])
def test_such_a_directory_is_refused_when_it_is_asked_for(profile: str, directory: str) -> None:
    with pytest.raises(Refused) as refused:
        granted(profile=profile, directory=directory)
    assert repr(directory) in refused.value.message
    with pytest.raises(Refused):
        granted(profile=profile, cwd=directory, mount_cwd=True)


@pytest.mark.parametrize(
    ("directory", "reason"), [("/", "the host's root directory"), (HOME, "is the home directory"), ("/home", "holds the home directory")]
)
def test_a_refusal_says_what_the_directory_is(directory: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        granted(directory=directory)


def test_a_refusal_names_the_credential() -> None:
    with pytest.raises(Refused, match=r"/home/ada/\.config/age"):
        granted(directory="/home/ada/.config")
    found = replace(SURROUNDINGS, credentials_found=((PROJECT, ".ssh"),))
    with pytest.raises(Refused, match=r"'\.ssh'"):
        granted(found, directory=PROJECT)
    assert granted(found).spec.workspace == EMPTY
    assert granted(found, directory="/srv/other").spec.workspace.source == "/srv/other"


@pytest.mark.parametrize("profile", ["moderate", "restrictive"])
def test_a_named_directory_is_a_private_view(profile: str) -> None:
    spec = granted(NO_PROJECT, profile=profile, directory="/srv/data").spec
    assert spec.workspace == Workspace(mode=WorkspaceMode.COPY_ON_WRITE, source="/srv/data")


def test_a_named_directory_is_writable_where_the_working_directory_would_be() -> None:
    surroundings = replace(SURROUNDINGS, protected_present=(".vscode",))
    expected = Workspace(mode=WorkspaceMode.WRITABLE, source="/srv/data", protected=(".vscode",))
    assert granted(surroundings, profile="permissive", directory="/srv/data").spec.workspace == expected
    assert granted(surroundings, mount_cwd=True, directory="/srv/data").spec.workspace == expected


@pytest.mark.parametrize("directory", ["relative", "", "/a/../etc", "/a\0b"])
def test_a_named_directory_is_an_absolute_path(directory: str) -> None:
    with pytest.raises(InvalidInput, match="absolute"):
        granted(directory=directory)


def test_restrictive_shows_only_the_named_files() -> None:
    spec = granted(NAMED, profile="restrictive").spec
    assert spec.workspace == Workspace(mode=WorkspaceMode.FILES, source=PROJECT, files=("script.py", "data/in.csv"))
    assert spec.mounts == ()
    assert granted(SURROUNDINGS, profile="restrictive").spec.workspace == EMPTY


def test_restrictive_shows_named_files_of_home_but_not_home() -> None:
    surroundings = replace(SURROUNDINGS, named_files=("script.py",))
    assert granted(surroundings, profile="restrictive", cwd=HOME).spec.workspace.files == ("script.py",)


def test_restrictive_shows_named_files_on_top_of_a_directory_elsewhere() -> None:
    spec = granted(NAMED, profile="restrictive", directory="/srv/data").spec
    assert spec.workspace == Workspace(mode=WorkspaceMode.COPY_ON_WRITE, source="/srv/data")
    assert spec.mounts == (
        Bind(source=f"{PROJECT}/script.py", target="/workspace/script.py"),
        Bind(source=f"{PROJECT}/data/in.csv", target="/workspace/data/in.csv"),
    )
    assert granted(NAMED, profile="restrictive", directory=PROJECT).spec.mounts == ()
    assert granted(NAMED, directory="/srv/data").spec.mounts == ()


@pytest.mark.parametrize(
    ("cwd", "name"),
    [(HOME, ".ssh/id_rsa"), (HOME, ".netrc"), ("/", "etc/shadow"), (PROJECT, "keys/id_ed25519"), (f"{HOME}/.aws", "config")],
)
def test_a_named_file_that_is_a_credential_is_refused(cwd: str, name: str) -> None:
    with pytest.raises(Refused, match="deny list"):
        granted(replace(SURROUNDINGS, named_files=(name,)), profile="restrictive", cwd=cwd)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a\0"])
def test_a_named_file_lies_beneath_the_working_directory(name: str) -> None:
    with pytest.raises(InvalidInput, match="not a file beneath"):
        granted(replace(SURROUNDINGS, named_files=(name,)), profile="restrictive")


def test_a_mount_is_granted_as_asked() -> None:
    spec = granted(
        mounts=(Bind(source="/srv/a", target="/data/"), Bind(source="/srv/b", target="/mnt/b", writable=True, executable=False))
    ).spec
    assert spec.mounts == (Bind(source="/srv/a", target="/data"), Bind(source="/srv/b", target="/mnt/b", writable=True, executable=False))


def test_a_writable_mount_of_a_project_keeps_its_protected_files_read_only() -> None:
    surroundings = replace(SURROUNDINGS, protected_in_mounts=(("/srv/b", ".git/hooks"), ("/srv/other", ".envrc")))
    protected = Bind(source="/srv/b/.git/hooks", target="/mnt/b/.git/hooks")
    for writable in (True, False):
        mount = Bind(source="/srv/b", target="/mnt/b", writable=writable)
        assert granted(surroundings, mounts=(mount,)).spec.mounts == ((mount, protected) if writable else (mount,))


@pytest.mark.parametrize(
    "source",
    [
        HOME,
        "/",
        "/home",
        f"{HOME}/.ssh",
        f"{HOME}/.config",
        f"{HOME}/.docker/config.json",
        "/etc",
        "/etc/shadow",
        "/var/run/docker.sock",
        "/proc",
        "/dev",
    ],
)
@pytest.mark.parametrize("profile", ["permissive", "moderate", "restrictive"])
def test_a_mount_of_the_hosts_secrets_is_refused_on_every_profile(profile: str, source: str) -> None:
    with pytest.raises(Refused, match="cannot be shown"):
        granted(profile=profile, mounts=(Bind(source=source, target="/data"),))


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/etc",
        "/etc/passwd",
        "/usr/bin",
        "/proc",
        "/proc/sys",
        "/sys/fs",
        "/dev/null",
        "/lib64",
        "/bin",
        "/tmp",
        "/home",
        "/run/x",
        "/var",
        "//etc/",
    ],
)
def test_a_mount_over_the_sandboxes_own_structure_is_refused(target: str) -> None:
    with pytest.raises(Refused, match="system path"):
        granted(mounts=(Bind(source="/srv/a", target=target),))


@pytest.mark.parametrize(
    "target", ["/data", "/opt/tool", "/var/lib/x", "/home/user/cache", "/tmp/x", "/etcetera", "/workspace2", "/workspace/sub"]
)
def test_a_mount_elsewhere_is_fine(target: str) -> None:
    assert granted(mounts=(Bind(source="/srv/a", target=target),)).spec.mounts[0].target == target


@pytest.mark.parametrize("target", ["data", "/a/../etc", "/a\0"])
def test_a_mounts_target_is_a_plain_absolute_path(target: str) -> None:
    with pytest.raises(InvalidInput):
        granted(mounts=(Bind(source="/srv/a", target=target),))


def test_two_things_cannot_be_mounted_at_one_place() -> None:
    twice = (Bind(source="/srv/a", target="/data"), Bind(source="/srv/b", target="/data/"))
    with pytest.raises(InvalidInput, match="already mounted"):
        granted(mounts=twice)
    at_workspace = (Bind(source="/srv/a", target="/workspace"),)
    with pytest.raises(InvalidInput, match="already mounted"):
        granted(mounts=at_workspace)
    with pytest.raises(InvalidInput, match="already mounted"):
        granted(mounts=(Bind(source="/srv/a", target="/home/user"),))
    assert granted(NO_PROJECT, mounts=at_workspace).spec.mounts == at_workspace


def test_home_is_shown_without_credentials() -> None:
    spec = granted(mount_home=True).spec
    assert (spec.home_source, spec.home_denied) == (HOME, denied_in_home())
    spec = granted().spec
    assert (spec.home_source, spec.home_denied) == ("", ())


@pytest.mark.parametrize("home", ["/", "", "relative"])
def test_a_home_that_is_the_whole_host_is_not_shown(home: str) -> None:
    grant = granted(replace(SURROUNDINGS, home=home), profile="permissive", cwd="/srv/project")
    assert grant.spec.home_source == ""
    assert "home-left-out" in codes(grant)


def test_an_image_that_is_the_host_itself_is_refused() -> None:
    for directory in ("/", HOME, f"{HOME}/.config"):
        with pytest.raises(Refused, match="cannot be shown"):
            granted(replace(SURROUNDINGS, image_directory=directory), image=directory)
