"""Tunnels: the host opens connections to ports inside, what the agent begins goes to a peer, and a hostile agent ends its own alone."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import struct
from collections.abc import Awaitable, Callable

import pytest
from channel_peer import FakeBoundary, Peer

from agentkernel import errors
from agentkernel.abc_network import Tunnelled
from agentkernel.channel import tunnels
from agentkernel.channel.frames import FrameType
from agentkernel.channel.messages import NetworkPorts, encode_configure
from agentkernel.channel.sandbox import GuestSandbox
from agentkernel.channel.tunnel import HostTunnel
from agentkernel.channel.tunnels import Tunnels
from agentkernel.channel.wire import FIRST_CREDIT_BYTES, MAX_CREDIT_BYTES, MAX_WINDOW_BYTES

SEED = int(os.environ.get("AGENTKERNEL_TEST_SEED", "0")) or random.SystemRandom().randrange(2**32)
AGENTS = 1 << 63
WORD = struct.Struct("<I")


class Noting:
    """A peer that keeps what it is given."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, int, int, bytes]] = []
        self.resets = 0
        self.changed = asyncio.Event()

    def take(self, kind: int, flags: int, ident: int, payload: bytes | memoryview) -> None:
        self.frames.append((kind, flags, ident, bytes(payload)))
        self.changed.set()

    def reset(self) -> None:
        self.resets += 1
        self.changed.set()

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not done():
                self.changed.clear()
                await self.changed.wait()


async def opened(peer: Peer, sandbox: GuestSandbox, port: int = 80) -> HostTunnel:
    """A tunnel that the scripted agent has opened."""
    opening = asyncio.create_task(sandbox.open_tunnel(port))
    frame = await peer.expect(FrameType.TUNNEL_OPEN)
    assert frame.payload == struct.pack("<H", port)
    assert 0 < frame.id < AGENTS
    await peer.send(FrameType.TUNNEL_OPENED, frame.id)
    return await opening


async def settled(peer: Peer, sandbox: GuestSandbox) -> None:
    """Everything that the agent has sent is dealt with."""
    pinging = asyncio.create_task(sandbox.statistics())
    request = await peer.frame()
    while request.type != FrameType.STATS:
        request = await peer.frame()
    await peer.send(FrameType.FAILED, request.id, struct.pack("<II", errno.EPERM, 0))
    with pytest.raises(errors.SandboxFailed):
        await pinging


def test_the_ports_of_the_network_are_a_field_of_the_configuration() -> None:
    field = struct.pack("<HHI", 5, 0, 6) + struct.pack("<HHH", 3128, 53, 0)
    assert encode_configure(b"", (), network=NetworkPorts(3128, 53, 0)) == field


async def test_a_sandbox_has_tunnels(sandbox: GuestSandbox, peer: Peer) -> None:
    assert isinstance(sandbox, Tunnelled)


async def test_a_tunnel_carries_bytes_both_ways_and_ends_each_direction(peer: Peer, sandbox: GuestSandbox) -> None:
    tunnel = await opened(peer, sandbox)
    await tunnel.write(b"question")
    sent = await peer.expect(FrameType.TUNNEL_SEND)
    assert (sent.id, sent.flags, sent.payload) == (tunnel.ident, 0, b"question")
    await tunnel.end()
    assert (await peer.expect(FrameType.TUNNEL_SEND)).flags == 1
    await peer.send(FrameType.TUNNEL_DATA, tunnel.ident, b"answer", 1)
    assert await tunnel.read() == b"answer"
    assert await tunnel.read() == b""
    assert await tunnel.read() == b""
    tunnel.close()  # both directions have ended: nothing is said
    await settled(peer, sandbox)


async def test_writing_waits_for_credit(peer: Peer, sandbox: GuestSandbox) -> None:
    tunnel = await opened(peer, sandbox)
    writing = asyncio.create_task(tunnel.write(bytes(FIRST_CREDIT_BYTES + 10)))
    assert len((await peer.expect(FrameType.TUNNEL_SEND)).payload) == FIRST_CREDIT_BYTES
    assert not writing.done()
    await peer.send(FrameType.TUNNEL_GRANT, tunnel.ident, WORD.pack(4))
    assert len((await peer.expect(FrameType.TUNNEL_SEND)).payload) == 4
    await peer.send(FrameType.TUNNEL_GRANT, tunnel.ident, WORD.pack(1000))
    assert len((await peer.expect(FrameType.TUNNEL_SEND)).payload) == 6
    await writing


