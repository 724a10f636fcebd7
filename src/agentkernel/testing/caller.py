"""What the suite runs inside a sandbox to speak to the network: plain Python, nothing but the standard library, of any version from 3.8 on.

stdin holds a JSON list of talks, which are had one after the other; stdout gets the list of what came of them. A talk is
{"to": [host, port] or a path, "steps": [[verb, argument], ...], "timeout_s": seconds for each step, "count": how many of it at once}.
Each of `count` gives {"data": base64 of all that was received, "error": "" or what ended it}.
"""

from __future__ import annotations

import base64
import json
import socket
import ssl
import struct
import sys
import threading
import time
from typing import Any

STACK_BYTES = 256 * 1024


class Talk:
    """One connection and what is said on it."""

    sock: socket.socket

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.data = b""
        self.error = ""

    def run(self) -> None:
        try:
            self.sock = connected(self.job)
            try:
                for verb, argument in self.job["steps"]:
                    getattr(self, "do_" + verb)(argument)
            finally:
                self.sock.close()
        except (OSError, EOFError, ValueError, UnicodeError) as error:
            self.error = f"{type(error).__name__}: {error}"

    def do_send(self, text: str) -> None:
        self.sock.sendall(base64.b64decode(text))

    def do_flood(self, size: int) -> None:
        piece = bytes(range(256)) * 256
        while size > 0:
            self.sock.sendall(piece[:size])
            size -= len(piece)

    def do_end(self, _: None) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def do_reset(self, _: None) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def do_read(self, size: int) -> None:
        wanted = len(self.data) + size
        while len(self.data) < wanted:
            self._more(wanted - len(self.data))

    def do_until(self, text: str) -> None:
        marker = base64.b64decode(text)
        start = len(self.data)
        while marker not in self.data[start:]:
            self._more(1)

    def do_rest(self, _: None) -> None:
        while True:
            piece = self.sock.recv(1 << 20)
            if not piece:
                return
            self.data += piece

    def do_count(self, size: int) -> None:
        while size > 0:
            piece = self.sock.recv(1 << 20)
            if not piece:
                raise EOFError(f"{size} bytes are missing")
            size -= len(piece)

    def do_wait(self, path: str) -> None:
        """Until somebody writes to a FIFO."""
        with open(path, "rb") as fifo:
            fifo.read()

    def do_pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def do_tls(self, how: tuple[str, str]) -> None:
        name, authority = how
        context = ssl.create_default_context(cafile=authority or None)
        if not authority:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self.sock = context.wrap_socket(self.sock, server_hostname=name or None)

    def _more(self, size: int) -> None:
        piece = self.sock.recv(size)
        if not piece:
            raise EOFError("the other end closed the connection")
        self.data += piece


def connected(job: dict[str, Any]) -> socket.socket:
    """A socket for a talk; raises OSError."""
    to = job["to"]
    if isinstance(to, list) and not job["udp"]:
        return socket.create_connection((to[0], to[1]), job["timeout_s"])
    if isinstance(to, str):
        sock = socket.socket(socket.AF_UNIX)
    else:
        sock = socket.socket(socket.AF_INET6 if ":" in to[0] else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(job["timeout_s"])
    sock.connect(to if isinstance(to, str) else (to[0], to[1]))
    return sock


def resolve(job: dict[str, Any]) -> list[dict[str, str]]:
    """What the system's resolver says of a name."""
    try:
        found = sorted({entry[4][0] for entry in socket.getaddrinfo(job["resolve"], None)})
        return [{"data": base64.b64encode(" ".join(map(str, found)).encode()).decode(), "error": ""}]
    except (OSError, UnicodeError) as error:
        return [{"data": "", "error": f"{type(error).__name__}: {error}"}]


def had(job: dict[str, Any]) -> list[dict[str, str]]:
    """All that came of one talk."""
    if "resolve" in job:
        return resolve(job)
    talks = [Talk(job) for _ in range(job.get("count", 1))]
    if len(talks) == 1:
        talks[0].run()
    else:
        threading.stack_size(STACK_BYTES)
        threads = [threading.Thread(target=talk.run) for talk in talks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return [{"data": base64.b64encode(talk.data).decode(), "error": talk.error} for talk in talks]


if __name__ == "__main__":
    json.dump([had(job) for job in json.load(sys.stdin)], sys.stdout)
