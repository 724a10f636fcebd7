"""Tunnels with the real agent: bytes arrive whole whatever the pace, ends and errors are told, nothing is left."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from agent_process import AgentProcess, CuttingAgent

from agentkernel.abc_network import Tunnel, TunnelPeer
from agentkernel.channel.frames import FrameType
from agentkernel.channel.messages import WORD, NetworkPorts
from agentkernel.channel.sandbox import GuestSandbox, open_sandbox
from agentkernel.model.command import Command

SEED = int(os.environ.get("AGENTKERNEL_TEST_SEED", "0")) or random.SystemRandom().randrange(2**32)
TRUE = Command(argv=(b"true",))


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def binary(request: pytest.FixtureRequest) -> Path:
    return Path(os.environ.get("AGENTKERNEL_GUEST") or request.getfixturevalue("guest_binary"))


@pytest.fixture
async def agent(binary: Path, tmp_path: Path) -> AsyncIterator[AgentProcess]:
    agent = AgentProcess(binary, tmp_path, network=NetworkPorts(_free_port(), _free_port(), 0))
    await agent.launch()
    yield agent
    await agent.destroy()


@pytest.fixture
async def sandbox(agent: AgentProcess) -> AsyncIterator[GuestSandbox]:
    sandbox = await open_sandbox(agent)
    await sandbox.ready()
    yield sandbox
    await sandbox.close()


@asynccontextmanager
async def served(answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]) -> AsyncIterator[int]:
    """A server on loopback, whose connections `answer` (a coroutine function) deals with."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)  # type: ignore[misc]
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(50_000):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def everything(tunnel: Tunnel) -> bytes:
    found = bytearray()
    while data := await tunnel.read():
        found += data
    return bytes(found)


class Echo:
    """What the agent begins comes back to it: a proxy that says what it hears, within the credit of both directions."""

    def __init__(self) -> None:
        self.agent: TunnelPeer | None = None
        self.resets = 0
        self.queries = 0
        self._credit: dict[int, int] = {}
        self._waiting: dict[int, list[tuple[bytes, int]]] = {}

    def take(self, kind: int, flags: int, ident: int, payload: bytes | memoryview) -> None:
        assert self.agent is not None
        if kind == FrameType.QUERY:
            self.queries += 1
            self.agent.take(FrameType.ANSWER, 0, ident, payload)
        elif kind == FrameType.TUNNEL_ACCEPTED:
            self._credit[ident], self._waiting[ident] = 16_384, []
        elif kind == FrameType.TUNNEL_GRANT and ident in self._credit:
            self._credit[ident] += WORD.unpack(payload)[0]
            self._say(ident)
        elif kind == FrameType.TUNNEL_DATA and ident in self._credit:
            self._waiting[ident].append((bytes(payload), flags))
            self._say(ident)

    def _say(self, ident: int) -> None:
        assert self.agent is not None
        waiting = self._waiting[ident]
        while waiting and (self._credit[ident] or not waiting[0][0]):
            data, flags = waiting.pop(0)
            now, later = data[: self._credit[ident]], data[self._credit[ident] :]
            self._credit[ident] -= len(now)
            if later:
                waiting.insert(0, (later, flags))
                flags = 0
            self.agent.take(FrameType.TUNNEL_SEND, flags, ident, now)
            if now:
                self.agent.take(FrameType.TUNNEL_CREDIT, 0, ident, WORD.pack(len(now)))

    def reset(self) -> None:
        self.resets += 1
        self._credit.clear()
        self._waiting.clear()


async def test_bytes_go_both_ways_and_the_ends_are_told(sandbox: GuestSandbox) -> None:
    said = random.Random(SEED).randbytes(3_000_000)
    async with served(echo) as port, asyncio.timeout(60):
        tunnel = await sandbox.open_tunnel(port)

        async def say() -> None:
            await tunnel.write(said)
            await tunnel.end()

        saying = asyncio.create_task(say())
        assert await everything(tunnel) == said
        await saying
        tunnel.close()


async def test_a_port_that_nobody_listens_on_is_refused(sandbox: GuestSandbox) -> None:
    with pytest.raises(ConnectionRefusedError):
        await sandbox.open_tunnel(_free_port())


async def test_a_server_that_resets_is_told(sandbox: GuestSandbox) -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with served(reset) as port, asyncio.timeout(20):
        tunnel = await sandbox.open_tunnel(port)
        await tunnel.write(b"x")
        with pytest.raises(ConnectionResetError):
            await tunnel.read()


async def test_a_tunnel_that_is_closed_is_a_reset_for_the_server(sandbox: GuestSandbox) -> None:
    seen: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(1)
            await reader.read(1)
        except ConnectionError as error:
            seen.set_result(error)
            raise

    async with served(watch) as port, asyncio.timeout(20):
        tunnel = await sandbox.open_tunnel(port)
        await tunnel.write(b"x")
        tunnel.close()
        assert (await seen).args[0] == errno.ECONNRESET


