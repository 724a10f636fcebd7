"""A container engine that can do one thing: attach to its one container, which is the real agent over its standard streams.

Output is framed as the Docker Engine frames it, goes to everybody who is attached, and is lost when nobody is; a client that goes closes
nothing. What it does to chunks is told by `split`: an engine promises no boundaries.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import struct
from dataclasses import dataclass, field
from pathlib import Path

HEADER = struct.Struct(">BxxxI")


@dataclass
class AttachedEngine:
    """Serves on a unix socket, and on a TCP port where `tls` is given."""

    guest: Path
    directory: Path
    tls: ssl.SSLContext | None = None
    noise: bytes = b""  # what the container says on its standard error before each chunk
    seed: int = 0
    status: str = "101 UPGRADED"
    attaches: int = 0
    port: int = 0
    _clients: list[asyncio.StreamWriter] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _servers: list[asyncio.Server] = field(default_factory=list)
    _agent: asyncio.subprocess.Process | None = None

    @property
    def path(self) -> str:
        return str(self.directory / "engine.sock")

    async def __aenter__(self) -> AttachedEngine:
        pipe = asyncio.subprocess.PIPE
        self._agent = await asyncio.create_subprocess_exec(str(self.guest), "agent", "--stream", "0", stdin=pipe, stdout=pipe)
        self._tasks.append(asyncio.create_task(self._pass_output()))
        self._servers.append(await asyncio.start_unix_server(self._serve, self.path))
        if self.tls is not None:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
            self.port = server.sockets[0].getsockname()[1]
            self._servers.append(server)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._agent is not None
        with contextlib.suppress(ProcessLookupError):
            self._agent.kill()
        await self._agent.wait()
        for server in self._servers:
            server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait_dead(self) -> str:
        assert self._agent is not None
        return f"the agent exited with {await self._agent.wait()}"

    def cut(self) -> None:
        """Everybody's connection breaks."""
        for client in self._clients:
            client.transport.abort()
        self._clients.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if b"/_ping " in head:
                writer.write(b"HTTP/1.1 200 OK\r\nApi-Version: 1.44\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK")
                await writer.drain()
                writer.close()
                return
            assert head.startswith(b"POST /v1.44/containers/box/attach?"), head
            # The answer and the first of the output may come in one piece.
            writer.write(f"HTTP/1.1 {self.status}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode())
            self.attaches += 1
            self._clients.append(writer)
            assert self._agent is not None and self._agent.stdin is not None
            while data := await reader.read(65_536):
                self._agent.stdin.write(data)
                await self._agent.stdin.drain()
        with contextlib.suppress(ValueError):
            self._clients.remove(writer)
        writer.close()

    async def _pass_output(self) -> None:
        assert self._agent is not None and self._agent.stdout is not None
        rng = random.Random(self.seed)
        while data := await self._agent.stdout.read(65_536):
            framed = bytearray()
            while data:
                size = rng.randint(1, len(data))
                if self.noise:
                    framed += HEADER.pack(2, len(self.noise)) + self.noise
                framed += HEADER.pack(1, size) + data[:size]
                data = data[size:]
            for client in list(self._clients):
                client.write(bytes(framed))
                with contextlib.suppress(ConnectionError):
                    await client.drain()
