"""A company's proxy that lets nobody CONNECT to port 80, as many do: plain HTTP is asked of it by URL, all else by CONNECT."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import pytest
from egress_world import Agent, InProcess, Program, names, serving

from agentkernel.egress.names import SYNTHETIC
from agentkernel.model.network import EgressRules, Verdict
from agentkernel.model.rules import parse_rule

WHO = b"Proxy-Authorization: Basic bWU6cEBzcw=="
RULES = EgressRules(deny=(parse_rule("denied.example"),))


@dataclass
class Company:
    """A proxy that wants a password, and connects everybody who CONNECTs to the one server that it has behind it."""

    origin: int  # its port
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while (head := await _head(reader)) is not None:
            self.heads.append(head)
            method, target, _ = head.split(b"\r\n")[0].split(b" ")
            if WHO not in head:
                writer.write(b'HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic realm="company"\r\nContent-Length: 0\r\n\r\n')
            elif method == b"CONNECT" and target.endswith(b":80"):
                writer.write(b"HTTP/1.1 403 Not to port 80\r\nContent-Length: 0\r\n\r\n")
            elif method == b"CONNECT":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                await self._joined(reader, writer)
                return
            elif not target.startswith(b"http://"):
                writer.write(b"HTTP/1.1 400 No URL\r\nContent-Length: 0\r\n\r\n")
            else:
                await self._asked(head, reader, writer)

    async def _asked(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Asks the server, without what is for the proxy alone, and passes its answer on."""
        _, _, length = head.lower().partition(b"content-length: ")
        body = await reader.readexactly(int(length.split(b"\r\n")[0])) if length else b""
        method, target, version = head.split(b"\r\n")[0].split(b" ")
        path = b"/" + target.removeprefix(b"http://").partition(b"/")[2]
        fields = [line for line in head.split(b"\r\n")[1:] if line and not line.startswith(b"Proxy-")]
        to_server, from_here = await asyncio.open_connection("127.0.0.1", self.origin)
        from_here.write(b"\r\n".join((b" ".join((method, path, version)), *fields, b"", b"")) + body)
        answer = await to_server.readuntil(b"\r\n\r\n")
        writer.write(answer + await to_server.readexactly(int(answer.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])))
        from_here.close()

    async def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)


async def _head(reader: asyncio.StreamReader) -> bytes | None:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None