async def test_a_reader_that_takes_its_time_slows_the_writer_alone(sandbox: GuestSandbox) -> None:
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        for _ in range(300):
            writer.write(bytes(65_536))
            await writer.drain()
            sent += 65_536
        writer.write_eof()

    async with served(pour) as port, served(echo) as other, asyncio.timeout(60):
        slow, quick = await sandbox.open_tunnel(port), await sandbox.open_tunnel(other)
        assert await slow.read()
        await quick.write(b"hello")
        await quick.end()
        assert await everything(quick) == b"hello"
        assert (await sandbox.exec(TRUE)).exit_code == 0
        assert sent < 300 * 65_536
        assert len(await everything(slow)) > 299 * 65_536 - 16_384


async def test_many_at_once(agent: AgentProcess, sandbox: GuestSandbox) -> None:
    assert agent.process is not None
    descriptors = f"/proc/{agent.process.pid}/fd"
    before = len(os.listdir(descriptors))

    async def one(number: int) -> None:
        said = number.to_bytes(4, "big") * 5000
        tunnel = await sandbox.open_tunnel(port)
        await tunnel.write(said)
        await tunnel.end()
        assert await everything(tunnel) == said

    async with served(echo) as port, asyncio.timeout(60):
        await asyncio.gather(*(one(number) for number in range(300)))
        while len(os.listdir(descriptors)) > before:
            await asyncio.sleep(0.01)
    assert not sandbox._channel.tunnels._own


async def test_what_is_connected_inside_comes_to_the_peer(agent: AgentProcess, sandbox: GuestSandbox) -> None:
    peer = Echo()
    peer.agent = sandbox.route(peer)
    assert agent.network is not None
    said = random.Random(SEED).randbytes(1_000_000)
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", agent.network.proxy)

        async def say() -> None:
            for at in range(0, len(said), 10_000):
                writer.write(said[at : at + 10_000])
                await writer.drain()
            writer.write_eof()

        saying = asyncio.create_task(say())
        assert await reader.read() == said
        await saying
        writer.close()


async def test_a_query_comes_to_the_peer_and_its_answer_goes_back(agent: AgentProcess, sandbox: GuestSandbox) -> None:
    peer = Echo()
    peer.agent = sandbox.route(peer)
    assert agent.network is not None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(("127.0.0.1", agent.network.resolver))
        query = os.urandom(40)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, query)
        async with asyncio.timeout(20):
            assert await loop.sock_recv(sock, 1000) == query
    assert peer.queries == 1


async def test_without_a_peer_a_connection_is_closed(agent: AgentProcess, sandbox: GuestSandbox) -> None:
    assert agent.network is not None
    async with asyncio.timeout(20):
        with pytest.raises(ConnectionResetError):  # while it connects, or when it reads
            reader, writer = await asyncio.open_connection("127.0.0.1", agent.network.proxy)
            try:
                await reader.read()
            finally:
                writer.close()


async def test_losing_the_attach_resets_both_ends_and_the_next_one_works(agent: AgentProcess, sandbox: GuestSandbox) -> None:
    peer = Echo()
    peer.agent = sandbox.route(peer)
    assert agent.network is not None
    async with served(echo) as port, asyncio.timeout(60):
        tunnel = await sandbox.open_tunnel(port)
        reader, writer = await asyncio.open_connection("127.0.0.1", agent.network.proxy)
        writer.write(b"before")
        assert await reader.readexactly(6) == b"before"
        link = sandbox._channel._link
        assert link is not None
        link._lost("cut by the test")
        with pytest.raises(ConnectionResetError):
            await tunnel.read()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        assert peer.resets == 1
        again = await sandbox.open_tunnel(port)
        await again.write(b"after")
        await again.end()
        assert await everything(again) == b"after"
        writer.close()


async def test_whatever_is_cut_tunnels_end_and_commands_go_on(binary: Path, tmp_path: Path) -> None:
    agent = CuttingAgent(binary, tmp_path, source=random.Random(SEED), cuts_left=12)
    await agent.launch()
    said, whole = os.urandom(200_000), 0

    async def connection() -> None:
        nonlocal whole
        for _ in range(15):
            try:
                tunnel = await sandbox.open_tunnel(port)
            except ConnectionError:
                continue
            try:
                writing = asyncio.create_task(tunnel.write(said))
                got = bytearray()
                while len(got) < len(said) and (data := await tunnel.read()):
                    got += data
                await writing
                whole += got == said
                assert said.startswith(got)
            except ConnectionError:
                await asyncio.gather(writing, return_exceptions=True)
            finally:
                tunnel.close()

    async with served(echo) as port, asyncio.timeout(90):
        sandbox = await open_sandbox(agent)
        try:
            connections = [asyncio.create_task(connection()) for _ in range(4)]
            for number in range(40):
                assert (await sandbox.exec(Command(argv=(b"echo", str(number).encode())))).stdout == f"{number}\n".encode()
            await asyncio.gather(*connections)
        finally:
            await sandbox.close()
            await agent.destroy()
    assert whole > 0