async def test_credit_is_given_as_bytes_are_read_and_grows_to_the_window(peer: Peer, sandbox: GuestSandbox) -> None:
    tunnel = await opened(peer, sandbox)
    allowed, received = FIRST_CREDIT_BYTES, 0
    largest = 0
    for _ in range(40):
        size = min(allowed, 65_536)
        await peer.send(FrameType.TUNNEL_DATA, tunnel.ident, bytes(size))
        allowed -= size
        received += size
        while received:
            received -= len(await tunnel.read())
        if allowed < FIRST_CREDIT_BYTES:
            allowed += WORD.unpack((await peer.expect(FrameType.TUNNEL_CREDIT)).payload)[0]
        largest = max(largest, allowed)
    assert largest <= MAX_WINDOW_BYTES
    assert largest > MAX_WINDOW_BYTES // 2


async def test_a_short_answer_costs_no_credit(peer: Peer, sandbox: GuestSandbox) -> None:
    tunnel = await opened(peer, sandbox)
    await peer.send(FrameType.TUNNEL_DATA, tunnel.ident, bytes(1000), 1)
    assert len(await tunnel.read()) == 1000
    await tunnel.end()
    await peer.expect(FrameType.TUNNEL_SEND)
    await settled(peer, sandbox)


@pytest.mark.parametrize(
    ("number", "error"), [(errno.ECONNREFUSED, ConnectionRefusedError), (errno.EAGAIN, BlockingIOError), (0, ConnectionAbortedError)]
)
async def test_a_port_that_cannot_be_connected_to_raises_as_connect_does(
    peer: Peer, sandbox: GuestSandbox, number: int, error: type[OSError]
) -> None:
    opening = asyncio.create_task(sandbox.open_tunnel(80))
    await peer.send(FrameType.TUNNEL_CLOSED, (await peer.expect(FrameType.TUNNEL_OPEN)).id, WORD.pack(number))
    with pytest.raises(error):
        await opening
    await settled(peer, sandbox)


async def test_a_tunnel_whose_opener_is_cancelled_is_closed(peer: Peer, sandbox: GuestSandbox) -> None:
    opening = asyncio.create_task(sandbox.open_tunnel(80))
    ident = (await peer.expect(FrameType.TUNNEL_OPEN)).id
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert (await peer.expect(FrameType.TUNNEL_CLOSE)).id == ident
    await peer.send(FrameType.TUNNEL_OPENED, ident)  # it crossed
    await settled(peer, sandbox)


async def test_a_port_that_nobody_answers_for_is_given_up(peer: Peer, sandbox: GuestSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "CONNECT_S", 0.01)
    with pytest.raises(TimeoutError):
        await sandbox.open_tunnel(80)
    await peer.expect(FrameType.TUNNEL_OPEN)
    await peer.expect(FrameType.TUNNEL_CLOSE)


@pytest.mark.parametrize("port", [0, -1, 65_536])
async def test_what_is_no_port_is_refused(sandbox: GuestSandbox, peer: Peer, port: int) -> None:
    with pytest.raises(errors.InvalidInput):
        await sandbox.open_tunnel(port)


async def test_closing_resets_the_other_end(peer: Peer, sandbox: GuestSandbox) -> None:
    tunnel = await opened(peer, sandbox)
    tunnel.close()
    tunnel.close()
    assert (await peer.expect(FrameType.TUNNEL_CLOSE)).payload == WORD.pack(errno.ECONNRESET)
    with pytest.raises(ConnectionResetError):
        await tunnel.read()
    with pytest.raises(ConnectionResetError):
        await tunnel.write(b"x")
    await settled(peer, sandbox)


