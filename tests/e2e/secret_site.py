"""An HTTPS server of this host's for which a user has a secret."""

from __future__ import annotations

import contextlib
import http.server
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from e2e.servers import serving

from agentkernel.egress.authority import make_authority

VALUE = "sk-live-of-the-e2e-test-4f1b9cQ7"
DIRECT = ("-e", "NO_PROXY=", "-e", "no_proxy=")  # a server on a loopback address, too, is asked through the proxy


@dataclass
class Site:
    """An HTTPS server of this host's, by the name localhost, and what it was asked."""

    port: int
    heads: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def options(self, binding: str = "") -> tuple[str, ...]:
        """What `run` and `create` take to give a sandbox the secret for it."""
        opened = ("--allow-host", f"localhost:{self.port}", "--allow-host", f"127.0.0.1:{self.port}")
        return ("-q", "--secret", f"API_KEY=ENV:MY_KEY@localhost:{self.port}{binding}", *opened, *DIRECT)


@contextlib.contextmanager
def secret_site(directory: Path) -> Iterator[tuple[Site, Path]]:
    """The server, and the file of the authority that this host trusts for it; in an empty directory."""
    certificate, leaves = make_authority(("localhost",))
    (directory / "leaf.pem").write_text(leaves["localhost"])
    (directory / "trust.pem").write_text(certificate)
    for path in (directory, directory / "trust.pem"):
        path.chmod(0o755)
    for parent in list(directory.parents)[:2]:
        parent.chmod(0o755)
    made = Site(0)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            made.heads.append(f"{self.requestline}\n{self.headers}")
            self.send_response(200)
            self.send_header("Content-Length", "3")
            self.send_header("X-Echo", self.headers.get("Authorization", ""))
            self.end_headers()
            self.wfile.write(b"ok\n")

        def log_message(self, *_: object) -> None:
            """Tells nothing."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "leaf.pem")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    with serving(server) as made.port:
        yield made, directory / "trust.pem"
