"""The least of the guest protocol (docs/guest-protocol.md) that starts a process: enough to see where a launched agent puts it."""

from __future__ import annotations

import os
import socket
import struct

CONFIGURE, START, STARTED = 1, 2, 130
SECCOMP, ARGV, ENV = 1, 1, 2


def field(key: int, value: bytes) -> bytes:
    return struct.pack("<HHI", key, 0, len(value)) + value


def receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise ConnectionError("the agent closed the connection")
        data += chunk
    return data


class Attach:
    """One attach to an agent, by a connection to its listening socket."""

    def __init__(self, address: bytes | str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10)
        self._socket.connect(address)
        epoch = b"\1" + os.urandom(15)
        self._tag = epoch[:4]
        self._socket.sendall(b"AKCHAN1\n" + epoch + struct.pack("<HHI", 1, 1, 0))
        reply = receive(self._socket, 48)
        assert reply[:24] == b"AKAGENT\n" + epoch
        self._request(CONFIGURE, 1, field(SECCOMP, b""))

    def _request(self, kind: int, request: int, payload: bytes) -> tuple[int, bytes]:
        self._socket.sendall(struct.pack("<IBBHQ", len(payload), kind, 0, 0, request) + payload + self._tag)
        while True:
            length, answer, _, _, to = struct.unpack("<IBBHQ", receive(self._socket, 16))
            data = receive(self._socket, length)
            assert receive(self._socket, 4) == self._tag
            if to == request:
                return answer, data

    def start(self, *argv: str) -> int:
        """Starts a process; returns its pid as the sandbox sees it."""
        payload = b"".join(field(ARGV, argument.encode()) for argument in argv) + field(ENV, b"PATH=/usr/bin")
        answer, data = self._request(START, 2, payload)
        assert answer == STARTED, (answer, data)
        return int(struct.unpack("<I", data)[0])

    def close(self) -> None:
        self._socket.close()
