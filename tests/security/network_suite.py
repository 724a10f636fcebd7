"""What a hostile program cannot do with a filtered network: a suite that every backend runs, and its controls, which do without the filter."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from security.network_attacks import (
    FOR_WHOM,
    GARBAGE,
    LOOKALIKES,
    REFUSED_IPV4,
    REFUSED_IPV6,
    REFUSED_NAMES,
    TWISTED,
    mistaken_tls,
    smuggled,
    spellings,
    to_address,
    to_host,
)
from security.oracle import resident_bytes

from agentkernel.abc import Backend
from agentkernel.abc_network import Egress
from agentkernel.model.command import Command
from agentkernel.model.isolation import Feature, Fingerprint, Support
from agentkernel.model.network import EgressRules, Verdict
from agentkernel.testing.base import MIB, eventually, read_until, shell
from agentkernel.testing.host import descendants
from agentkernel.testing.internet import GOOD, INNER, OTHER, PRIVATE, PUBLIC, PUBLIC_OTHER, Internet
from agentkernel.testing.networked import PUBLIC_ONLY, Networked, NetworkedConformance, rules
from agentkernel.testing.talk import (
    CALLER,
    END,
    PROXY,
    RESET,
    RESOLVER,
    REST,
    SOCKS_REPLY,
    Step,
    Talk,
    Talked,
    connect,
    get,
    lookup,
    plain,
    read_talked,
    say,
    send,
    socks,
)

HELLO = f"hello from {GOOD}\n".encode()
AT_ONCE = 400  # talks of one run of the caller
MEMORY_BYTES = 96 * MIB  # that the egress process may grow by, whatever is sent to it
# Opens as many connections as it may and holds them; says how many. Then as many that are reset at once, again and again.
DATAGRAMS = ((PUBLIC, 9999), (PUBLIC, 443), ("169.254.169.254", 123), ("2a00:1450::10", 443), ("10.1.2.3", 161))
METADATA_NAME = "metadata.google.internal"
ENDINGS: tuple[tuple[Step, ...], ...] = ((RESET,), (END, REST))
# What a program could make to get around TCP; prints what it got.
SOCKETS = """
import os, socket
for family, kind, protocol in ((socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP), (socket.AF_INET6, socket.SOCK_RAW, 58),
                               (socket.AF_PACKET, socket.SOCK_RAW, 0x300), (socket.AF_INET, socket.SOCK_RAW, 255), (40, socket.SOCK_STREAM, 0)):
    try: socket.socket(family, kind, protocol); print("made", family, kind, protocol)
    except OSError: pass
try:
    ping = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP); ping.settimeout(1)
    ping.sendto(b"\\x08\\0\\xf7\\xff\\0\\0\\0\\0", ("203.0.113.10", 0)); print("pinged", ping.recv(99))
except OSError: pass
print(*set(os.listdir("/sys/class/net") if os.path.isdir("/sys/class/net") else []) - {"lo"}, sep="\\n", end="")
"""
HOLD = """
import socket, struct, sys
held = []
for number in range(2000):
    sock = socket.socket(); sock.setblocking(False)
    try: sock.connect(("127.0.0.1", (3128, 53)[number % 8 == 7]))
    except BlockingIOError: pass
    held.append(sock)
for sock in held[::2]:
    try: sock.send(b"G" if sock.fileno() % 3 else b"\\x05")
    except OSError: pass
print("held", len(held), flush=True)
sys.stdin.read()
for sock in held: sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); sock.close()
for number in range(3000):
    sock = socket.create_connection(("127.0.0.1", 3128), 10)
    sock.sendall(b"GET http://good.example/bytes/900000 HTTP/1.1\\r\\nHost: good.example\\r\\n\\r\\n" if number % 2 else b"CONNECT good.ex")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); sock.close()
