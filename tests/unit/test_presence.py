"""What the host shows of a backend before anything of it runs: programs, sockets, and another identity once they were replaced."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from agentkernel.backends import _presence as presence
from agentkernel.model.isolation import Presence

FOUND = (presence.gvisor, presence.docker, presence.podman)


@pytest.fixture(autouse=True)
def bare_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A Linux with nothing installed but what the test puts into `bin`."""
    monkeypatch.setattr(presence, "_USUAL", ())
    monkeypatch.setattr(presence, "_PLATFORM", "linux")
    monkeypatch.setattr(presence, "_DOCKER_SOCKETS", ())
    monkeypatch.setattr(presence, "_PODMAN_SOCKETS", ())
    for name in ("DOCKER_HOST", "DOCKER_CONFIG", "CONTAINER_HOST", "AGENTKERNEL_RUNSC", "AGENTKERNEL_PODMAN", "AGENTKERNEL_CONTAINER"):
        monkeypatch.delenv(name, raising=False)
    for name in ("bin", "home", "run"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    presence._directories.cache_clear()
    presence._install.cache_clear()
    return tmp_path


def _program(directory: Path, name: str, mode: int = 0o755) -> Path:
    path = directory / "bin" / name
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def _socket(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize("find", [*FOUND, presence.apple])
def test_what_is_not_installed_is_not_here_and_says_what_to_do(find: Callable[[], Presence]) -> None:
    found = find()
    assert found.identity == ""
    assert found.reason
    assert found.remedy


def test_a_program_is_found_in_the_path_with_its_whole_name(bare_host: Path) -> None:
    path = _program(bare_host, "runsc")
    assert presence.find_program("runsc") == str(path)
    assert presence.gvisor().identity.startswith(f"{path} ")


def test_what_cannot_be_executed_is_no_program(bare_host: Path) -> None:
    _program(bare_host, "runsc", 0o644)
    (bare_host / "bin" / "podman").mkdir()
    assert presence.find_program("runsc") == ""
    assert presence.find_program("podman") == ""


def test_a_relative_directory_of_the_path_is_not_looked_into(bare_host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(bare_host, "runsc")
    monkeypatch.chdir(bare_host / "bin")
    for path in ("", ".", ":", "bin"):
        monkeypatch.setenv("PATH", path)
        assert presence.find_program("runsc") == "", path


def test_a_program_that_is_named_is_the_only_one(bare_host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(bare_host, "runsc")
    other = _program(bare_host, "runsc-of-tomorrow")
    monkeypatch.setenv("AGENTKERNEL_RUNSC", str(other))
    assert presence.gvisor().identity.startswith(f"{other} ")
    for nothing in ("", "runsc", str(bare_host / "absent")):
        monkeypatch.setenv("AGENTKERNEL_RUNSC", nothing)
        assert presence.gvisor().identity == "", nothing


def test_where_packages_put_programs_is_looked_into_whatever_the_path(bare_host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _program(bare_host, "runsc")
    monkeypatch.setattr(presence, "_USUAL", (str(bare_host / "bin"),))
    presence._directories.cache_clear()
    monkeypatch.setenv("PATH", "/absent")
    assert presence.find_program("runsc") == str(path)


def test_a_replaced_program_has_another_identity(bare_host: Path) -> None:
    path = _program(bare_host, "runsc")
    before = presence.gvisor().identity
    assert presence.gvisor().identity == before
    _program(bare_host, "new").rename(path)
    assert presence.gvisor().identity != before


def test_docker_is_here_where_an_engine_may_listen(bare_host: Path) -> None:
    _program(bare_host, "docker")
    stopped = presence.docker()
    assert (stopped.identity, "does not run" in stopped.reason) == ("", True)
    _socket(bare_host / "run" / "docker.sock")
    first = presence.docker().identity
    assert "docker.sock" in first
    _socket(bare_host / "home" / ".docker" / "run" / "docker.sock")
    assert presence.docker().identity.startswith(f"{first}\n")


def test_an_engine_that_is_named_is_the_only_one(bare_host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _socket(bare_host / "run" / "docker.sock")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{bare_host}/other.sock")
    missing = presence.docker()
    assert (missing.identity, "other.sock" in missing.reason) == ("", True)
    _socket(bare_host / "other.sock")
    assert presence.docker().identity.startswith(f"{bare_host}/other.sock ")
    monkeypatch.setenv("DOCKER_HOST", "ssh://builder")
    assert presence.docker().identity == "ssh://builder"


def test_podman_is_here_with_its_program_or_with_its_socket(bare_host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _program(bare_host, "podman")
    assert presence.podman().identity.startswith(str(path))
    path.unlink()
    _socket(bare_host / "run" / "podman" / "podman.sock")
    assert "podman.sock" in presence.podman().identity
    monkeypatch.setenv("CONTAINER_HOST", "tcp://elsewhere:1")
    assert presence.podman().identity == "tcp://elsewhere:1"


def test_a_podman_that_is_named_and_gone_is_not_here_whatever_else_is(bare_host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(bare_host, "podman")
    socket = bare_host / "named.sock"
    monkeypatch.setenv("CONTAINER_HOST", f"unix://{socket}")
    missing = presence.podman()
    assert (missing.identity, missing.reason) == ("", f"there is no socket at unix://{socket}")
    _socket(socket)
    assert str(socket) in presence.podman().identity


def test_the_command_that_installs_it_is_this_hosts_own(bare_host: Path) -> None:
    assert presence.podman().remedy == "see https://podman.io/docs/installation"
    presence._install.cache_clear()
    _program(bare_host, "apt-get")
    assert presence.podman().remedy == "apt-get install podman"
    assert presence.docker().remedy == "apt-get install docker.io"


def test_each_system_has_its_own(bare_host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(bare_host, "container")
    _program(bare_host, "runsc")
    assert presence.linux().identity
    assert "macOS" in presence.apple().reason
    monkeypatch.setattr(presence, "_PLATFORM", "darwin")
    assert presence.apple().identity.startswith(f"{bare_host}/bin/container ")
    for find in (presence.linux, presence.gvisor):
        assert (find().identity, "Linux" in find().reason) == ("", True)
