"""Warm pools under any sequence of asks, times, changes of the host, deaths and failures. `World.take` checks each that is handed out."""

from __future__ import annotations

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from unit.pool_world import World, spec_of

from agentkernel.engine.pool import MAX_POOLS
from agentkernel.engine.reserve import PoolSettings

BACKENDS = st.sampled_from(["one", "two"])


class PoolMachine(RuleBasedStateMachine):
    """Each rule is one thing that users, the host or time do to the pools."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.world = self.loop.run_until_complete(_world())
        self.all_handed_out: set[str] = set()

    @rule(pids=st.integers(1, 12), backend=BACKENDS, times=st.integers(1, 7))
    def ask(self, pids: int, backend: str, times: int) -> None:
        async def asking() -> None:
            for _ in range(times):
                found = self.world.take(spec_of(pids), backend)
                if found is not None:
                    assert found.sandbox_id not in self.all_handed_out
                    self.all_handed_out.add(found.sandbox_id)

        self.loop.run_until_complete(asking())

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 5.0, 30.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(self.world.later(seconds))

    @rule(turns=st.integers(1, 3))
    def run_a_little(self, turns: int) -> None:
        async def turning() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turning())

    @rule()
    def replace_what_is_shown(self) -> None:
        self.world.shows += 1

    @rule(fails=st.booleans())
    def host_is_full(self, fails: bool) -> None:
        self.world.fails = fails

    @rule(is_open=st.booleans())
    def host_is_slow(self, is_open: bool) -> None:
        (self.world.gate.set if is_open else self.world.gate.clear)()

    @rule(broken=st.booleans())
    def disk_is_broken(self, broken: bool) -> None:
        self.world.removal_fails = broken

    @precondition(lambda self: self.world.stored)
    @rule(data=st.data(), says_so=st.booleans())
    def one_dies(self, data: st.DataObject, says_so: bool) -> None:
        async def dying() -> None:
            dead = data.draw(st.sampled_from(self.world.stored))
            dead.alive = False
            if says_so:
                dead.die()

        self.loop.run_until_complete(dying())

    @invariant()
    def there_are_never_too_many(self) -> None:
        limits = self.world.settings
        states = self.world.pools.states()
        assert len(states) <= MAX_POOLS and self.world.most_under_way <= limits.at_once
        for state in states:
            assert 0 <= state.ready <= state.ready + state.making <= limits.maximum
        assert len({(state.backend, state.image, state.profile) for state in states}) <= 2

    @invariant()
    def everything_in_store_is_held(self) -> None:
        held = self.world.pools.held()
        assert {made.sandbox_id for made in self.world.stored} <= held
        assert not held & self.all_handed_out

    def teardown(self) -> None:
        async def end() -> None:
            await self.world.pools.close()
            assert not self.world.stored and not self.world.pools.held() and self.world.under_way == 0
            assert all(made.taken or made.destroyed for made in self.world.made)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        self.loop.run_until_complete(end())
        self.loop.close()


async def _world() -> World:
    return World(PoolSettings(minimum=2, maximum=4, age_s=100, idle_s=50, settle_s=1, at_once=2))


class TestPools(PoolMachine.TestCase):
    settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
