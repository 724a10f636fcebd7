"""Connections through the egress proxy: CONNECT, SOCKS, transparent ones; names judged, resolved once, and compared with TLS's."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, ip_network

import pytest
from egress_world import RESOLVER, TRANSPARENT, WAIT_S, Agent, InProcess, Program, echo, loopback_rules, names, serving, tunnelled

from agentkernel.channel.wire import FIRST_CREDIT_BYTES
from agentkernel.egress import connecting
from agentkernel.egress.names import SYNTHETIC
from agentkernel.model.network import Base, EgressLimits, EgressRules, Rule, Verdict
from agentkernel.model.rules import parse_rule


@pytest.fixture
async def proxy() -> AsyncIterator[InProcess]:
    made = InProcess(names(echo_test="127.0.0.1", two_test="127.0.0.2 127.0.0.1", inner_test="10.1.2.3", mixed_test="10.1.2.3 127.0.0.1"))
    yield made
    made.close()


def client_hello(server_name: str | None) -> bytes:
    """What Python's own TLS client begins with."""
    context = ssl.create_default_context()
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=server_name).do_handshake()
    return outgoing.read()


def query(name: str, kind: int = 1) -> bytes:
    """A DNS question."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


async def looked_up(agent: Agent, name: str) -> str:
    """The address that the sandbox's resolver gives."""
    answer = await agent.ask(query(name))
    assert answer[3] & 15 == 0
    return str(IPv4Address(answer[-4:]))


async def socks(agent: Agent, host: str, port: int) -> tuple[Program, int]:
    """A SOCKS 5 client by name; the reply's code."""
    program = agent.connect()
    await program.write(b"\x05\x01\x00")
    assert await program.read(2) == b"\x05\x00"
    await program.write(b"\x05\x01\x00\x03" + bytes([len(host)]) + host.encode() + struct.pack(">H", port))
    reply = await program.read(10)
    return program, reply[1]


async def test_connect_by_name_goes_to_the_address_that_was_judged(proxy: InProcess) -> None:
    async with serving(echo) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port, allow=(f"echo.test:{port}",)))
        program = await tunnelled(agent, "Echo.TEST.", port)
        await program.write(b"hello")
        assert await program.read(5) == b"hello"
        decision = await agent.decision(Verdict.ALLOWED, host="echo.test")
        assert (decision.address, decision.port, decision.protocol) == ("127.0.0.1", port, "connect")


async def test_a_refusal_says_which_rule_and_what_to_ask_for(proxy: InProcess) -> None:
    agent = Agent()
    proxy.join(agent, EgressRules())
    program = agent.connect()
    await program.write(b"CONNECT inner.test:443 HTTP/1.1\r\nHost: inner.test:443\r\n\r\n")
    answer = await program.read_all()
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b'"code": "egress_denied"' in answer
    assert b'"rule": "private address"' in answer and b"agentkernel network log" in answer
    decision = await agent.decision(Verdict.DENIED, host="inner.test")
    assert (decision.address, decision.rule) == ("10.1.2.3", "private address")


async def test_a_denial_is_told_before_the_program_knows(proxy: InProcess) -> None:
    agent = Agent()
    proxy.join(agent, EgressRules(base=Base.NONE))
    program = agent.connect()
    await program.write(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n")
    await program.read_all()
    assert [each.verdict for each in agent.decisions] == [Verdict.DENIED]


async def test_a_name_with_a_forbidden_and_an_allowed_address_leads_to_the_allowed_one(proxy: InProcess) -> None:
    async with serving(echo) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port, allow=(f"mixed.test:{port}",)))
        await (await tunnelled(agent, "mixed.test", port)).write(b"x")
        assert (await agent.decision(Verdict.ALLOWED, host="mixed.test")).address == "127.0.0.1"


async def test_the_next_address_is_tried_when_one_does_not_answer(proxy: InProcess) -> None:
    async with serving(echo) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port, allow=(f"two.test:{port}",)))
        program = await tunnelled(agent, "two.test", port)
        program.end()
        await program.read_all()
        assert (await agent.decision(Verdict.ALLOWED, host="two.test")).address == "127.0.0.1"