async def test_what_came_before_a_reset_is_read_first(peer: Peer, sandbox: GuestSandbox) -> None:
    tunnel = await opened(peer, sandbox)
    await peer.send(FrameType.TUNNEL_DATA, tunnel.ident, b"last words")
    await peer.send(FrameType.TUNNEL_CLOSED, tunnel.ident, WORD.pack(errno.ECONNRESET))
    await settled(peer, sandbox)
    assert await tunnel.read() == b"last words"
    with pytest.raises(ConnectionResetError):
        await tunnel.read()


async def test_a_tunnel_that_is_closed_without_an_error_ends(peer: Peer, sandbox: GuestSandbox) -> None:
    tunnel = await opened(peer, sandbox)
    await peer.send(FrameType.TUNNEL_CLOSED, tunnel.ident, WORD.pack(0))
    assert await tunnel.read() == b""
    with pytest.raises(ConnectionResetError):
        await tunnel.write(b"x")


async def test_losing_the_attach_ends_every_tunnel_and_the_next_one_has_new_ones(
    boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox
) -> None:
    egress = Noting()
    sandbox.route(egress)
    tunnel = await opened(peer, sandbox)
    reading, writing = asyncio.create_task(tunnel.read()), asyncio.create_task(tunnel.write(bytes(100_000)))
    await peer.expect(FrameType.TUNNEL_SEND)
    peer.close()
    for waiting in (reading, writing):
        with pytest.raises(ConnectionResetError):
            await waiting
    assert egress.resets == 1
    opening = asyncio.create_task(sandbox.open_tunnel(80))
    again = await boundary.attach()
    await again.greet()
    frame = await again.frame()
    while frame.type != FrameType.TUNNEL_OPEN:
        frame = await again.frame()
    assert frame.id != tunnel.ident
    await again.send(FrameType.TUNNEL_OPENED, frame.id)
    await opening


async def test_the_end_of_the_sandbox_ends_what_waits_for_a_tunnel(boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox) -> None:
    egress = Noting()
    sandbox.route(egress)
    tunnel = await opened(peer, sandbox)
    opening = asyncio.create_task(sandbox.open_tunnel(81))
    await peer.expect(FrameType.TUNNEL_OPEN)
    boundary.dead.set_result("somebody pulled the plug")
    with pytest.raises(errors.SandboxLost):
        await opening
    with pytest.raises(ConnectionResetError):
        await tunnel.read()
    with pytest.raises(errors.SandboxLost):
        await sandbox.open_tunnel(82)
    assert egress.resets == 1


async def test_what_the_agent_begins_goes_to_the_peer_as_it_is_and_back(peer: Peer, sandbox: GuestSandbox) -> None:
    egress = Noting()
    agent = sandbox.route(egress)
    address = struct.pack("<HH16s", 1, 0, bytes(16))
    sent = [
        (FrameType.TUNNEL_ACCEPTED, 0, AGENTS | 7, address),
        (FrameType.TUNNEL_DATA, 1, AGENTS | 7, b"GET / HTTP/1.1\r\n\r\n"),
        (FrameType.TUNNEL_GRANT, 0, AGENTS | 7, WORD.pack(100)),
        (FrameType.QUERY, 0, AGENTS | 8, bytes(12)),
        (FrameType.TUNNEL_CLOSED, 0, AGENTS | 7, WORD.pack(0)),
    ]
    for kind, flags, ident, payload in sent:
        await peer.send(kind, ident, payload, flags)
    await egress.until(lambda: len(egress.frames) == len(sent))
    assert egress.frames == sent
    agent.take(FrameType.TUNNEL_SEND, 1, AGENTS | 7, memoryview(b"403"))
    assert tuple(await peer.expect(FrameType.TUNNEL_SEND)) == (FrameType.TUNNEL_SEND, 1, AGENTS | 7, b"403")


async def test_without_a_peer_connections_are_refused_and_queries_are_not_answered(peer: Peer, sandbox: GuestSandbox) -> None:
    await peer.send(FrameType.TUNNEL_ACCEPTED, AGENTS | 1, struct.pack("<HH16s", 1, 0, bytes(16)))
    refused = await peer.expect(FrameType.TUNNEL_CLOSE)
    assert (refused.id, refused.payload) == (AGENTS | 1, WORD.pack(errno.ECONNREFUSED))
    await peer.send(FrameType.QUERY, AGENTS | 2, bytes(12))
    answer = await peer.expect(FrameType.ANSWER)
    assert (answer.id, answer.payload) == (AGENTS | 2, b"")


