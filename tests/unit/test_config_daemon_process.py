"""Starting the daemon: where, with what, and never from a directory of somebody else's."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from agentkernel.config import daemon_process
from agentkernel.errors import DaemonUnavailable


def test_the_daemon_gets_little_of_the_environment() -> None:
    given = {"PATH": "/bin", "HOME": "/h", "XDG_RUNTIME_DIR": "/r", "AWS_SECRET": "x", "AGENTKERNEL_HOME": "/a", "AGENTKERNEL_PROFILE": "p"}
    assert daemon_process.daemon_environment(given) == {
        "PATH": "/bin",
        "HOME": "/h",
        "XDG_RUNTIME_DIR": "/r",
        "AGENTKERNEL_HOME": "/a",
    }


def test_the_daemon_asks_the_engines_that_its_first_client_would() -> None:
    given = {
        "DOCKER_HOST": "unix:///d",
        "DOCKER_CONTEXT": "c",
        "CONTAINER_HOST": "unix:///p",
        "CONTAINERS_CONF": "/c",
        "DOCKER_AUTH_CONFIG": "secret",
    }
    expected = {"DOCKER_HOST": "unix:///d", "DOCKER_CONTEXT": "c", "CONTAINER_HOST": "unix:///p", "CONTAINERS_CONF": "/c"}
    assert daemon_process.daemon_environment(given) == expected


def test_the_daemon_reaches_the_registries_that_its_first_client_would() -> None:
    given = {"HTTPS_PROXY": "http://proxy", "no_proxy": "local", "SSL_CERT_FILE": "/ca.pem", "REGISTRY_AUTH_FILE": "/auth.json"}
    assert daemon_process.daemon_environment(given) == given


def test_of_the_python_path_only_the_package_s_own_source_tree_goes_on() -> None:
    root = str(Path(daemon_process.__file__).parents[2])
    assert daemon_process.daemon_environment({"PYTHONPATH": f"/evil:{root}"}) == {"PYTHONPATH": root}
    assert daemon_process.daemon_environment({"PYTHONPATH": os.path.relpath(root)}) == {"PYTHONPATH": root}
    assert daemon_process.daemon_environment({"PYTHONPATH": "/evil"}) == {}


def test_what_lies_in_the_current_directory_is_not_imported() -> None:
    assert daemon_process.daemon_argv(background=True)[:4] == [sys.executable, "-P", "-m", "agentkernel.daemon"]


def test_a_directory_is_made_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    daemon_process.own_directory(str(path))
    daemon_process.own_directory(str(path))
    mode = 0o700 if os.geteuid() else 0o711  # root's sandboxes have users that pass through it
    assert path.stat().st_mode & 0o777 == mode
    path.chmod(0o755)
    daemon_process.own_directory(str(path))
    assert path.stat().st_mode & 0o777 == mode


def test_a_directory_that_others_can_write_or_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").touch()
    for name in ("open", "link", "file"):
        with pytest.raises(PermissionError):
            daemon_process.own_directory(str(tmp_path / name))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(PermissionError):
        daemon_process.own_directory(str(tmp_path))


def test_where_no_directory_can_be_made_no_daemon_is_started(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(DaemonUnavailable, match="no daemon can be started"):
        daemon_process.spawn({"AGENTKERNEL_HOME": str(tmp_path)})