async def test_what_cannot_be_reached_is_a_failure_not_a_denial(proxy: InProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    agent = Agent()
    proxy.join(agent, loopback_rules(port))
    program = agent.connect()
    await program.write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    assert (await program.read_all()).startswith(b"HTTP/1.1 502 ")
    assert "refused" in (await agent.decision(Verdict.FAILED, port=port)).reason


async def test_a_name_that_does_not_resolve_is_a_failure(proxy: InProcess) -> None:
    agent = Agent()
    proxy.join(agent, EgressRules())
    program = agent.connect()
    await program.write(b"CONNECT nowhere.example:443 HTTP/1.1\r\nHost: nowhere.example:443\r\n\r\n")
    assert (await program.read_all()).startswith(b"HTTP/1.1 502 ")
    assert "cannot be looked up" in (await agent.decision(Verdict.FAILED, host="nowhere.example")).reason


async def test_a_name_is_resolved_once_however_its_answer_changes() -> None:
    asked: list[str] = []

    def rebinding(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    proxy = InProcess(rebinding)
    try:
        async with serving(echo) as port:
            agent = Agent()
            proxy.join(agent, loopback_rules(port, allow=(f"rebind.test:{port}",)))
            program = await tunnelled(agent, "rebind.test", port)
            await program.write(b"hello")
            assert await program.read(5) == b"hello"
            assert asked == ["rebind.test"]
    finally:
        proxy.close()


async def test_socks_by_name_and_its_refusals(proxy: InProcess) -> None:
    async with serving(echo) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port, allow=(f"echo.test:{port}",), deny=("inner.test",)))
        program, code = await socks(agent, "echo.test", port)
        assert code == 0
        await program.write(b"SSH-2.0-x")
        assert await program.read(9) == b"SSH-2.0-x"
        denied, code = await socks(agent, "inner.test", port)
        assert code == 2
        assert await denied.read_all() == b""
        assert (await agent.decision(Verdict.DENIED, host="inner.test")).protocol == "socks"


async def test_a_server_that_speaks_first_is_heard_at_once(proxy: InProcess) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-server\r\n")
        await reader.read()

    async with serving(greet) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port))
        program, _ = await socks(agent, "127.0.0.1", port)
        assert await program.read(16) == b"SSH-2.0-server\r\n"


async def test_a_synthetic_address_leads_to_its_name(proxy: InProcess) -> None:
    async with serving(echo) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port, allow=(f"echo.test:{port}",)))
        address = await looked_up(agent, "echo.test")
        assert IPv4Address(address) in SYNTHETIC
        program = agent.connect(TRANSPARENT, address, port)
        await program.write(b"hello")
        assert await program.read(5) == b"hello"
        decision = await agent.decision(Verdict.ALLOWED, protocol="transparent")
        assert (decision.host, decision.address) == ("echo.test", "127.0.0.1")
        assert (await tunnelled(agent, address, port)).error is None


async def test_a_synthetic_address_of_nobody_is_refused(proxy: InProcess) -> None:
    agent = Agent()
    proxy.join(agent, EgressRules())
    assert await agent.connect(TRANSPARENT, "198.18.0.9", 443).closed() == errno.EHOSTUNREACH
    assert (await agent.decision(Verdict.DENIED)).rule == "unknown name"


async def test_a_transparent_connection_to_an_address_is_judged_by_it(proxy: InProcess) -> None:
    agent = Agent()
    proxy.join(agent, EgressRules())
    assert await agent.connect(TRANSPARENT, "169.254.169.254", 80).closed() == errno.EACCES
    assert (await agent.decision(Verdict.DENIED)).rule == "metadata address"
    assert await agent.connect(TRANSPARENT, "::ffff:10.0.0.1", 80).closed() == errno.EACCES
    assert (await agent.decision(Verdict.DENIED, rule="private address")).host == "10.0.0.1"


async def test_tls_must_name_the_host_that_was_asked_for(proxy: InProcess) -> None:
    async with serving(echo) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port, allow=(f"echo.test:{port}",)))
        right = await tunnelled(agent, "echo.test", port)
        hello = client_hello("echo.test")
        for at in range(0, len(hello), 100):
            await right.write(hello[at : at + 100])
        assert await right.read(len(hello)) == hello
        for other in ("other.test", None):
            wrong = await tunnelled(agent, "echo.test", port)
            await wrong.write(client_hello(other))
            await wrong.until(lambda wrong=wrong: wrong.is_over)
            assert bytes(wrong.received[:1]) in (b"", b"\x15")  # nothing of the echo, at most TLS's own refusal
            wrong.reset()
        reasons = {each.reason for each in agent.decisions if each.verdict is Verdict.DENIED}
        assert reasons == {
            "the TLS handshake names another server, and echo.test was asked for",
            "the TLS handshake names no server, and echo.test was asked for",
        }


async def test_tls_to_an_address_needs_no_name_and_may_not_name_what_is_denied(proxy: InProcess) -> None:
    async with serving(echo) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port, deny=("secret.test",)))
        for name in (None, "any.test"):
            program = await tunnelled(agent, "127.0.0.1", port)
            hello = client_hello(name)
            await program.write(hello)
            assert await program.read(len(hello)) == hello
        program = await tunnelled(agent, "127.0.0.1", port)
        await program.write(client_hello("secret.test"))
        await agent.decision(Verdict.DENIED, rule="deny secret.test")


