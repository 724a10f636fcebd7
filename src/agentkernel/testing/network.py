"""The filtered network: what is allowed is reached in every way that programs use, and the rest is refused with a reason."""

from __future__ import annotations

import asyncio
import ipaddress
import subprocess
from pathlib import Path

import pytest

from agentkernel.abc import Backend
from agentkernel.abc_network import Egress
from agentkernel.model.command import Command
from agentkernel.model.network import NOTHING, Verdict
from agentkernel.testing.base import shell
from agentkernel.testing.internet import GIT, GOOD, INNER, OTHER, PRIVATE, PUBLIC, Internet
from agentkernel.testing.internet_servers import BANNER
from agentkernel.testing.networked import PUBLIC_ONLY, NetworkedConformance, rules
from agentkernel.testing.talk import (
    END,
    REST,
    SOCKS_REPLY,
    WEBSOCKET_ECHO,
    WEBSOCKET_FRAME,
    Talk,
    connect,
    get,
    plain,
    say,
    send,
    socks,
    socks_address,
    until,
    websocket_request,
)

SYNTHETIC = ipaddress.ip_network("198.18.0.0/15")
HELLO = f"hello from {GOOD}\n".encode()
SOCKS_DENIED = 2


class ReachConformance(NetworkedConformance):
    """What is allowed."""

    async def test_http_tls_and_raw_connections_to_an_allowed_host(self, backend: Backend, gate: Egress, internet: Internet) -> None:
        allowed = rules(GOOD, f"{GOOD}:22")
        async with self.networked(backend, gate, allowed, internet.certificates) as box:
            authority = box.inside.home(internet.certificates.name)
            handshake = ("tls", (GOOD, authority))
            page = plain("/hello", GOOD)
            absolute, tunnelled, by_socks, secured, raw, raw_connect = await box.inside.talk(
                get(f"http://{GOOD}/hello"),
                connect(GOOD, 443, handshake, send(page), REST),
                socks(GOOD, 80, SOCKS_REPLY, send(page), REST),
                socks(GOOD, 443, SOCKS_REPLY, handshake, send(page), REST),
                socks(GOOD, 22, SOCKS_REPLY, ("read", len(BANNER)), send(b"ping"), END, REST),
                connect(GOOD, 22, ("read", len(BANNER)), send(b"ping"), END, REST),
            )
            assert (absolute.status, absolute.body, absolute.error) == (200, HELLO, "")
            for each in (tunnelled, by_socks, secured):
                assert each.data.endswith(HELLO) and not each.error, each
            for each in (raw, raw_connect):
                assert each.data.endswith(BANNER + b"ping") and not each.error, each
            assert internet.seen().addresses == {PUBLIC}
            (decision, *_) = await box.decided(Verdict.ALLOWED, GOOD)
            assert (decision.protocol, decision.port, decision.address, decision.rule) == ("http", 80, PUBLIC, f"allow {GOOD}")

    async def test_a_program_that_reads_the_environment_needs_no_more(self, backend: Backend, gate: Egress, internet: Internet) -> None:
        script = f"import urllib.request; print(urllib.request.urlopen('http://{GOOD}/hello').read().decode(), end='')"
        async with self.networked(backend, gate, rules(GOOD)) as box:
            result = await box.sandbox.exec(Command(argv=(b"python3", b"-c", script.encode()), timeout_s=20))
            assert (result.exit_code, result.stdout) == (0, HELLO), result.stderr

    async def test_curl_by_proxy_tls_and_socks(self, backend: Backend, gate: Egress, internet: Internet) -> None:
        script = (
            f"curl -sS http://{GOOD}/hello; curl -sS --cacert authority.pem https://{GOOD}/hello;"
            f"curl -sS -x socks5h://127.0.0.1:3128 http://{GOOD}/hello; curl -sS -o /dev/null -w '%{{http_code}} ' http://{OTHER}/hello;"
            f"curl -sS http://{OTHER}/hello"
        )
        async with self.networked(backend, gate, rules(GOOD), internet.certificates) as box:
            if (await box.sandbox.exec(Command(argv=shell("command -v curl")))).exit_code != 0:
                pytest.skip("the sandbox's root has no curl")
            home = box.sandbox.spec.user.home
            result = await box.sandbox.exec(Command(argv=shell(script), cwd=home, timeout_s=30))
            assert result.stdout.startswith(3 * HELLO + b"403 {"), result
            assert b"network allow" in result.stdout

    async def test_bodies_of_every_framing_pass_whole(self, backend: Backend, gate: Egress, internet: Internet) -> None:
        chunked = f"POST http://{GOOD}/echo HTTP/1.1\r\nHost: {GOOD}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        async with self.networked(backend, gate, rules(GOOD)) as box:
            by_length, by_chunks, large, one, two = await box.inside.talk(
                get(f"http://{GOOD}/echo", method="POST", body="x" * 100_000),
                say(chunked + "5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\n"),
                get(f"http://{GOOD}/bytes/5000000"),
                *2 * [get(f"http://{GOOD}/head", "X-Kept: yes", "Proxy-Authorization: Basic AAAA", "Connection: X-Hop", "X-Hop: no")],
            )
            assert by_length.body == b"x" * 100_000
            assert by_chunks.body == b"hello world"
            assert len(large.body) == 5_000_000 and large.body[:256] == bytes(range(256))
            for each in (one, two):
                assert b"X-Kept: yes" in each.body and b"GET /head HTTP/1.1" in each.body
                assert b"proxy-authorization" not in each.body.lower() and b"x-hop: no" not in each.body.lower()

    async def test_clients_of_every_age_are_understood(self, backend: Backend, gate: Egress, internet: Internet) -> None:
        page = send(plain("/hello", GOOD))
        kept = f"GET http://{GOOD}/hello HTTP/1.1\r\nHost: {GOOD}\r\nProxy-Connection: keep-alive\r\n\r\n"
        waits = (
            f"POST http://{GOOD}/echo HTTP/1.1\r\nHost: {GOOD}\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
        )
        connects = ("", f"Host: {GOOD}\r\n", f"Host: {GOOD}:80\r\nProxy-Connection: keep-alive\r\nUser-Agent: old\r\n")
        async with self.networked(backend, gate, rules(GOOD)) as box:
            old, twice, head, upper, continued, *tunnels = await box.inside.talk(
                say(f"GET http://{GOOD}/hello HTTP/1.0\r\n\r\n"),
                Talk(steps=(send(kept), until(HELLO), send(kept), until(HELLO))),
                get(f"http://{GOOD}/hello", method="HEAD"),
                get(f"http://{GOOD.upper()}:80/hello"),
                Talk(steps=(send(waits), until(), send(b"hello"), until(b"\r\n\r\nhello"))),
                *(
                    Talk(steps=(send(f"CONNECT {GOOD}:80 HTTP/1.{minor}\r\n{fields}\r\n"), until(), page, REST))
                    for fields in connects
                    for minor in (0, 1)
                    if fields or not minor
                ),
            )
            assert old.data.endswith(HELLO) and twice.data.count(HELLO) == 2 and not twice.error
            assert (head.status, head.body, upper.status) == (200, b"", 200)
            assert continued.status == 100 and continued.data.endswith(b"\r\n\r\nhello")
            assert [each.data.endswith(HELLO) for each in tunnels] == [True] * len(tunnels), tunnels

    async def test_a_websocket_through_the_proxy(self, backend: Backend, gate: Egress, internet: Internet) -> None:
        echo = (send(WEBSOCKET_FRAME), ("read", len(WEBSOCKET_ECHO)))
        async with self.networked(backend, gate, rules(GOOD), internet.certificates) as box:
            handshake = ("tls", (GOOD, box.inside.home(internet.certificates.name)))
            by_url, by_tunnel = await box.inside.talk(
                Talk(steps=(send(websocket_request(f"http://{GOOD}/ws", GOOD)), until(), *echo, *echo)),
                connect(GOOD, 443, handshake, send(websocket_request("/ws", GOOD)), until(), *echo),
            )
            assert by_url.status == 101 and by_url.data.endswith(2 * WEBSOCKET_ECHO), by_url
            assert by_tunnel.data.endswith(WEBSOCKET_ECHO), by_tunnel

    async def test_git_clones_over_https(self, backend: Backend, gate: Egress, internet: Internet, tmp_path: Path) -> None:
        _make_repository(internet.repositories / "project.git", tmp_path)
        clone = f"git -c http.sslCAInfo=$HOME/authority.pem clone -q https://{GIT}/git/project.git cloned"
        script = f"{clone} && cat cloned/README && wc -c < cloned/large"
        async with self.networked(backend, gate, rules(GIT), internet.certificates) as box:
            if (await box.sandbox.exec(Command(argv=shell("command -v git")))).exit_code != 0:
                pytest.skip("the sandbox's root has no git")
            home = box.sandbox.spec.user.home
            result = await box.sandbox.exec(Command(argv=shell(script), environment={b"HOME": home.encode()}, cwd=home, timeout_s=60))
            assert result.stdout.split() == [b"cloned", b"2000000"], result

    async def test_a_name_stands_for_an_address_of_its_own(self, backend: Backend, gate: Egress, internet: Internet) -> None:
        async with self.networked(backend, gate, rules(GOOD, f"{OTHER}:22")) as box:
            good, other, denied, again = await box.inside.talk(*(Talk(name=name) for name in (GOOD, OTHER, INNER, GOOD)))
            assert good.data and good.data == again.data and good.data != other.data
            for each in (good, other):
                assert ipaddress.ip_address(each.data.decode()) in SYNTHETIC
            assert denied.error.startswith("gaierror")
            assert internet.seen().lookups == {}, "nothing is asked outside for a look-up"
            by_address = await box.inside.one(socks_address(good.data.decode(), 80, SOCKS_REPLY, send(plain("/hello", GOOD)), REST))
            assert by_address.data.endswith(HELLO)


