"""The base environment of a sandbox."""

from __future__ import annotations

from dataclasses import replace

import pytest
from policy_examples import REQUEST, ROOT, SURROUNDINGS, granted

from agentkernel.errors import InvalidInput


def environment(**changes: object) -> dict[str, str]:
    spec = granted(**changes).spec
    assert list(spec.environment) == sorted(set(spec.environment))
    return dict(spec.environment)


def test_a_sandbox_has_a_home_a_user_a_shell_and_a_locale_of_its_own() -> None:
    seen = environment(host_environment={"HOME": "/home/ada", "LANG": "de_DE.UTF-8"})
    expected = {
        "HOME": "/home/user",
        "USER": "user",
        "LOGNAME": "user",
        "SHELL": "/bin/sh",
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
    }
    assert expected.items() <= seen.items()
    assert "TERM" not in seen


def test_the_path_holds_what_is_installed_then_toolchains_then_the_system() -> None:
    path = environment()["PATH"].split(":")
    assert path.index("/home/user/.local/bin") < path.index("/home/ada/.pyenv/shims") < path.index("/usr/bin") < path.index("/bin")
    assert len(path) == len(set(path))


def test_installers_write_to_home_and_pip_is_left_to_find_out_by_itself() -> None:
    seen = environment()
    assert seen["PYTHONUSERBASE"] == seen["npm_config_prefix"] == "/home/user/.local"
    assert seen["GOPATH"] == "/home/user/go"
    assert seen["PIP_BREAK_SYSTEM_PACKAGES"] == "1"
    assert not {"PIP_USER", "PIP_TARGET", "PIP_PREFIX"} & seen.keys()  # each breaks `python -m venv x && x/bin/pip install`


def test_installers_write_elsewhere_when_home_is_the_hosts() -> None:
    seen = environment(mount_home=True)
    assert seen["HOME"] == "/home/user"
    assert seen["PYTHONUSERBASE"] == "/tmp/home/.local"
    assert "/tmp/home/.local/bin" in seen["PATH"].split(":")


def test_a_toolchains_variable_beats_the_sandboxes_own() -> None:
    root = replace(ROOT, environment=(("PYENV_ROOT", "/p"), ("GOPATH", "/g")))
    seen = dict(granted(replace(SURROUNDINGS, root=root)).spec.environment)
    assert (seen["PYENV_ROOT"], seen["GOPATH"]) == ("/p", "/g")


def test_a_passed_variable_beats_the_locale_but_not_what_points_inside() -> None:
    host = {
        "LANG": "de_DE.UTF-8",
        "GOPATH": "/home/ada/go",
        "PYENV_ROOT": "/elsewhere",
        "TZ": "Europe/Berlin",
        "CARGO_HOME": "/home/ada/.cargo",
    }
    seen = environment(pass_environment=True, host_environment=host)
    assert (seen["LANG"], seen["TZ"]) == ("de_DE.UTF-8", "Europe/Berlin")
    assert (seen["GOPATH"], seen["PYENV_ROOT"], seen["CARGO_HOME"]) == ("/home/user/go", "/home/ada/.pyenv", "/home/user/.cargo")


def test_what_the_user_sets_beats_everything() -> None:
    explicit = {"PATH": "/x", "GITHUB_TOKEN": "mine", "PIP_USER": "1", "LANG": "fr_FR.UTF-8"}
    seen = environment(environment=explicit, pass_environment=True, host_environment={"LANG": "de_DE.UTF-8"})
    assert explicit.items() <= seen.items()


@pytest.mark.parametrize("wrong", [{"A=B": "x"}, {"": "x"}, {"A": "x\0"}])
def test_what_the_kernel_cannot_hold_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        environment(environment=wrong)


@pytest.mark.parametrize(
    ("user", "uid", "gid", "name", "home"),
    [
        (None, 1000, 1000, "user", "/home/user"),
        ("user", 1000, 1000, "user", "/home/user"),
        ("root", 0, 0, "root", "/root"),
        ("0", 0, 0, "root", "/root"),
        ("0:7", 0, 7, "root", "/root"),
        ("1234", 1234, 1234, "uid1234", "/home/user"),
        ("1000:100", 1000, 100, "user", "/home/user"),
        ("65535:65535", 65535, 65535, "uid65535", "/home/user"),
    ],
)
def test_a_user_is_a_name_or_numbers(user: str | None, uid: int, gid: int, name: str, home: str) -> None:
    spec = granted(user=user).spec
    assert (spec.user.uid, spec.user.gid, spec.user.name, spec.user.home) == (uid, gid, name, home)
    assert dict(spec.environment)["HOME"] == home


@pytest.mark.parametrize("user", ["", "nobody", "-1", "65536", "1:", ":1", "1:2:3", "1:x", "٣", "999999999999", "1 "])
def test_anything_else_is_no_user(user: str) -> None:
    with pytest.raises(InvalidInput, match="not a user"):
        granted(user=user)


def test_the_request_is_not_changed() -> None:
    before = dict(REQUEST.environment)
    granted(environment={"A": "1"})
    assert REQUEST.environment == before
