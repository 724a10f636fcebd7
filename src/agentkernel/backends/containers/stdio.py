"""The agent's stream as a container's standard input and output, for engines and runtimes that share no socket with this host.

The engine joins whoever attaches with the container's standard streams: input as it is, output in frames of its own, each with a header of
eight bytes (moby, `POST /containers/{id}/attach`, "Stream format"). There are no boundaries between one attach and the next, and several
may be open at once, so the channel's own opening decides who is meant (docs/guest-protocol.md, section 1).
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import TYPE_CHECKING, Final

from agentkernel.backends.containers.api import Api, EngineRefused
from agentkernel.backends.containers.endpoint import Endpoint, plain_stream
from agentkernel.backends.containers.plan import GUEST, INNER_SOCKET
from agentkernel.channel.wire import MAX_FRAME

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_HEADER: Final = struct.Struct(">BxxxI")
_STDOUT, _STDERR = 1, 2
_MAX_HEAD_BYTES = 16_384
_PATIENCE_S = 10.0
_RESYNCHRONISE = bytes(MAX_FRAME)  # completes whatever frame an earlier host had cut


class FramedSocket(socket.socket):
    """A socket whose `recv_into` gives what the container wrote to its standard output, without the engine's headers."""

    def __init__(self, fileno: int) -> None:
        """Takes the descriptor over."""
        super().__init__(fileno=fileno)
        self._header = bytearray()  # of the next frame, as far as it came
        self._left = 0  # bytes of this frame that are still to come
        self._wanted = False  # whether they are the agent's

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """As of any socket: 0 only at the end; raises BlockingIOError while nothing of the agent's is there, OSError for no frames."""
        view = memoryview(buffer)
        while True:
            count = super().recv_into(view, nbytes, flags)
            if count == 0:
                return 0
            kept = self._strip(view, count)
            if kept:
                return kept

    def _strip(self, view: memoryview, count: int) -> int:
        """Moves what is the agent's to the front of the buffer; returns how much."""
        position = kept = 0
        while position < count:
            if self._left == 0:
                position += self._read_header(view[position:count])
                continue
            size = min(self._left, count - position)
            if self._wanted:
                if kept != position:
                    view[kept : kept + size] = view[position : position + size]
                kept += size
            position += size
            self._left -= size
        return kept

    def _read_header(self, view: memoryview) -> int:
        taken = min(_HEADER.size - len(self._header), len(view))
        self._header += view[:taken]
        if len(self._header) == _HEADER.size:
            stream, self._left = _HEADER.unpack(self._header)
            if stream not in (_STDOUT, _STDERR) or self._header[1:4] != b"\0\0\0":
                raise ConnectionError("the engine's stream is out of step")
            self._wanted = stream == _STDOUT
            self._header.clear()
        return taken


async def attach(api: Api, container: str) -> socket.socket:
    """A stream to the agent of a running container: non-blocking, and whatever an earlier host had begun to say is completed.

    Raises OSError when the engine does not attach, BackendUnavailable when it cannot be reached.
    """
    target = f"/containers/{container}/attach?stream=1&stdin=1&stdout=1"
    return await asyncio.to_thread(_join, api.endpoint, await api.version(), target, b"", _RESYNCHRONISE)


async def session(api: Api, container: str) -> socket.socket:
    """The same by a session of the engine's, in which the guest joins its streams to the agent's socket inside: a connection of its own."""
    command = {
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": False,
        "Tty": False,
        "User": "0:0",
        "WorkingDir": "/",
        "Cmd": [GUEST, "relay", INNER_SOCKET],
    }
    try:
        made = await api.call("POST", f"/containers/{container}/exec", body=command)
    except EngineRefused as refused:
        raise ConnectionError(f"the engine makes no session: {refused.message}") from refused
    body = json.dumps({"Detach": False, "Tty": False}).encode()
    return await asyncio.to_thread(_join, api.endpoint, await api.version(), f"/exec/{made['Id']}/start", body, b"")


def _join(endpoint: Endpoint, version: tuple[int, int], target: str, body: bytes, first: bytes) -> socket.socket:
    stream = endpoint.open(_PATIENCE_S)
    try:
        stream.sendall(
            f"POST /v{version[0]}.{version[1]}{target} HTTP/1.1\r\n"
            "Host: engine\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode("ascii")
            + body
        )
        _require_joined(_read_head(stream))
        stream.sendall(first)
        framed = FramedSocket(plain_stream(stream).detach())
    except BaseException:
        stream.close()
        raise
    framed.setblocking(False)
    return framed


def _read_head(stream: socket.socket) -> bytes:
    """The answer's head and not one byte more: what follows is the stream. A few hundred calls, once per attach."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        byte = stream.recv(1)
        if not byte or len(head) > _MAX_HEAD_BYTES:
            raise ConnectionError("the engine's answer to the attach was cut")
        head += byte
    return bytes(head)


def _require_joined(head: bytes) -> None:
    """101 as a rule; 200 where a proxy between has dropped the upgrade's headers, which the engine honours all the same."""
    line = head.split(b"\r\n", 1)[0].decode("latin-1")
    status = line.split(" ", 2)[1:2]
    if status not in (["101"], ["200"]):
        raise ConnectionError(f"the engine does not attach: {line[:200]}")
