"""A client of the daemon's door that a test plays by hand, and a daemon in the test's own process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lenient_memory import TARGET

from agentkernel import assembly
from agentkernel.abc import Host
from agentkernel.channel import door
from agentkernel.channel.frames import Frame, FrameDecoder, FrameType, HelloReply
from agentkernel.channel.messages import Start, StartFlag, encode_start
from agentkernel.channel.refusal import decode_refusal, is_refusal
from agentkernel.channel.wire import encode_frame, encode_hello, tag_of
from agentkernel.daemon.desk import Desk
from agentkernel.daemon.listening import listen
from agentkernel.daemon.server import Server
from agentkernel.errors import AgentKernelError, NotFound
from agentkernel.model.codec import to_json
from agentkernel.model.command import Command
from agentkernel.model.request import SandboxRequest

LONG = 20.0


class DoorClient:
    """One connection."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.hello: HelloReply | None = None
        self.frames: list[Frame] = []
        self.output: dict[tuple[int, int], bytearray] = {}  # of id and stream
        self.preface = b""  # sent before HELLO
        self.sock: socket.socket
        self._decoder: FrameDecoder
        self._tag = 0

    async def open(self, *, waits: bool = True) -> DoorClient:
        """Connects and says HELLO; with `waits` also reads the answer."""
        await self.connect()
        try:
            await self._greet(waits)
        except BaseException:
            self.sock.close()
            raise
        return self

    async def connect(self) -> None:
        """Connects and says nothing."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(self.sock, self.path)
        except BaseException:
            self.sock.close()
            raise

    async def _greet(self, waits: bool) -> None:
        epoch = b"\1" + os.urandom(15)
        self._decoder = FrameDecoder(epoch)
        self._tag = tag_of(epoch)
        await self.send_bytes(self.preface + encode_hello(epoch))
        while waits and self._decoder.hello is None:
            await self._receive()
        self.hello = self._decoder.hello

    async def send_bytes(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def send(self, kind: FrameType, ident: int, payload: bytes = b"", flags: int = 0) -> None:
        await self.send_bytes(encode_frame(self._tag, kind, ident, payload, flags))

    async def until(self, kind: FrameType, ident: int) -> Frame:
        """The first frame of that type and id; what comes besides is kept. Raises what FAILED says, and ConnectionError."""
        async with asyncio.timeout(LONG):
            while True:
                for at, frame in enumerate(self.frames):
                    if frame.id == ident and frame.type in (kind, FrameType.FAILED):
                        del self.frames[at]
                        if frame.type == FrameType.FAILED and kind != FrameType.FAILED:
                            raise error_of(frame)
                        return frame
                await self._receive()

    async def shows(self, ident: int, text: bytes, stream: int = 1) -> None:
        """Waits until a command has written that."""
        async with asyncio.timeout(LONG):
            while text not in self.output.get((ident, stream), b""):
                await self._receive()

    async def gone(self) -> None:
        """Waits until the daemon has closed the connection; what it still sends is not looked at."""
        async with asyncio.timeout(LONG):
            with contextlib.suppress(ConnectionError):
                while await asyncio.get_running_loop().sock_recv(self.sock, 1 << 18):
                    pass

    async def call(self, op: str, ident: int = 0, **said: Any) -> Any:
        """One CALL and its result."""
        ident = ident or int.from_bytes(os.urandom(8), "little") | 1
        await self.send(FrameType.CALL, ident, json.dumps({"op": op, **said}).encode())
        return json.loads(bytes((await self.until(FrameType.REPLY, ident)).payload))

    async def start(self, ident: int, sandbox: str, script: str, *, stdin: bool = False, detached: bool = False, **more: Any) -> None:
        """A shell in a sandbox."""
        flags = StartFlag.STDIN * stdin | StartFlag.DETACHED * detached
        start = Start(argv=(b"sh", b"-c", script.encode()), environment=(b"PATH=/usr/bin:/bin",), cwd=b"/tmp", flags=flags, **more)
        await self.send(FrameType.START, ident, door.encode_addressed(sandbox, encode_start(start)))

    async def once(self, ident: int, command: Command | None, **more: Any) -> None:
        """A sandbox for a command, or to be held."""
        request = json.dumps(to_json(request_for(**more))).encode()
        if command is None:
            payload = struct.pack("<HHI", door.REQUEST, 0, len(request)) + request
        else:
            payload = door.encode_once(request, json.dumps(to_json(command)).encode())
        await self.send(FrameType.START, ident, payload)

    async def exited(self, ident: int, *, consumes: bool = True) -> tuple[int, int, int | None, str]:
        """Exit code, cause, exit status and message, after FORGET was sent."""
        frame = await self.until(FrameType.EXITED, ident)
        exited, _, cause, status, message = door.decode_exited(frame.payload)
        with contextlib.suppress(ConnectionError):  # a daemon that only waited for this end may be gone
            await self.send(FrameType.FORGET, ident)
        return struct.unpack_from("<II", exited)[1], cause, status, message

    def close(self) -> None:
        self.sock.close()

    async def _receive(self) -> None:
        data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 18)
        if not data:
            raise ConnectionError("the daemon closed the connection")
        for frame in self._decoder.feed(data):
            if frame.type == FrameType.OUTPUT:
                await self._take(frame)
            else:
                self.frames.append(frame)

    async def _take(self, frame: Frame) -> None:
        offset = struct.unpack_from("<Q", frame.payload)[0]
        kept = self.output.get((frame.id, frame.flags))
        if kept is None:
            kept = self.output[frame.id, frame.flags] = bytearray(offset)
        assert offset == len(kept), "a gap, or bytes twice"
        kept += bytes(frame.payload[8:])
        await self.send(FrameType.CONSUMED, frame.id, struct.pack("<Q", len(kept)), frame.flags)


def request_for(**more: Any) -> SandboxRequest:
    """A sandbox of the (lenient) memory backend, with nothing of the host's directories in it."""
    return SandboxRequest(**({"argv": (b"sh",), "backend": "memory", "profile": "restrictive", "cwd": "/"} | more))


