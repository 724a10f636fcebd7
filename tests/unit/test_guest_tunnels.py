"""Tunnels of the real agent, plain and with sanitizers: connections of the sandbox that go on through the stream, within credits and limits."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from unit.guest_agent import Agent
from unit.guest_wire import (
    ANSWER,
    CONFIGURE,
    FAILED,
    MAX_PAYLOAD,
    PING,
    TUNNEL_CLOSE,
    TUNNEL_CREDIT,
    TUNNEL_OPEN,
    TUNNEL_SEND,
    Failure,
    Gone,
    encode_field,
    new_id,
)
from unit.tunnel_wire import AGENTS, MOST_GRANTED, PROXY, RESOLVER, START_CREDIT, Tunnel, TunnelHost, network

MOST_TUNNELS, MOST_QUERIES = 1024, 256
STUCK_TUNNELS = 100
MEBIBYTE = 1 << 20
HAS_IPV6 = Path("/proc/net/if_inet6").exists()
FAMILIES = [socket.AF_INET, pytest.param(socket.AF_INET6, marks=pytest.mark.skipif(not HAS_IPV6, reason="needs IPv6"))]


def loopback(family: int) -> str:
    return "127.0.0.1" if family == socket.AF_INET else "::1"


def free_port() -> int:
    """Of both families, and of TCP and UDP, as far as one can know."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture
def agent(binary: Path, home: Path) -> Iterator[Agent]:
    running = Agent([str(binary)], home)
    yield running
    running.stop()


def attach(agent: Agent, configuration: bytes | None) -> TunnelHost:
    host = TunnelHost(agent.connect())
    assert host.attach() == 1
    if configuration is not None:
        host.configure(configuration)
    return host


@pytest.fixture
def proxy_port() -> int:
    return free_port()


@pytest.fixture
def resolver_port() -> int:
    return free_port()


@pytest.fixture
def host(agent: Agent, proxy_port: int, resolver_port: int) -> Iterator[TunnelHost]:
    attached = attach(agent, network(proxy_port, resolver_port))
    yield attached
    attached.close()


@pytest.fixture
def connect(proxy_port: int) -> Iterator[Callable[[], socket.socket]]:
    """Makes connections of the workload to the proxy port; they are closed after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection(("127.0.0.1", proxy_port), 10))


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4 * MOST_TUNNELS:
        pytest.skip("needs a hard limit of 4,096 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4 * MOST_TUNNELS, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def received(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := connection.recv(size - len(data))):
        data += part
    return data


def settle(host: TunnelHost) -> None:
    """Answers come before what tunnels have to say in the same turn of the agent's: after the second one that has come, too."""
    for _ in range(2):
        assert host.request(PING, b"x")


def is_reset(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1)
    except ConnectionResetError:
        return True


# --- The listeners -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_connection_to_the_proxy_port_becomes_a_tunnel(host: TunnelHost, proxy_port: int, family: int) -> None:
    with socket.create_connection((loopback(family), proxy_port), 10) as connection:
        tunnel = host.next_accepted()
        assert tunnel.kind == PROXY
        connection.sendall(b"GET /")
        host.until(lambda: tunnel.data == b"GET /")
        host.pour(tunnel, b"200 OK")
        assert received(connection, 6) == b"200 OK"


@pytest.mark.parametrize("family", FAMILIES)
def test_dns_by_tcp_is_a_tunnel_too(host: TunnelHost, resolver_port: int, family: int) -> None:
    with socket.create_connection((loopback(family), resolver_port), 10):
        assert host.next_accepted().kind == RESOLVER


def test_ports_that_are_taken_are_named_and_nothing_of_the_rest_is_kept(agent: Agent, proxy_port: int) -> None:
    host = attach(agent, None)
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(Failure) as failure:
        host.configure(network(proxy_port, other.getsockname()[1]))
    assert failure.value.errno == errno.EADDRINUSE
    socket.create_server(("127.0.0.1", proxy_port)).close()
    assert host.open(1).closed == errno.EPERM, "it is not configured"
    host.configure(network(proxy_port))


