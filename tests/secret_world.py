"""A sandbox with secrets for tests: programs that speak TLS through the egress proxy, and HTTPS servers that say what they got."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from egress_world import Agent, InProcess, Program, tunnelled

from agentkernel.egress import messages
from agentkernel.egress.authority import Authority, make_authority
from agentkernel.egress.session import Session
from agentkernel.egress.tls_stream import TlsStream, client_context, server_context
from agentkernel.model.network import Credentials, Secret
from agentkernel.model.secrets import host_and_port

PLACEHOLDER = "agentkernel-secret-0123456789abcdef0123456789abcdef"
VALUE = "sk-live-4f1b9cQ7"


def secret(*hosts: str, name: str = "KEY", placeholder: str = PLACEHOLDER, path: str = "", method: str = "", header: str = "") -> Secret:
    """One that the sandbox has."""
    return Secret(name=name, hosts=hosts, path=path, method=method, header=header, placeholder=placeholder)


def credentials(authority: Authority, *secrets: Secret, trust: Path | None = None, **values: str) -> Credentials:
    """What the engine gives the proxy."""
    hosts = {host_and_port(host)[0] for each in secrets for host in each.hosts}
    leaves = {host: leaf for host, leaf in authority.leaves.items() if host in hosts}
    return Credentials(secrets=secrets, values=values, leaves=leaves, trust=str(trust or ""))


class SecretGate(InProcess):
    """As `gate.EgressGate`, which tells a sandbox's secrets before it joins."""

    def admit(self, session: Session) -> socket.socket | None:
        """See `session.Gate`."""
        self.tell_credentials(session)
        return super().admit(session)

    def tell_credentials(self, session: Session) -> None:
        """See `session.Gate`."""
        assert session.credentials is not None
        message = messages.secrets_of(session.sandbox_id, session.credentials)
        if not session.credentials.trust:
            self._control.send(message)
            return
        with open(session.credentials.trust, "rb") as file:
            socket.send_fds(self._control, [message], [file.fileno()])


class ProgramLink:
    """A `tls_stream.Link` of a program's connection."""

    def __init__(self, program: Program) -> None:
        self._program = program

    async def receive(self) -> bytes:
        """See `Link`."""
        await self._program.until(lambda: bool(self._program.received) or self._program.is_over)
        return await self._program.read(len(self._program.received))

    async def send(self, data: bytes) -> None:
        """See `Link`."""
        await self._program.write(data)


class Client:
    """A program that speaks HTTPS."""

    def __init__(self, tls: TlsStream, program: Program) -> None:
        self.tls = tls
        self.program = program
        self.received = b""

    async def ask(self, head: str, body: bytes = b"") -> tuple[str, bytes]:
        """Sends a request as it is, and returns the answer's head and body (by Content-Length)."""
        await self.tls.send(head.encode("latin-1") + body)
        return await self.answer()

    async def get(self, host: str, path: str = "/", method: str = "GET", **fields: str) -> tuple[str, bytes]:
        """A request; `_` in the names of fields stands for a hyphen."""
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        return await self.ask(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n")

    async def answer(self) -> tuple[str, bytes]:
        """The next one."""
        head = (await self.until(b"\r\n\r\n")).decode("latin-1")
        length = next((int(line.split(":")[1]) for line in head.lower().split("\r\n") if line.startswith("content-length:")), 0)
        return head, await self.exactly(length)

    async def until(self, mark: bytes) -> bytes:
        """To a mark, with it."""
        while mark not in self.received:
            data = await self.tls.receive()
            assert data, f"the connection ended after {self.received!r}"
            self.received += data
        end = self.received.index(mark) + len(mark)
        taken, self.received = self.received[:end], self.received[end:]
        return taken

    async def exactly(self, count: int) -> bytes:
        """So many bytes."""
        pieces, size = [self.received], len(self.received)
        while size < count:
            data = await self.tls.receive()
            assert data, "the connection ended too early"
            pieces.append(data)
            size += len(data)
        whole = b"".join(pieces)
        self.received = whole[count:]
        return whole[:count]


async def https(agent: Agent, authority: Authority, host: str, port: int, *, server_name: str | None = None) -> Client:
    """A connection by CONNECT to a host whose certificate the sandbox's own authority made."""
    program = await tunnelled(agent, host, port)
    return await client_of(program, authority, server_name or host)


async def client_of(program: Program, authority: Authority, host: str) -> Client:
    """TLS on a program's connection."""
    tls = TlsStream(ProgramLink(program), client_context(authority.certificate), server_name=host)
    await tls.handshake()
    return Client(tls, program)


@dataclass
class Site:
    """An HTTPS server on loopback that notes what it is asked; `answer` makes the answer of head and body."""

    port: int = 0
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0
    answer: Callable[[str, bytes], bytes] = lambda head, body: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes request after request."""
        self.connections += 1
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode("latin-1"):
                body = await _body(reader, head.lower())
                self.heads.append(head)
                self.bodies.append(body)
                writer.write(self.answer(head, body))
                await writer.drain()
                if "upgrade: websocket" in head.lower():
                    while data := await reader.read(65536):
                        writer.write(data.upper())
                        await writer.drain()
                    return
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()


async def _body(reader: asyncio.StreamReader, head: str) -> bytes:
    if "transfer-encoding: chunked" in head:
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return body
    length = next((int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length:")), 0)
    return await reader.readexactly(length)


@asynccontextmanager
async def site(leaf: str) -> AsyncIterator[Site]:
    """A server with that certificate and key."""
    made = Site()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=server_context(leaf), limit=1 << 20)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


def public_authority(*hosts: str) -> Authority:
    """Stands for the world's authorities, which this host trusts."""
    return make_authority(hosts)
