"""A scripted agent for tests of the channel: a boundary whose other end the test plays by hand."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from dataclasses import dataclass, field

from agentkernel.channel.frames import HOST_TYPES, Frame, FrameDecoder, FrameType, HelloReply, decode_hello, encode_hello_reply
from agentkernel.channel.messages import NetworkPorts
from agentkernel.channel.mux import Deadlines
from agentkernel.channel.wire import encode_frame, tag_of
from agentkernel.model.command import LimitHit
from agentkernel.model.spec import RootFilesystem, RootKind, SandboxSpec, StorageKind

BOOT = b"boot-identity-16"
QUICK = Deadlines(attach_s=0.4, answer_s=0.6, reattach_s=0.4, backoff_first_s=0.002, backoff_max_s=0.02)
SPEC = SandboxSpec(
    storage=StorageKind.DISK,  # storage in memory is asked how full it is when a command fails
    name="test",
    root=RootFilesystem(kind=RootKind.HOST),
    profile="moderate",
    environment=(("PATH", "/usr/bin:/bin"), ("LANG", "C")),
)


class Peer:
    """The agent's end of one attach."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.epoch = b""
        self._decoder: FrameDecoder | None = None
        self._frames: deque[Frame] = deque()
        self._early = b""

    async def receive_hello(self) -> None:
        """Waits for the host's HELLO."""
        while len(self._early) < 32:
            self._early += await self._receive()
        self.epoch = decode_hello(self._early[:32]).epoch
        self._decoder = FrameDecoder(self.epoch, types=HOST_TYPES, greeted=True)
        self._frames += self._decoder.feed(self._early[32:])

    async def greet(self, *, boot: bytes = BOOT, version: int = 1) -> None:
        """Waits for the HELLO and answers it."""
        await self.receive_hello()
        await self.send_bytes(encode_hello_reply(HelloReply(self.epoch, version, 1, 7, boot)))

    async def frame(self) -> Frame:
        """The next frame from the host; raises ConnectionError at its end."""
        assert self._decoder is not None
        while not self._frames:
            self._frames += self._decoder.feed(await self._receive())
        return self._frames.popleft()

    async def expect(self, kind: FrameType) -> Frame:
        """The next frame, which must be of this type."""
        frame = await asyncio.wait_for(self.frame(), 5)
        assert frame.type == kind, f"expected {kind.name}, got {FrameType(frame.type).name}"
        return frame

    async def send(self, kind: int, ident: int, payload: bytes = b"", flags: int = 0) -> None:
        """Sends a frame to the host."""
        await self.send_bytes(encode_frame(tag_of(self.epoch), kind, ident, payload, flags))

    async def send_bytes(self, data: bytes) -> None:
        """Sends raw bytes to the host."""
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def configure(self) -> None:
        """Greets and takes the configuration."""
        await self.greet()
        await self.send(FrameType.REPLY, (await self.expect(FrameType.CONFIGURE)).id)

    async def started(self, pid: int = 42) -> int:
        """Waits for START and says that it worked; returns the exec id."""
        ident = (await self.expect(FrameType.START)).id
        await self.send(FrameType.STARTED, ident, struct.pack("<I", pid))
        return ident

    async def output(self, ident: int, offset: int, data: bytes, stream: int = 1) -> None:
        """Sends an OUTPUT."""
        await self.send(FrameType.OUTPUT, ident, struct.pack("<Q", offset) + data, stream)

    async def exited(
        self, ident: int, *, ends: tuple[int, int] = (0, 0), kind: int = 0, value: int = 0, cause: int = 0, flags: int = 0
    ) -> None:
        """Sends an EXITED."""
        await self.send(FrameType.EXITED, ident, struct.pack("<IIIIQQQQQQ", kind, value, cause, flags, *ends, 1500, 800, 400, 4096))

    async def resumed(
        self, ident: int, *, state: int = 0, pid: int = 42, first: tuple[int, int] = (0, 0), stdin: tuple[int, int] = (0, 0)
    ) -> None:
        """Sends a RESUMED."""
        await self.send(FrameType.RESUMED, ident, struct.pack("<IIQQQQ", state, pid, *first, *stdin))

    async def window(self, ident: int, consumed: int, limit: int, flags: int = 0) -> None:
        """Sends a STDIN_CONSUMED."""
        await self.send(FrameType.STDIN_CONSUMED, ident, struct.pack("<QQ", consumed, limit), flags)

    def close(self) -> None:
        """Drops the connection."""
        self.sock.close()

    async def _receive(self) -> bytes:
        data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 17)
        if not data:
            raise ConnectionError("the host closed the connection")
        return data


@dataclass
class FakeBoundary:
    """Each connect makes a socket pair, whose other end comes out of `attaches`."""

    spec: SandboxSpec = SPEC
    backend: str = "fake"
    sandbox_id: str = "0" * 16
    seccomp: bytes = b""
    rlimits: tuple[tuple[int, int, int], ...] = ()
    network: NetworkPorts | None = None
    attaches: asyncio.Queue[Peer] = field(default_factory=asyncio.Queue)
    dead: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    limits: tuple[LimitHit, ...] = ()
    refuse: Exception | None = None
    connects: int = 0
    destroyed: int = 0
    peers: list[Peer] = field(default_factory=list)

    async def connect(self) -> socket.socket:
        self.connects += 1
        if self.refuse is not None:
            raise self.refuse
        host, agent = socket.socketpair()
        host.setblocking(False)
        agent.setblocking(False)
        peer = Peer(agent)
        self.peers.append(peer)
        self.attaches.put_nowait(peer)
        return host

    async def wait_dead(self) -> str:
        return await asyncio.shield(self.dead)

    async def limits_hit(self) -> tuple[LimitHit, ...]:
        return self.limits

    async def close(self) -> None:
        """It was not booted."""

    async def destroy(self) -> None:
        self.destroyed += 1

    async def attach(self) -> Peer:
        """The next connection that the host made."""
        return await asyncio.wait_for(self.attaches.get(), 5)

    def end(self) -> None:
        """Closes the agent's ends."""
        self.dead.cancel()
        for peer in self.peers:
            peer.close()
