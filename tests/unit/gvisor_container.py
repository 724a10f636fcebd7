"""The guest agent as init of a gVisor container, by a real runsc: for the agent's tests, and as a boundary for the channel."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from unit.guest_wire import MAX_FRAME

from agentkernel.model.command import LimitHit
from agentkernel.model.spec import RootFilesystem, RootKind, SandboxSpec, User
from agentkernel.policy.seccomp import compile_filter

WORKLOAD = (1234, 2345)
CAPABILITIES = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID")
ARCHITECTURE = os.uname().machine


def release(runsc: str) -> int:
    """The date of the release, as in release-20240729.0 and 0.0~20221219.0."""
    text = subprocess.run([runsc, "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"\d{8}", text)
    assert found, text
    return int(found[0])


def bundle_config(arguments: list[str], mounts: list[dict[str, object]]) -> dict[str, object]:
    """Without /proc, /dev and /tmp, which gVisor puts into every container by itself."""
    return {
        "ociVersion": "1.0.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/agentkernel-guest", "agent", *arguments],
            "env": [],
            "cwd": "/",
            "capabilities": {name: list(CAPABILITIES) for name in ("bounding", "effective", "inheritable", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 20000, "soft": 1024}],
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": "sandbox",
        "mounts": mounts,
        "linux": {"namespaces": [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount")]},
    }


class Container:
    """A bundle, and the `runsc run` that runs it."""

    def __init__(self, runsc: str, guest: Path, *, busybox: bool = False, flags: tuple[str, ...] = ()) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ak-gvisor-", dir="/tmp"))
        self.root = self.directory / "rootfs"
        self.root.mkdir()
        shutil.copy(guest, self.root / "agentkernel-guest")
        if busybox:
            self._add_busybox()
        self._runsc = [runsc, "--root", str(self.directory / "state"), "--network=none", *flags]
        self.sockets: list[socket.socket] = []
        self.process: subprocess.Popen[bytes] | None = None

    def _add_busybox(self) -> None:
        program = shutil.which("busybox")
        if program is None:
            pytest.skip("needs a static busybox")
        (self.root / "bin").mkdir()
        shutil.copy(program, self.root / "bin" / "busybox")
        for name in subprocess.run([program, "--list"], check=True, capture_output=True, text=True).stdout.split():
            if name != "busybox":
                (self.root / "bin" / name).symlink_to("busybox")

    def run(self, *arguments: str, stdin: int, stdout: int, mounts: list[dict[str, object]] | None = None) -> subprocess.Popen[bytes]:
        (self.directory / "config.json").write_text(json.dumps(bundle_config(list(arguments), mounts or [])))
        with (self.directory / "errors").open("wb") as errors:
            argv = [*self._runsc, "run", "--bundle", str(self.directory), self.directory.name]
            self.process = subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=errors, bufsize=0)
        return self.process

    def stream(self) -> socket.socket:
        """Runs the agent on a socket as its standard input and output."""
        ours, theirs = socket.socketpair()
        with theirs:
            self.run("--stream", "0", stdin=theirs.fileno(), stdout=theirs.fileno())
        self.sockets.append(ours)
        return ours

    def pipes(self) -> socket.socket:
        """Runs the agent on pipes, which a pump joins to a socket."""
        ours, theirs = socket.socketpair()
        process = self.run("--stream", "0", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None and process.stdout is not None
        for source, target in ((theirs.fileno(), process.stdin.fileno()), (process.stdout.fileno(), theirs.fileno())):
            threading.Thread(target=pump, args=(source, target), daemon=True).start()
        self.sockets += [ours, theirs]
        return ours

    def errors(self) -> str:
        return (self.directory / "errors").read_text()

    def signal(self, name: str) -> None:
        subprocess.run([*self._runsc, "kill", self.directory.name, name], check=False, capture_output=True)

    def stop(self) -> None:
        self.signal("KILL")
        if self.process is not None:
            with self.process:
                self.process.wait(10)  # deleting one that still runs takes runsc five seconds
        subprocess.run([*self._runsc, "delete", "--force", self.directory.name], check=False, capture_output=True)
        for sock in self.sockets:
            sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        shutil.rmtree(self.directory)


def pump(source: int, target: int) -> None:
    try:
        while data := os.read(source, 65_536):
            while data:
                data = data[os.write(target, data) :]
    except OSError:
        pass


SPEC = SandboxSpec(
    name="gvisor",
    root=RootFilesystem(kind=RootKind.DIRECTORY, directory="/"),
    profile="restrictive",
    user=User(uid=WORKLOAD[0], gid=WORKLOAD[1], home="/tmp"),
    environment=(("PATH", "/bin"),),
)


@dataclass
class GvisorBoundary:
    """What a backend gives the channel: each connect is a new socket, joined to the agent's only stream."""

    container: Container
    backend: str = "gvisor"
    seccomp: bytes = compile_filter("restrictive", ARCHITECTURE)
    rlimits: tuple[tuple[int, int, int], ...] = ((7, 256, 256),)
    network: None = None
    connects: int = 0
    stream: socket.socket | None = None
    near: list[socket.socket] = field(default_factory=list)
    spec: SandboxSpec = SPEC

    async def connect(self) -> socket.socket:
        self.connects += 1
        if self.stream is None:
            self.stream = self.container.stream()
            threading.Thread(target=self._pump_back, daemon=True).start()
        ours, near = socket.socketpair()
        self.near.append(near)
        self.stream.sendall(bytes(MAX_FRAME))  # the channel says HELLO; that the stream has no boundaries is the backend's business
        threading.Thread(target=pump, args=(near.fileno(), self.stream.fileno()), daemon=True).start()
        ours.setblocking(False)
        return ours

    def _pump_back(self) -> None:
        assert self.stream is not None
        try:
            while data := self.stream.recv(65_536):
                try:
                    self.near[-1].sendall(data)
                except OSError:
                    continue  # cut; what comes now is for the next attach to skip
        except OSError:
            pass

    def cut(self) -> None:
        self.near[-1].shutdown(socket.SHUT_RDWR)

    async def wait_dead(self) -> str:
        await asyncio.Event().wait()
        return ""

    async def limits_hit(self) -> tuple[LimitHit, ...]:
        return ()

    async def close(self) -> None:
        """It was not booted."""

    async def destroy(self) -> None:
        for near in self.near:
            near.close()
