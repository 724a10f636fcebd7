"""A server for clients elsewhere, the way to it with its interruptions, and other things that may answer in its place.

The fixtures are for a conftest that has one of its own, `there`: the environment of who runs the daemon.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

DEADLINE_S = 60.0
_RESETS = struct.pack("ii", 1, 0)  # SO_LINGER: close without a goodbye


@dataclass
class Server:
    """`agentkernel serve`, for the daemon of an environment."""

    environment: Mapping[str, str]
    more: tuple[str, ...] = ()
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What a client is told."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it; returns when it listens."""
        argv = [sys.executable, "-m", "agentkernel", "serve", "--port", "0", "--json", *self.more]
        self.process = subprocess.Popen(
            argv, env=dict(self.environment), cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.process.stdout is not None
        said = b"".join(iter(self.process.stdout.readline, b"}\n")) + b"}"
        self.port = int(json.loads(said)["url"].rpartition(":")[2])

    def kill(self) -> None:
        """Ends it at once, as a crash would; one that has ended already is fine."""
        assert self.process is not None and self.process.stdout is not None
        if self.process.returncode is not None:
            return
        self.process.kill()
        self.process.wait(DEADLINE_S)
        self.process.stdout.close()

    def token(self, *scopes: str) -> str:
        """The default token; with scopes one of its own."""
        words = (
            ("config", "token") if not scopes else ("token", "create", f"t{os.urandom(4).hex()}", *(f"--scope={each}" for each in scopes))
        )
        argv = [sys.executable, "-m", "agentkernel", *words]
        said = subprocess.run(argv, env=dict(self.environment), capture_output=True, text=True, check=True, timeout=DEADLINE_S)
        return next(word for word in said.stdout.split() if word.startswith("ak_"))


@contextmanager
def serving(environment: Mapping[str, str], *more: str) -> Iterator[Server]:
    """A server for a block."""
    server = Server(environment, more)
    server.start()
    try:
        yield server
    finally:
        server.kill()


class Wire:
    """What lies between a client and its server: carries bytes both ways until it is told otherwise."""

    def __init__(self, port: Callable[[], int]) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.is_deaf = False  # what the server says is lost
        self.crossings = 0
        self.cut_each_bytes = 0  # it is cut whenever so many more have crossed; 0: not by itself
        self._carried = 0  # since then
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept)

    @property
    def url(self) -> str:
        """What a client is told."""
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Ends every connection that there is now, without a goodbye."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESETS)
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends it."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in list(self._threads):
            thread.join(DEADLINE_S)
            assert not thread.is_alive()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._spawn(lambda near=near: self._cross(near))  # type: ignore[misc]

    def _cross(self, near: socket.socket) -> None:
        with near, socket.socket() as far:
            try:
                far.connect(("127.0.0.1", self._target()))
            except OSError:
                return  # it is not there: the client sees its connection end
            with self._lock:
                self._pairs.append((near, far))
                self.crossings += 1
            back = threading.Thread(target=self._carry, args=(far, near, True))
            back.start()
            self._carry(near, far, False)
            back.join()

    def _carry(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not (is_answer and self.is_deaf):
                    target.sendall(data)
                if self._is_due(len(data)):
                    self.cut()
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _is_due(self, count: int) -> bool:
        with self._lock:
            self._carried += count
            is_due = 0 < self.cut_each_bytes <= self._carried
            self._carried = 0 if is_due else self._carried
        return is_due

    def _spawn(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work)
        self._threads.append(thread)
        thread.start()


@contextmanager
def wired(port: Callable[[], int]) -> Iterator[Wire]:
    """A way to a port, for a block."""
    wire = Wire(port)
    try:
        yield wire
    finally:
        wire.close()


@pytest.fixture(scope="module")
def server(there: dict[str, str]) -> Iterator[Server]:
    """The server before the daemon that is there."""
    with serving(there) as found:
        yield found


@pytest.fixture(scope="module")
def token(server: Server) -> str:
    """Its default token."""
    return server.token()


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    """A way to the server."""
    with wired(lambda: server.port) as found:
        yield found


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """The port of something that answers so to whatever it is asked, and then hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(DEADLINE_S)
        listener.close()


def nobody() -> int:
    """A port at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def certificates(directory: Path) -> tuple[str, str]:
    """Files of an authority nobody knows, and of a certificate of it for `localhost` with its key."""
    from agentkernel.egress.authority import make_authority  # needs a package that only tests of TLS need

    authority = make_authority(["localhost"])
    signer, own = directory / "signer.pem", directory / "server.pem"
    signer.write_text(authority.certificate)
    own.write_text(authority.leaves["localhost"])
    return str(signer), str(own)