async def test_only_tls_is_spoken_at_443_unless_a_rule_names_the_port() -> None:
    agent = Agent()

    class Port443(InProcess):
        """The real port is another one: 443 may be taken on this host."""

    proxy = Port443(names(echo_test="127.0.0.1"))
    try:
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                taken.bind(("127.0.0.1", 443))
            except OSError as error:
                pytest.skip(f"port 443 of loopback cannot be had: {error}")
            taken.listen()
            taken.setblocking(False)
            private = (parse_rule("echo.test"),)
            session = proxy.join(agent, EgressRules(private=private))
            program = await tunnelled(agent, "echo.test", 443)
            await program.write(b"GET / HTTP/1.1\r\n\r\n")
            assert await program.closed() == errno.ECONNRESET
            assert (await agent.decision(Verdict.DENIED)).rule == "tls name"
            session.set_rules(EgressRules(private=(Rule(host="echo.test", ports=(443,)),)))
            program = await tunnelled(agent, "echo.test", 443)
            await program.write(b"hello")
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(WAIT_S):
                for expected in (b"", b"hello"):
                    conn, _ = await loop.sock_accept(taken)
                    with conn:
                        try:
                            assert await loop.sock_recv(conn, 100) == expected
                        except ConnectionResetError:
                            assert expected == b""
    finally:
        proxy.close()


async def test_limits_on_connections_and_lookups(proxy: InProcess) -> None:
    async with serving(echo) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port), EgressLimits(connections=2, lookups_per_s=1))
        kept = [await tunnelled(agent, "127.0.0.1", port) for _ in range(2)]
        assert await agent.connect().closed() == errno.EAGAIN
        assert (await agent.decision(Verdict.DENIED)).rule == "limit connections"
        kept[0].reset()
        assert (await tunnelled(agent, "127.0.0.1", port)).error is None
        codes = [(await agent.ask(query(f"n{number}.example.com")))[3] & 15 for number in range(11)]
        assert codes == [0] * 10 + [2]
        assert (await agent.ask(query("n0.example.com")))[3] & 15 == 0
        assert (await agent.decision(Verdict.DENIED, protocol="dns")).rule == "limit lookups"


async def test_the_resolver_refuses_what_may_not_be_reached_and_has_only_ipv4(proxy: InProcess) -> None:
    agent = Agent()
    proxy.join(agent, EgressRules(deny=(parse_rule("secret.example"),)))
    assert (await agent.ask(query("secret.example")))[3] & 15 == 5
    assert (await agent.ask(query("metadata.google.internal")))[3] & 15 == 5
    six = await agent.ask(query("example.com", 28))
    assert (six[3] & 15, six[6:8]) == (0, b"\0\0")
    assert (await agent.ask(query("example.com", 16)))[3] & 15 == 5
    first, again = await looked_up(agent, "example.com"), await looked_up(agent, "EXAMPLE.com")
    assert first == again
    assert [each.host for each in agent.decisions if each.verdict is Verdict.ALLOWED] == ["example.com"]


async def test_dns_by_tcp(proxy: InProcess) -> None:
    agent = Agent()
    proxy.join(agent, EgressRules())
    program = agent.connect(2)
    messages = [query("example.com"), query("example.org")]
    await program.write(b"".join(struct.pack(">H", len(each)) + each for each in messages))
    for message in messages:
        length = struct.unpack(">H", await program.read(2))[0]
        answer = await program.read(length)
        assert answer[12 : len(message)] == message[12:]
    program.end()
    assert await program.read_all() == b""


