"""Published ports: from the host's loopback, through the sandbox's stream, to a server inside."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from unit.engine_world import ANN, BOB, World

from agentkernel.abc import Caller
from agentkernel.abc_network import Tunnel
from agentkernel.engine import ports
from agentkernel.engine.engine import Engine
from agentkernel.engine.reserve import PoolSettings
from agentkernel.errors import Conflict, InvalidInput, NotFound, Refused, StoreFailed
from agentkernel.model.network import PortRule, PublishedPort
from agentkernel.model.record import CreateOptions, EventFilter, SandboxFilter
from agentkernel.model.status import Status

WEB = PortRule(port=80)
EVERY = SandboxFilter(limit=1000)


class Wire:
    """Implements `abc.Tunnel` over a real connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        return await self._reader.read(65_536)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def end(self) -> None:
        self._writer.write_eof()

    def close(self) -> None:
        self._writer.transport.abort()


@dataclass
class Inside:
    """A server in every sandbox of a world: says what it got when the other end has ended, or does as it is told."""

    connections: int = 0
    open: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)
    server: asyncio.Server | None = None

    async def connect(self, port: int) -> Tunnel:
        if port not in (80, 81):
            raise ConnectionRefusedError(f"nobody listens on {port}")
        assert self.server is not None
        return Wire(*await asyncio.open_connection(*self.server.sockets[0].getsockname()))

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            first = await reader.read(5)
            if first == b"hold ":
                await self.release.wait()
            elif first == b"reset":
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return
            writer.write(b"you said " + first + await reader.read())
            writer.write_eof()
            await writer.drain()
        except ConnectionError:
            return
        finally:
            self.open -= 1
            writer.close()


@pytest.fixture
async def inside() -> AsyncIterator[Inside]:
    inside = Inside()
    inside.server = await asyncio.start_server(inside.answer, "127.0.0.1", 0)
    yield inside
    inside.release.set()
    inside.server.close()


@pytest.fixture
async def world(tmp_path: Path, inside: Inside) -> AsyncIterator[World]:
    (tmp_path / "home").mkdir()
    world = World(directory=tmp_path, connect=inside.connect)
    yield world
    await world.end()


async def _made(engine: Any, world: World, *rules: PortRule, name: str = "one", start: bool = True) -> Any:
    return await engine.create(ANN, world.request(ports=rules), CreateOptions(name=name, start=start))


async def _said(port: PublishedPort, words: bytes = b"hello there") -> bytes:
    """What the server inside says to a client that has said its words and ended."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(port.host_address, port.host_port)
        writer.write(words)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        return answer


def _chosen() -> int:
    """A port of the host that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _is_free(port: PublishedPort) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((port.host_address, port.host_port)) != 0


async def _events(engine: Any, *kinds: str, caller: Caller = ANN) -> list[Any]:
    return [event async for event in engine.events(caller, EventFilter(limit=1000, kinds=kinds))]


async def test_ports_of_a_request_are_published_when_it_starts_and_only_while_it_runs(world: World) -> None:
    engine = world.engine()
    info = await _made(engine, world, WEB, start=False)
    assert info.ports == ()
    [port] = (await engine.start(ANN, "one")).ports
    assert (port.port, port.host_address) == (80, "127.0.0.1")
    assert await _said(port) == b"you said hello there"
    assert list(await engine.ports(ANN, "one")) == [port]
    [listed] = await engine.sandboxes(ANN, EVERY)
    assert listed.ports == (port,)
    await engine.publish(ANN, "one", PortRule(port=81))
    assert (await engine.stop(ANN, "one")).ports == ()
    assert _is_free(port)
    [again] = (await engine.start(ANN, "one")).ports
    assert await _said(again) == b"you said hello there"
    await engine.remove(ANN, "one", force=True)
    assert _is_free(again)


async def test_a_port_that_is_taken_is_named_and_nothing_is_made(world: World) -> None:
    engine = world.engine()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        rule = PortRule(port=80, host_port=number)
        with pytest.raises(Conflict, match=f"127.0.0.1:{number} is taken"):
            await _made(engine, world, PortRule(port=81), rule)
        assert (world.boots, list(await engine.sandboxes(ANN, EVERY))) == (0, [])
        with pytest.raises(Conflict, match=f"127.0.0.1:{number} is taken"):
            await engine.ephemeral(ANN, world.request(ports=(rule,)), 7)
        await _made(engine, world, rule, start=False)
        with pytest.raises(Conflict, match=f"127.0.0.1:{number} is taken"):
            await engine.start(ANN, "one")
    assert (await engine.info(ANN, "one")).status is Status.STOPPED
    assert (await engine.start(ANN, "one")).ports[0].host_port == number


