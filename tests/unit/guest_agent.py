"""The guest agent as a process of its own, which listens on a unix socket. It runs unsandboxed: harmless commands only."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from unit.guest_wire import Host

ROOT = Path(__file__).resolve().parents[2]
SANITIZERS = ["-g", "-O1", "-std=c11", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DAK_HOSTED"]


def build_sanitized(directory: Path) -> Path:
    """The guest with a C library and its sanitizers, which end it with a report at the first fault."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("needs a C compiler with sanitizers")
    target = directory / "agentkernel-guest"
    sources = sorted(str(p) for p in (ROOT / "guest").glob("*.c"))
    subprocess.run([compiler, *SANITIZERS, f"-I{ROOT / 'guest'}", "-o", str(target), *sources], check=True)
    return target


class Agent:
    """A running agent that listens on a unix socket."""

    def __init__(self, argv: list[str], directory: Path, *, listen_path: str = "") -> None:
        self.listen_path = listen_path
        self.socket_path = str(directory / "agent.sock")
        self.errors = directory / "stderr"
        self.sockets: list[socket.socket] = []
        with self.errors.open("wb") as stderr:
            self.process = subprocess.Popen([*argv, "agent", "--listen", self.listen_path or self.socket_path], stderr=stderr)

    def connect(self) -> socket.socket:
        deadline = time.monotonic() + 10
        while True:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(self.socket_path)
            except OSError:
                sock.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
            else:
                self.sockets.append(sock)
                return sock

    def host(self, *, configure: bytes | None = b"") -> Host:
        host = Host(self.connect())
        assert host.attach() == 1
        if configure is not None:
            host.configure(configure)
        return host

    def stop(self) -> None:
        for sock in self.sockets:
            sock.close()
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()
        assert "ERROR" not in self.errors.read_text(), self.errors.read_text()
        assert "runtime error" not in self.errors.read_text(), self.errors.read_text()