def error_of(frame: Frame) -> AgentKernelError:
    """What a FAILED says."""
    if is_refusal(frame.payload):
        return decode_refusal(frame.payload)
    return AgentKernelError(f"errno {struct.unpack_from('<I', frame.payload)[0]}: {bytes(frame.payload[8:])!r}")


@dataclass
class World:
    """A daemon in this process, over the memory backend."""

    home: Path
    idle_s: float = 0.0
    environment: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    clients: list[DoorClient] = field(default_factory=list)
    host: Host = field(init=False)
    desk: Desk = field(init=False)
    server: Server = field(init=False)

    async def begin(self) -> World:
        self.environment |= {"AGENTKERNEL_HOME": str(self.home), "HOME": str(self.home), "PATH": "/usr/bin:/bin"}
        assembly.TEST_BACKENDS["memory"] = TARGET  # undone by `daemon_in`
        self.host = assembly.build_host(self.environment, backends=("memory",))
        self.desk = Desk(self.host, self.lines.append)
        self.server = Server(self.desk, listen(self.path), self.idle_s)
        await self.host.recover()
        self.server.begin()
        return self

    @property
    def path(self) -> str:
        return str(self.home / "run" / "daemon.sock")

    async def client(self) -> DoorClient:
        client = await DoorClient(self.path).open()
        self.clients.append(client)
        return client

    async def box(self, name: str = "box") -> str:
        """A running sandbox; its id."""
        client = await self.client()
        info = await client.call("create", request=to_json(request_for()), options={"name": name, "start": True})
        client.close()
        return str(info["sandbox_id"])

    async def end(self) -> None:
        self.desk.end("the test is over")
        await self.server.drain()
        await self.host.close()
        for client in self.clients:
            client.close()


@contextlib.asynccontextmanager
async def daemon_in(home: Path, **more: Any) -> AsyncIterator[World]:
    """A daemon whose sandboxes are removed at the end."""
    target = assembly.TEST_BACKENDS["memory"]
    world = await World(home, **more).begin()
    try:
        yield world
    finally:
        assembly.TEST_BACKENDS["memory"] = target
        client = await DoorClient(world.path).open() if not world.desk.is_draining else None
        if client is not None:
            for info in await client.call("list", wanted={"ephemeral": True}):
                with contextlib.suppress(NotFound):  # it is being removed already
                    await client.call("remove", name=info["sandbox_id"], force=True)
            client.close()
        await world.end()