async def test_a_sandbox_that_cannot_be_built_holds_no_port(world: World) -> None:
    engine = world.engine()
    number = _chosen()
    world.failing_gate("boot")
    with pytest.raises(Exception, match="boot failed"):
        await _made(engine, world, PortRule(port=80, host_port=number))
    assert _is_free(PublishedPort(port=80, host_address="127.0.0.1", host_port=number))


async def test_the_next_engine_publishes_the_same_ports_of_what_runs(world: World) -> None:
    engine = world.engine()
    [chosen] = (await _made(engine, world, WEB)).ports
    more = await engine.publish(ANN, "one", PortRule(port=81))
    await engine.close()
    assert _is_free(chosen)
    next_engine = world.engine()
    await next_engine.recover()
    assert list(await next_engine.ports(ANN, "one")) == [chosen, more]
    assert await _said(chosen) == await _said(more) == b"you said hello there"


async def test_a_port_that_somebody_took_meanwhile_is_told_and_the_others_are_published(world: World) -> None:
    engine = world.engine()
    lost, kept = (await _made(engine, world, WEB, PortRule(port=81))).ports
    await engine.close()
    with socket.create_server((lost.host_address, lost.host_port)):
        next_engine = world.engine()
        await next_engine.recover()
        await next_engine.settled()
        assert list(await next_engine.ports(ANN, "one")) == [kept]
        [event] = await _events(next_engine, "ports.unpublished")
        assert (event.outcome, dict(event.details)["host_port"]) == ("conflict", str(lost.host_port))


async def test_a_port_is_published_while_it_runs_and_told(world: World) -> None:
    engine = world.engine()
    await _made(engine, world)
    port = await engine.publish(ANN, "one", WEB)
    assert await engine.publish(ANN, "one", WEB) == port
    assert await engine.publish(ANN, "one", PortRule(port=80, host_port=port.host_port)) == port
    assert await _said(port) == b"you said hello there"
    await engine.unpublish(ANN, "one", 80)
    await engine.unpublish(ANN, "one", 80)
    assert list(await engine.ports(ANN, "one")) == []
    assert _is_free(port)
    told = await _events(engine, "ports.")
    assert [event.kind for event in told] == ["ports.published", "ports.unpublished"]
    assert dict(told[0].details) == {"port": "80", "host_address": "127.0.0.1", "host_port": str(port.host_port)}


async def test_a_port_inside_can_have_several_of_the_hosts_which_end_together(world: World) -> None:
    engine = world.engine()
    first = (await _made(engine, world, WEB)).ports[0]
    second = await engine.publish(ANN, "one", PortRule(port=80, host_port=_chosen()))
    assert first != second
    assert await _said(first) == await _said(second) == b"you said hello there"
    await engine.unpublish(ANN, "one", 80)
    assert (_is_free(first), _is_free(second), list(await engine.ports(ANN, "one"))) == (True, True, [])
    assert len(await _events(engine, "ports.unpublished")) == 2


async def test_a_port_that_cannot_be_stored_is_not_published(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = world.engine()
    await _made(engine, world)
    rule = PortRule(port=80, host_port=_chosen())

    def full(*_: Any) -> None:
        raise StoreFailed("the disk is full")

    with monkeypatch.context() as disk, pytest.raises(StoreFailed):
        disk.setattr(world.store, "update", full)
        await engine.publish(ANN, "one", rule)
    assert list(await engine.ports(ANN, "one")) == []
    assert _is_free(PublishedPort(port=80, host_address="127.0.0.1", host_port=rule.host_port))


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        (PortRule(port=0), InvalidInput),
        (PortRule(port=80, host_port=70_000), InvalidInput),
        (PortRule(port=80, host_address="0.0.0.0"), Refused),
        (PortRule(port=80, host_address="example.com"), InvalidInput),
    ],
    ids=["no port", "no host port", "everybody's address", "no address"],
)
async def test_what_may_not_be_published_is_refused(world: World, rule: PortRule, error: type[Exception]) -> None:
    engine = world.engine()
    await _made(engine, world)
    with pytest.raises(error):
        await engine.publish(ANN, "one", rule)
    assert list(await engine.ports(ANN, "one")) == []


