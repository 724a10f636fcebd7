"""Parts of the egress process by themselves: synthetic addresses, limits on look-ups, what is told, look-ups in threads, own addresses."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from egress_world import Agent, InProcess, loopback_rules, names
from hypothesis import given
from hypothesis import strategies as st

from agentkernel.egress import names as synthetic
from agentkernel.egress import resolving, telling
from agentkernel.egress.messages import MAX_MESSAGE_BYTES, read
from agentkernel.egress.own import OwnAddresses, addresses_of, network_of
from agentkernel.egress.proxied import parse_proxy
from agentkernel.egress.reach import names_port
from agentkernel.egress.resolving import Resolver, UnresolvedError
from agentkernel.egress.telling import Teller
from agentkernel.errors import ProtocolViolation
from agentkernel.model.network import Base, Decision, EgressRules, Rule, Verdict


def decision(host: str, *, protocol: str = "connect", verdict: Verdict = Verdict.ALLOWED) -> Decision:
    return Decision(at=1.0, verdict=verdict, protocol=protocol, host=host, port=443)


@given(st.lists(st.integers(0, 40), max_size=200))
def test_every_name_has_one_address_and_every_address_one_name(wanted: list[int]) -> None:
    known = synthetic.Names()
    for number in wanted:
        address = known.address_of(f"n{number}.test")
        assert address in synthetic.SYNTHETIC
        assert known.name_of(address) == f"n{number}.test"
        assert known.address_of(f"n{number}.test") == address


def test_the_name_that_was_used_longest_ago_loses_its_address_and_nobody_gets_it_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "MAX_NAMES", 3)
    known = synthetic.Names()
    first, second = known.address_of("one.test"), known.address_of("two.test")
    known.address_of("three.test")
    assert known.name_of(first) == "one.test"  # now the second is the oldest
    fourth = known.address_of("four.test")
    assert known.name_of(second) is None
    assert fourth not in (first, second)
    assert known.address_of("two.test") not in (first, second, fourth)


def test_addresses_go_round_without_taking_one_that_is_used() -> None:
    known = synthetic.Names()
    kept = known.address_of("kept.test")
    known._next = 2 * (synthetic.SYNTHETIC.num_addresses - 2)
    assert known.address_of("other.test") == kept + 1
    assert IPv4Address("198.18.0.0") < kept < IPv4Address("198.19.255.255")


def test_distinct_names_are_counted_over_ten_seconds() -> None:
    lookups = synthetic.Lookups(1)
    assert [lookups.admit(f"n{number}", 0.0) for number in range(11)] == [True] * 10 + [False]
    assert lookups.admit("n3", 5.0)
    assert not lookups.admit("n11", 9.9)
    assert lookups.admit("n11", 10.0)
    assert [lookups.admit(f"m{number}", 10.0) for number in range(9)] == [True] * 8 + [False]


async def test_decisions_beyond_the_bound_are_counted_and_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "PER_S", 0.0)
    monkeypatch.setattr(telling, "_REPORT_S", 0.0)
    told: list[dict[str, object]] = []

    def send(message: bytes) -> bool:
        told.append(json.loads(message))
        return True

    teller = Teller("0" * 16, send, asyncio.get_running_loop())
    for number in range(telling.BURST + 7):
        teller.tell(decision(f"n{number}"))
    while len(told) <= telling.BURST:
        await asyncio.sleep(0)
    assert told[-1] == {"op": "dropped", "sandbox": "0" * 16, "count": 7}


async def test_what_the_engine_does_not_take_is_counted_until_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "_REPORT_S", 0.0)
    told: list[dict[str, object]] = []
    is_full, attempts = True, 0

    def send(message: bytes) -> bool:
        nonlocal attempts
        attempts += 1
        if not is_full:
            told.append(json.loads(message))
        return not is_full

    teller = Teller("0" * 16, send, asyncio.get_running_loop())
    teller.tell(decision("one"))
    while attempts < 3:
        await asyncio.sleep(0)
    teller.tell(decision("two"))
    is_full = False
    while not told:
        await asyncio.sleep(0)
    assert told == [{"op": "dropped", "sandbox": "0" * 16, "count": 2}]


async def test_repeated_lookups_are_told_once_and_connections_each_time() -> None:
    told: list[bytes] = []
    teller = Teller("0" * 16, lambda message: told.append(message) is None, asyncio.get_running_loop())
    for _ in range(3):
        teller.tell(decision("example.com", protocol="dns"))
        teller.tell(decision("example.com"))
    teller.tell(decision("example.com", protocol="dns", verdict=Verdict.DENIED))
    assert len(told) == 5


async def test_a_lookup_has_a_deadline_and_a_slow_one_keeps_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "DEADLINE_S", 0.05)
    release, finished = threading.Event(), threading.Event()

    def slow(host: str) -> list[str]:
        release.wait(10)
        finished.set()
        return ["192.0.2.1"]

    resolver, slots = Resolver(slow), asyncio.Semaphore(1)
    with pytest.raises(UnresolvedError, match="could not be looked up within"):
        await resolver.addresses("one.test", slots)
    assert slots.locked()
    with pytest.raises(UnresolvedError):
        await resolver.addresses("two.test", slots)
    release.set()
    async with asyncio.timeout(10):
        await slots.acquire()
    assert finished.is_set()


async def test_addresses_are_each_once_and_without_a_zone() -> None:
    resolver = Resolver(lambda _: ["192.0.2.1", "fe80::1%eth0", "192.0.2.1", "2001:db8::1"])
    assert await resolver.addresses("x.test", asyncio.Semaphore(1)) == [ip_address("192.0.2.1"), ip_address("2001:db8::1")]
    with pytest.raises(UnresolvedError, match="no address"):
        await Resolver(lambda _: []).addresses("x.test", asyncio.Semaphore(1))


def test_this_host_has_its_loopback_addresses_and_the_one_that_it_connects_from() -> None:
    own = OwnAddresses()()
    assert ip_address("127.0.0.1") in own
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return  # no route anywhere
        assert ip_address(probe.getsockname()[0]) in own


def test_of_a_point_to_point_link_only_this_end_is_the_hosts() -> None:
    one, other, all_of_them = (ip_address(f"203.0.113.{last}").packed for last in (5, 6, 255))
    assert set(addresses_of({1: other, 2: one})) == {ip_address("203.0.113.5")}
    assert set(addresses_of({1: one, 4: all_of_them})) == {ip_address("203.0.113.5"), ip_address("203.0.113.255")}


@pytest.mark.parametrize(
    ("address", "length", "network"),
    [
        ("203.0.113.5", 24, "203.0.113.0/24"),
        ("203.0.113.5", 31, "203.0.113.4/31"),
        ("203.0.113.5", 32, ""),
        ("203.0.113.5", 8, "203.0.0.0/8"),
        ("203.0.113.5", 7, ""),
        ("203.0.113.5", 0, ""),
        ("2001:db8:1:2::5", 64, "2001:db8:1:2::/64"),
        ("2001:db8:1:2::5", 128, ""),
        ("2001:db8::", 16, "2001::/16"),
        ("2000::", 3, ""),
    ],
)
def test_a_network_is_more_than_one_address_and_less_than_the_internet(address: str, length: int, network: str) -> None:
    assert [str(each) for each in network_of(ip_address(address).packed, length)] == ([network] if network else [])
    assert list(network_of(None, length)) == []


NETWORKS = """
from agentkernel.egress.own import OwnAddresses
print(*sorted(str(each) for each in OwnAddresses()() if "/" in str(each)))
"""
INTERFACES = """
ip link add d0 type dummy 2>/dev/null || { ip link add d0 type veth peer name d1 && ip link set d1 up; } || exit 77
ip link set d0 up
ip address add 203.0.113.5/24 dev d0
ip address add 198.51.100.9/32 dev d0
ip -6 address add 2001:db8:7::5/64 dev d0 nodad
ip -6 route add 2001:db8:8::/64 dev d0 proto ra
ip -6 route add 2001:db8:9::/64 dev d0 proto static
ip -6 route add 2001:db8:a::/64 via 2001:db8:7::1 dev d0 proto ra
ip -6 route add default dev d0 proto ra
exec "$@"
"""


def test_the_networks_of_interfaces_are_known_and_those_behind_routers_are_not() -> None:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("this host has no unshare, or no ip")
    argv = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", INTERFACES, "sh", sys.executable, "-c", NETWORKS]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"this host makes no network for a test: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2001:db8:7::/64", "2001:db8:8::/64", "203.0.113.0/24", "fe80::/64"], done.stderr


def test_this_host_is_in_the_network_of_its_loopback_interface() -> None:
    assert ip_network("127.0.0.0/8") in OwnAddresses()()


def test_a_port_is_named_by_the_rule_that_allowed() -> None:
    rules = EgressRules(base=Base.NONE, allow=(Rule(host="a.test"), Rule(host="b.test", ports=(443, 8443))))
    assert names_port(rules, "allow b.test:443,8443", 443)
    assert not names_port(rules, "allow b.test:443,8443", 80)
    assert not names_port(rules, "allow a.test", 443)
    assert not names_port(rules, "public", 443)


@pytest.mark.parametrize("url", ["https://proxy:3128", "proxy:3128", "http://", "socks5://proxy", "http://proxy:0x", "http://proxy:99999"])
def test_an_upstream_proxy_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        parse_proxy(url)


def test_an_upstream_proxy_has_a_password_only_for_itself() -> None:
    assert parse_proxy("") is None
    assert parse_proxy("http://proxy.corp:8080") == ("proxy.corp", 8080, b"")
    assert parse_proxy("http://u:p%3A@[fd00::1]") == ("fd00::1", 3128, b"Basic dTpwOg==")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"op": 1}', b"[" * 60_000, b'{"op": "' + b"x" * MAX_MESSAGE_BYTES + b'"}'])
def test_a_malformed_message_is_none(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        read(data)


async def test_rules_that_change_while_a_connection_is_made_hold_for_it() -> None:
    asked, release = threading.Event(), threading.Event()

    def lookup(host: str) -> list[str]:
        asked.set()
        release.wait(10)
        return ["127.0.0.1"]

    proxy = InProcess(lookup)
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            agent = Agent()
            session = proxy.join(agent, loopback_rules(port, allow=(f"slow.test:{port}",)))
            program = agent.connect()
            await program.write(f"CONNECT slow.test:{port} HTTP/1.1\r\nHost: slow.test:{port}\r\n\r\n".encode())
            await asyncio.to_thread(asked.wait, 10)
            rules = loopback_rules(port, deny=("slow.test",))
            session.set_rules(rules)
            while proxy.server._sandboxes["0" * 16].site.rules != rules:
                await asyncio.sleep(0)
            release.set()
            assert (await program.read_all()).startswith(b"HTTP/1.1 403 ")
            await agent.decision(Verdict.DENIED, host="slow.test")
    finally:
        proxy.close()


async def test_a_wrong_word_of_the_engine_ends_the_process_rather_than_serving_by_other_rules() -> None:
    proxy = InProcess(names(), upstream="ftp://nowhere")
    try:
        async with asyncio.timeout(10):
            await proxy.server.over
    finally:
        proxy._control.close()