def test_the_same_network_again_is_fine_and_another_is_not(host: TunnelHost, proxy_port: int, resolver_port: int) -> None:
    host.configure(network(proxy_port, resolver_port))
    for other in (b"", network(proxy_port), network(proxy_port, resolver_port, 3129)):
        with pytest.raises(Failure) as failure:
            host.configure(other)
        assert failure.value.errno == errno.EEXIST
    with socket.create_connection(("127.0.0.1", proxy_port), 10):
        assert host.next_accepted().kind == PROXY


@pytest.mark.parametrize("payload", [b"", bytes(5), bytes(7)], ids=len)
def test_a_network_of_another_size_is_refused(agent: Agent, payload: bytes) -> None:
    host = attach(agent, None)
    for field in (encode_field(5, payload), network() + network()):
        with pytest.raises(Failure) as failure:
            host.request(CONFIGURE, field)
        assert failure.value.errno == errno.EINVAL


def test_ids_are_never_used_again(host: TunnelHost, connect: Callable[[], socket.socket]) -> None:
    ids = set()
    for _ in range(20):
        connection = connect()
        tunnel = host.next_accepted()
        ids.add(tunnel.id)
        host.drop(tunnel)
        connection.close()
    assert len(ids) == 20 and all(ident & AGENTS for ident in ids)


# --- The end -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload_first", [True, False])
def test_each_direction_ends_for_itself(host: TunnelHost, connect: Callable[[], socket.socket], workload_first: bool) -> None:
    connection, tunnel = connect(), host.next_accepted()

    def workload_ends() -> None:
        connection.sendall(b"request")
        connection.shutdown(socket.SHUT_WR)
        host.until(lambda: tunnel.ended)
        assert tunnel.data == b"request"

    def host_ends() -> None:
        host.pour(tunnel, b"answer", end=True)
        assert received(connection, 100) == b"answer"

    for end in (workload_ends, host_ends) if workload_first else (host_ends, workload_ends):
        end()
    host.send(TUNNEL_SEND, tunnel.id, b"to nobody")
    assert host.request(PING, b"x")
    assert tunnel.closed is None, "it is over without another frame"


def test_the_last_bytes_come_before_the_end(host: TunnelHost, connect: Callable[[], socket.socket]) -> None:
    connection, tunnel = connect(), host.next_accepted()
    host.send(TUNNEL_SEND, tunnel.id, bytes(START_CREDIT), 1)
    assert received(connection, MEBIBYTE) == bytes(START_CREDIT)


def test_a_host_that_closes_ends_the_connection_or_resets_it(host: TunnelHost, connect: Callable[[], socket.socket]) -> None:
    connection, tunnel = connect(), host.next_accepted()
    host.drop(tunnel)
    assert connection.recv(1) == b""
    connection, tunnel = connect(), host.next_accepted()
    host.drop(tunnel, errno.ECONNRESET)
    with pytest.raises(ConnectionResetError):
        connection.recv(1)


def test_a_workload_that_resets_closes_the_tunnel(host: TunnelHost, connect: Callable[[], socket.socket]) -> None:
    connection, tunnel = connect(), host.next_accepted()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    host.until(lambda: tunnel.closed is not None)
    assert tunnel.closed == errno.ECONNRESET


def test_a_workload_that_reads_no_more_closes_the_tunnel(host: TunnelHost, connect: Callable[[], socket.socket]) -> None:
    connection, tunnel = connect(), host.next_accepted()
    connection.close()
    host.until(lambda: tunnel.ended)
    while tunnel.closed is None:
        host.pour(tunnel, b"x")
        assert host.request(PING, b"x")
    assert tunnel.closed in (errno.EPIPE, errno.ECONNRESET)