async def test_another_peer_takes_over_and_the_one_before_is_told(peer: Peer, sandbox: GuestSandbox) -> None:
    first, second = Noting(), Noting()
    sandbox.route(first)
    sandbox.route(second)
    await peer.send(FrameType.QUERY, AGENTS | 1, bytes(12))
    await second.until(lambda: bool(second.frames))
    assert (first.frames, first.resets, second.resets) == ([], 1, 0)


async def test_what_waits_for_the_agent_is_sent_in_order_and_commands_go_first(peer: Peer, sandbox: GuestSandbox) -> None:
    agent = sandbox.route(Noting())
    for number in range(200):
        agent.take(FrameType.TUNNEL_SEND, 0, AGENTS | number + 1, bytes(65_536))
    asking = asyncio.create_task(sandbox.statistics())
    await asyncio.sleep(0)
    got: list[int] = []
    asked_after = -1
    while len(got) < 200:
        frame = await peer.frame()
        if frame.type == FrameType.STATS:
            asked_after = len(got)
            await peer.send(FrameType.FAILED, frame.id, struct.pack("<II", errno.EPERM, 0))
        else:
            got.append(frame.id)
    assert got == [AGENTS | number + 1 for number in range(200)]
    assert 0 <= asked_after < 50
    with pytest.raises(errors.SandboxFailed):
        await asking


async def test_an_agent_that_does_not_read_what_it_gave_credit_for_is_cut_off(
    peer: Peer, sandbox: GuestSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnels, "MAX_QUEUED_BYTES", 1_000_000)
    agent = sandbox.route(Noting())
    for number in range(200):
        agent.take(FrameType.TUNNEL_SEND, 0, AGENTS | number + 1, bytes(65_536))
    with pytest.raises(errors.ProtocolViolation, match="credit"):
        await sandbox.statistics()


async def opened_twice(peer: Peer, ident: int) -> None:
    await peer.send(FrameType.TUNNEL_OPENED, ident)


async def more_than_the_credit(peer: Peer, ident: int) -> None:
    await peer.send(FrameType.TUNNEL_DATA, ident, bytes(FIRST_CREDIT_BYTES + 1))


