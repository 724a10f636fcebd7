"""Servers of a test's own on this host: HTTP, HTTPS with an authority of its own, and TCP that echoes lines."""

from __future__ import annotations

import contextlib
import http.server
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAME = "server.example"  # what the authority vouches for


def own_address() -> str:
    """An IPv4 address of this host that is not loopback; empty where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.254", 9))  # sends nothing
        except OSError:
            return ""
        address: str = probe.getsockname()[0]
        return "" if address.startswith("127.") else address


def make_authority(directory: Path) -> Path:
    """An authority and a certificate for `NAME`: `ca.pem`, `server.pem` with its key. Returns the directory."""
    (directory / "names").write_text(f"subjectAltName=DNS:{NAME}\n")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    for command in (
        ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority of a test"],
        ["req", *key[:-2], "-keyout", "server.key", "-out", "server.csr", "-subj", f"/CN={NAME}"],
        ["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names",
         "-out", "server.crt"],
    ):  # fmt: skip
        subprocess.run(["openssl", *command], cwd=directory, check=True, capture_output=True)
    (directory / "server.pem").write_text((directory / "server.crt").read_text() + (directory / "server.key").read_text())
    return directory


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[int]:
    """Serves in a thread; yields the port."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1]  # type: ignore[index]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def files(directory: Path, address: str, authority: Path | None = None) -> http.server.ThreadingHTTPServer:
    """A web server of a directory; with an authority over TLS."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(directory))

        def log_message(self, *_: object) -> None:
            """Tells nothing."""

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Tells nothing of clients that go away, or do not trust it."""

    server = Server((address, 0), Handler)
    if authority is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority / "server.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server


def echo(address: str) -> socketserver.ThreadingTCPServer:
    """Greets, as ssh and most databases do, and then answers each line in capitals."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"WELCOME\n")
            for line in self.rfile:
                self.wfile.write(line.upper())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    return Server((address, 0), Handler)
