"""Secrets at the egress proxy: values go to the bound hosts in headers, over TLS that is verified, and nowhere else."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from egress_world import Agent, echo, loopback_rules, names, serving
from secret_world import (
    PLACEHOLDER,
    VALUE,
    Client,
    SecretGate,
    Site,
    client_of,
    credentials,
    https,
    public_authority,
    secret,
    site,
)

from agentkernel.egress.authority import Authority, make_authority
from agentkernel.egress.gate import EgressGate
from agentkernel.egress.tls_stream import TlsStream
from agentkernel.model.network import EgressLimits, Secret, Verdict

HOST, OTHER = "api.example.com", "other.example.com"
_TEN_MIB = 10 * 1024 * 1024


class World:
    """A sandbox whose KEY is bound to HOST (and OTHER_KEY to OTHER), and the two servers."""

    def __init__(self, agent: Agent, inside: Authority, one: Site, two: Site) -> None:
        self.agent, self.inside, self.one, self.two = agent, inside, one, two

    async def client(self, host: str = HOST) -> Client:
        """A connection to HOST or OTHER."""
        return await https(self.agent, self.inside, host, self.one.port if host == HOST else self.two.port)

    def told(self) -> str:
        """Everything that the engine was told."""
        return repr(self.agent.decisions)


@asynccontextmanager
async def world(
    tmp_path: Path,
    *,
    value: str | None = VALUE,
    trusted: bool = True,
    leaves: bool = True,
    limits: EgressLimits | None = None,
    **bound: str,
) -> AsyncIterator[World]:
    outside = public_authority(HOST, OTHER)
    trust = tmp_path / "trust.pem"
    trust.write_text(outside.certificate if trusted else public_authority("else.example.com").certificate)
    inside = make_authority((HOST, OTHER) if leaves else ("none.example.com",))
    gate = SecretGate(names(api_example_com="127.0.0.1", other_example_com="127.0.0.1"))
    agent = Agent()
    async with site(outside.leaves[HOST]) as one, site(outside.leaves[OTHER]) as two:
        key = secret(f"{HOST}:{one.port}", **bound)
        second = secret(f"{OTHER}:{two.port}", name="OTHER_KEY", placeholder="agentkernel-secret-" + "b" * 32)
        session = gate.join(agent, loopback_rules(one.port, two.port), limits)
        values = {} if value is None else {"KEY": value}
        session.set_secrets(credentials(inside, key, second, trust=trust, OTHER_KEY="another-value", **values))
        try:
            yield World(agent, inside, one, two)
        finally:
            gate.close()


async def test_the_server_gets_the_value_and_the_sandbox_only_the_placeholder(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        client = await here.client()
        head, body = await client.get(f"{HOST}:{here.one.port}", "/v1/models?limit=2", Authorization=f"Bearer {PLACEHOLDER}", Accept="*/*")
        assert (head.split("\r\n")[0], body) == ("HTTP/1.1 200 OK", b"ok")
        assert f"\r\nAuthorization: Bearer {VALUE}\r\n" in here.one.heads[0]
        assert here.one.heads[0].startswith("GET /v1/models?limit=2 HTTP/1.1\r\n")
        assert PLACEHOLDER not in here.one.heads[0]
        used = await here.agent.decision(Verdict.ALLOWED, protocol="tls")
        assert (used.host, used.rule, used.address) == (HOST, "secret KEY", "127.0.0.1")
        assert VALUE not in here.told()


async def test_basic_credentials_and_other_headers_are_filled_in_too(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        client = await here.client()
        basic = base64.b64encode(f"user:{PLACEHOLDER}".encode()).decode()
        await client.get(f"{HOST}:{here.one.port}", Authorization=f"Basic {basic}", X_Api_Key=PLACEHOLDER)
        expected = base64.b64encode(f"user:{VALUE}".encode()).decode()
        assert f"\r\nAuthorization: Basic {expected}\r\n" in here.one.heads[0]
        assert f"\r\nX-Api-Key: {VALUE}\r\n" in here.one.heads[0]


async def test_requests_follow_each_other_on_kept_connections_and_the_use_is_told_once(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        client = await here.client()
        for number in range(20):
            head, _ = await client.get(f"{HOST}:{here.one.port}", f"/{number}", Authorization=f"Bearer {PLACEHOLDER}")
            assert " 200 " in head
        assert here.one.connections == 1
        assert [head.split()[1] for head in here.one.heads] == [f"/{number}" for number in range(20)]
        await here.agent.decision(Verdict.ALLOWED, protocol="tls")
        assert len([each for each in here.agent.decisions if each.protocol == "tls"]) == 1


async def test_a_server_that_closes_between_requests_is_connected_to_again(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.one.answer = lambda head, body: b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
        client = await here.client()
        for _ in range(3):
            assert " 200 " in (await client.get(f"{HOST}:{here.one.port}", Authorization=PLACEHOLDER))[0]
        assert here.one.connections == 3


async def test_the_heads_of_answers_count_among_the_bytes_that_it_may_transfer(tmp_path: Path) -> None:
    async with world(tmp_path, limits=EgressLimits(bytes_total=10_000)) as here:
        here.one.answer = lambda head, body: b"HTTP/1.1 200 OK\r\nX-Data: %b\r\nContent-Length: 0\r\n\r\n" % (b"x" * 10_000)
        client = await here.client()
        await client.tls.send(f"GET / HTTP/1.1\r\nHost: {HOST}:{here.one.port}\r\nAuthorization: {PLACEHOLDER}\r\n\r\n".encode())
        assert (await here.agent.decision(Verdict.DENIED, host=HOST)).rule == "limit bytes"


@pytest.mark.parametrize("chunked", [False, True])
async def test_big_bodies_pass_as_they_are(tmp_path: Path, chunked: bool) -> None:
    async with world(tmp_path) as here:
        sent = hashlib.shake_128(b"body").digest(_TEN_MIB) + PLACEHOLDER.encode()
        here.one.answer = lambda head, body: b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        client = await here.client()
        head = f"POST / HTTP/1.1\r\nHost: {HOST}:{here.one.port}\r\nX-Api-Key: {PLACEHOLDER}\r\n"
        if chunked:
            pieces = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (sent[:1], sent[1:70_000], sent[70_000:])) + b"0\r\n\r\n"
            asked = client.ask(f"{head}Transfer-Encoding: chunked\r\n\r\n", pieces)
        else:
            asked = client.ask(f"{head}Content-Length: {len(sent)}\r\n\r\n", sent)
        _, body = await asked
        assert here.one.bodies == [sent]  # a placeholder in a body stays one
        assert body == sent


async def test_an_answer_that_repeats_the_value_comes_with_the_placeholder(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        repeated = f"HTTP/1.1 302 Found {VALUE}\r\nLocation: https://{OTHER}/?key={VALUE}\r\nX-Echo: {VALUE}\r\nContent-Length: 0\r\n\r\n"
        here.one.answer = lambda head, body: repeated.encode()
        head, _ = await (await here.client()).get(f"{HOST}:{here.one.port}", Authorization=PLACEHOLDER)
        assert VALUE not in head
        assert head.count(PLACEHOLDER) == 3


async def test_an_answer_that_repeats_basic_credentials_comes_with_those_that_were_sent(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        basic, filled = (base64.b64encode(f"user:{secret}".encode()).decode() for secret in (PLACEHOLDER, VALUE))
        repeated = f"HTTP/1.1 200 OK\r\nX-Echo: {{}}Basic {filled}\r\nContent-Length: 0\r\n\r\n"
        here.one.answer = lambda head, body: repeated.encode()
        head, _ = await (await here.client()).get(f"{HOST}:{here.one.port}", Authorization=f"Basic {basic}")
        assert f"Authorization: Basic {filled}\r\n" in here.one.heads[0]
        assert filled not in head
        assert f"Basic {basic}\r\n" in head


async def test_a_websocket_is_passed(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.one.answer = lambda head, body: b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        client = await here.client()
        head, _ = await client.get(
            f"{HOST}:{here.one.port}",
            Connection="Upgrade",
            Upgrade="websocket",
            Sec_WebSocket_Key="eA==",
            Authorization=f"Bearer {PLACEHOLDER}",
        )
        assert head.startswith("HTTP/1.1 101 ")
        assert VALUE in here.one.heads[0]
        await client.tls.send(b"hello " + PLACEHOLDER.encode())
        assert await client.exactly(6 + len(PLACEHOLDER)) == b"HELLO " + PLACEHOLDER.upper().encode()


MISUSES = {
    "query": ({}, "/?key={placeholder}", "GET", {}),
    "encoded query": ({}, "/?key=agentkernel%2Dsecret" + PLACEHOLDER[18:], "GET", {}),
    "path": ({}, "/{placeholder}", "GET", {}),
    "header name": ({}, "/", "GET", {PLACEHOLDER: "x"}),
    "other letters": ({}, "/", "GET", {"authorization": PLACEHOLDER.upper()}),
    "other header": ({"header": "x-api-key"}, "/", "GET", {"authorization": PLACEHOLDER}),
    "other method": ({"method": "POST"}, "/", "GET", {"authorization": PLACEHOLDER}),
    "other path": ({"path": "/v1"}, "/v10/models", "GET", {"authorization": PLACEHOLDER}),
    "dots": ({"path": "/v1"}, "/v1/../admin", "GET", {"authorization": PLACEHOLDER}),
    "encoded dots": ({"path": "/v1"}, "/v1/%2e%2E/admin", "GET", {"authorization": PLACEHOLDER}),
    "encoded slash": ({"path": "/v1"}, "/v1/..%2fadmin", "GET", {"authorization": PLACEHOLDER}),
    "backslash": ({"path": "/v1"}, "/v1/..\\admin", "GET", {"authorization": PLACEHOLDER}),
    "parameters": ({"path": "/v1"}, "/v1/..;x=1/admin", "GET", {"authorization": PLACEHOLDER}),
    "empty segment": ({"path": "/v1"}, "/v1//evil.example/", "GET", {"authorization": PLACEHOLDER}),
    "overlong dots": ({"path": "/v1"}, "/v1/%c0%ae%c0%ae/admin", "GET", {"authorization": PLACEHOLDER}),
    "wide dots": ({"path": "/v1"}, "/v1/%ef%bc%8e%ef%bc%8e/admin", "GET", {"authorization": PLACEHOLDER}),
    "path by a header": ({"path": "/v1"}, "/v1", "GET", {"authorization": PLACEHOLDER, "X_Original_URL": "/admin"}),
    "method by a header": ({"method": "GET"}, "/", "GET", {"x_http_method_override": "DELETE", "authorization": PLACEHOLDER}),
    "encoded twice": ({"path": "/v1"}, "/v1/%252e%252e/admin", "GET", {"authorization": PLACEHOLDER}),
}


@pytest.mark.parametrize("case", MISUSES)
async def test_a_placeholder_anywhere_else_is_refused_and_told(tmp_path: Path, case: str) -> None:
    bound, path, method, fields = MISUSES[case]
    async with world(tmp_path, **bound) as here:
        client = await here.client()
        head, body = await client.get(f"{HOST}:{here.one.port}", path.format(placeholder=PLACEHOLDER), method, **fields)
        error = json.loads(body)["error"]
        assert head.startswith("HTTP/1.1 403 ")
        assert (error["code"], error["rule"]) == ("secret_refused", "secret KEY")
        assert here.one.heads == []
        denied = await here.agent.decision(Verdict.DENIED, protocol="tls")
        assert (denied.host, denied.rule) == (HOST, "secret KEY")
        assert VALUE not in head + body.decode() + here.told()


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/models/x?a=../b", "/%761/chat"])
async def test_a_path_that_is_below_the_bound_one_is_right(tmp_path: Path, path: str) -> None:
    async with world(tmp_path, path="/v1") as here:
        head, _ = await (await here.client()).get(f"{HOST}:{here.one.port}", path, Authorization=PLACEHOLDER)
        assert " 200 " in head
        assert VALUE in here.one.heads[0]


async def test_the_header_of_another_terminated_host_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        client = await here.client(OTHER)
        basic = base64.b64encode(f"user:{PLACEHOLDER}".encode()).decode()
        head, body = await client.get(f"{OTHER}:{here.two.port}", Authorization=f"Basic {basic}")
        assert head.startswith("HTTP/1.1 403 ")
        assert json.loads(body)["error"]["rule"] == "secret KEY"
        assert here.two.heads == []


async def test_plain_http_and_names_of_hosts_with_a_placeholder_are_refused(tmp_path: Path) -> None:
    async with world(tmp_path) as here, serving(echo) as port:
        asked = (
            f"GET http://{HOST}:{here.one.port}/ HTTP/1.1\r\nHost: {HOST}:{here.one.port}\r\nAuthorization: {PLACEHOLDER}\r\n\r\n",
            f"GET http://127.0.0.1:{port}/?{PLACEHOLDER} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n",
            f"CONNECT {PLACEHOLDER}.example.com:443 HTTP/1.1\r\nHost: {PLACEHOLDER}.example.com:443\r\n\r\n",
        )
        for request in asked:
            program = here.agent.connect()
            await program.write(request.encode())
            answer = await program.read_all()
            assert answer.startswith(b"HTTP/1.1 403 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["rule"] == "secret KEY"
        assert len([each for each in here.agent.decisions if each.rule == "secret KEY"]) == 3


SMUGGLED = {
    "length and chunked": "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
    "bare line feed": "GET / HTTP/1.1\r\nHost: {host}\r\nX: a\nAuthorization: {placeholder}\r\n\r\n",
    "folded": "GET / HTTP/1.1\r\nHost: {host}\r\nX: a\r\n Authorization: {placeholder}\r\n\r\n",
    "two hosts": "GET / HTTP/1.1\r\nHost: {host}\r\nHost: evil.example.com\r\n\r\n",
    "another host": "GET / HTTP/1.1\r\nHost: evil.example.com\r\nAuthorization: {placeholder}\r\n\r\n",
    "another host's URL": "GET http://evil.example.com/ HTTP/1.1\r\nHost: {host}\r\nAuthorization: {placeholder}\r\n\r\n",
    "connect": "CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n",
}


@pytest.mark.parametrize("case", SMUGGLED)
async def test_a_request_that_can_be_read_in_two_ways_goes_nowhere(tmp_path: Path, case: str) -> None:
    async with world(tmp_path) as here:
        client = await here.client()
        head, _ = await client.ask(SMUGGLED[case].format(host=f"{HOST}:{here.one.port}", placeholder=PLACEHOLDER))
        assert head.split()[1] in {"400", "405", "421"}
        assert here.one.heads == []


async def test_what_follows_a_request_is_the_next_one(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        client = await here.client()
        where = f"Host: {HOST}:{here.one.port}\r\n"
        both = f"POST /1 HTTP/1.1\r\n{where}Content-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\n{where}X: {PLACEHOLDER}\r\n\r\n"
        assert " 200 " in (await client.ask(both))[0]
        assert " 200 " in (await client.answer())[0]
        assert [head.split()[1] for head in here.one.heads] == ["/1", "/2"]
        assert here.one.bodies == [b"abc", b""]


async def test_a_server_that_this_host_does_not_trust_gets_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, trusted=False) as here:
        head, body = await (await here.client()).get(f"{HOST}:{here.one.port}", Authorization=PLACEHOLDER)
        assert head.startswith("HTTP/1.1 502 ")
        assert "does not trust the certificate" in json.loads(body)["error"]["message"]
        assert here.one.heads == []


async def test_a_value_that_is_gone_is_told_with_the_way_to_give_it_again(tmp_path: Path) -> None:
    async with world(tmp_path, value=None) as here:
        client = await here.client()
        assert " 200 " in (await client.get(f"{HOST}:{here.one.port}"))[0]  # nothing of a secret in it
        head, body = await client.get(f"{HOST}:{here.one.port}", Authorization=PLACEHOLDER)
        error = json.loads(body)["error"]
        assert head.startswith("HTTP/1.1 403 ")
        assert error["code"] == "secret_unavailable"
        assert "--secret KEY=" in error["hint"]


async def test_without_certificates_the_bound_host_is_refused_at_connect(tmp_path: Path) -> None:
    async with world(tmp_path, leaves=False) as here:
        program = here.agent.connect()
        where = f"{HOST}:{here.one.port}"
        await program.write(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
        answer = await program.read_all()
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "secret_unavailable"
        assert here.one.connections == 0


async def test_what_is_no_tls_for_that_host_is_closed(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        with pytest.raises(ssl.SSLError):
            await https(here.agent, here.inside, HOST, here.one.port, server_name=OTHER)
        program = here.agent.connect()
        where = f"{HOST}:{here.one.port}"
        await program.write(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\nGET / HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
        assert (await program.read_head()).startswith(b"HTTP/1.1 200 ")
        await program.closed()
        assert here.one.heads == []


async def test_socks_reaches_the_bound_host_the_same_way(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        program = here.agent.connect()
        await program.write(b"\x05\x01\x00\x05\x01\x00\x03" + bytes([len(HOST)]) + HOST.encode() + here.one.port.to_bytes(2, "big"))
        assert (await program.read(2), (await program.read(10))[1]) == (b"\x05\x00", 0)
        client = await client_of(program, here.inside, HOST)
        assert " 200 " in (await client.get(f"{HOST}:{here.one.port}", Authorization=PLACEHOLDER))[0]
        assert VALUE in here.one.heads[0]


async def test_a_client_that_goes_in_the_middle_of_a_request_gets_nothing_done(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        client = await here.client()
        await client.tls.send(f"POST / HTTP/1.1\r\nHost: {HOST}:{here.one.port}\r\nContent-Length: 100\r\n\r\nhalf".encode())
        client.program.reset()
        client = await here.client()
        assert " 200 " in (await client.get(f"{HOST}:{here.one.port}"))[0]
        assert [head.split()[0] for head in here.one.heads] == ["GET"]


async def test_the_confined_process_does_all_of_this(tmp_path: Path) -> None:
    """With 127.0.0.1's name, which the host itself resolves."""
    outside, inside = public_authority("localhost"), make_authority(("localhost",))
    trust = tmp_path / "trust.pem"
    trust.write_text(outside.certificate)
    gate, agent = EgressGate(), Agent()
    async with site(outside.leaves["localhost"]) as server:
        rules = loopback_rules(server.port, allow=(f"localhost:{server.port}",))
        agent.session = gate.join("0" * 16, rules, EgressLimits(), agent, agent.decided)
        bound: Secret = secret(f"localhost:{server.port}")
        agent.session.set_secrets(credentials(inside, bound, trust=trust, KEY=VALUE))
        try:
            client = await https(agent, inside, "localhost", server.port)
            assert " 200 " in (await client.get(f"localhost:{server.port}", Authorization=PLACEHOLDER))[0]
            assert VALUE in server.heads[0]
            assert gate.pid is not None
            shown = [Path(f"/proc/{gate.pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
            assert not any(VALUE.encode() in each for each in shown)
            agent.session.set_secrets(credentials(inside, bound, trust=trust))
            await asyncio.sleep(0)
            again = await https(agent, inside, "localhost", server.port)
            assert " 403 " in (await again.get(f"localhost:{server.port}", Authorization=PLACEHOLDER))[0]
        finally:
            await gate.close()


async def test_who_sends_tiny_records_keeps_nobody_waiting(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        client = await here.client()
        where = f"{HOST}:{here.one.port}"
        await client.ask(f"POST / HTTP/1.1\r\nHost: {where}\r\nContent-Length: {_TEN_MIB}\r\n\r\n", bytes(_TEN_MIB))  # the window grows
        turns, most = 0, 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        read, taken = TlsStream.receive, 0

        async def counted(stream: TlsStream) -> bytes:
            nonlocal turns, taken, most
            data = await read(stream)
            taken = taken + 1 if turns == 0 else 0
            turns, most = 0, max(most, taken)
            return data

        task = asyncio.create_task(others())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TlsStream, "receive", counted)
            await client.tls.send(f"POST / HTTP/1.1\r\nHost: {where}\r\nContent-Length: 5000\r\n\r\n".encode())
            for _ in range(5000):
                client.tls._tls.write(b"x")
            await client.tls._flush()
            assert " 200 " in (await client.answer())[0]
        task.cancel()
        assert most < 100