def test_without_an_attach_there_are_no_tunnels_and_nothing_is_accepted(agent: Agent, proxy_port: int, resolver_port: int) -> None:
    configuration = network(proxy_port, resolver_port)
    first = attach(agent, configuration)
    with contextlib.ExitStack() as stack:
        before = [stack.enter_context(socket.create_connection(("127.0.0.1", proxy_port), 10)) for _ in range(3)]
        old = [first.next_accepted() for _ in before]
        first.close()
        for connection in before:
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
        waiting = stack.enter_context(socket.create_connection(("127.0.0.1", proxy_port), 10))
        waiting.sendall(b"patience")
        second = attach(agent, configuration)
        tunnel = second.next_accepted()
        second.until(lambda: tunnel.data == b"patience")
        assert tunnel.id not in {gone.id for gone in old}


def test_the_newest_attach_resets_the_tunnels_of_the_one_before(
    agent: Agent, host: TunnelHost, connect: Callable[[], socket.socket]
) -> None:
    connection = connect()
    host.next_accepted()
    assert host.attach() == 1, "on the same stream"
    assert is_reset(connection)
    again = connect()
    tunnel = host.next_accepted()
    again.sendall(b"x")
    host.until(lambda: tunnel.data == b"x")


# --- Ports inside ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_host_opens_a_port_inside(host: TunnelHost, family: int) -> None:
    with socket.create_server((loopback(family), 0), family=family) as server:
        tunnel = host.open(server.getsockname()[1])
        assert tunnel.opened
        connection, _ = server.accept()
        with connection:
            host.pour(tunnel, b"GET /", end=True)
            assert received(connection, 100) == b"GET /"
            connection.sendall(b"200 OK")
        host.until(lambda: tunnel.ended)
        assert tunnel.data == b"200 OK"


