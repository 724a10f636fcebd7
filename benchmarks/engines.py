"""The established container engines by their own command lines, with an image that is made of this host's programs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from agentkernel.backends._presence import find_program
from agentkernel.benchmark.program import program
from agentkernel.benchmark.timing import Contender
from benchmarks.contenders import UnmeasurableError

_NAMED = os.environ.get("AGENTKERNEL_BENCHMARK_IMAGE", "")
IMAGE = _NAMED or "localhost/agentkernel-benchmark:1"
START_S = 60.0
# Options of an engine, then of `run`: the first with which a container runs is taken. Some hosts let nobody raise limits, or have cgroups
# that Podman's usual runtime refuses.
_WAYS: dict[str, tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]] = {
    "docker": (((), ()),),
    "podman": (((), ()), (("--runtime", "runc"), ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"))),
}
_GVISOR_WAYS = (("--network=none",), ("--network=none", "--ignore-cgroups"), ("--network=none", "--ignore-cgroups", "--rootless"))
_PROGRAMS = ("sh", "true", "echo", "sleep", "cat", "dd", "mktemp", "rm", "env")
_LIBRARY = re.compile(r"=> (/\S+) \(|^\s*(/\S*ld-\S*) \(", re.MULTILINE)
_WITHOUT_NETWORK = (
    "--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--userland-proxy=false",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """An engine that runs containers of the image."""

    name: str
    words: tuple[str, ...]  # the program and its own options
    options: tuple[str, ...]  # of `run`

    def run(self, *command: str) -> Contender:
        """`docker run --rm --network none IMAGE COMMAND`."""
        return program((*self.words, "run", "--rm", "--network", "none", *self.options, IMAGE, *command))

    def exec(self, container: str, *command: str) -> Contender:
        """`docker exec CONTAINER COMMAND`."""
        return program((*self.words, "exec", container, *command))

    @contextlib.contextmanager
    def container(self) -> Iterator[str]:
        """One that does nothing; its id."""
        made = _said(*self.words, "run", "--detach", "--network", "none", *self.options, IMAGE, "sleep", "86400")
        try:
            yield made
        finally:
            _said(*self.words, "kill", made)
            _said(*self.words, "rm", "--force", made)


@contextlib.contextmanager
def raw(name: str) -> Iterator[Raw]:
    """Docker or Podman with the image, which goes again unless it was there. Where no Docker Engine answers root has one of its own.

    Raises:
        UnmeasurableError: it is not installed, or runs no container here.
    """
    if shutil.which(name) is None:
        raise UnmeasurableError(f"{name} is not installed")
    with _own_docker() if name == "docker" and not _works("docker", "version") else contextlib.nullcontext(), _image(name):
        for words, options in _WAYS[name]:
            found = Raw(name=name, words=(name, *words), options=options)
            if _works(*found.words, "run", "--rm", "--network", "none", *options, IMAGE, "true"):
                break
        else:
            raise UnmeasurableError(f"{name} runs no container of {IMAGE} here")
        yield found


def runsc_do(*command: str) -> Contender:
    """gVisor's own `runsc do`, which shows the host's root read-only."""
    path = find_program("runsc")
    if not path:
        raise UnmeasurableError("runsc is not installed")
    for options in _GVISOR_WAYS:
        if _works(path, *options, "do", *command):
            return program((path, *options, "do", *command))
    raise UnmeasurableError("`runsc do` does not work here")


@contextlib.contextmanager
def _image(name: str) -> Iterator[None]:
    if _works(name, "image", "inspect", IMAGE):
        yield
        return
    if _NAMED:
        _said(name, "pull", IMAGE)
        yield
        return
    with tempfile.TemporaryDirectory(prefix="ak-bench-image-", dir="/var/tmp") as directory:
        archive = Path(directory, "image.tar")
        _pack_host(archive)
        _said(name, "import", str(archive), IMAGE)
    try:
        yield
    finally:
        _said(name, "rmi", "--force", IMAGE)


def _pack_host(target: Path) -> None:
    """A file system of this host's shell and small programs, with their libraries: what runs in a container is what runs on the host."""
    found = {name: shutil.which(name) for name in _PROGRAMS}
    if lacking := [name for name, path in found.items() if path is None]:
        raise UnmeasurableError(f"the image cannot be made without {', '.join(lacking)}")
    programs = {name: os.path.realpath(path) for name, path in found.items() if path is not None}
    linked = subprocess.run(["ldd", *programs.values()], capture_output=True, text=True, check=False).stdout
    libraries = {match[1] or match[2] for match in _LIBRARY.finditer(linked)}
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT, dereference=True) as tar:
        for path, mode in (("tmp", 0o1777), ("var/tmp", 0o1777), ("etc", 0o755), ("proc", 0o755), ("dev", 0o755), ("sys", 0o755)):
            _add(tar, path, tarfile.DIRTYPE, mode)
        _add(tar, "bin", tarfile.SYMTYPE, 0o777, link="usr/bin")
        _add(tar, "etc/passwd", tarfile.REGTYPE, 0o644, content=b"root:x:0:0:root:/root:/bin/sh\n")
        for name, path in programs.items():
            tar.add(path, arcname=f"usr/bin/{name}")
        for path in sorted(libraries):
            tar.add(path, arcname=path.lstrip("/"))


def _add(tar: tarfile.TarFile, path: str, kind: bytes, mode: int, *, link: str = "", content: bytes = b"") -> None:
    member = tarfile.TarInfo(path)
    member.type, member.mode, member.linkname, member.size = kind, mode, link, len(content)
    tar.addfile(member, BytesIO(content))


@contextlib.contextmanager
def _own_docker() -> Iterator[None]:
    """A Docker Engine of the benchmark's own, without a network, which DOCKER_HOST names for the block."""
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        raise UnmeasurableError("no Docker Engine answers, and only root with dockerd can start one")
    before = os.environ.get("DOCKER_HOST")
    with (
        tempfile.TemporaryDirectory(prefix="ak-bench-docker-", dir="/var/tmp", ignore_cleanup_errors=True) as data,
        tempfile.TemporaryDirectory(prefix="ak-b-", dir="/run", ignore_cleanup_errors=True) as run,
    ):
        host = f"unix://{run}/docker.sock"
        places = ("--data-root", f"{data}/data", "--exec-root", f"{run}/exec", "--pidfile", f"{run}/pid", "--config-file", f"{data}/none")
        Path(data, "none").write_text("{}")
        argv = ("setpriv", "--pdeathsig", "TERM", "dockerd", "--host", host, *places, *_WITHOUT_NETWORK)
        with open(Path(data, "log"), "wb") as log:
            service = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            os.environ["DOCKER_HOST"] = host
            _await(service, Path(data, "log"))
            yield
        finally:
            os.environ.pop("DOCKER_HOST")
            if before is not None:
                os.environ["DOCKER_HOST"] = before
            service.send_signal(signal.SIGTERM)
            service.wait(START_S)


def _await(service: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not _works("docker", "version"):
        if service.poll() is not None or time.monotonic() > deadline:
            raise UnmeasurableError(f"dockerd does not run here: {log.read_text()[-300:]}")
        time.sleep(0.1)


def _works(*argv: str) -> bool:
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0


def _said(*argv: str) -> str:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UnmeasurableError(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout.strip()