async def test_a_sandbox_has_so_many_published_ports_and_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "MAX_PORTS", 2)
    engine = world.engine()
    await _made(engine, world, WEB, PortRule(port=81))
    with pytest.raises(InvalidInput, match="at most 2"):
        await engine.publish(ANN, "one", PortRule(port=82))


async def test_only_a_running_sandbox_has_ports_published(world: World) -> None:
    engine = world.engine()
    await _made(engine, world, start=False)
    with pytest.raises(Conflict) as stopped:
        await engine.publish(ANN, "one", WEB)
    assert stopped.value.hint == "`agentkernel start one`"
    await engine.unpublish(ANN, "one", 80)
    assert list(await engine.ports(ANN, "one")) == []


async def test_who_may_see_and_publish_ports(world: World) -> None:
    engine = world.engine()
    await _made(engine, world, WEB)
    reader = Caller(principal="ann", scopes=frozenset({"read-only"}))
    one = Caller(principal="ann", scopes=frozenset({"sandbox:one"}))
    runner = Caller(principal="ann", scopes=frozenset({"run-only"}))
    assert list(await engine.ports(reader, "one")) == list(await engine.ports(one, "one")) != []
    await engine.publish(one, "one", PortRule(port=81))
    for call in (engine.publish(reader, "one", WEB), engine.unpublish(reader, "one", 80), engine.ports(runner, "one")):
        with pytest.raises(Refused):
            await call
    for call in (engine.publish(BOB, "one", WEB), engine.unpublish(BOB, "one", 80), engine.ports(BOB, "one")):
        with pytest.raises(NotFound):
            await call


async def test_the_sandbox_of_one_command_has_its_ports_by_its_id(world: World) -> None:
    engine = world.engine()
    runner = Caller(principal="ann", scopes=frozenset({"run-only"}))
    sandbox, _ = await engine.ephemeral(runner, world.request(ports=(WEB,)), 7)
    [port] = await engine.ports(runner, sandbox.sandbox_id)
    assert await _said(port) == b"you said hello there"
    await engine.publish(runner, sandbox.sandbox_id, PortRule(port=81))
    await engine.dispose(7)
    assert _is_free(port)


async def test_the_sandbox_of_a_block_has_its_ports_by_its_id(world: World) -> None:
    engine = world.engine(Engine)
    async with engine.sandbox(ANN, world.request(ports=(WEB,))) as (sandbox, _):
        more = await engine.publish(ANN, sandbox.sandbox_id, PortRule(port=81))
        port, other = await engine.ports(ANN, sandbox.sandbox_id)
        assert other == more
        assert await _said(port) == await _said(more) == b"you said hello there"
        with pytest.raises(NotFound):
            await engine.ports(BOB, sandbox.sandbox_id)
    assert _is_free(port)
    assert _is_free(more)


async def test_a_sandbox_of_a_pool_has_the_ports_of_who_takes_it(world: World) -> None:
    engine = world.engine(pool=PoolSettings(minimum=1, maximum=1, settle_s=0.0))
    for number in range(1, 6):
        sandbox, _ = await engine.ephemeral(ANN, world.request(ports=(PortRule(port=79 + number),)), number)
        [port] = await engine.ports(ANN, sandbox.sandbox_id)
        assert port.port == 79 + number
        async with asyncio.timeout(10):
            while (pools := (await engine.status(ANN)).pools) and not pools[0].ready:
                await asyncio.sleep(0.01)
        await engine.dispose(number)
        assert _is_free(port)
    [pool] = (await engine.status(ANN)).pools
    assert pool.hits >= 3


async def test_a_port_on_which_nobody_listens_inside_is_a_reset(world: World) -> None:
    engine = world.engine()
    [port] = (await _made(engine, world, PortRule(port=9))).ports
    with pytest.raises(ConnectionResetError):
        await _said(port)


async def test_a_reset_inside_is_a_reset_outside(world: World) -> None:
    engine = world.engine()
    [port] = (await _made(engine, world, WEB)).ports
    with pytest.raises(ConnectionResetError):
        await _said(port, b"reset")


