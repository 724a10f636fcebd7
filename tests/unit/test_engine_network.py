"""Filtered networks in the engine: places at the egress proxy, decisions as events, rules that change and are kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from unit.engine_world import ANN, BOB, World

from agentkernel.abc import Caller
from agentkernel.abc_network import TunnelPeer
from agentkernel.engine import network
from agentkernel.engine.engine import Engine
from agentkernel.engine.reserve import PoolSettings
from agentkernel.errors import InvalidInput, NotFound, Refused, StoreFailed, Unsupported
from agentkernel.model.decisions import KINDS, decisions_of
from agentkernel.model.network import Decision, EgressChange, EgressLimits, EgressRules, Rule, Verdict
from agentkernel.model.record import CreateOptions, EventFilter
from agentkernel.model.spec import NetworkMode

ACCEPTED, DATA, CLOSE = 135, 137, 17
TUNNEL = 1 << 63 | 1
ALLOW = Rule(host="example.com", ports=(443,))
DENY = Rule(host="*.example.org")


@dataclass(eq=False)
class Session:
    """A place at the proxy."""

    sandbox_id: str
    rules: list[EgressRules]  # the first and those that followed
    agent: TunnelPeer
    decided: Callable[[Decision], None]
    limits: EgressLimits
    frames: list[tuple[int, int, int, bytes]] = field(default_factory=list)
    resets: int = 0
    closed: bool = False

    def take(self, kind: int, flags: int, ident: int, payload: bytes | memoryview) -> None:
        assert not self.closed
        self.frames.append((kind, flags, ident, bytes(payload)))

    def reset(self) -> None:
        self.resets += 1

    def set_rules(self, rules: EgressRules) -> None:
        self.rules.append(rules)

    def close(self) -> None:
        self.closed = True


@dataclass(eq=False)
class Proxy:
    """Implements `abc.Egress`."""

    made: int = 0
    sessions: list[Session] = field(default_factory=list)
    closed: int = 0
    failure: Exception | None = None

    def make(self) -> Proxy:
        self.made += 1
        return self

    def join(
        self, sandbox_id: str, rules: EgressRules, limits: EgressLimits, agent: TunnelPeer, decided: Callable[[Decision], None]
    ) -> Session:
        if self.failure is not None:
            raise self.failure
        session = Session(sandbox_id, [rules], agent, decided, limits)
        self.sessions.append(session)
        return session

    async def close(self) -> None:
        self.closed += 1


@pytest.fixture
def proxy() -> Proxy:
    return Proxy()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "home").mkdir()
    world = World(directory=tmp_path)
    yield world
    await world.end()


async def _made(engine: Any, world: World, name: str = "one", **request: Any) -> Any:
    return await engine.create(ANN, world.request(network=True, **request), CreateOptions(name=name, start=True))


async def _events(engine: Any, *kinds: str) -> list[Any]:
    return [event async for event in engine.events(ANN, EventFilter(limit=1000, kinds=kinds))]


def _connect(world: World, sandbox_id: str) -> None:
    """The agent has accepted a connection."""
    peer = world.machines[sandbox_id].peer
    assert peer is not None
    peer.take(ACCEPTED, 0, TUNNEL, bytes(20))


def _decision(verdict: Verdict = Verdict.DENIED, **changes: Any) -> Decision:
    told: dict[str, Any] = {"at": 5.5, "protocol": "connect", "host": "example.org", "port": 443, "rule": "deny *.example.org"}
    return Decision(verdict=verdict, **(told | changes))


async def test_nothing_is_made_for_a_sandbox_that_connects_to_nothing(world: World, proxy: Proxy) -> None:
    engine = world.engine(egress=proxy.make)
    made = await _made(engine, world)
    assert (await engine.info(ANN, "one")).network is NetworkMode.FILTERED
    assert proxy.made == 0
    _connect(world, made.sandbox_id)
    assert proxy.made == 1
    assert [session.sandbox_id for session in proxy.sessions] == [made.sandbox_id]
    await engine.close()
    assert (proxy.closed, proxy.sessions[0].closed) == (1, True)
    assert world.machines[made.sandbox_id].peer is None


async def test_a_sandbox_joins_with_its_own_limits(world: World, proxy: Proxy) -> None:
    engine = world.engine(egress=proxy.make)
    limits = EgressLimits(connections=3, lookups_per_s=4, bytes_total=5)
    made = await _made(engine, world, egress_limits=limits)
    _connect(world, made.sandbox_id)
    assert proxy.sessions[0].limits == limits
    await engine.close()


async def test_frames_go_both_ways_as_they_are(world: World, proxy: Proxy) -> None:
    engine = world.engine(egress=proxy.make)
    machine = world.machines[(await _made(engine, world)).sandbox_id]
    assert machine.peer is not None
    machine.peer.take(ACCEPTED, 0, TUNNEL, bytes(20))
    machine.peer.take(DATA, 1, TUNNEL, memoryview(b"hello"))
    [session] = proxy.sessions
    assert session.frames == [(ACCEPTED, 0, TUNNEL, bytes(20)), (DATA, 1, TUNNEL, b"hello")]
    session.agent.take(CLOSE, 0, TUNNEL, bytes(4))
    assert machine.sent == [(CLOSE, 0, TUNNEL, bytes(4))]
    machine.peer.reset()
    assert session.resets == 1


async def test_a_sandbox_without_filtered_network_has_no_place(world: World, proxy: Proxy) -> None:
    engine = world.engine(egress=proxy.make)
    made = await engine.create(ANN, world.request(), CreateOptions(name="none", start=True))
    assert world.machines[made.sandbox_id].peer is None
    for call in (engine.network(ANN, "none"), engine.change_network(ANN, "none", EgressChange(allow=(ALLOW,)))):
        with pytest.raises(Unsupported, match="no network"):
            await call


async def test_the_rules_of_the_request_are_those_that_it_joins_under(world: World, proxy: Proxy) -> None:
    engine = world.engine(egress=proxy.make)
    made = await _made(engine, world, allow_hosts=(ALLOW,), deny_hosts=(DENY,))
    _connect(world, made.sandbox_id)
    rules = await engine.network(ANN, made.sandbox_id)
    assert (ALLOW in rules.allow, DENY in rules.deny) == (True, True)
    assert proxy.sessions[0].rules == [rules]


async def test_changed_rules_reach_the_proxy_are_told_and_are_there_for_the_next_engine(world: World, proxy: Proxy) -> None:
    engine = world.engine(egress=proxy.make)
    made = await _made(engine, world)
    _connect(world, made.sandbox_id)
    after = await engine.change_network(ANN, "one", EgressChange(allow=(ALLOW,), deny=(DENY,)))
    assert (ALLOW in after.allow, DENY in after.deny) == (True, True)
    assert proxy.sessions[0].rules[1:] == [after]
    assert await engine.change_network(ANN, "one", EgressChange(allow=(ALLOW,))) == after  # nothing changes, nothing is told
    [event] = await _events(engine, "network.changed")
    assert dict(event.details) == {"allow": "example.com:443", "deny": "*.example.org"}
    assert (event.sandbox, event.principal, event.outcome) == ("one", "ann", "ok")
    next_engine = world.engine(egress=proxy.make)
    await next_engine.recover()
    await next_engine.settled()
    _connect(world, made.sandbox_id)
    assert proxy.sessions[-1].rules == [after]
    assert (await next_engine.spec(ANN, "one")).egress == after


async def test_rules_that_cannot_be_stored_do_not_take_effect(world: World, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = world.engine(egress=proxy.make)
    made = await _made(engine, world)
    _connect(world, made.sandbox_id)
    before = await engine.network(ANN, "one")

    def full(*_: Any) -> None:
        raise StoreFailed("the disk is full")

    with monkeypatch.context() as disk, pytest.raises(StoreFailed):
        disk.setattr(world.store, "update", full)
        await engine.change_network(ANN, "one", EgressChange(allow=(ALLOW,)))
    assert await engine.network(ANN, "one") == before
    assert proxy.sessions[0].rules == [before]


async def test_rules_of_a_stopped_sandbox_are_those_of_its_next_start(world: World, proxy: Proxy) -> None:
    engine = world.engine(egress=proxy.make)
    made = await _made(engine, world)
    _connect(world, made.sandbox_id)
    await engine.stop(ANN, "one")
    assert proxy.sessions[0].closed
    after = await engine.change_network(ANN, "one", EgressChange(deny=(DENY,)))
    await engine.start(ANN, "one")
    _connect(world, made.sandbox_id)
    assert proxy.sessions[1].rules == [after]


async def test_a_rule_takes_the_place_of_the_same_one_on_the_other_side_and_goes_wherever_it_stands(world: World, proxy: Proxy) -> None:
    engine = world.engine(egress=proxy.make)
    await _made(engine, world)
    before = await engine.network(ANN, "one")
    await engine.change_network(ANN, "one", EgressChange(deny=(ALLOW,)))
    allowed = await engine.change_network(ANN, "one", EgressChange(allow=(ALLOW,)))
    assert (ALLOW in allowed.allow, ALLOW in allowed.deny) == (True, False)
    assert await engine.change_network(ANN, "one", EgressChange(remove=(ALLOW,))) == before


@pytest.mark.parametrize(
    "change",
    [
        EgressChange(allow=(Rule(host="not a host"),)),
        EgressChange(allow=(Rule(host="example.com", ports=(70_000,)),)),
        EgressChange(allow=(ALLOW,), deny=(ALLOW,)),
        EgressChange(deny=tuple(Rule(host=f"host-{number}.example.com") for number in range(2000))),
    ],
    ids=["no host", "no port", "both", "too many"],
)
async def test_a_change_that_makes_no_sense_is_refused_and_told(world: World, proxy: Proxy, change: EgressChange) -> None:
    engine = world.engine(egress=proxy.make)
    await _made(engine, world)
    with pytest.raises(InvalidInput):
        await engine.change_network(ANN, "one", change)
    assert [event.outcome for event in await _events(engine, "network.changed")] == ["invalid_input"]


async def test_who_may_see_and_change_the_network(world: World, proxy: Proxy) -> None:
    engine = world.engine(egress=proxy.make)
    await _made(engine, world)
    change = EgressChange(allow=(ALLOW,))
    reader = Caller(principal="ann", scopes=frozenset({"read-only"}))
    runner = Caller(principal="ann", scopes=frozenset({"run-only"}))
    one = Caller(principal="ann", scopes=frozenset({"sandbox:one"}))
    assert await engine.network(reader, "one")
    assert await engine.change_network(one, "one", change) == await engine.network(one, "one")
    for call in (engine.change_network(reader, "one", change), engine.network(runner, "one"), engine.change_network(runner, "one", change)):
        with pytest.raises(Refused):
            await call
    for call in (engine.network(BOB, "one"), engine.change_network(BOB, "one", change)):
        with pytest.raises(NotFound):
            await call


async def test_a_decision_is_an_event(world: World, proxy: Proxy) -> None:
    engine = world.engine(egress=proxy.make)
    made = await _made(engine, world)
    _connect(world, made.sandbox_id)
    decisions = [_decision(), _decision(Verdict.ALLOWED, address="192.0.2.1"), _decision(Verdict.FAILED, reason="nobody answers")]
    for decision in decisions:
        proxy.sessions[0].decided(decision)
    events = await _events(engine, *KINDS)
    assert [(event.kind, event.outcome) for event in events] == [
        ("network.denied", "denied"),
        ("network.allowed", "ok"),
        ("network.failed", "failed"),
    ]
    assert [decision for event in events for decision in decisions_of(event)] == decisions
    assert {(event.sandbox, event.principal) for event in events} == {("one", "ann")}


async def test_a_flood_of_decisions_is_folded_into_one_event(world: World, proxy: Proxy) -> None:
    engine = world.engine(egress=proxy.make)
    made = await _made(engine, world)
    _connect(world, made.sandbox_id)
    for verdict in (Verdict.ALLOWED, Verdict.DENIED):
        for _ in range(500):
            proxy.sessions[0].decided(_decision(verdict))
    told, denied = network.ALLOWED_ROWS_PER_S, network.ROWS_PER_S - network.ALLOWED_ROWS_PER_S
    assert [len(await _events(engine, f"network.{kind}")) for kind in ("allowed", "denied", "more")] == [told, denied, 0]
    await engine.stop(ANN, "one")
    [more] = await _events(engine, "network.more")
    assert dict(more.details) == {"allowed": str(500 - told), "denied": str(500 - denied)}


async def test_after_a_second_decisions_are_told_one_by_one_again(world: World, proxy: Proxy) -> None:
    engine = world.engine(egress=proxy.make)
    made = await _made(engine, world)
    _connect(world, made.sandbox_id)
    for _ in range(network.ROWS_PER_S + 1):
        proxy.sessions[0].decided(_decision())
    async with asyncio.timeout(10):
        async for _ in engine.events(ANN, EventFilter(limit=1000, kinds=("network.more",)), follow=True):
            break
    proxy.sessions[0].decided(_decision(host="again.example.org"))
    assert (await _events(engine, "network.denied"))[-1].details[1] == ("host", "again.example.org")


async def test_a_proxy_that_cannot_be_had_refuses_and_tells_once(world: World, proxy: Proxy) -> None:
    proxy.failure = InvalidInput("the upstream proxy is none")
    engine = world.engine(egress=proxy.make)
    made = await _made(engine, world)
    _connect(world, made.sandbox_id)
    assert world.machines[made.sandbox_id].peer is None
    [event] = await _events(engine, "network.failed")
    assert event.outcome == "invalid_input"
    assert (await engine.info(ANN, "one")).status == "running"


async def test_the_sandbox_of_one_command_is_found_by_its_id(world: World, proxy: Proxy) -> None:
    engine = world.engine(egress=proxy.make)
    runner = Caller(principal="ann", scopes=frozenset({"run-only"}))
    sandbox, _ = await engine.ephemeral(runner, world.request(network=True), 7)
    _connect(world, sandbox.sandbox_id)
    after = await engine.change_network(runner, sandbox.sandbox_id, EgressChange(allow=(ALLOW,)))
    assert proxy.sessions[0].rules[-1] == after == await engine.network(ANN, sandbox.sandbox_id)
    with pytest.raises(NotFound):
        await engine.network(BOB, sandbox.sandbox_id)
    await engine.dispose(7)
    assert proxy.sessions[0].closed


async def test_the_sandbox_of_a_block_is_found_by_its_id(world: World, proxy: Proxy) -> None:
    engine = world.engine(Engine, egress=proxy.make)
    async with engine.sandbox(ANN, world.request(network=True)) as (sandbox, _):
        _connect(world, sandbox.sandbox_id)
        after = await engine.change_network(ANN, sandbox.sandbox_id, EgressChange(allow=(ALLOW,)))
        assert proxy.sessions[0].rules[-1] == after == await engine.network(ANN, sandbox.sandbox_id)
        with pytest.raises(NotFound):
            await engine.change_network(BOB, sandbox.sandbox_id, EgressChange(allow=(ALLOW,)))
        with pytest.raises(NotFound):
            await engine.rename(ANN, sandbox.sandbox_id, "another")  # it has no row
    assert proxy.sessions[0].closed
    assert len(await _events(engine, "network.changed")) == 1


async def test_a_sandbox_of_a_pool_gets_the_rules_of_who_takes_it(world: World, proxy: Proxy) -> None:
    engine = world.engine(egress=proxy.make, pool=PoolSettings(minimum=1, maximum=1, settle_s=0.0))
    hosts = [Rule(host=f"{letter}.example.com") for letter in "abcdef"]
    for number, host in enumerate(hosts):
        sandbox, grant = await engine.ephemeral(ANN, world.request(network=True, allow_hosts=(host,)), number + 1)
        _connect(world, sandbox.sandbox_id)
        assert host in proxy.sessions[-1].rules[0].allow
        assert proxy.sessions[-1].rules[0] == grant.spec.egress
        async with asyncio.timeout(10):
            while (pools := (await engine.status(ANN)).pools) and not pools[0].ready:
                await asyncio.sleep(0.01)
        await engine.dispose(number + 1)
    [pool] = (await engine.status(ANN)).pools
    assert pool.hits >= len(hosts) - 2
