"""The filtered network under load and limits, for programs that know no proxy, and at the sandbox's end."""

from __future__ import annotations

import asyncio

from agentkernel.abc import Backend
from agentkernel.abc_network import Egress
from agentkernel.model.command import Command
from agentkernel.model.isolation import Feature, Fingerprint
from agentkernel.model.network import EgressLimits, Verdict
from agentkernel.testing.base import MIB, need, shell
from agentkernel.testing.host import leftovers, take
from agentkernel.testing.internet import GOOD, OTHER, PRIVATE, PUBLIC, Internet
from agentkernel.testing.internet_servers import BANNER
from agentkernel.testing.networked import PUBLIC_ONLY, NetworkedConformance, rules
from agentkernel.testing.talk import END, REST, SOCKS_REPLY, Talk, get, plain, send, socks, until

HELLO = f"hello from {GOOD}\n".encode()
MANY = 500


class LoadConformance(NetworkedConformance):
    """Many connections, and limits."""

    async def test_five_hundred_connections_at_once(self, backend: Backend, gate: Egress, internet: Internet) -> None:
        resources = self.resources(pids=None if self.base_spec().resources.pids is None else 2 * MANY)
        async with self.networked(backend, gate, rules(GOOD), resources=resources) as box:
            talk = get(f"http://{GOOD}/together/{MANY}")
            many = await box.inside.talk(Talk(steps=talk.steps, count=MANY, timeout_s=50))
            assert {each.error for each in many} == {""}
            assert {each.body for each in many} == {b"together\n"}
            assert internet.seen().connections == {f"{PUBLIC} 80": MANY}

    async def test_a_slow_reader_blocks_nobody(self, backend: Backend, gate: Egress, internet: Internet) -> None:
        size = 64 * MIB
        slow = f"GET http://{GOOD}/bytes/{size} HTTP/1.1\r\nHost: {GOOD}\r\nConnection: close\r\n\r\n"
        async with self.networked(backend, gate, rules(GOOD)) as box:
            gone_on = box.inside.home("go-on")
            await box.sandbox.exec(Command(argv=shell(f"mkfifo {gone_on}")))
            reading = asyncio.create_task(
                box.inside.one(Talk(steps=(send(slow), until(), ("wait", gone_on), ("count", size)), timeout_s=50))
            )
            await box.decided(Verdict.ALLOWED, GOOD)
            for _ in range(3):
                quick = await box.inside.one(get(f"http://{GOOD}/bytes/3000000"))
                assert len(quick.body) == 3_000_000
            assert not reading.done()
            assert (await box.sandbox.exec(Command(argv=shell(f"echo > {gone_on}")))).exit_code == 0
            assert (await asyncio.wait_for(reading, 60)).error == ""

    async def test_connections_and_bytes_are_limited(self, backend: Backend, gate: Egress, internet: Internet) -> None:
        limits = EgressLimits(connections=8, bytes_total=10 * MIB)
        async with self.networked(backend, gate, rules(GOOD, f"{GOOD}:22"), limits=limits) as box:
            let_go = box.inside.home("let-go")
            await box.sandbox.exec(Command(argv=shell(f"mkfifo {let_go}")))
            held = socks(GOOD, 22, SOCKS_REPLY, ("read", len(BANNER)))
            holding = asyncio.create_task(box.inside.talk(Talk(steps=(*held.steps, ("wait", let_go)), count=8)))
            await box.decided(Verdict.ALLOWED, GOOD, count=8)
            assert all(each.error for each in await box.inside.talk(Talk(steps=held.steps, count=5)))
            await box.decided(Verdict.DENIED, "", count=5)
            await box.sandbox.exec(Command(argv=shell(f"echo > {let_go}")))
            assert {each.error for each in await holding} == {""}
            some, more, after = await box.inside.talk(
                get(f"http://{GOOD}/bytes/{MIB}"), get(f"http://{GOOD}/bytes/{20 * MIB}"), get(f"http://{GOOD}/hello")
            )
            assert len(some.body) == MIB
            assert len(more.body) < 20 * MIB
            assert after.status == 429 and after.refusal()["rule"] == "limit bytes"

    async def test_nothing_stays_when_it_is_destroyed(self, backend: Backend, gate: Egress, internet: Internet) -> None:
        before = take(self.watched_directories())
        async with self.networked(backend, gate, rules(GOOD, f"{GOOD}:22")) as box:
            held = asyncio.create_task(box.inside.talk(socks(GOOD, 22, SOCKS_REPLY, ("read", len(BANNER)), REST)))
            await box.decided(Verdict.ALLOWED, GOOD)
            held.cancel()
        await gate.close()
        assert await leftovers(before, self.watched_directories()) == []


class TransparentConformance(NetworkedConformance):
    """Programs that know no proxy."""

    async def test_programs_that_know_no_proxy_go_by_the_rules(
        self, backend: Backend, fingerprint: Fingerprint, gate: Egress, internet: Internet
    ) -> None:
        need(fingerprint, Feature.TRANSPARENT_NETWORK)
        allowed = rules(GOOD, f"{GOOD}:22", f"{PUBLIC}/32:5432")
        async with self.networked(backend, gate, allowed, internet.certificates, transparent_network=True) as box:
            page = plain("/hello", GOOD)
            handshake = ("tls", (GOOD, box.inside.home(internet.certificates.name)))
            http, secured, raw, by_address, denied, refused = await box.inside.talk(
                Talk(to=(GOOD, 80), steps=(send(page), REST)),
                Talk(to=(GOOD, 443), steps=(handshake, send(page), REST)),
                Talk(to=(GOOD, 22), steps=(("read", len(BANNER)), send(b"ping"), END, REST)),
                Talk(to=(PUBLIC, 5432), steps=(send(b"ping"), END, REST)),
                Talk(to=(OTHER, 80), steps=(send(page), REST)),
                Talk(to=(PRIVATE, 80), steps=(send(page), REST)),
            )
            assert http.body == HELLO and secured.body == HELLO
            assert raw.data == BANNER + b"ping" and by_address.data == b"ping"
            assert denied.error.startswith("gaierror") and refused.error
            assert internet.seen().addresses == {PUBLIC}
            await box.decided(Verdict.DENIED, PRIVATE)

    async def test_what_is_no_tcp_fails_at_once(self, backend: Backend, fingerprint: Fingerprint, gate: Egress, internet: Internet) -> None:
        need(fingerprint, Feature.TRANSPARENT_NETWORK)
        async with self.networked(backend, gate, PUBLIC_ONLY, transparent_network=True) as box:
            datagram = await box.inside.one(Talk(to=(PUBLIC, 9999), udp=True, steps=(send(b"x"), ("read", 1)), timeout_s=5))
            assert datagram.error and "timed out" not in datagram.error
