"""A real Podman with a storage of the tests' own, rootful or rootless as who runs the tests is, served on a socket."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from engines.images import REFERENCE

REAPER = Path(__file__).with_name("reaper.py")
START_S = 60.0
CONTAINERS_GROUP = "libpod_parent"  # beneath which root's Podman makes the control groups of containers, where it makes them itself


@dataclass(frozen=True, slots=True, kw_only=True)
class PodmanHost:
    """What a dialect needs to find it."""

    socket: Path
    environment: dict[str, str]  # what it takes beyond that of the tests
    places: tuple[str, ...] = ()  # words that say where its storage is, if the environment does not

    def run(self, *words: str, stdin: bytes = b"") -> str:
        """One command of its own command line, without the service."""
        local = {**os.environ, **self.environment, "TMPDIR": "/var/tmp"}
        del local["CONTAINER_HOST"]
        done = subprocess.run(["podman", *self.places, *words], input=stdin, capture_output=True, env=local, timeout=120, check=False)
        assert done.returncode == 0, f"podman {' '.join(words)}: {done.stderr.decode()}"
        return done.stdout.decode()


@contextlib.contextmanager
def podman_host(*, runtime_of_containers: str = "") -> Iterator[PodmanHost]:
    """Serves for the block; skips where there is no Podman, or it cannot be used by this user. The runtime: empty means its default."""
    podman = shutil.which("podman")
    if podman is None:
        pytest.skip("podman is not installed")
    directory = Path(tempfile.mkdtemp(prefix="ak-podman-", dir="/var/tmp"))
    runtime = Path(tempfile.mkdtemp(prefix="ak-podman-run-", dir="/tmp"))
    home = directory / "home"
    home.mkdir()
    storage, settings = directory / "storage.conf", directory / "containers.conf"
    chosen = f'runtime = "{runtime_of_containers}"\n' if runtime_of_containers else ""
    storage.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{directory}/root"\nrunroot = "{runtime}/run"\n')
    settings.write_text(
        f'[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\nexit_command_delay = 1\n{_temporary(runtime)}{chosen}'
    )
    environment = {
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(runtime),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "CONTAINERS_STORAGE_CONF": str(storage),
        "CONTAINERS_CONF": str(settings),
        "AGENTKERNEL_HOME": str(runtime / "own"),
    }
    served = runtime / "podman.sock"
    local = {**os.environ, **environment, "TMPDIR": "/var/tmp"}
    environment["CONTAINER_HOST"] = f"unix://{served}"
    with open(directory / "log", "wb") as log:
        argv = [sys.executable, "-IS", str(REAPER), podman, "system", "service", "--time=0", f"unix://{served}"]
        service = subprocess.Popen(argv, env=local, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory, start_new_session=True)
    try:
        _await_socket(served, service, directory / "log")
        yield PodmanHost(socket=served, environment=environment)
        _remove_all(PodmanHost(socket=served, environment=environment))
    finally:
        end_services(runtime / "own")
        service.send_signal(signal.SIGTERM)
        service.wait(30)
        _remove_tree(podman, local, directory)
        _remove_tree(podman, local, runtime / "run")
        _end_pause(runtime)  # the last `podman unshare` has started one again
        shutil.rmtree(runtime, ignore_errors=True)


@contextlib.contextmanager
def another_podman(host: PodmanHost, *words: str, tcp: bool = False) -> Iterator[PodmanHost]:
    """Serves root's Podman with a storage that is not the host's, and those words before its command, for the block; on TCP: on loopback."""
    podman, directory = shutil.which("podman") or "", Path(tempfile.mkdtemp(prefix="ak-podman-other-", dir="/var/tmp"))
    places = [f"--{name}={directory}/{name}" for name in ("root", "runroot", "tmpdir")]
    unix = directory / "podman.sock"
    address, family = f"unix://{unix}", socket.AF_UNIX
    where: str | tuple[str, int] = str(unix)
    if tcp:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            where = free.getsockname()
        address, family = f"tcp:{where[0]}:{where[1]}", socket.AF_INET
    local = {**os.environ, **host.environment, "TMPDIR": "/var/tmp"}
    del local["CONTAINER_HOST"]
    argv = [sys.executable, "-IS", str(REAPER), podman, *places, *words, "system", "service", "--time=0", address]
    with open(directory / "log", "wb") as log:
        service = subprocess.Popen(argv, env=local, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory, start_new_session=True)
    try:
        _await_answer(family, where, service, directory / "log")
        named = f"tcp://{where[0]}:{where[1]}" if tcp else address
        yield PodmanHost(socket=unix, environment={**host.environment, "CONTAINER_HOST": named}, places=tuple(places))
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(30)
        _remove_tree(podman, local, directory)


def _await_answer(family: int, where: str | tuple[str, int], service: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        with socket.socket(family) as connection:
            if connection.connect_ex(where) == 0:
                return
        assert service.poll() is None and time.monotonic() < deadline, log.read_text()[-500:]
        time.sleep(0.05)


def with_image_of_tests(host: PodmanHost, archive: Path) -> str:
    """Imports the tests' image; its id."""
    made = host.run("import", "--quiet", str(archive), REFERENCE)
    if os.geteuid() == 0:  # while no container is mounted Podman unmounts its storage, which tests would take for a change of theirs
        host.run("create", "--name", "ak-tests-hold", REFERENCE, "true")
        host.run("mount", "ak-tests-hold")
    return "sha256:" + made.strip().removeprefix("sha256:")


def _temporary(runtime: Path) -> str:
    """Where root's Podman locks; a plain user's is in XDG_RUNTIME_DIR anyway."""
    return f'tmp_dir = "{runtime}/tmp"\n' if os.geteuid() == 0 else ""


def _await_socket(served: Path, service: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not served.exists():
        if service.poll() is not None or time.monotonic() > deadline:
            pytest.skip(f"podman does not serve here: {log.read_text()[-500:]}")
        time.sleep(0.05)


def _remove_all(host: PodmanHost) -> None:
    with contextlib.suppress(AssertionError):
        host.run("rm", "--all", "--force", "--time", "0")


def end_services(home: Path) -> None:
    """Those that a dialect has started for whose directories these are; they would end by idleness."""
    for record in (home / "run" / "podman").glob("*/pid"):
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(record.read_text()), signal.SIGTERM)


def _end_pause(runtime: Path) -> None:
    """The process that holds a rootless Podman's namespaces."""
    for record in runtime.rglob("pause.pid"):
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(record.read_text()), signal.SIGKILL)


def _remove_tree(podman: str, environment: dict[str, str], directory: Path) -> None:
    """As a plain user some files are of other ids of ours: only in the user namespace they can go."""
    if os.geteuid() != 0:
        subprocess.run([podman, "unshare", "rm", "-rf", str(directory)], env=environment, capture_output=True, check=False, timeout=60)
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        place = line.split(" ")[4]
        if place.startswith(f"{directory}/"):
            subprocess.run(["umount", "-l", place], check=False, capture_output=True)
    shutil.rmtree(directory, ignore_errors=True)
