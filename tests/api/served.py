"""A real server of the application, in a thread of the test's process, and raw connections to it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agentkernel.api.listening import at_address, at_path
from agentkernel.api.parts import Parts
from agentkernel.api.serve import Certificate, server

DEADLINE_S = 60.0


class Address:
    """Where it listens."""

    def __init__(self, listener: socket.socket) -> None:
        self._family = listener.family
        self.name = listener.getsockname()

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """A connection."""
        with socket.socket(self._family, socket.SOCK_STREAM) as connection:
            connection.settimeout(DEADLINE_S)
            connection.connect(self.name)
            yield connection

    def get(self, path: str) -> tuple[int, Any]:
        """Status and envelope of one GET over a connection of its own."""
        with self.connected() as connection:
            connection.sendall(request(path, "Connection: close"))
            return parsed(everything(connection))


@contextmanager
def serving(parts: Parts, path: Path | None = None, certificate: Certificate | None = None) -> Iterator[Address]:
    """Serves for a block, at a free port of the loopback or at a path."""
    ready = threading.Event()
    opened = at_address("127.0.0.1", 0) if path is None else at_path(str(path))
    with opened as listener:
        address = Address(listener)
        made = server(parts, listener, ready.set, certificate)
        thread = threading.Thread(target=lambda: made.run(sockets=[listener]))
        thread.start()
        try:
            assert ready.wait(DEADLINE_S)
            yield address
        finally:
            made.should_exit = True
            thread.join(DEADLINE_S)
            assert not thread.is_alive()


def certificate_in(directory: Path) -> Certificate:
    """A certificate of localhost, signed by itself: `cert.pem` and `key.pem`."""
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem"
    command = ["openssl", *words.split(), "-addext", "subjectAltName=DNS:localhost"]
    try:
        subprocess.run(command, cwd=directory, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not here")
    return Certificate(certificate=str(directory / "cert.pem"), key=str(directory / "key.pem"))


def request(path: str, *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
    """A request as bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def until(condition: Callable[[], object]) -> None:
    """Waits for something that is sure to come."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def put(connection: socket.socket, content: bytes) -> None:
    """Sends it, as far as the other end takes it."""
    with contextlib.suppress(ConnectionError):
        connection.sendall(content)


def everything(connection: socket.socket) -> bytes:
    """What comes until the other end closes."""
    content = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            content += piece
    return content


def one_answer(connection: socket.socket) -> tuple[int, Any]:
    """Status and envelope of the next answer of a connection that stays."""
    content = b""
    while b"\r\n\r\n" not in content:
        piece = connection.recv(1)
        assert piece, content
        content += piece
    head = content.decode().lower()
    length = int(head.split("content-length: ")[1].split("\r\n")[0])
    while len(content) < len(head) + length:
        content += connection.recv(len(head) + length - len(content))
    return parsed(content)


def parsed(content: bytes) -> tuple[int, Any]:
    """Status and envelope of an answer."""
    head, _, body = content.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 "), content
    return int(head.split()[1]), json.loads(body)