async def test_the_ipv6_loopback_can_be_listened_on(world: World) -> None:
    engine = world.engine()
    await _made(engine, world)
    try:
        port = await engine.publish(ANN, "one", PortRule(port=80, host_address="::1"))
    except Exception as error:
        if os.path.exists("/proc/net/if_inet6"):
            raise
        pytest.skip(f"needs IPv6: {error}")
    assert await _said(port) == b"you said hello there"


async def test_connections_beyond_the_limit_wait_until_one_ends(world: World, inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "MAX_CONNECTIONS", 3)
    engine = world.engine()
    [port] = (await _made(engine, world, WEB)).ports
    saying = [asyncio.create_task(_said(port, b"hold on")) for _ in range(8)]
    async with asyncio.timeout(10):
        while inside.open < 3:
            await asyncio.sleep(0.01)
    assert inside.connections == 3
    inside.release.set()
    assert await asyncio.gather(*saying) == [b"you said hold on"] * 8


async def test_an_open_connection_is_use(world: World, inside: Inside) -> None:
    engine = world.engine()
    request = world.request(ports=(WEB,))
    [port] = (await engine.create(ANN, request, CreateOptions(name="one", start=True, idle_s=10.0))).ports
    saying = asyncio.create_task(_said(port, b"hold on"))
    async with asyncio.timeout(10):
        while not inside.open:
            await asyncio.sleep(0.01)
    world.now += 100
    engine._upkeep.tick()
    await engine._core.operations.drain()
    assert (await engine.info(ANN, "one")).status is Status.RUNNING
    inside.release.set()
    await saying
    async with asyncio.timeout(10):
        while engine._core.registry.get((await engine.info(ANN, "one")).sandbox_id).connections:
            await asyncio.sleep(0.01)
    assert (await engine.info(ANN, "one")).used_at == world.now


async def test_stopping_ends_what_is_connected_and_leaves_no_task_and_no_descriptor(world: World, inside: Inside) -> None:
    engine = world.engine()
    gc.collect()
    before, tasks = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())
    await _made(engine, world, WEB, PortRule(port=81))
    for _ in range(3):
        first, second = (await engine.start(ANN, "one")).ports
        saying = [asyncio.create_task(_said(port, b"hold on")) for port in (first, second) * 5]
        async with asyncio.timeout(10):
            while inside.open < 10:
                await asyncio.sleep(0.01)
        await engine.stop(ANN, "one")
        assert all(isinstance(each, ConnectionError) for each in await asyncio.gather(*saying, return_exceptions=True))
        inside.release.set()
        async with asyncio.timeout(10):
            while inside.open:
                await asyncio.sleep(0.01)
        inside.release.clear()
    await engine.remove(ANN, "one")
    await engine.close()
    gc.collect()
    async with asyncio.timeout(10):
        while len(os.listdir("/proc/self/fd")) > before or len(asyncio.all_tasks()) > tasks:
            await asyncio.sleep(0.01)


async def test_a_connection_that_was_only_just_accepted_is_closed_with_its_sandbox(world: World) -> None:
    engine = world.engine()
    [port] = (await _made(engine, world, WEB)).ports
    [listener] = engine._core.ports._listeners[(await engine.info(ANN, "one")).sandbox_id]
    with socket.create_connection((port.host_address, port.host_port)) as client:
        client.settimeout(10)
        listener._accept()
        engine._core.ports.end(engine._core.registry.get((await engine.info(ANN, "one")).sandbox_id))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert await asyncio.to_thread(client.recv, 1) == b""


async def test_too_few_descriptors_make_connections_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_SHORTAGE_S", 0.01)
    engine = world.engine()
    [port] = (await _made(engine, world, WEB)).ports
    [listener] = engine._core.ports._listeners[(await engine.info(ANN, "one")).sandbox_id]
    refused = 0

    class Short:
        """The listener's socket on a host that is short of descriptors for a while."""

        def __init__(self, sock: socket.socket) -> None:
            self._sock = sock

        def accept(self) -> Any:
            nonlocal refused
            if refused < 3:
                refused += 1
                raise OSError(24, os.strerror(24))
            return self._sock.accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sock, name)

    listener._sock = Short(listener._sock)
    assert await _said(port) == b"you said hello there"
    assert refused == 3
