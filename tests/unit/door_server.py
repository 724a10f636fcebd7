"""A daemon whose commands are scripts of a test: the door's frames over a real socket, in a thread. It knows nothing of sandboxes."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from agentkernel.channel import door, wire

START, STDIN, CONSUMED, SIGNAL, RESIZE, KILL, RESUME, FORGET = 2, 3, 4, 5, 6, 7, 8, 9
CALL = 14
REPLY, FAILED, STARTED, OUTPUT, STDIN_CONSUMED, EXITED, RESUMED = 128, 129, 130, 131, 132, 133, 134
STORE = b"s" * 16
EXITED_STRUCT = struct.Struct("<IIIIQQQQQQ")


@dataclass
class Frame:
    """One frame of the client."""

    kind: int
    flags: int
    ident: int
    payload: bytes


@dataclass
class Attach:
    """One connection, behind its HELLO."""

    connection: socket.socket
    tag: int
    seen: list[Frame]
    frames: Iterator[Frame]
    exec_id: int = 0
    sent: dict[int, int] = field(default_factory=lambda: {1: 0, 2: 0})

    def next(self, kind: int) -> Frame:
        """The next frame of that kind; others are passed over (and kept in `seen`)."""
        for frame in self.frames:
            if frame.kind == kind:
                return frame
        raise AssertionError(f"the client went away without a frame {kind}: {self.seen}")

    def until_closed(self) -> list[Frame]:
        """All that still comes."""
        return list(self.frames)

    def send(self, kind: int, payload: bytes = b"", *, flags: int = 0, ident: int | None = None) -> None:
        self.connection.sendall(wire.encode_frame(self.tag, kind, self.exec_id if ident is None else ident, payload, flags))

    def started(self, *, notices: tuple[bytes, ...] = (), input_limit: int = 0) -> dict[int, list[bytes]]:
        """Takes START and answers it; returns its fields."""
        start = self.next(START)
        self.exec_id = start.ident
        self.send(STARTED, door.encode_started(3, "0123456789abcdef", notices))
        if input_limit:
            self.send(STDIN_CONSUMED, struct.pack("<QQ", 0, input_limit))
        return door.decode_request(start.payload)

    def output(self, data: bytes, stream: int = 1) -> None:
        for at in range(0, len(data), 65536):
            part = data[at : at + 65536]
            self.send(OUTPUT, struct.pack("<Q", self.sent[stream]) + part, flags=stream)
            self.sent[stream] += len(part)

    def exited(self, status: int = 0, message: str = "") -> None:
        inner = EXITED_STRUCT.pack(0, status & 255, 0, 0, self.sent[1], self.sent[2], 1, 0, 0, 0)
        self.send(EXITED, door.encode_exited(inner, 0, 0, status, message))


Script = Callable[[Attach], None]


class DoorServer:
    """Serves one script per connection, in their order; the last one serves all that follow."""

    def __init__(self, path: Path, *scripts: Script, state: int = 0, store: bytes = STORE) -> None:
        self.path = path
        self.scripts = list(scripts)
        self.attaches: list[Attach] = []
        self.failures: list[BaseException] = []
        self.state, self.store = state, store
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> DoorServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(30)
        self.path.unlink(missing_ok=True)
        if self.failures:
            raise self.failures[0]

    def _serve(self) -> None:
        at = 0
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            try:
                self._attend(connection, self.scripts[min(at, len(self.scripts) - 1)])
            except BaseException as error:  # the test's own thread raises it
                self.failures.append(error)
            finally:
                with suppress(OSError):
                    connection.close()
            at += 1

    def _attend(self, connection: socket.socket, script: Script) -> None:
        connection.settimeout(30)
        try:
            hello = _exactly(connection, wire.HELLO.size)
        except EOFError:  # it connects only to see whether somebody listens
            return
        magic, epoch, *_ = wire.HELLO.unpack(hello)
        assert magic == wire.HOST_MAGIC
        connection.sendall(wire.HELLO_REPLY.pack(wire.AGENT_MAGIC, epoch, 1, 0, self.state, self.store))
        seen: list[Frame] = []
        attach = Attach(connection, wire.tag_of(epoch), seen, _frames(connection, wire.tag_of(epoch), seen))
        self.attaches.append(attach)
        script(attach)


def _frames(connection: socket.socket, tag: int, seen: list[Frame]) -> Iterator[Frame]:
    while True:
        try:
            header = _exactly(connection, wire.HEADER.size)
            length, kind, flags, zero, ident = wire.HEADER.unpack(header)
            payload = _exactly(connection, length)
            assert (_exactly(connection, 4), zero) == (wire.TAG.pack(tag), 0)
        except (EOFError, ConnectionResetError):
            return
        frame = Frame(kind, flags, ident, payload)
        seen.append(frame)
        yield frame


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data
