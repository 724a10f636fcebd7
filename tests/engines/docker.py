"""A real Docker Engine of the tests' own: its own data, its own socket, nothing of the host's network."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from engines.images import REFERENCE, python_image

REAPER = Path(__file__).with_name("reaper.py")
START_S = 60.0
QUIET = ("--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--userland-proxy=false")


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerHost:
    """A running engine."""

    socket: Path
    directory: Path
    pid: int

    @property
    def environment(self) -> dict[str, str]:
        """What names it to a client."""
        return {**os.environ, "DOCKER_HOST": f"unix://{self.socket}", "DOCKER_CONFIG": str(self.directory / "config")}

    def run(self, *words: str, stdin: bytes = b"") -> str:
        """One command of Docker's own command line."""
        done = subprocess.run(["docker", *words], input=stdin, capture_output=True, env=self.environment, timeout=120, check=False)
        assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr.decode()}"
        return done.stdout.decode()

    def load_image(self, archive: Path, reference: str = REFERENCE) -> str:
        """Imports a file system; returns the image's id."""
        return self.run("import", str(archive), reference).strip()


@contextlib.contextmanager
def docker_host(*options: str, configuration: dict[str, object] | None = None, program: Sequence[str] = ()) -> Iterator[DockerHost]:
    """Serves for the block; skips where there is no dockerd, or it does not run here. `program`: what it is started by."""
    dockerd = shutil.which("dockerd")
    if dockerd is None or shutil.which("docker") is None:
        pytest.skip("needs dockerd and docker (Debian: docker.io)")
    if os.geteuid() != 0:
        pytest.skip("needs root: dockerd makes namespaces and mounts")
    directory = Path(tempfile.mkdtemp(prefix="ak-docker-", dir="/var/tmp"))
    runtime = Path(tempfile.mkdtemp(prefix="ak-d-", dir="/run"))
    path, settings = runtime / "docker.sock", directory / "daemon.json"
    settings.write_text(json.dumps(configuration or {}))
    argv = [sys.executable, "-IS", str(REAPER), *program, dockerd, "--config-file", str(settings), "--host", f"unix://{path}"]
    argv += [
        "--data-root",
        str(directory / "data"),
        "--exec-root",
        str(runtime / "exec"),
        "--pidfile",
        str(runtime / "pid"),
        *QUIET,
        *options,
    ]
    with open(directory / "log", "wb") as log:
        service = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        _await(path, service, directory / "log")
        host = DockerHost(socket=path, directory=directory, pid=int((runtime / "pid").read_text()))
        yield host
        if left := host.run("ps", "--all", "--quiet").split():
            host.run("rm", "--force", "--volumes", *left)
    finally:
        service.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            service.wait(30)
        for place in (directory, runtime):
            _remove_tree(place)


def _await(path: Path, service: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not _answers(path):
        if service.poll() is not None or time.monotonic() > deadline:
            pytest.skip(f"dockerd does not run here: {log.read_text()[-500:]}")
        time.sleep(0.05)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.settimeout(5)
            connection.connect(str(path))
            connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.recv(64)
        except OSError:
            return False


def _remove_tree(directory: Path) -> None:
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        place = line.split(" ")[4]
        if place.startswith(f"{directory}/"):
            subprocess.run(["umount", "-l", place], check=False, capture_output=True)
    shutil.rmtree(directory, ignore_errors=True)


def image_of_tests(directory: Path, probe: Path | None) -> Path:
    """The archive of a file system with a shell, small tools and Python, and with the suite's program as /bin/probe."""
    archive = python_image(directory)
    target = directory / "tests.tar"
    if not target.exists():
        shutil.copy(archive, target)
        if probe is not None:
            with tarfile.open(target, "a", format=tarfile.GNU_FORMAT) as tar:
                tar.add(probe, arcname="usr/bin/probe")
    return target