async def test_an_upstream_proxy_gets_names_and_the_password() -> None:
    heads: list[bytes] = []

    async def company(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heads.append(head)
        if b"denied.example" in head:
            writer.write(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
            return
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nfirst")
        await echo(reader, writer)

    async with serving(company) as port:
        proxy = InProcess(names(), upstream=f"http://me:p%40ss@127.0.0.1:{port}")
        try:
            agent = Agent()
            proxy.join(agent, EgressRules())
            program = await tunnelled(agent, "example.com", 443)
            hello = client_hello("example.com")
            await program.write(hello)
            assert await program.read(5 + len(hello)) == b"first" + hello
            assert heads[0].startswith(b"CONNECT example.com:443 HTTP/1.1\r\n")
            assert b"Proxy-Authorization: Basic bWU6cEBzcw==\r\n" in heads[0]
            denied = agent.connect()
            await denied.write(b"CONNECT denied.example:443 HTTP/1.1\r\nHost: denied.example:443\r\n\r\n")
            assert (await denied.read_all()).startswith(b"HTTP/1.1 502 ")
            inner = agent.connect()
            await inner.write(b"CONNECT 10.0.0.1:443 HTTP/1.1\r\nHost: 10.0.0.1:443\r\n\r\n")
            assert (await inner.read_all()).startswith(b"HTTP/1.1 403 ")
        finally:
            proxy.close()


async def test_a_program_that_goes_away_while_it_is_connected_leaves_nothing(proxy: InProcess) -> None:
    release = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:
            release.set()

    async with serving(wait) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port))
        program = await tunnelled(agent, "127.0.0.1", port)
        program.reset()
        async with asyncio.timeout(WAIT_S):
            await release.wait()


async def test_a_handshake_that_servers_read_differently_goes_nowhere_though_the_port_is_not_for_tls_alone(proxy: InProcess) -> None:
    right = client_hello("echo.test")
    name = b"echo.test"
    twisted = {
        "a dot at the end": right.replace(name, b"evil.tes."),
        "a record behind it": right[:3] + (len(right) - 5 + 4).to_bytes(2, "big") + right[5:] + b"\x01\0\0\0",
        "longer than any": (b"\x16\x03\x01\x40\x00\x01\x00\x50\x00" + right[9:]).ljust(5 + 0x4000, b"\0"),
    }
    async with serving(echo) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port, allow=(f"echo.test:{port}",)))
        for data in twisted.values():
            program = await tunnelled(agent, "echo.test", port)
            await program.write(data)
            assert (await program.read_all())[:1] in (b"", b"\x15")  # nothing of the echo, at most TLS's own refusal
        assert [each.rule for each in agent.decisions if each.verdict is Verdict.DENIED] == ["tls name"] * len(twisted)


@pytest.mark.parametrize("host", ["proxy.corp.test", "PROXY.corp.test."])
async def test_nobody_speaks_to_the_upstream_proxy_itself(host: str) -> None:
    proxy = InProcess(names(proxy_corp_test="127.0.0.1"), upstream="http://Proxy.corp.test:3128")
    try:
        agent = Agent()
        proxy.join(agent, EgressRules(allow=(parse_rule("proxy.corp.test:3128"),)))
        program = agent.connect()
        await program.write(f"CONNECT {host}:3128 HTTP/1.1\r\nHost: {host}:3128\r\n\r\n".encode())
        assert (await program.read_all()).startswith(b"HTTP/1.1 403 ")
        await agent.decision(Verdict.DENIED, rule="upstream proxy")
    finally:
        proxy.close()


async def test_port_0_is_nowhere(proxy: InProcess) -> None:
    agent = Agent()
    proxy.join(agent, EgressRules())
    assert await agent.connect(TRANSPARENT, "203.0.113.10", 0).closed() == errno.EACCES
    await agent.decision(Verdict.DENIED, rule="port")


async def test_hints_name_what_helps(proxy: InProcess) -> None:
    agent = Agent()
    proxy.join(agent, EgressRules(deny=(parse_rule("*.tracker.test"),)))
    for host, helps in (
        ("inner.test", "the address range that it leads to, which `agentkernel network log NAME` shows"),
        ("10.1.2.3", "network allow NAME 10.1.2.3:443"),
        ("a.tracker.test", "network forget NAME '*.tracker.test'"),
    ):
        program = agent.connect()
        await program.write(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode())
        assert helps.encode() in await program.read_all()


@pytest.mark.parametrize(
    ("rules", "rule"),
    [
        (EgressRules(), "private address"),
        (EgressRules(deny=(parse_rule("10.1.2.0/24"),)), "deny 10.1.2.0/24"),
        (EgressRules(base=Base.NONE, allow=(parse_rule("inner.test:443"),)), "private address"),
    ],
)
async def test_a_refusal_tells_the_host_what_a_name_leads_to_and_the_sandbox_not(proxy: InProcess, rules: EgressRules, rule: str) -> None:
    agent = Agent()
    proxy.join(agent, rules)
    for head in (
        b"CONNECT inner.test:443 HTTP/1.1\r\nHost: inner.test:443\r\n\r\n",
        b"GET http://inner.test:443/ HTTP/1.1\r\nHost: inner.test:443\r\n\r\n",
    ):
        program = agent.connect()
        await program.write(head)
        answer = await program.read_all()
        assert answer.startswith(b"HTTP/1.1 403 inner.test leads to ")
        assert b"10.1" not in answer
        told = await agent.decision(Verdict.DENIED, host="inner.test", rule=rule)
        assert told.address == "10.1.2.3" and "10.1.2.3" in told.reason
        agent.decisions.clear()


