"""Hosts that are not as usual: an overlay as root file system (CI containers), no user namespaces."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from e2e.conftest import DEADLINE_S, AgentKernel

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts an overlay as root file system, lowers a sysctl")

ON_OVERLAY = """
set -e
mount --make-rprivate /
mount -t tmpfs none {base}
mkdir {base}/upper {base}/work {base}/root
mount -t overlay none -o lowerdir=/,upperdir={base}/upper,workdir={base}/work {base}/root
for name in proc sys dev; do mount --rbind /$name {base}/root/$name; done
mount -t tmpfs none {base}/root/run
cd {base}/root
mkdir -p old project/src
touch project/package.json
pivot_root . old
umount -l /old
cd /{directory}
exec {command}
"""


def on_overlay(agentkernel: AgentKernel, tmp_path: Path, directory: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Runs agentkernel in a mount namespace whose root is an overlay; its HOME is there, too."""
    command = shlex.join([*agentkernel.argv, *arguments])
    script = ON_OVERLAY.format(base=tmp_path, directory=directory, command=command)
    environment = agentkernel.environment | {"HOME": "/tmp", "XDG_CACHE_HOME": "/run/cache", "XDG_STATE_HOME": "/run/state"}
    return subprocess.run(["unshare", "--mount", "sh", "-c", script], env=environment, capture_output=True, timeout=DEADLINE_S)


@needs_root
def test_a_root_file_system_that_cannot_be_id_mapped_is_shown_all_the_same(agentkernel: AgentKernel, tmp_path: Path) -> None:
    done = on_overlay(agentkernel, tmp_path, "", "run", "-q", "--", "sh", "-c", "id -u; test -r /usr/bin/env && echo readable")
    assert (done.returncode, done.stdout) == (0, b"1000\nreadable\n"), done.stderr


@needs_root
def test_a_project_that_cannot_be_id_mapped_is_refused_with_the_reason(agentkernel: AgentKernel, tmp_path: Path) -> None:
    done = on_overlay(agentkernel, tmp_path, "project", "run", "-q", "--", "ls")
    assert done.returncode == 125
    assert b"/project" in done.stderr and b"cannot be id-mapped" in done.stderr


def without_namespaces(agentkernel: AgentKernel, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Runs agentkernel where user namespaces are forbidden: a user namespace with a limit of none below it."""
    script = f"echo 0 > /proc/sys/user/max_user_namespaces && exec {shlex.join([*agentkernel.argv, *arguments])}"
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", script],
        cwd=agentkernel.directory,
        env=agentkernel.environment,
        capture_output=True,
        timeout=DEADLINE_S,
    )


@needs_root
def test_without_user_namespaces_a_run_is_refused_with_what_to_do(agentkernel: AgentKernel) -> None:
    done = without_namespaces(agentkernel, "run", "-q", "--", "true")
    assert done.returncode == 125
    assert b"max_user_namespaces is 0" in done.stderr
    assert b"--min-isolation process" in done.stderr


@needs_root
def test_level_process_when_asked_for_keeps_the_hosts_files_and_network_away(agentkernel: AgentKernel) -> None:
    (agentkernel.directory / "secret").write_text("host")
    script = f"""
import os, socket, pathlib
try: print(pathlib.Path({str(agentkernel.directory / "secret")!r}).read_text())
except PermissionError: print("no file")
try: socket.socket()
except PermissionError: print("no socket")
try: os.kill(1, 0)
except PermissionError: print("no signal")
pathlib.Path.home().joinpath("mine").write_text("x"); print("own home")
"""
    done = without_namespaces(agentkernel, "run", "-q", "--min-isolation", "process", "--", "/usr/bin/python3", "-c", script)
    assert done.stdout.splitlines() == [b"no file", b"no socket", b"no signal", b"own home"], done.stderr
    assert done.returncode == 0


@needs_root
def test_level_process_leaves_no_process_behind(agentkernel: AgentKernel) -> None:
    marker = "98765.4321"
    done = without_namespaces(agentkernel, "run", "-q", "--min-isolation", "process", "--", "sh", "-c", f"setsid sleep {marker} & exit 4")
    assert done.returncode == 4
    assert subprocess.run(["pgrep", "-f", f"^sleep {marker}"], capture_output=True).stdout == b""
