"""The plan's step TRANSPARENT: programs that know of no proxy reach the agent, whatever address they ask for, and all else fails at once."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.launch_samples import PLAIN_UID
from unit.plan_wire import LISTEN_FD, NEWNET, NEWUSER, Launch, Step, encode, start
from unit.tunnel_wire import RESOLVER, TRANSPARENT, TunnelHost, network

HAS_IPV6 = Path("/proc/net/if_inet6").exists()
IPV6_ANSWERS = ["2001:db8::7 443", "2001:db8::8 53"] if HAS_IPV6 else []
PLAIN = f"/usr/bin/setpriv --reuid {PLAIN_UID} --regid {PLAIN_UID} --clear-groups".split()

TCP = """
import socket, sys
for target in sys.argv[1:]:
    host, port = target.split()
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(target.encode())
        connection.shutdown(socket.SHUT_WR)
        print(connection.makefile().read())
"""
UDP = """
import errno, json, socket, sys
result = {}
for target in sys.argv[1:]:
    host, port = target.split()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.settimeout(10)
        try:
            datagrams.sendto(b"a question of some length", (host, int(port)))
            message, sender = datagrams.recvfrom(512)
            result[target] = [message.decode(), sender[0]]
        except OSError as error:
            result[target] = errno.errorcode[error.errno]
print(json.dumps(result))
"""


def steps(uid: int, *settings: Step) -> list[Step]:
    return [
        ("CLONE", NEWNET | NEWUSER),
        ("IDMAP", f"0 {uid} 1\n", f"0 {uid} 1\n", 1),
        ("GO",),
        *settings,
        ("SYSCTL", "net/ipv4/ip_unprivileged_port_start", "0"),
        ("LOOPBACK",),
        ("TRANSPARENT", 3129, 53),
        ("CAPABILITIES", 0),
        ("AGENT", LISTEN_FD),
    ]


def skip_without_nf_tables() -> None:
    done = subprocess.run([sys.executable, "-c", "import socket; socket.socket(16, 3, 12)"], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("needs nf_tables in the kernel")


@contextlib.contextmanager
def attached(guest: Path, plan: list[Step], wrapper: tuple[str, ...] = ()) -> Iterator[TunnelHost]:
    """Attached to an agent that was made by the plan, with every listener."""
    skip_without_nf_tables()
    launch: Launch = start(guest, encode(plan), wrapper=wrapper)
    try:
        launch.finish()
        assert launch.ready, launch.records
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(launch.listener.getsockname())
            host = TunnelHost(sock)
            assert host.attach() == 1
            host.auto_credit = True
            host.configure(network(3128, 53, 3129))
            yield host
    finally:
        launch.close()


@pytest.fixture(params=["caller", "plain"])
def host(request: pytest.FixtureRequest, guest: Path) -> Iterator[TunnelHost]:
    """In network and user namespaces of its own, made by the test's user or by a plain one."""
    if request.param == "plain" and os.geteuid() != 0:
        pytest.skip("needs root: another user to become")
    uid = PLAIN_UID if request.param == "plain" else os.geteuid()
    with attached(guest, steps(uid), tuple(PLAIN) if request.param == "plain" else ()) as host:
        yield host


def test_every_address_is_reached_through_the_agent(host: TunnelHost) -> None:
    targets = ["93.184.216.34 443", "10.1.2.3 22", "198.18.0.9 8080", "8.8.4.4 53", *IPV6_ANSWERS]
    run = host.start("/usr/bin/env", "python3", "-c", TCP, *targets)
    for target in targets:
        tunnel = host.next_accepted()
        name, port = target.split()
        assert (tunnel.kind, tunnel.address, tunnel.port) == ((RESOLVER, "", 0) if port == "53" else (TRANSPARENT, name, int(port)))
        host.until(lambda tunnel=tunnel: tunnel.ended)
        assert tunnel.data.decode() == target
        host.pour(tunnel, f"you asked for {target}".encode(), end=True)
    assert host.finish(run).stdout.decode().splitlines() == [f"you asked for {target}" for target in targets], run.stderr.decode()


def test_dns_of_any_server_is_asked_of_the_host_and_other_datagrams_fail_at_once(host: TunnelHost) -> None:
    answered = ["8.8.8.8 53", "127.0.0.1 53", *(["2001:db8::53 53"] if HAS_IPV6 else [])]
    refused = ["8.8.8.8 443", "192.0.2.1 123", "224.0.0.251 5353", *(["2001:db8::53 123"] if HAS_IPV6 else [])]
    run = host.start("/usr/bin/env", "python3", "-c", UDP, *answered, *refused)
    for _ in answered:
        host.until(lambda: host.queries)
        ((ident, question),) = host.queries.items()
        assert question == b"a question of some length"
        host.answer(ident, b"an answer")
    result = json.loads(host.finish(run).stdout or b"null")
    assert result == {target: ["an answer", target.split()[0]] for target in answered} | dict.fromkeys(refused, "EPERM")


@pytest.mark.skipif(not HAS_IPV6, reason="needs IPv6, to be without it")
def test_without_an_ipv6_loopback_ipv4_has_to_do(guest: Path) -> None:
    with attached(guest, steps(os.geteuid(), ("SYSCTL", "net/ipv6/conf/lo/disable_ipv6", "1"))) as host:
        run = host.start("/usr/bin/env", "python3", "-c", TCP, "192.0.2.1 80", "2001:db8::7 443")
        tunnel = host.next_accepted()
        assert (tunnel.address, tunnel.port) == ("192.0.2.1", 80)
        host.pour(tunnel, b"over IPv4", end=True)
        host.finish(run)
        assert run.stdout == b"over IPv4\n"
        assert b"OSError" in run.stderr and not host.tunnels.keys() - {tunnel.id}


def test_a_loopback_that_is_down_fails_the_step(guest: Path) -> None:
    skip_without_nf_tables()
    plan = [step for step in steps(os.geteuid()) if step[0] != "LOOPBACK"]
    launch = start(guest, encode(plan))
    try:
        launch.finish()
        assert (launch.failure.step, launch.failure.error, launch.failure.value) == (4, errno.ENETDOWN, 0)
    finally:
        launch.close()


def test_the_loopback_stays_the_sandbox_s_own(host: TunnelHost) -> None:
    script = "import socket; s = socket.create_server(('127.0.0.1', 8000)); c = socket.create_connection(('127.0.0.1', 8000)); print('own')"
    assert host.run("/usr/bin/env", "python3", "-c", script).stdout == b"own\n"
    assert not host.tunnels


def test_the_transparent_port_itself_names_itself(host: TunnelHost) -> None:
    run = host.start("/usr/bin/env", "python3", "-c", TCP, "127.0.0.1 3129")
    tunnel = host.next_accepted()
    assert (tunnel.kind, tunnel.address, tunnel.port) == (TRANSPARENT, "127.0.0.1", 3129)
    host.drop(tunnel)
    host.finish(run)
