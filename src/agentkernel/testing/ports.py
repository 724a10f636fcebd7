"""Published ports: connections from the host to servers inside, whatever the sandbox itself may reach."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agentkernel.abc import Backend, Sandbox
from agentkernel.abc_network import Tunnel, Tunnelled
from agentkernel.errors import AgentKernelError, CommandNotFound
from agentkernel.model.command import Command
from agentkernel.model.isolation import Feature, Fingerprint
from agentkernel.model.spec import NetworkMode
from agentkernel.testing.base import MIB, ConformanceBase, need, noise, read_until
from agentkernel.testing.host import leftovers, take
from agentkernel.testing.internet import SERVERS
from agentkernel.testing.talk import WEBSOCKET_ECHO, WEBSOCKET_FRAME, plain, websocket_request

WEB, ECHO, NOBODY = 8000, 8001, 8002
MODES = pytest.mark.parametrize("mode", [NetworkMode.NONE, NetworkMode.FILTERED])
MANY = 200


class PortConformance(ConformanceBase):
    """A server inside, and clients outside."""

    @asynccontextmanager
    async def serving(self, backend: Backend, fingerprint: Fingerprint, mode: NetworkMode) -> AsyncIterator[Sandbox]:
        """A sandbox in which a web server listens at WEB, and an echo at ECHO, both on loopback alone."""
        need(fingerprint, Feature.PUBLISHED_PORTS)
        need(fingerprint, Feature.NETWORK_FILTERED if mode is NetworkMode.FILTERED else Feature.NETWORK_NONE)
        async with self.running(backend, network=mode) as sandbox:
            path = f"{sandbox.spec.user.home.rstrip('/')}/.servers.py"
            await sandbox.files.write(path, SERVERS.read_bytes())
            try:
                process = await sandbox.start(Command(argv=(b"python3", path.encode(), str(WEB).encode()), timeout_s=None))
            except CommandNotFound:
                pytest.skip("the sandbox's root has no python3")
            await read_until(process, b"port")
            yield sandbox
            await process.kill()

    @MODES
    async def test_http_websocket_and_raw_connections_to_a_server_inside(
        self, backend: Backend, fingerprint: Fingerprint, mode: NetworkMode
    ) -> None:
        async with self.serving(backend, fingerprint, mode) as sandbox:
            page = await said(sandbox, WEB, plain("/hello", "published"))
            assert page.endswith(b"hello from published\n")
            data = noise(3 * MIB)
            assert await said(sandbox, ECHO, data, ends=True) == data
            tunnel = await opened(sandbox, WEB)
            await tunnel.write(websocket_request("/ws", "published"))
            head = await until(tunnel, b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            for _ in range(3):
                await tunnel.write(WEBSOCKET_FRAME)
                assert await until(tunnel, WEBSOCKET_ECHO) == WEBSOCKET_ECHO
            tunnel.close()

    async def test_a_connection_where_nobody_listens_is_refused(self, backend: Backend, fingerprint: Fingerprint) -> None:
        async with self.serving(backend, fingerprint, NetworkMode.NONE) as sandbox:
            with pytest.raises(OSError, match="refused") as refused:
                await opened(sandbox, NOBODY)
            assert refused.value.errno == errno.ECONNREFUSED
            assert (await said(sandbox, WEB, plain("/hello", "after"))).endswith(b"hello from after\n")

    async def test_many_clients_at_once_and_one_that_does_not_read(self, backend: Backend, fingerprint: Fingerprint) -> None:
        async with self.serving(backend, fingerprint, NetworkMode.NONE) as sandbox:
            idle = await opened(sandbox, WEB)
            await idle.write(plain(f"/bytes/{32 * MIB}", "idle"))
            asked = [asyncio.create_task(said(sandbox, WEB, plain(f"/together/{MANY}", "many"))) for _ in range(MANY)]
            answers = await asyncio.wait_for(asyncio.gather(*asked), 30)
            assert {answer.partition(b"\r\n\r\n")[2] for answer in answers} == {b"together\n"}
            whole = await until_end(idle)
            assert len(whole.partition(b"\r\n\r\n")[2]) == 32 * MIB

    async def test_open_connections_end_with_the_sandbox(self, backend: Backend, fingerprint: Fingerprint) -> None:
        need(fingerprint, Feature.PUBLISHED_PORTS)
        before = take(self.watched_directories())
        async with self.serving(backend, fingerprint, NetworkMode.NONE) as sandbox:
            tunnel = await opened(sandbox, ECHO)
            reading = asyncio.create_task(tunnel.read())
            await sandbox.destroy()
            with pytest.raises((OSError, AgentKernelError)):
                await asyncio.wait_for(reading, 20)
            with pytest.raises((OSError, AgentKernelError)):
                await opened(sandbox, ECHO)
        assert await leftovers(before, self.watched_directories()) == []


async def opened(sandbox: Sandbox, port: int) -> Tunnel:
    """A connection to a port inside."""
    assert isinstance(sandbox, Tunnelled), "a backend with published ports has tunnels"
    return await sandbox.open_tunnel(port)


async def said(sandbox: Sandbox, port: int, data: bytes, *, ends: bool = False) -> bytes:
    """All that a server answers to this; with `ends` it is told that no more comes."""
    tunnel = await opened(sandbox, port)
    try:
        reading = asyncio.create_task(until_end(tunnel))
        await tunnel.write(data)
        if ends:
            await tunnel.end()
        return await reading
    finally:
        tunnel.close()


async def until_end(tunnel: Tunnel) -> bytes:
    """All that still comes."""
    whole = bytearray()
    while data := await tunnel.read():
        whole += data
    return bytes(whole)


async def until(tunnel: Tunnel, marker: bytes) -> bytes:
    """What comes up to and with `marker`, after which nothing comes unasked."""
    whole = bytearray()
    while not whole.endswith(marker):
        data = await tunnel.read()
        assert data, f"the connection ended after {bytes(whole)!r}"
        whole += data
    return bytes(whole)
