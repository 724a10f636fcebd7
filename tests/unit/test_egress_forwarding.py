"""Plain HTTP through the egress proxy: kept connections, bodies both ways, upgrades, and servers and clients that break off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from egress_world import Agent, InProcess, Program, echo, loopback_rules, names, serving

from agentkernel.model.network import EgressLimits, EgressRules, Verdict


@pytest.fixture
async def proxy() -> AsyncIterator[InProcess]:
    made = InProcess(names(web_test="127.0.0.1"))
    yield made
    made.close()


@dataclass
class Web:
    """A server that notes the heads that it gets, and answers each with what comes next."""

    answers: list[bytes]
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0
    read_body: bool = True

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while self.answers:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            if self.read_body:
                self.bodies.append(await self._body(reader))
            writer.write(self.answers.pop(0))
            await writer.drain()

    async def _body(self, reader: asyncio.StreamReader) -> bytes:
        head = self.heads[-1].lower()
        if b"transfer-encoding: chunked" in head:
            return await reader.readuntil(b"0\r\n\r\n")
        _, found, rest = head.partition(b"content-length: ")
        return await reader.readexactly(int(rest.split(b"\r\n")[0])) if found else b""


async def ask(program: Program, port: int, path: str, *, method: str = "GET", fields: str = "", body: bytes = b"") -> None:
    """A request by URL."""
    await program.write(f"{method} http://127.0.0.1:{port}{path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{fields}\r\n".encode() + body)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_requests_to_one_server_share_a_connection(proxy: InProcess) -> None:
    web = Web([OK, OK])
    async with serving(web) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port))
        program = agent.connect()
        for path in ("/one", "/two"):
            await ask(program, port, path, fields="Proxy-Authorization: Basic eA==\r\nProxy-Connection: keep-alive\r\nX-Kept: 1\r\n")
            assert (await program.read_head()).startswith(b"HTTP/1.1 200 OK\r\n")
            assert await program.read(2) == b"ok"
        assert web.connections == 1
        assert web.heads[0].startswith(f"GET /one HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n".encode())
        assert b"X-Kept: 1" in web.heads[0]
        assert b"Proxy" not in web.heads[0]
        assert len([each for each in agent.decisions if each.verdict is Verdict.ALLOWED]) == 1


async def test_another_server_gets_another_connection(proxy: InProcess) -> None:
    one, two = Web([OK, OK]), Web([OK])
    async with serving(one) as first, serving(two) as second:
        agent = Agent()
        proxy.join(agent, loopback_rules(first, second))
        program = agent.connect()
        for port in (first, second, first):
            await ask(program, port, "/")
            await program.read_head()
            assert await program.read(2) == b"ok"
        assert (one.connections, two.connections) == (2, 1)


async def test_pipelined_requests_are_answered_in_order(proxy: InProcess) -> None:
    web = Web([b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number for number in range(5)])
    async with serving(web) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port))
        program = agent.connect()
        for _ in range(5):
            await ask(program, port, "/")
        for number in range(5):
            await program.read_head()
            assert await program.read(1) == b"%d" % number


async def test_a_kept_connection_that_the_server_closed_is_replaced(proxy: InProcess) -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)

    async with serving(once) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port))
        program = agent.connect()
        for _ in range(3):
            await ask(program, port, "/")
            await program.read_head()
            assert await program.read(2) == b"ok"


@pytest.mark.parametrize("size", [0, 1, 100_000, 3_000_000])
async def test_bodies_of_known_length_go_both_ways(proxy: InProcess, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    web = Web([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body, OK])
    async with serving(web) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port))
        program = agent.connect()
        await ask(program, port, "/", method="POST", fields=f"Content-Length: {size}\r\n", body=body)
        await program.read_head()
        assert await program.read(size) == body
        assert web.bodies == [body]
        await ask(program, port, "/")
        await program.read_head()
        assert await program.read(2) == b"ok"


async def test_chunked_bodies_go_both_ways(proxy: InProcess) -> None:
    chunked = b"".join(b"%x;x=y\r\n%b\r\n" % (size, bytes(size)) for size in (1, 70_000, 3)) + b"0\r\nTrailer: x\r\n\r\n"
    web = Web([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked, OK])
    async with serving(web) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port))
        program = agent.connect()
        await ask(program, port, "/", method="POST", fields="Transfer-Encoding: chunked\r\n", body=chunked)
        await program.read_head()
        assert await decoded(program) == bytes(70_004)
        assert web.bodies[0].count(b"\0") == 70_004
        await ask(program, port, "/")
        await program.read_head()
        assert await program.read(2) == b"ok"


async def decoded(program: Program) -> bytes:
    """A chunked body without its framing."""
    body = b""
    while True:
        line = b""
        while not line.endswith(b"\r\n"):
            more = await program.read(1)
            assert more, f"the answer ends with {line!r}: {program.error}"
            line += more
        size = int(line, 16)
        body += await program.read(size)
        assert await program.read(2) == b"\r\n"
        if not size:
            return body


async def test_a_body_to_the_end_of_the_connection_ends_the_client_s_too(proxy: InProcess) -> None:
    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + bytes(200_000))
        await writer.drain()

    async with serving(old) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port))
        program = agent.connect()
        await ask(program, port, "/")
        assert b"Connection: close\r\n" in await program.read_head()
        assert len(await program.read_all()) == 200_000
        assert program.has_ended


async def test_a_cut_answer_is_a_reset_not_an_end(proxy: InProcess) -> None:
    web = Web([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"])
    async with serving(web) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port))
        program = agent.connect()
        await ask(program, port, "/")
        await program.read_head()
        await program.closed()
        assert not program.has_ended


async def test_an_answer_before_the_whole_request_ends_the_connection(proxy: InProcess) -> None:
    web = Web([b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno"], read_body=False)
    async with serving(web) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port))
        program = agent.connect()
        await ask(program, port, "/", method="POST", fields="Content-Length: 1000000\r\n", body=bytes(1000))
        assert (await program.read_head()).startswith(b"HTTP/1.1 413 ")
        assert await program.read(2) == b"no"
        await program.until(lambda: program.is_over)


@pytest.mark.parametrize("status", [b"103 Early Hints", b"200 OK"])
async def test_the_heads_of_answers_count_among_the_bytes_that_it_may_transfer(proxy: InProcess, status: bytes) -> None:
    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %b\r\nX-Data: %b\r\n\r\n" % (status, b"x" * 10_000))
        await reader.read()

    async with serving(server) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port), EgressLimits(bytes_total=10_000))
        await ask(agent.connect(), port, "/")
        assert (await agent.decision(Verdict.DENIED)).rule == "limit bytes"


async def test_the_client_waits_for_100_continue(proxy: InProcess) -> None:
    async def patient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"expect: 100-continue" in head.lower()
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await reader.readexactly(4) == b"body"
        writer.write(OK)

    async with serving(patient) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port))
        program = agent.connect()
        await ask(program, port, "/", method="PUT", fields="Content-Length: 4\r\nExpect: 100-continue\r\n")
        assert (await program.read_head()).startswith(b"HTTP/1.1 100 ")
        await program.write(b"body")
        assert (await program.read_head()).startswith(b"HTTP/1.1 200 ")


async def test_a_websocket_is_passed_through(proxy: InProcess) -> None:
    async def upgraded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"upgrade: websocket" in head.lower()
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x02hi")
        await echo(reader, writer)

    async with serving(upgraded) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port))
        program = agent.connect()
        await ask(program, port, "/", fields="Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n")
        assert (await program.read_head()).startswith(b"HTTP/1.1 101 ")
        assert await program.read(4) == b"\x81\x02hi"
        await program.write(b"\x81\x05hello")
        assert await program.read(7) == b"\x81\x05hello"


async def test_a_refusal_of_a_url_teaches_too(proxy: InProcess) -> None:
    agent = Agent()
    proxy.join(agent, EgressRules())
    program = agent.connect()
    await program.write(b"GET http://169.254.169.254/latest HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n")
    head = await program.read_head()
    assert head.startswith(b"HTTP/1.1 403 ")
    told = json.loads(await program.read_all())["error"]
    assert (told["code"], told["rule"]) == ("egress_denied", "metadata address")
    assert "169.254.169.254" in told["hint"]


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://127.0.0.1/ HTTP/1.1\r\nHost: other\r\n\r\n",
        b"POST http://127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"GET http://127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + bytes(40_000) + b"\r\n\r\n",
    ],
)
async def test_what_means_two_things_is_refused(proxy: InProcess, head: bytes) -> None:
    agent = Agent()
    proxy.join(agent, loopback_rules(80))
    program = agent.connect()
    await program.write(head)
    assert (await program.read_all()).startswith(b"HTTP/1.1 4")


async def test_a_server_whose_answer_means_two_things_is_not_passed_on(proxy: InProcess) -> None:
    web = Web([b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"])
    async with serving(web) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port))
        program = agent.connect()
        await ask(program, port, "/")
        assert (await program.read_all()).startswith(b"HTTP/1.1 502 ")


async def test_half_a_request_gets_no_answer(proxy: InProcess) -> None:
    web = Web([OK])
    async with serving(web) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port))
        program = agent.connect()
        await ask(program, port, "/", method="POST", fields="Content-Length: 10\r\n", body=b"half")
        program.end()
        await program.closed()


async def test_rules_that_change_hold_for_the_next_request_too(proxy: InProcess) -> None:
    web = Web([OK, OK])
    async with serving(web) as port:
        agent = Agent()
        session = proxy.join(agent, loopback_rules(port))
        program = agent.connect()
        await ask(program, port, "/")
        await program.read_head()
        assert await program.read(2) == b"ok"
        session.set_rules(EgressRules())
        await program.closed()
        assert (await agent.decision(Verdict.DENIED, port=port)).rule == "loopback address"
