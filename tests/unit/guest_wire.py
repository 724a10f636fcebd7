"""A second, independent codec of the guest protocol (docs/guest-protocol.md), for testing the C agent.

It shares no code with agentkernel.channel on purpose: two readings of one contract find what one alone does not.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

MAX_PAYLOAD = 131_072
MAX_FRAME = MAX_PAYLOAD + 20
HELLO = struct.Struct("<8s16sHHI")
HELLO_REPLY = struct.Struct("<8s16sHHI16s")
HEADER = struct.Struct("<IBBHQ")
FIELD = struct.Struct("<HHI")
EXITED = struct.Struct("<IIIIQQQQQQ")

CONFIGURE, START, STDIN, CONSUMED, SIGNAL, RESIZE, KILL, RESUME, FORGET, LIST, STATS, PING, SHUTDOWN = range(1, 14)
TUNNEL_OPEN, TUNNEL_SEND, TUNNEL_CREDIT, TUNNEL_CLOSE, ANSWER = range(14, 19)
REPLY, FAILED, STARTED, OUTPUT, STDIN_CONSUMED, EXITED_TYPE, RESUMED = range(128, 135)
TUNNEL_ACCEPTED, TUNNEL_OPENED, TUNNEL_DATA, TUNNEL_GRANT, TUNNEL_CLOSED, QUERY = range(135, 141)
DETACHED, STDIN_FOLLOWS = 1, 2
STDOUT, STDERR = 1, 2
READ, WRITE, STAT, LIST_DIRECTORY, MKDIR, REMOVE, MOVE, WATCH, CONNECT, SYMLINK, CHMOD = range(1, 12)


@dataclass(frozen=True, slots=True)
class Frame:
    type: int
    flags: int
    id: int
    payload: bytes


def encode_frame(frame: Frame, tag: int) -> bytes:
    return HEADER.pack(len(frame.payload), frame.type, frame.flags, 0, frame.id) + frame.payload + struct.pack("<I", tag)


def decode_frame(data: bytes, tag: int) -> tuple[Frame, int]:
    """Returns the frame at the start of `data` and its size; IndexError when bytes are missing, ValueError when it is none."""
    if len(data) < HEADER.size:
        raise IndexError
    length, kind, flags, zero, ident = HEADER.unpack_from(data)
    if length > MAX_PAYLOAD or zero:
        raise ValueError(f"bad header {data[: HEADER.size].hex()}")
    size = HEADER.size + length + 4
    if len(data) < size:
        raise IndexError
    if struct.unpack_from("<I", data, size - 4)[0] != tag:
        raise ValueError("wrong tag")
    return Frame(kind, flags, ident, bytes(data[HEADER.size : size - 4])), size


def encode_field(key: int, data: bytes, flags: int = 0) -> bytes:
    return FIELD.pack(key, flags, len(data)) + data


def decode_fields(payload: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while at < len(payload):
        key, flags, length = FIELD.unpack_from(payload, at)
        at += FIELD.size
        if at + length > len(payload):
            raise ValueError("field beyond the payload")
        yield key, flags, payload[at : at + length]
        at += length


def start_payload(
    *argv: str | bytes,
    env: tuple[str, ...] = ("PATH=/usr/local/bin:/usr/bin:/bin",),
    cwd: str | None = None,
    user: tuple[int, int] | None = None,
    groups: tuple[int, ...] = (),
    terminal: tuple[int, int] | None = None,
    flags: int = 0,
    ring: int | None = None,
    timeout_ms: int | None = None,
    builtin: int | None = None,
) -> bytes:
    parts = [encode_field(1, a if isinstance(a, bytes) else a.encode()) for a in argv]
    parts += [encode_field(2, e.encode()) for e in env]
    if cwd is not None:
        parts.append(encode_field(3, cwd.encode()))
    if user is not None:
        parts += [encode_field(4, struct.pack("<I", user[0])), encode_field(5, struct.pack("<I", user[1]))]
    parts += [encode_field(6, struct.pack("<I", g)) for g in groups]
    if terminal is not None:
        parts.append(encode_field(7, struct.pack("<HH", *terminal)))
    if flags:
        parts.append(encode_field(8, struct.pack("<I", flags)))
    if ring is not None:
        parts.append(encode_field(9, struct.pack("<I", ring)))
    if timeout_ms is not None:
        parts.append(encode_field(10, struct.pack("<Q", timeout_ms)))
    if builtin is not None:
        parts.append(encode_field(11, struct.pack("<H", builtin)))
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Exit:
    kind: int
    value: int
    cause: int
    flags: int
    stdout_end: int
    stderr_end: int
    wall_us: int
    user_us: int
    system_us: int
    max_rss_bytes: int


@dataclass(frozen=True, slots=True)
class Failure(Exception):
    errno: int
    stage: int
    text: str


def decode_failure(payload: bytes) -> Failure:
    errno, stage = struct.unpack_from("<II", payload)
    text = payload[8:]
    assert len(text) <= 200
    return Failure(errno, stage, text.decode())


@dataclass(slots=True)
class Run:
    """What a host knows of one process; offsets are checked as frames come in."""

    id: int
    offsets: dict[int, int] = field(default_factory=lambda: {STDOUT: 0, STDERR: 0})
    output: dict[int, bytearray] = field(default_factory=lambda: {STDOUT: bytearray(), STDERR: bytearray()})
    pid: int | None = None
    starts: int = 0
    exit: Exit | None = None
    failure: Failure | None = None
    resumed: tuple[int, ...] | None = None
    stdin_consumed: int = 0
    stdin_limit: int = 0
    stdin_closed: bool = False
    gaps: int = 0

    @property
    def stdout(self) -> bytes:
        return bytes(self.output[STDOUT])

    @property
    def stderr(self) -> bytes:
        return bytes(self.output[STDERR])

    def take(self, frame: Frame) -> None:
        if frame.type == STARTED:
            (self.pid,) = struct.unpack("<I", frame.payload)
            self.starts += 1
            self.offsets = {STDOUT: 0, STDERR: 0}  # the agent sends from the start of what it holds, also when it is asked again
        elif frame.type == OUTPUT:
            (offset,) = struct.unpack_from("<Q", frame.payload)
            data = frame.payload[8:]
            assert self.exit is None, "output after the end"
            assert self.pid is not None or self.resumed is not None, "output before the start"
            assert 0 < len(data) <= 65_536
            assert offset >= self.offsets[frame.flags], "output repeated"
            self.gaps += offset > self.offsets[frame.flags]
            self.offsets[frame.flags] = offset + len(data)
            self.output[frame.flags] += data
        elif frame.type == STDIN_CONSUMED:
            self.stdin_consumed, self.stdin_limit = struct.unpack("<QQ", frame.payload)
            self.stdin_closed = bool(frame.flags & 1)
        elif frame.type == EXITED_TYPE:
            self.exit = Exit(*EXITED.unpack(frame.payload))
        elif frame.type == RESUMED:
            self.resumed = struct.unpack("<IIQQQQ", frame.payload)
            self.stdin_consumed, self.stdin_limit = self.resumed[4:]
        elif frame.type == FAILED:
            self.failure = decode_failure(frame.payload)


class Gone(Exception):
    """The agent closed the stream."""


class Host:
    """One attach to an agent over a connected socket (or over a pair of pipes made to look like one)."""

    def __init__(self, sock: socket.socket, *, timeout_s: float = 10) -> None:
        self.sock = sock
        self.timeout_s = timeout_s
        self.epoch = b""
        self.tag = 0
        self.received = bytearray()
        self.runs: dict[int, Run] = {}
        self.answers: dict[int, Frame] = {}
        self.auto_consume = True
        self.state = 0
        self.boot_id = b""

    def attach(self, *, padding: bool = False, versions: tuple[int, int] = (1, 1)) -> int:
        """Opens the attach; returns the version (0: refused)."""
        self.epoch = os.urandom(15) + b"\1"
        self.epoch = b"\1" + self.epoch[1:]
        (self.tag,) = struct.unpack_from("<I", self.epoch)
        self.sock.sendall((bytes(MAX_FRAME) if padding else b"") + HELLO.pack(b"AKCHAN1\n", self.epoch, *versions, 0))
        wanted = b"AKAGENT\n" + self.epoch
        while (at := self.received.find(wanted)) < 0 or len(self.received) < at + HELLO_REPLY.size:
            self._receive(time.monotonic() + self.timeout_s)
        _, _, version, arch, self.state, self.boot_id = HELLO_REPLY.unpack_from(self.received, at)
        assert arch in (1, 2)
        del self.received[: at + HELLO_REPLY.size]
        return version

    def _receive(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer from the agent")
        self.sock.settimeout(left)
        try:
            data = self.sock.recv(1 << 20)
        except ConnectionResetError as error:
            raise Gone from error
        if not data:
            raise Gone
        self.received += data

    def send(self, kind: int, ident: int, payload: bytes = b"", flags: int = 0) -> None:
        self.sock.settimeout(self.timeout_s)
        self.sock.sendall(encode_frame(Frame(kind, flags, ident, payload), self.tag))

    def next_frame(self, deadline: float) -> Frame:
        while True:
            try:
                frame, size = decode_frame(self.received, self.tag)
            except IndexError:
                self._receive(deadline)
            else:
                del self.received[:size]
                return frame

    def step(self, deadline: float) -> None:
        self.take(self.next_frame(deadline))

    def take(self, frame: Frame) -> None:
        run = self.runs.get(frame.id)
        if run is None:
            self.answers[frame.id] = frame
            return
        run.take(frame)
        if frame.type == OUTPUT and self.auto_consume:
            self.send(CONSUMED, run.id, struct.pack("<Q", run.offsets[frame.flags]), frame.flags)

    def until(self, condition: Callable[[], object], timeout_s: float | None = None) -> None:
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        while not condition():
            self.step(deadline)

    def quiet(self, seconds: float) -> None:
        """Takes what comes within `seconds`."""
        try:
            self.until(lambda: False, seconds)
        except TimeoutError:
            pass

    def request(self, kind: int, payload: bytes = b"", *, ident: int | None = None, flags: int = 0) -> bytes:
        """Sends a request and returns the payload of its REPLY; raises Failure."""
        ident = ident or new_id()
        self.answers.pop(ident, None)
        self.send(kind, ident, payload, flags)
        self.until(lambda: ident in self.answers)
        answer = self.answers.pop(ident)
        if answer.type == FAILED:
            raise decode_failure(answer.payload)
        assert answer.type == REPLY
        return answer.payload

    def configure(self, payload: bytes = b"") -> None:
        self.request(CONFIGURE, payload)

    def start(self, *argv: str | bytes, ident: int | None = None, **options: object) -> Run:
        run = Run(ident or new_id())
        self.runs[run.id] = run
        self.send(START, run.id, start_payload(*argv, **options))  # type: ignore[arg-type]
        return run

    def started(self, *argv: str | bytes, **options: object) -> Run:
        run = self.start(*argv, **options)
        self.until(lambda: run.pid is not None or run.failure)
        if run.failure:
            raise run.failure
        return run

    def finish(self, run: Run, timeout_s: float | None = None) -> Run:
        self.until(lambda: run.exit or run.failure, timeout_s)
        if run.failure:
            raise run.failure
        return run

    def run(self, *argv: str | bytes, stdin: bytes | None = None, **options: object) -> Run:
        if stdin is not None:
            options["flags"] = int(options.get("flags", 0)) | STDIN_FOLLOWS  # type: ignore[call-overload]
        run = self.start(*argv, **options)
        if stdin is not None:
            self.until(lambda: run.stdin_limit or run.failure)
            self.type(run, stdin, end=True)
        return self.finish(run)

    def type(self, run: Run, data: bytes, *, offset: int = 0, end: bool = False) -> None:
        """Sends `data` as standard input from `offset` on, within the agent's limit."""
        at = 0
        while at < len(data) and not run.stdin_closed and not run.exit:
            room = min(run.stdin_limit - offset - at, 65_536)
            if room <= 0:
                self.step(time.monotonic() + self.timeout_s)
                continue
            part = data[at : at + room]
            self.send(STDIN, run.id, struct.pack("<Q", offset + at) + part)
            at += len(part)
        if end:
            self.send(STDIN, run.id, struct.pack("<Q", offset + at), 1)

    def resume(self, run: Run) -> Run:
        """Goes on with a run of an earlier attach on this one."""
        self.runs[run.id] = run
        run.exit = run.resumed = run.failure = None
        self.send(RESUME, run.id, struct.pack("<QQ", run.offsets[STDOUT], run.offsets[STDERR]))
        self.until(lambda: run.resumed or run.failure)
        if run.failure:
            raise run.failure
        return run

    def processes(self) -> dict[int, tuple[int, int, int, list[str]]]:
        """exec id -> (pid, state, flags, argv)."""
        found = {}
        for key, _, data in decode_fields(self.request(LIST)):
            assert key == 1
            ident, pid, state, flags, kind, _started = struct.unpack_from("<QIIIIQ", data)
            assert kind & 0xFF in (0, 1)
            found[ident] = (pid, state, flags, data[32:].decode().split("\0"))
        return found

    def close(self) -> None:
        self.sock.close()


def new_id() -> int:
    return int.from_bytes(os.urandom(8), "little") or 1


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    mode: int
    size: int
    mtime_ns: int
    uid: int
    gid: int
    inode: int
    links: int
    target: str


def decode_entries(data: bytes) -> list[Entry]:
    entries = []
    while data:
        length, mode, size, mtime_ns, uid, gid, inode, links, name_length, target_length = struct.unpack_from("<IIQQIIQIHH", data)
        assert length == 48 + name_length + target_length
        name = data[48 : 48 + name_length].decode()
        target = data[48 + name_length : length].decode()
        entries.append(Entry(name, mode, size, mtime_ns, uid, gid, inode, links, target))
        data = data[length:]
    return entries


def decode_events(data: bytes) -> list[tuple[int, int, str]]:
    events = []
    while len(data) >= 16:
        length, mask, cookie, name_length, zero = struct.unpack_from("<IIIHH", data)
        assert zero == 0 and length == 16 + name_length
        events.append((mask, cookie, data[16:length].decode()))
        data = data[length:]
    assert not data
    return events