def test_bytes_may_be_sent_before_the_port_is_open(host: TunnelHost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        tunnel = Tunnel(id=5)
        host.tunnels[5] = tunnel
        host.send(TUNNEL_OPEN, 5, struct.pack("<H", server.getsockname()[1]))
        host.send(TUNNEL_SEND, 5, bytes(START_CREDIT), 1)
        connection, _ = server.accept()
        with connection:
            assert received(connection, MEBIBYTE) == bytes(START_CREDIT)
        host.until(lambda: tunnel.ended)
        assert tunnel.opened


def test_a_port_that_nobody_listens_on_is_refused(host: TunnelHost) -> None:
    assert host.open(free_port()).closed == errno.ECONNREFUSED


def test_before_configure_no_port_is_opened(agent: Agent) -> None:
    assert attach(agent, None).open(80).closed == errno.EPERM


# --- Credit ------------------------------------------------------------------------------------------------------------------------------


def test_the_agent_sends_no_more_than_it_has_credit_for(host: TunnelHost, connect: Callable[[], socket.socket]) -> None:
    connection, tunnel = connect(), host.next_accepted()
    connection.sendall(bytes(100_000))
    host.until(lambda: tunnel.credit == 0)
    for more in (1, 1000, 65_536):
        host.give(tunnel, more)
        host.until(lambda: tunnel.credit == 0 or len(tunnel.data) == 100_000)
    host.give(tunnel, MEBIBYTE)
    host.until(lambda: len(tunnel.data) == 100_000)


def test_a_workload_that_reads_slowly_holds_its_host_up_and_memory_stays_bounded(
    host: TunnelHost, connect: Callable[[], socket.socket]
) -> None:
    connection, tunnel = connect(), host.next_accepted()
    other, beside = connect(), host.next_accepted()
    sent = 0
    while tunnel.allowed:
        part = min(tunnel.allowed, 65_536)
        tunnel.allowed -= part
        sent += part
        host.send(TUNNEL_SEND, tunnel.id, bytes(part))
        settle(host)
    assert sent > 4 * START_CREDIT
    host.pour(beside, b"not held up")
    assert received(other, 11) == b"not held up"
    assert received(connection, sent) == bytes(sent)
    host.until(lambda: tunnel.allowed > MOST_GRANTED // 2)


@pytest.mark.parametrize(
    "fault",
    [
        [(TUNNEL_SEND, bytes(START_CREDIT + 1), 0)],
        [(TUNNEL_SEND, bytes(START_CREDIT), 0), (TUNNEL_SEND, bytes(65_536), 0)],
        [(TUNNEL_SEND, b"x", 1), (TUNNEL_SEND, b"y", 0)],
        [(TUNNEL_CREDIT, struct.pack("<I", MEBIBYTE + 1), 0)],
    ],
    ids=["first", "later", "after-the-end", "too-much-credit"],
)
def test_a_host_without_manners_loses_the_tunnel(
    host: TunnelHost, connect: Callable[[], socket.socket], fault: list[tuple[int, bytes, int]]
) -> None:
    connection, tunnel = connect(), host.next_accepted()
    for kind, payload, flags in fault:
        host.send(kind, tunnel.id, payload, flags)
    host.until(lambda: tunnel.closed is not None)
    assert tunnel.closed == errno.EPROTO
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(65_536):
            pass
    assert host.request(PING, b"x")


@pytest.mark.parametrize("direction", ["out", "in", "both"])
def test_many_bytes_arrive_as_they_were_sent(host: TunnelHost, connect: Callable[[], socket.socket], direction: str) -> None:
    source = random.Random(11)
    outward, inward = (source.randbytes(3 * MEBIBYTE + 17), source.randbytes(5 * MEBIBYTE + 3))
    host.auto_credit = True
    connection, tunnel = connect(), host.next_accepted()
    taken: list[bytes] = []

    def send() -> None:
        at = 0
        while at < len(outward):
            at += connection.send(outward[at : at + source.choice((1, 100, 5000, 200_000))])
        connection.shutdown(socket.SHUT_WR)

    threads = [threading.Thread(target=send)] if direction != "in" else []
    threads += [threading.Thread(target=lambda: taken.append(received(connection, len(inward))))] if direction != "out" else []
    for thread in threads:
        thread.start()
    if direction != "out":
        host.pour(tunnel, inward, end=True)
    if direction != "in":
        host.until(lambda: tunnel.ended, 60)
        assert hashlib.sha256(tunnel.data).digest() == hashlib.sha256(outward).digest()
    for thread in threads:
        thread.join(60)
    if direction != "out":
        assert hashlib.sha256(taken[0]).digest() == hashlib.sha256(inward).digest()


# --- Turns -------------------------------------------------------------------------------------------------------------------------------


class Flood:
    """Connections of the workload that send as fast as they can until they are closed."""

    def __init__(self, host: TunnelHost, connect: Callable[[], socket.socket], count: int) -> None:
        self.connections = [connect() for _ in range(count)]
        self.tunnels = [host.next_accepted() for _ in self.connections]
        self.threads = [threading.Thread(target=self._send, args=(connection,)) for connection in self.connections]
        for tunnel in self.tunnels:
            for _ in range(64):
                host.give(tunnel, MEBIBYTE)
        for thread in self.threads:
            thread.start()

    @staticmethod
    def _send(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(bytes(65_536))

    def stop(self) -> None:
        for connection in self.connections:
            with contextlib.suppress(OSError):  # it was reset
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(10)


@pytest.fixture
def flood(host: TunnelHost, connect: Callable[[], socket.socket]) -> Iterator[Flood]:
    running = Flood(host, connect, 3)
    yield running
    host.close()
    running.stop()


def test_tunnels_do_not_hold_commands_up(host: TunnelHost, flood: Flood) -> None:
    for _ in range(10):
        before = sum(len(tunnel.data) for tunnel in flood.tunnels)
        assert host.request(PING, b"x")
        assert sum(len(tunnel.data) for tunnel in flood.tunnels) - before < 4 * MEBIBYTE
    run = host.run("sh", "-c", "seq 200000")
    assert run.stdout == b"".join(b"%d\n" % number for number in range(1, 200_001))


def test_a_slow_host_gives_commands_and_each_tunnel_their_share(host: TunnelHost, flood: Flood, home: Path) -> None:
    """All of the command's output waits in its ring by the time that the host reads on, and of each tunnel there is always more."""
    run = host.started("sh", "-c", f"head -c 3000000 /dev/zero; touch {home}/written", ring=4 * MEBIBYTE)
    deadline = time.monotonic() + 30
    while not (home / "written").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    before = [(len(tunnel.data), tunnel.frames) for tunnel in flood.tunnels]
    while run.exit is None:
        if len(host.received) < 1000:
            host.received += host.sock.recv(10_000)
        host.step(deadline)
    frames = [tunnel.frames - old for tunnel, (_, old) in zip(flood.tunnels, before, strict=True)]
    assert 0 < max(frames) <= 2 * min(frames) + 8, frames
    assert sum(len(tunnel.data) - old for tunnel, (old, _) in zip(flood.tunnels, before, strict=True)) < 12_000_000


# --- Limits ------------------------------------------------------------------------------------------------------------------------------


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.usefixtures("many_files")
def test_as_many_tunnels_as_there_may_be_hold_no_more_than_they_may(
    agent: Agent, host: TunnelHost, connect: Callable[[], socket.socket]
) -> None:
    pid = agent.process.pid
    before = resident_bytes(pid)
    connections = [connect() for _ in range(MOST_TUNNELS)]
    tunnels = [host.next_accepted() for _ in range(MOST_TUNNELS)]
    late = connect()
    late.sendall(b"late")
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert host.open(server.getsockname()[1]).closed == errno.EAGAIN
    stuck = tunnels[:STUCK_TUNNELS]
    while any(tunnel.allowed for tunnel in stuck):
        for tunnel in stuck:
            if part := min(tunnel.allowed, 65_536):
                tunnel.allowed -= part
                host.send(TUNNEL_SEND, tunnel.id, bytes(part))
        settle(host)
    if "sanitized" not in agent.process.args[0]:
        assert resident_bytes(pid) - before < 34 * MEBIBYTE
    assert not host.accepted
    host.drop(tunnels.pop())
    newest = host.next_accepted()
    host.until(lambda: newest.data == b"late")
    for tunnel in [*tunnels, newest]:
        host.drop(tunnel, errno.ECONNABORTED)
    assert host.request(PING, b"x")
    assert all(is_reset(connection) for connection in connections[-3:])


# --- Queries -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ask(resolver_port: int) -> Iterator[Callable[..., socket.socket]]:
    """Sends a datagram to the resolver port from a socket of its own."""
    with contextlib.ExitStack() as stack:

        def send(message: bytes, family: int = socket.AF_INET) -> socket.socket:
            asker = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            asker.settimeout(10)
            asker.connect((loopback(family), resolver_port))
            asker.send(message)
            return asker

        yield send


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_goes_to_who_asked(host: TunnelHost, ask: Callable[..., socket.socket], family: int) -> None:
    questions = [b"question %04d" % number for number in range(20)]
    askers = {question: ask(question, family) for question in questions}
    host.until(lambda: len(host.queries) == 20)
    for ident, question in reversed(list(host.queries.items())):
        host.answer(ident, b"answer to " + question)
    for question, asker in askers.items():
        assert asker.recv(512) == b"answer to " + question


def test_no_answer_is_an_answer_and_the_second_one_is_ignored(host: TunnelHost, ask: Callable[..., socket.socket]) -> None:
    asker = ask(b"question 0001")
    host.until(lambda: host.queries)
    (first,) = host.queries
    host.answer(first, b"")
    host.send(ANSWER, first, b"too late")
    asker.send(b"question 0002")
    host.until(lambda: host.queries)
    (second,) = host.queries
    host.answer(second, b"in time")
    assert asker.recv(512) == b"in time"


def test_a_datagram_that_is_no_question_is_dropped(host: TunnelHost, ask: Callable[..., socket.socket]) -> None:
    for size in (0, 1, 11, 4097, 20_000):
        ask(bytes(size))
    longest = ask(bytes(4096))
    host.until(lambda: host.queries)
    assert [len(question) for question in host.queries.values()] == [4096]
    host.answer(next(iter(host.queries)), bytes(60_000))
    assert len(longest.recv(65_536)) == 60_000


def test_questions_beyond_the_limit_are_dropped(host: TunnelHost, ask: Callable[..., socket.socket]) -> None:
    for number in range(MOST_QUERIES):
        ask(b"question %04d" % number)
    host.until(lambda: len(host.queries) == MOST_QUERIES)
    ask(b"one too many")
    assert host.request(PING, b"x")
    assert len(host.queries) == MOST_QUERIES
    host.answer(next(iter(host.queries)), b"")
    ask(b"now there is room")
    host.until(lambda: b"now there is room" in host.queries.values())


# --- Frames ------------------------------------------------------------------------------------------------------------------------------

BAD_PAYLOADS = [
    (TUNNEL_OPEN, 5, b"\1", 0),
    (TUNNEL_OPEN, 5, b"\0\0", 0),
    (TUNNEL_OPEN, 5, b"\1\0\0", 0),
    (TUNNEL_OPEN, 5 | AGENTS, b"\1\0", 0),
    (TUNNEL_SEND, 5, b"", 0),
    (TUNNEL_SEND, 5, b"x", 2),
    (TUNNEL_SEND, 5, bytes(65_537), 0),
    (TUNNEL_SEND, 5, bytes(MAX_PAYLOAD), 0),
    (TUNNEL_CREDIT, 5, b"\1\0\0", 0),
    (TUNNEL_CLOSE, 5, b"", 0),
    (ANSWER, 5, bytes(65_508), 0),
]


@pytest.mark.parametrize(("kind", "ident", "payload", "flags"), BAD_PAYLOADS)
def test_a_bad_payload_is_refused(host: TunnelHost, kind: int, ident: int, payload: bytes, flags: int) -> None:
    with pytest.raises(Failure) as failure:
        host.request(kind, payload, ident=ident, flags=flags)
    assert (failure.value.errno, failure.value.stage) == (errno.EINVAL, 0)


def test_an_id_in_use_opens_nothing_and_a_bad_send_closes(host: TunnelHost, connect: Callable[[], socket.socket]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        tunnel = host.open(port)
        for kind, payload in ((TUNNEL_OPEN, struct.pack("<H", port)), (TUNNEL_SEND, b"")):
            host.send(kind, tunnel.id, payload)
            host.until(lambda: tunnel.id in host.answers)
            assert host.answers.pop(tunnel.id).type == FAILED
            assert tunnel.closed is None
        host.until(lambda: tunnel.closed is not None)
        assert tunnel.closed == errno.EPROTO


def test_frames_for_a_tunnel_that_is_over_are_ignored(host: TunnelHost) -> None:
    for ident in (new_id() & ~AGENTS, new_id() | AGENTS):
        host.send(TUNNEL_SEND, ident, b"x")
        host.send(TUNNEL_CREDIT, ident, struct.pack("<I", 1 << 31))
        host.send(TUNNEL_CLOSE, ident, bytes(4))
        host.send(ANSWER, ident, bytes(20))
    assert host.request(PING, b"x")
    assert not host.answers


def test_random_frames_of_tunnels_never_end_the_agent(agent: Agent, proxy_port: int, resolver_port: int) -> None:
    source = random.Random(5)
    kinds = (TUNNEL_OPEN, TUNNEL_SEND, TUNNEL_CREDIT, TUNNEL_CLOSE, ANSWER)
    for _ in range(40):
        host = attach(agent, network(proxy_port, resolver_port))
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, Gone):
            connections = [stack.enter_context(socket.create_connection(("127.0.0.1", proxy_port), 10)) for _ in range(3)]
            ids = [host.next_accepted().id for _ in connections] + [1, 2, 3]
            for _ in range(200):
                kind = source.choice(kinds)
                size = source.choice((0, 1, 2, 4, source.randrange(70_000)))
                payload = struct.pack("<H", proxy_port) if kind == TUNNEL_OPEN else source.randbytes(size)
                host.send(kind, source.choice(ids), payload, source.randrange(3) % 2)
                if source.random() < 0.2:
                    connections[source.randrange(3)].send(source.randbytes(source.randrange(30_000)), socket.MSG_DONTWAIT)
        host.close()
    host = attach(agent, network(proxy_port, resolver_port))
    assert host.request(PING, b"x")