async def test_a_failure_names_no_rule_by_which_a_name_is_known_to_lead_somewhere(proxy: InProcess) -> None:
    async with serving(echo) as port:
        pass  # nobody listens there any more
    agent = Agent()
    proxy.join(agent, loopback_rules(port))
    program = agent.connect()
    await program.write(f"CONNECT echo.test:{port} HTTP/1.1\r\nHost: echo.test:{port}\r\n\r\n".encode())
    answer = await program.read_all()
    assert answer.startswith(b"HTTP/1.1 502 ") and b"127.0.0" not in answer and b'"rule": "allowed address"' in answer
    assert (await agent.decision(Verdict.FAILED)).rule == f"allow 127.0.0.0/8:{port}"


async def test_neighbours_of_this_host_are_private_and_opened_by_their_range_alone(proxy: InProcess) -> None:
    proxy.server._around.own = lambda: frozenset({ip_network("203.0.113.0/24"), ip_network("2001:db8:7::/64")})
    agent = Agent()
    proxy.join(agent, EgressRules())
    for host in ("203.0.113.9", "[2001:db8:7::9]"):
        program = agent.connect()
        await program.write(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode())
        assert (await program.read_all()).startswith(b"HTTP/1.1 403 ")
        await agent.decision(Verdict.DENIED, host=host.strip("[]"), rule="address of the host's own network")


async def test_bytes_beyond_the_limit_end_every_connection_with_a_decision_that_says_so(proxy: InProcess) -> None:
    async with serving(echo) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port), EgressLimits(bytes_total=10_000))
        idle, busy = await tunnelled(agent, "127.0.0.1", port), await tunnelled(agent, "echo.test", port)
        await idle.write(b"hello")
        assert await idle.read(5) == b"hello"
        await busy.write(bytes(8_000))
        for program in (idle, busy):
            assert await program.closed() == errno.ECONNRESET
        for host in ("127.0.0.1", "echo.test"):
            decision = await agent.decision(Verdict.DENIED, host=host)
            assert (decision.rule, decision.port) == ("limit bytes", port) and "used up the bytes" in decision.reason
        program = agent.connect()
        await program.write(f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        assert (await program.read_all()).startswith(b"HTTP/1.1 429 ")


async def test_rules_that_change_while_this_hosts_addresses_are_not_to_be_had_close_what_is_open(proxy: InProcess) -> None:
    def unknown() -> frozenset[IPv4Address]:
        raise OSError(errno.ENOBUFS, "no memory")

    async with serving(echo) as port:
        agent = Agent()
        session = proxy.join(agent, loopback_rules(port, allow=(f"echo.test:{port}",)))
        program = await tunnelled(agent, "echo.test", port)
        proxy.server._around.own = unknown
        refused = agent.connect()
        await refused.write(f"CONNECT echo.test:{port} HTTP/1.1\r\nHost: echo.test:{port}\r\n\r\n".encode())
        assert (await refused.read_all()).startswith(b"HTTP/1.1 502 ")
        session.set_rules(loopback_rules(port))
        assert await program.closed() == errno.ECONNRESET
        assert not proxy.server.over.done()


async def test_connections_leave_descriptors_for_what_belongs_to_all(proxy: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(echo) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port))
        kept = await tunnelled(agent, "127.0.0.1", port)
        monkeypatch.setattr(connecting, "SPARE_FILES", 1 << 40)
        refused = agent.connect()
        await refused.write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        assert b"Too many open files" in await refused.read_all()
        await kept.write(b"hello")
        assert await kept.read(5) == b"hello"


async def test_who_asks_by_tcp_and_reads_no_answer_is_not_answered_on(proxy: InProcess) -> None:
    agent = Agent()
    proxy.join(agent, EgressRules(deny=(parse_rule("a.test"),)))
    message = query("a.test")[:10] + b"\0\1" + query("a.test")[12:] + b"\0\0\x29\x04\xd0\0\0\0\0\0\0"  # with EDNS the answer says why
    program = agent.connect(RESOLVER)
    program.reads = False
    asked = struct.pack(">H", len(message)) + message
    await program.write(asked * (FIRST_CREDIT_BYTES // len(asked)))
    await program.until(lambda: len(program.received) == FIRST_CREDIT_BYTES)
    for _ in range(1000):
        await asyncio.sleep(0)
    tunnel = proxy.server._sandboxes["0" * 16]._tunnels[program.ident]
    assert sum(map(len, tunnel._unsent)) < 512