async def drips_beyond_the_credit(peer: Peer, ident: int) -> None:
    for _ in range(5):
        await peer.send(FrameType.TUNNEL_DATA, ident, bytes(FIRST_CREDIT_BYTES // 4))


async def data_of_nothing(peer: Peer, ident: int) -> None:
    await peer.send(FrameType.TUNNEL_DATA, ident)


async def data_after_the_end(peer: Peer, ident: int) -> None:
    await peer.send(FrameType.TUNNEL_DATA, ident, b"", 1)
    await peer.send(FrameType.TUNNEL_DATA, ident, b"x")


async def too_much_credit(peer: Peer, ident: int) -> None:
    await peer.send(FrameType.TUNNEL_GRANT, ident, WORD.pack(2**32 - 1))


async def credit_that_is_no_number(peer: Peer, ident: int) -> None:
    await peer.send(FrameType.TUNNEL_GRANT, ident, b"abc")


async def an_end_that_is_no_number(peer: Peer, ident: int) -> None:
    await peer.send(FrameType.TUNNEL_CLOSED, ident, b"")


FAULTS = [
    opened_twice,
    more_than_the_credit,
    drips_beyond_the_credit,
    data_of_nothing,
    data_after_the_end,
    too_much_credit,
    credit_that_is_no_number,
    an_end_that_is_no_number,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_an_agent_that_breaks_a_tunnels_rules_loses_that_tunnel(
    peer: Peer, sandbox: GuestSandbox, fault: Callable[[Peer, int], Awaitable[None]]
) -> None:
    tunnel, other = await opened(peer, sandbox), await opened(peer, sandbox)
    await fault(peer, tunnel.ident)
    closed = await peer.expect(FrameType.TUNNEL_CLOSE)
    assert (closed.id, closed.payload) == (tunnel.ident, WORD.pack(errno.EPROTO))
    with pytest.raises(ConnectionResetError):
        await tunnel.read()
    await peer.send(FrameType.TUNNEL_DATA, other.ident, b"as before")
    assert await other.read() == b"as before"


async def a_tunnel_under_the_hosts_id(peer: Peer) -> None:
    await peer.send(FrameType.TUNNEL_ACCEPTED, 7, bytes(20))


async def a_query_under_the_hosts_id(peer: Peer) -> None:
    await peer.send(FrameType.QUERY, 7, bytes(12))


async def a_tunnel_of_its_own_that_it_opens(peer: Peer) -> None:
    await peer.send(FrameType.TUNNEL_OPENED, AGENTS | 7)


async def no_id(peer: Peer) -> None:
    await peer.send(FrameType.TUNNEL_DATA, 0, b"x")


async def a_frame_of_the_host(peer: Peer) -> None:
    await peer.send(FrameType.TUNNEL_SEND, AGENTS | 7, b"x")


@pytest.mark.parametrize(
    "attack",
    [a_tunnel_under_the_hosts_id, a_query_under_the_hosts_id, a_tunnel_of_its_own_that_it_opens, no_id, a_frame_of_the_host],
    ids=lambda attack: attack.__name__,
)
async def test_a_frame_that_no_agent_may_send_closes_the_channel(
    peer: Peer, sandbox: GuestSandbox, attack: Callable[[Peer], Awaitable[None]]
) -> None:
    tunnel = await opened(peer, sandbox)
    await attack(peer)
    with pytest.raises(ConnectionResetError):
        await tunnel.read()
    with pytest.raises(errors.ProtocolViolation):
        await sandbox.statistics()


async def test_frames_of_tunnels_that_are_not_there_leave_nothing(peer: Peer, sandbox: GuestSandbox) -> None:
    for number in range(1, 2000):
        await peer.send(FrameType.TUNNEL_DATA, number, b"x")
        await peer.send(FrameType.TUNNEL_CLOSED, AGENTS | number, WORD.pack(0))
    await settled(peer, sandbox)
    assert not sandbox._channel.tunnels._own
    assert not sandbox._channel.tunnels._queue


async def test_an_agent_that_floods_with_connections_and_does_not_read_the_refusals_is_cut_off(
    peer: Peer, sandbox: GuestSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnels, "MAX_QUEUED_BYTES", 100_000)
    with pytest.raises((ConnectionError, OSError)):
        async with asyncio.timeout(20):
            for number in range(1, 1_000_000):
                await peer.send(FrameType.TUNNEL_ACCEPTED, AGENTS | number, bytes(20))
    with pytest.raises(errors.ProtocolViolation):
        await sandbox.statistics()


@pytest.mark.parametrize(
    ("kind", "flags", "ident", "payload"),
    [
        (FrameType.START, 0, AGENTS | 7, b"\1\0\0\0\4\0\0\0true"),
        (FrameType.SHUTDOWN, 0, AGENTS | 7, b""),
        (FrameType.TUNNEL_OPEN, 0, AGENTS | 7, struct.pack("<H", 22)),
        (FrameType.TUNNEL_SEND, 0, 7, b"into a tunnel of the host's"),
        (FrameType.TUNNEL_SEND, 0, AGENTS | 7, bytes(65_537)),
        (FrameType.TUNNEL_SEND, 0, AGENTS | 7, b""),
        (FrameType.TUNNEL_SEND, 2, AGENTS | 7, b"x"),
        (FrameType.TUNNEL_CREDIT, 0, AGENTS | 7, b"abc"),
        (FrameType.TUNNEL_CLOSE, 1, AGENTS | 7, WORD.pack(0)),
        (FrameType.ANSWER, 0, AGENTS | 7, bytes(65_508)),
    ],
)
async def test_a_peer_that_was_taken_over_reaches_nothing_but_the_agents_tunnels(
    peer: Peer, sandbox: GuestSandbox, kind: FrameType, flags: int, ident: int, payload: bytes
) -> None:
    agent = sandbox.route(Noting())
    agent.take(kind, flags, ident, payload)
    agent.reset()
    agent.take(FrameType.ANSWER, 0, AGENTS | 8, b"")
    assert tuple(await peer.frame()) == (FrameType.ANSWER, 0, AGENTS | 8, b"")


class Wild:
    """An agent that sends whatever its source of chance says to the tunnels of a host that goes on using them."""

    def __init__(self, source: random.Random) -> None:
        self.source = source
        self.sent: list[tuple[int, int, bytes, int]] = []
        self.failed: list[errors.AgentKernelError] = []
        self.tunnels = Tunnels(self.note, self.has_room, self.check, self.fail)
        self.egress = Noting()
        self.tunnels.route(self.egress)
        self.tunnels.begin()
        self.opening: list[asyncio.Task[HostTunnel]] = []
        self.open: list[HostTunnel] = []
        self.using: list[asyncio.Task[None]] = []

    def note(self, kind: int, ident: int, payload: bytes | memoryview, flags: int) -> None:
        self.sent.append((kind, ident, bytes(payload), flags))

    def has_room(self) -> bool:
        return self.source.random() < 0.9

    def check(self) -> None:
        if self.failed:
            raise self.failed[0]

    def fail(self, error: errors.AgentKernelError) -> None:
        self.failed.append(error)

    async def use(self) -> None:
        choice = self.source.random()
        if choice < 0.2:
            self.opening.append(asyncio.create_task(self.tunnels.open(self.source.randint(1, 65_535))))
        await asyncio.sleep(0)
        for task in [task for task in self.opening if task.done()]:
            self.opening.remove(task)
            if task.exception() is None:
                self.open.append(task.result())
        if self.open and choice > 0.5:
            tunnel = self.source.choice(self.open)
            self.using.append(asyncio.create_task(self.used(tunnel, reads=choice < 0.8)))
        if self.open and choice < 0.02:
            self.open.pop(self.source.randrange(len(self.open))).close()
        self.tunnels.drained()

    async def used(self, tunnel: HostTunnel, *, reads: bool) -> None:
        with contextlib.suppress(OSError):
            await (tunnel.read() if reads else tunnel.write(bytes(100)))

    def frame(self) -> tuple[int, int, int, bytes]:
        source = self.source
        ident = source.choice((*self.tunnels._own, source.randint(1, 200), AGENTS | source.randint(0, 5), source.getrandbits(64)))
        kind = source.choice((FrameType.TUNNEL_OPENED, FrameType.TUNNEL_DATA, FrameType.TUNNEL_DATA, *range(135, 141)))
        payload = source.choice((b"", b"x", bytes(4), WORD.pack(source.choice((1, 1000, 2**32 - 1))), bytes(source.randint(1, 20_000))))
        return kind, source.choice((0, 0, 0, 1, 2, 255)), ident, payload

    def hold_little(self) -> None:
        for tunnel in self.tunnels._own.values():
            assert 0 <= tunnel._allowed_bytes <= MAX_WINDOW_BYTES
            assert len(tunnel._received) <= MAX_WINDOW_BYTES
            assert 0 <= tunnel._credit_bytes <= 2**32 + MAX_CREDIT_BYTES


async def test_whatever_an_agent_sends_is_refused_or_ends_tunnels_and_little_is_held() -> None:
    source = random.Random(SEED)
    violations = 0
    for _ in range(20):
        wild = Wild(source)
        for _ in range(1000):
            await wild.use()
            try:
                wild.tunnels.received(*wild.frame())
            except errors.ProtocolViolation:
                violations += 1
            wild.hold_little()
        wild.fail(errors.SandboxLost("over"))
        wild.tunnels.reset()
        async with asyncio.timeout(10):
            await asyncio.gather(*wild.opening, return_exceptions=True)
            await asyncio.gather(*wild.using)
        assert not wild.tunnels._own
        for tunnel in wild.open:
            with contextlib.suppress(OSError):
                while await tunnel.read():
                    pass
    assert violations > 100