class RefusalConformance(NetworkedConformance):
    """What is not."""

    async def test_a_refusal_says_which_rule_and_what_to_ask_for(self, backend: Backend, gate: Egress, internet: Internet) -> None:
        async with self.networked(backend, gate, rules(GOOD, deny=(f"www.{GOOD}",))) as box:
            unnamed, denied, tunnel, by_socks, other_port, resolved = await box.inside.talk(
                get(f"http://{OTHER}/hello"),
                get(f"http://www.{GOOD}/hello"),
                connect(OTHER, 443),
                socks(OTHER, 80, REST),
                get(f"http://{GOOD}:8080/hello"),
                Talk(name=OTHER),
            )
            for each, host in ((unnamed, OTHER), (denied, f"www.{GOOD}"), (tunnel, OTHER), (other_port, GOOD)):
                refusal = each.refusal()
                assert (each.status, refusal["code"]) == (403, "egress_denied"), each
                ask = "network forget" if each is denied else "network allow"
                assert host in refusal["message"] and ask in refusal["hint"] and host in refusal["hint"]
                await box.decided(Verdict.DENIED, host)
            assert denied.refusal()["rule"] == f"deny www.{GOOD}"
            assert by_socks.data[2:4] == bytes((5, SOCKS_DENIED))
            assert resolved.error.startswith("gaierror")
            seen = internet.seen()
            assert (seen.connections, seen.lookups) == ({}, {})

    async def test_without_rules_there_is_nothing(self, backend: Backend, gate: Egress, internet: Internet) -> None:
        async with self.networked(backend, gate, NOTHING) as box:
            page, by_address, by_socks, name, direct = await box.inside.talk(
                get(f"http://{GOOD}/hello"),
                get(f"http://{PUBLIC}/hello"),
                socks(GOOD, 22, REST),
                Talk(name=GOOD),
                Talk(to=(PUBLIC, 80), steps=(send(plain("/hello", GOOD)), ("read", 1)), timeout_s=3),
            )
            assert (page.status, by_address.status) == (403, 403)
            assert by_socks.data[2:4] == bytes((5, SOCKS_DENIED))
            assert name.error and direct.error
            assert internet.seen().connections == {}

    async def test_the_public_internet_does_not_hold_the_hosts_networks(self, backend: Backend, gate: Egress, internet: Internet) -> None:
        async with self.networked(backend, gate, PUBLIC_ONLY) as box:
            good, inner, private = await box.inside.talk(
                get(f"http://{GOOD}/hello"), get(f"http://{INNER}/hello"), get(f"http://{PRIVATE}/hello")
            )
            assert (good.status, inner.status, private.status) == (200, 403, 403)
            assert internet.seen().addresses == {PUBLIC}

    async def test_rules_change_while_it_runs(self, backend: Backend, gate: Egress, internet: Internet) -> None:
        async with self.networked(backend, gate, rules(GOOD, f"{GOOD}:22")) as box:
            held = asyncio.create_task(box.inside.one(socks(GOOD, 22, SOCKS_REPLY, ("read", len(BANNER)), REST)))
            await box.decided(Verdict.ALLOWED, GOOD)
            assert (await box.inside.one(get(f"http://{OTHER}/hello"))).status == 403
            box.place.change(rules(OTHER))
            cut = await asyncio.wait_for(held, 20)
            assert cut.error.startswith("ConnectionResetError"), cut
            after, other = await box.inside.talk(get(f"http://{GOOD}/hello"), get(f"http://{OTHER}/hello"))
            assert (after.status, other.status) == (403, 200)

    async def test_what_cannot_be_reached_is_no_refusal(self, backend: Backend, gate: Egress, internet: Internet) -> None:
        internet.name("gone.example", [])
        async with self.networked(backend, gate, rules(f"{GOOD}:81", "gone.example")) as box:
            closed, unknown, by_socks = await box.inside.talk(get(f"http://{GOOD}:81/"), get("http://gone.example/"), socks(GOOD, 81, REST))
            assert (closed.status, unknown.status) == (502, 502)
            assert closed.refusal()["code"] == "egress_failed"
            assert by_socks.data[3] == 5, "connection refused"
            await box.decided(Verdict.FAILED, GOOD)


def _make_repository(bare: Path, scratch: Path) -> None:
    """A bare repository of one commit with a small and a large file."""
    work = scratch / "work"
    work.mkdir()
    (work / "README").write_text("cloned\n")
    (work / "large").write_bytes(bytes(2_000_000))
    who = ("-c", "user.name=tests", "-c", "user.email=tests@example", "-c", "init.defaultBranch=main")
    steps = (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "first"), ("clone", "-q", "--bare", str(work), str(bare)))
    for step in steps:
        subprocess.run(["git", *who, *step], cwd=work, check=True, capture_output=True)