print("reset", flush=True)
"""


class NetworkAttacks(NetworkedConformance):
    """A subclass names the backend and its egress proxy, as for the conformance suite."""

    @asynccontextmanager
    async def hostile(
        self, backend: Backend, fingerprint: Fingerprint, gate: Egress, allowed: EgressRules, *files: Path, **changes: Any
    ) -> AsyncIterator[Networked]:
        """A sandbox with every way to the network that the backend has."""
        transparent = fingerprint.support(Feature.TRANSPARENT_NETWORK) is not Support.REFUSED
        async with self.networked(backend, gate, allowed, *files, transparent_network=transparent, **changes) as box:
            yield box

    # -- where to

    async def test_addresses_that_are_not_public_in_every_spelling(
        self, backend: Backend, fingerprint: Fingerprint, gate: Egress, internet: Internet
    ) -> None:
        tried = [talk for address in REFUSED_IPV4 for spelled in spellings(address) for talk in to_host(spelled)]
        tried += [talk for address in (*REFUSED_IPV4, *REFUSED_IPV6) for talk in to_address(address)]
        async with self.hostile(backend, fingerprint, gate, PUBLIC_ONLY) as box:
            await _all_refused(box, tried, internet)
            assert (await box.inside.one(get(f"http://{GOOD}/hello"))).body == HELLO

    def test_control_these_addresses_answer_whoever_is_not_filtered(self, internet: Internet) -> None:
        spelled = ["0x7f.1", "2130706433", "0177.0.0.1", "10.1.2.3", "0xa9fea9fe", "::ffff:127.0.0.1"]
        direct = [Talk(to=(each, 80), steps=(send(plain("/hello", "x")), REST)) for each in (*spelled, *REFUSED_IPV4[:14])]
        answered = _outside(internet, direct)
        assert [each.error for each in answered] == [""] * len(direct)
        assert {"127.0.0.1", "169.254.169.254", PRIVATE} <= internet.seen().addresses
        if internet.has_ipv6:
            assert _outside(internet, [Talk(to=("fd00:ec2::254", 80), steps=(send(plain("/hello", "x")), REST))])[0].body

    async def test_names_of_the_host_and_its_cloud(
        self, backend: Backend, fingerprint: Fingerprint, gate: Egress, internet: Internet
    ) -> None:
        for name in REFUSED_NAMES:
            internet.name(name.lower().rstrip("."), [[PUBLIC_OTHER]])
        async with self.hostile(backend, fingerprint, gate, PUBLIC_ONLY) as box:
            await _all_refused(box, [talk for name in REFUSED_NAMES for talk in to_host(name)], internet)
            resolved = await box.inside.talk(*(Talk(name=name) for name in REFUSED_NAMES if "localhost" not in name.lower()))
            assert [each.data for each in resolved] == [b""] * len(resolved)
            assert internet.seen().lookups == {}

    async def test_names_that_lead_where_nobody_may_go(
        self, backend: Backend, fingerprint: Fingerprint, gate: Egress, internet: Internet
    ) -> None:
        leading = {f"to-{number}.example": [address] for number, address in enumerate((*REFUSED_IPV4, *REFUSED_IPV6))}
        for name, addresses in leading.items():
            internet.name(name, [addresses])
        internet.name("mixed.example", [[PRIVATE, "127.0.0.1", PUBLIC, "fd00:ec2::254"]])
        async with self.hostile(backend, fingerprint, gate, rules(*leading, "mixed.example", base=PUBLIC_ONLY.base)) as box:
            await _all_refused(box, [talk for name in leading for talk in to_host(name)], internet)
            mixed = await box.inside.talk(*5 * [get("http://mixed.example/hello")])
            assert {each.status for each in mixed} == {200}
            assert internet.seen().addresses == {PUBLIC}

    async def test_a_name_that_answers_differently_the_second_time(
        self, backend: Backend, fingerprint: Fingerprint, gate: Egress, internet: Internet
    ) -> None:
        turns = [[PUBLIC], ["127.0.0.1"], ["169.254.169.254"], [PRIVATE]]
        async with self.hostile(backend, fingerprint, gate, PUBLIC_ONLY) as box:
            for first in range(4):
                internet.name("rebind.example", 10 * (turns[first:] + turns[:first]))
                page = send(plain("/hello", "rebind.example"))
                by_socks, tunnel = socks("rebind.example", 80, SOCKS_REPLY, page, REST), connect("rebind.example", 80, page, REST)
                tried = [get("http://rebind.example/hello"), by_socks, tunnel, get("http://rebind.example/hello")]
                got = await box.inside.talk(*tried, Talk(to=("rebind.example", 80), steps=(page, REST)))
                assert any(b"hello from" in each.data for each in got), "a control: one of the turns is allowed"
            assert internet.seen().addresses == {PUBLIC}

    def test_control_who_checks_a_name_and_then_connects_to_it_is_led_astray(self, internet: Internet) -> None:
        internet.name("rebind.example", [[PUBLIC], ["127.0.0.1"]])
        checked, _ = _outside(internet, [Talk(name="rebind.example"), Talk(to=("rebind.example", 80), steps=())])
        assert checked.data == PUBLIC.encode()
        assert internet.seen().addresses == {"127.0.0.1"}

    async def test_redirects_lead_nowhere_else(self, backend: Backend, fingerprint: Fingerprint, gate: Egress, internet: Internet) -> None:
        places = ("http://169.254.169.254/latest/meta-data/", f"http://{INNER}/hello", "http://127.0.0.2/hello", "http://[fd00:ec2::254]/")
        async with self.hostile(backend, fingerprint, gate, PUBLIC_ONLY) as box:
            for place in places:
                result = await box.sandbox.exec(_following(f"http://{GOOD}/redirect?{place}"))
                assert b"403" in result.stdout, result
            assert internet.seen().addresses == {PUBLIC}

    def test_control_who_follows_redirects_gets_there(self, internet: Internet) -> None:
        argv = [part.decode() for part in _following(f"http://{GOOD}/redirect?http://169.254.169.254/hello").argv]
        assert (
            subprocess.run([*internet.inside(), *argv], capture_output=True, env={"PATH": os.environ["PATH"]}, check=True).stdout
            == b"200\n"
        )
        assert "169.254.169.254" in internet.seen().addresses

    async def test_addresses_of_other_sandboxes(self, backend: Backend, fingerprint: Fingerprint, gate: Egress, internet: Internet) -> None:
        async with (
            self.hostile(backend, fingerprint, gate, rules(GOOD, OTHER)) as first,
            self.hostile(backend, fingerprint, gate, rules(GOOD)) as second,
        ):
            good, other = await first.inside.talk(Talk(name=GOOD), Talk(name=OTHER))
            addresses = [each.data.decode() for each in (good, other)]
            await _all_refused(second, [talk for address in addresses for talk in to_address(address)], internet)

    # -- whom for

    async def test_names_that_only_look_like_an_allowed_one(
        self, backend: Backend, fingerprint: Fingerprint, gate: Egress, internet: Internet
    ) -> None:
        for name in LOOKALIKES:
            internet.name(name, [[PUBLIC_OTHER]])
        async with self.hostile(backend, fingerprint, gate, rules(GOOD, f"*.{GOOD}")) as box:
            await _all_refused(box, [talk for name in (*LOOKALIKES, *TWISTED) for talk in to_host(name)], internet)
            assert internet.seen().lookups == {}, "nothing is asked outside for a name that no rule allows"
            same = await box.inside.talk(
                *(get(f"http://{name}/hello") for name in (GOOD.upper(), f"{GOOD}.", f"www.{GOOD}", f"WWW.{GOOD}."))
            )
            assert [each.status for each in same] == [200] * 4
            bare = rules(f"*.{GOOD}")
            box.place.change(bare)
            assert (await box.inside.one(get(f"http://{GOOD}/hello"))).status == 403

    async def test_an_address_is_not_the_name_that_leads_to_it(
        self, backend: Backend, fingerprint: Fingerprint, gate: Egress, internet: Internet
    ) -> None:
        async with self.hostile(backend, fingerprint, gate, rules(GOOD)) as box:
            tried = [*to_address(PUBLIC), *to_address(PUBLIC, 443), get(f"http://{PUBLIC}/hello", f"X-Host: {GOOD}")]
            await _all_refused(box, [*tried, connect(PUBLIC, 443, ("tls", (GOOD, "")), REST)], internet)

    async def test_a_handshake_for_another_host(self, backend: Backend, fingerprint: Fingerprint, gate: Egress, internet: Internet) -> None:
        async with self.hostile(backend, fingerprint, gate, rules(GOOD)) as box:
            got = await box.inside.talk(*mistaken_tls())
            assert [each.data for each in got if b"fronted" in each.data or b"404" in each.data] == []
            seen = internet.seen()
            assert [each for each in seen.requests if "fronted" in each] == []
            assert seen.addresses <= {PUBLIC}

    async def test_requests_that_are_for_two_hosts(
        self, backend: Backend, fingerprint: Fingerprint, gate: Egress, internet: Internet
    ) -> None:
        async with self.hostile(backend, fingerprint, gate, rules(GOOD)) as box:
            await box.inside.talk(*map(say, FOR_WHOM))
            seen = internet.seen()
            assert [each for each in seen.requests if OTHER in each] == []
            assert seen.addresses <= {PUBLIC}
            assert set(seen.lookups) <= {GOOD}

    async def test_requests_hidden_in_bodies(self, backend: Backend, fingerprint: Fingerprint, gate: Egress, internet: Internet) -> None:
        """Whatever the proxy makes of it, the server must not see a request that the proxy did not see."""
        async with self.hostile(backend, fingerprint, gate, rules(GOOD)) as box:
            await box.inside.talk(*(Talk(steps=(send(data), END, REST)) for data in smuggled()))
            assert [each for each in internet.seen().requests if "smuggled" in each] == [], "the number is the one in SMUGGLED"
            assert (await box.inside.one(get(f"http://{GOOD}/hello"))).body == HELLO

    def test_control_a_server_sees_what_is_hidden(self, internet: Internet) -> None:
        raw = next(smuggled()).replace(f"POST http://{GOOD}/".encode(), b"POST /")
        _outside(internet, [Talk(to=(PUBLIC, 80), steps=(send(raw), REST))])
        assert any("smuggled" in each for each in internet.seen().requests)

    # -- other ways out

    async def test_no_datagram_no_raw_socket_and_no_other_interface(
        self, backend: Backend, fingerprint: Fingerprint, gate: Egress, internet: Internet
    ) -> None:
        async with self.hostile(backend, fingerprint, gate, PUBLIC_ONLY) as box:
            datagrams = [Talk(to=(to, port), udp=True, steps=(send(b"x"), ("read", 1)), timeout_s=2) for to, port in DATAGRAMS]
            silent = await box.inside.talk(*datagrams)
            assert [each.data for each in silent] == [b""] * len(datagrams)
            asked = Talk(to=(PUBLIC_OTHER, 53), udp=True, steps=(send(lookup(METADATA_NAME)), ("read", 12)), timeout_s=2)
            answered = await box.inside.one(asked)
            assert answered.data[6:8] in (b"", b"\0\0"), "a resolver of the program's choice gives no address"
            made = await box.sandbox.exec(Command(argv=(b"python3", b"-c", SOCKETS.encode()), timeout_s=20))
            assert (made.exit_code, made.stdout) == (0, b""), made
            seen = internet.seen()
            assert (seen.connections, seen.lookups) == ({}, {})

    # -- the listeners themselves

    async def test_garbage_hurts_nobody(self, backend: Backend, fingerprint: Fingerprint, gate: Egress, internet: Internet) -> None:
        listeners = [
            PROXY,
            RESOLVER,
            *([("127.0.0.1", 3129)] if fingerprint.support(Feature.TRANSPARENT_NETWORK) is Support.NATIVE else []),
        ]
        async with self.hostile(backend, fingerprint, gate, rules(GOOD)) as box:
            said = [Talk(to=to, steps=(send(data), *ending), timeout_s=3) for to in listeners for data in GARBAGE for ending in ENDINGS]
            said += [Talk(to=RESOLVER, udp=True, steps=(send(data[:60_000]),)) for data in GARBAGE if data]
            await box.inside.talk(*said)
            assert (await box.inside.one(get(f"http://{GOOD}/hello"))).body == HELLO
            assert internet.seen().addresses <= {PUBLIC}

    async def test_thousands_of_connections_that_say_little_hurt_nobody(
        self, backend: Backend, fingerprint: Fingerprint, gate: Egress, internet: Internet
    ) -> None:
        async with (
            self.hostile(backend, fingerprint, gate, rules(GOOD)) as box,
            self.hostile(backend, fingerprint, gate, rules(GOOD)) as neighbour,
        ):
            assert (await neighbour.inside.one(get(f"http://{GOOD}/hello"))).body == HELLO
            before = _resident_bytes()
            process = await box.sandbox.start(Command(argv=(b"python3", b"-c", HOLD.encode()), stdin=True, timeout_s=60))
            await read_until(process, b"held 2000", within_s=30)
            assert (await box.sandbox.exec(Command(argv=shell("echo alive"), timeout_s=20))).stdout == b"alive\n"
            assert (await neighbour.inside.one(get(f"http://{GOOD}/hello"))).body == HELLO
            await process.close_stdin()
            assert (await process.wait()).exit_code == 0
            for each in (box, neighbour):
                assert (await each.inside.one(get(f"http://{GOOD}/hello"))).body == HELLO
            assert _resident_bytes() - before < MEMORY_BYTES

    async def test_who_sends_and_never_reads_costs_little(
        self, backend: Backend, fingerprint: Fingerprint, gate: Egress, internet: Internet
    ) -> None:
        page = f"GET http://{GOOD}/bytes/1000000 HTTP/1.1\r\nHost: {GOOD}\r\n\r\n"
        huge = send(f"POST http://{GOOD}/echo HTTP/1.1\r\nHost: {GOOD}\r\nContent-Length: 400000000\r\n\r\n")
        echo = socks(GOOD, 7, SOCKS_REPLY, ("flood", 400_000_000))
        async with self.hostile(backend, fingerprint, gate, rules(GOOD, f"{GOOD}:7")) as box:
            assert (await box.inside.one(get(f"http://{GOOD}/hello"))).body == HELLO
            before = _resident_bytes()
            stuck = [Talk(steps=echo.steps, count=20, timeout_s=3), Talk(steps=(send(page * 500), ("read", 1), ("pause", 2)), count=20)]
            await box.inside.talk(*stuck, Talk(steps=(huge, RESET)))
            assert _resident_bytes() - before < MEMORY_BYTES
            assert (await box.inside.one(get(f"http://{GOOD}/hello"))).body == HELLO

    async def test_the_death_of_the_proxy_opens_nothing_and_lasts_a_moment(
        self, backend: Backend, fingerprint: Fingerprint, gate: Egress, internet: Internet
    ) -> None:
        async with self.hostile(backend, fingerprint, gate, rules(GOOD, f"{GOOD}:7")) as box:
            held = asyncio.create_task(box.inside.one(socks(GOOD, 7, SOCKS_REPLY, send(b"x"), ("read", 1), REST)))
            await box.decided(Verdict.ALLOWED, GOOD)
            (pid,) = _egress_processes()
            os.kill(pid, signal.SIGKILL)
            assert (await asyncio.wait_for(held, 20)).error.startswith("ConnectionResetError")

            async def is_back() -> bool:
                refused, allowed = await box.inside.talk(get(f"http://{OTHER}/hello"), get(f"http://{GOOD}/hello"))
                return (refused.status, allowed.status) == (403, 200)

            assert await eventually(is_back)
            assert internet.seen().addresses == {PUBLIC}


async def _all_refused(box: Networked, talks: Sequence[Talk], internet: Internet) -> None:
    """Has all the talks; none may reach a server, and nothing may answer as one."""
    internet.forget()
    for start in range(0, len(talks), AT_ONCE):
        got = await box.inside.talk(*talks[start : start + AT_ONCE])
        seen = internet.seen()
        reached = [
            talk.json() for talk, each in zip(talks[start:], got, strict=False) if b" 200 " in each.data[:20] or b"hello" in each.data
        ]
        assert (seen.connections, reached) == ({}, []), seen.requests


def _outside(internet: Internet, talks: Sequence[Talk]) -> list[Talked]:
    """The same talks without a filter: by a program of the host's in the suite's internet."""
    text = json.dumps([talk.json() for talk in talks])
    done = subprocess.run([*internet.inside(), "/usr/bin/python3", str(CALLER)], input=text.encode(), capture_output=True, check=True)
    return read_talked(done.stdout)


def _following(url: str) -> Command:
    """Asks for a URL and follows redirects; prints the last status."""
    script = (
        "import sys, urllib.request, urllib.error\n"
        "try: print(urllib.request.urlopen(sys.argv[1], timeout=10).status)\n"
        "except urllib.error.HTTPError as error: print(error.code)\n"
        "except OSError as error: print(error)"
    )
    return Command(argv=(b"python3", b"-c", script.encode(), url.encode()), timeout_s=20)


def _egress_processes() -> list[int]:
    """The egress process of this one."""
    found = []
    for pid in descendants(os.getpid()):
        try:
            if b"agentkernel.egress" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue  # it ended meanwhile
    return found


def _resident_bytes() -> int:
    """What the processes that carry the connections hold in memory: this one, and the egress process."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in _egress_processes())
    return resident_bytes() + pages * os.sysconf("SC_PAGE_SIZE")