async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with what it was asked."""
    while (head := await _head(reader)) is not None:
        _, _, length = head.lower().partition(b"content-length: ")
        said = head + (await reader.readexactly(int(length.split(b"\r\n")[0])) if length else b"")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + said)


@asynccontextmanager
async def behind(password: str = "p%40ss") -> AsyncIterator[tuple[Agent, Company]]:
    async with serving(origin) as port:
        company = Company(port)
        async with serving(company) as proxy_port:
            proxy = InProcess(names(), upstream=f"http://me:{password}@127.0.0.1:{proxy_port}")
            try:
                agent = Agent()
                proxy.join(agent, RULES)
                yield agent, company
            finally:
                proxy.close()


async def asked(program: Program, host: str, path: str = "/", *, method: str = "GET", fields: str = "", body: bytes = b"") -> bytes:
    """The head of the answer."""
    await program.write(f"{method} http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode() + body)
    return await program.read_head()


def length_of(head: bytes) -> int:
    return int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])


async def test_plain_http_is_asked_for_by_url_one_request_after_another() -> None:
    async with behind() as (agent, company):
        program = agent.connect()
        for path in ("/one?a=b", "/two"):
            head = await asked(program, "web.example", path, fields="Proxy-Authorization: Basic eA==\r\nX-Kept: 1\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            seen = await program.read(length_of(head))
            assert seen.startswith(f"GET {path} HTTP/1.1\r\nHost: web.example\r\n".encode()) and b"X-Kept: 1" in seen and WHO not in seen
        assert [head.split(b"\r\n")[0] for head in company.heads] == [
            b"GET http://web.example/one?a=b HTTP/1.1",
            b"GET http://web.example/two HTTP/1.1",
        ]
        assert all(head.count(b"Proxy-Authorization") == 1 and WHO in head for head in company.heads)
        assert company.connections == 1
        told = await agent.decision(Verdict.ALLOWED, host="web.example")
        assert (told.protocol, told.port, told.address, told.rule) == ("http", 80, "", "public")


async def test_an_address_that_stands_for_a_name_is_asked_for_as_that_name() -> None:
    async with behind() as (agent, company):
        question = struct.pack(">HHHHHH", 1, 0x100, 1, 0, 0, 0) + b"\3web\7example\0" + struct.pack(">HH", 1, 1)
        address = str(IPv4Address((await agent.ask(question))[-4:]))
        head = await asked(agent.connect(), address, "/one")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n") and IPv4Address(address) in SYNTHETIC
        assert company.heads[0].startswith(b"GET http://web.example/one HTTP/1.1\r\nHost: web.example\r\n")


async def test_a_body_goes_with_its_request() -> None:
    async with behind() as (agent, _):
        program = agent.connect()
        head = await asked(program, "web.example:8080", "/in", method="POST", fields="Content-Length: 5\r\n", body=b"hello")
        assert (await program.read(length_of(head))).endswith(b"\r\n\r\nhello")


async def test_what_the_rules_deny_is_not_asked_for() -> None:
    async with behind() as (agent, company):
        head = await asked(agent.connect(), "denied.example")
        assert head.startswith(b"HTTP/1.1 403 ")
        assert company.connections == 0


async def test_another_host_is_asked_for_on_a_connection_of_its_own() -> None:
    async with behind() as (agent, company):
        program = agent.connect()
        for host in ("one.example", "two.example"):
            head = await asked(program, host)
            await program.read(length_of(head))
        assert company.connections == 2
        assert [each.host for each in agent.decisions] == ["one.example", "two.example"]


async def test_a_wrong_password_is_this_hosts_business_and_asked_of_nobody_inside() -> None:
    async with behind("wrong") as (agent, _):
        program = agent.connect()
        head = await asked(program, "web.example")
        assert head.startswith(b"HTTP/1.1 502 ") and b"proxy-authenticate" not in head.lower()
        told = json.loads(await program.read_all())["error"]
        assert told["code"] == "egress_failed" and "user and password that this host has" in told["message"]


async def test_all_else_goes_by_connect_and_port_80_then_as_the_company_allows() -> None:
    async with behind() as (agent, company):
        program = agent.connect()
        await program.write(b"CONNECT db.example:5432 HTTP/1.1\r\nHost: db.example:5432\r\n\r\n")
        assert (await program.read_head()).startswith(b"HTTP/1.1 200 ")
        await program.write(b"ping")
        assert await program.read(4) == b"ping"
        refused = agent.connect()
        await refused.write(b"CONNECT web.example:80 HTTP/1.1\r\nHost: web.example:80\r\n\r\n")
        assert b"the upstream proxy does not connect: " in await refused.read_all()
        assert [head.split(b" ")[0] for head in company.heads] == [b"CONNECT"] * 2


async def test_nobody_inside_hears_where_a_proxy_is_that_cannot_be_reached() -> None:
    async with serving(origin) as port:
        pass  # nobody listens there any more
    proxy = InProcess(names(proxy_corp_test="127.0.0.1"), upstream=f"http://proxy.corp.test:{port}")
    try:
        agent = Agent()
        proxy.join(agent, RULES)
        program = agent.connect()
        assert (await asked(program, "web.example")).startswith(b"HTTP/1.1 502 ")
        answer = await program.read_all()
        assert b"cannot be reached" in answer and b"127.0.0.1" not in answer and b"corp" not in answer
        assert "127.0.0.1" in (await agent.decision(Verdict.FAILED)).reason
    finally:
        proxy.close()


@pytest.mark.parametrize("port", [80, 8080])
async def test_a_websocket_goes_by_connect(port: int) -> None:
    async with behind() as (agent, company):
        fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
        await agent.connect().write(f"GET http://web.example:{port}/ws HTTP/1.1\r\nHost: web.example:{port}\r\n{fields}\r\n".encode())
        await agent.decision(Verdict.FAILED if port == 80 else Verdict.ALLOWED, host="web.example")
        assert company.heads[0].startswith(f"CONNECT web.example:{port} HTTP/1.1\r\n".encode())
