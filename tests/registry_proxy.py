"""A proxy in front of a registry that cuts, damages, refuses and sends away, as networks and hostile servers do."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from registry_world import listening


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]  # names in small letters
    before: int  # how often the same path was asked for before


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is done with it instead of passing it on, or with the registry's answer."""

    status: int = 0  # above 0: answered here, by this status, these headers and this body
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut_after: int = -1  # the connection ends after so many bytes of the body
    flip_at: int = -1  # this byte of the body is another one
    whole: bool = False  # ranges are not heard of
    more: bytes = b""  # after the body, which is announced with that length


Decide = Callable[[Asked], Answer | None]


@dataclass(kw_only=True)
class Proxy:
    """The proxy, and what it was asked."""

    address: str
    decide: Decide = lambda _asked: None
    asked: list[Asked] = field(default_factory=list)

    def of(self, part: str) -> list[Asked]:
        """The requests for paths with this in it."""
        return [each for each in self.asked if part in each.path]


@contextmanager
def running_proxy(registry: str) -> Iterator[Proxy]:
    """A proxy for the registry at that address."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with lock:
                before = len([each for each in proxy.asked if (each.path, each.method) == (self.path, self.command)])
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(method=self.command, path=self.path, headers=headers, before=before)
                proxy.asked.append(asked)
            answer = proxy.decide(asked) or Answer()
            if answer.status:
                self._send(answer.status, dict(answer.headers), answer.body, answer)
            else:
                self._pass_on(answer)

        do_HEAD = do_GET

        def _pass_on(self, answer: Answer) -> None:
            headers = {name: value for name, value in self.headers.items() if not (answer.whole and name.lower() == "range")}
            connection = http.client.HTTPConnection(registry, timeout=30)
            connection.request(self.command, self.path, headers=headers)
            got = connection.getresponse()
            body = got.read()
            kept = {name: value for name, value in got.getheaders() if name.lower() not in {"content-length", "connection", "date"}}
            if self.command == "HEAD":
                kept["Content-Length"] = got.getheader("Content-Length", "0")
            connection.close()
            self._send(got.status, {**kept, **answer.headers}, body, answer)

        def _send(self, status: int, headers: dict[str, str], body: bytes, answer: Answer) -> None:
            if answer.flip_at >= 0:
                body = body[: answer.flip_at] + bytes([body[answer.flip_at] ^ 1]) + body[answer.flip_at + 1 :]
            body += answer.more
            self.send_response(status)
            if "content-length" not in map(str.lower, headers):
                headers["Content-Length"] = str(len(body))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body if answer.cut_after < 0 else body[: answer.cut_after])
            if answer.cut_after >= 0:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

        def log_message(self, *_: object) -> None: ...

    with listening(Handler) as server:
        proxy = Proxy(address=f"127.0.0.1:{server.server_port}")
        yield proxy


@contextmanager
def running_tunnel(targets: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """A company's proxy: answers CONNECT for these HOST:PORT by connecting to the address. Yields its own address and what was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            asked.append(self.path)
            host, _, port = targets[self.path].rpartition(":")
            with socket.create_connection((host, int(port))) as far:
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=_pump, args=(far, self.connection))
                back.start()
                _pump(self.connection, far)
                back.join()
            self.close_connection = True

        def log_message(self, *_: object) -> None: ...

    with listening(Handler) as server:
        yield f"http://127.0.0.1:{server.server_port}", asked


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the other direction has ended both
