"""Warm pools on scripted sandboxes: who gets what, how many there are, and that nothing is ever left of one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from unit.pool_world import ENVIRONMENT, World, spec_of

from agentkernel.engine.pool import MAX_NOTED, MAX_POOLS
from agentkernel.engine.reserve import BACKOFF_MAX_S, GIVEN_UP_AFTER, PoolSettings
from agentkernel.engine.standing import is_poolable
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.spec import Bind, Workspace, WorkspaceMode

SETTINGS = PoolSettings(minimum=2, maximum=4, age_s=100, idle_s=50, settle_s=1, at_once=2)
SPEC = spec_of()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World(SETTINGS)
    yield world
    await world.pools.close()
    assert not world.stored and not world.pools.held()


async def test_what_is_asked_for_once_is_not_made_beforehand(world: World) -> None:
    assert world.take(SPEC) is None
    await world.later(10)
    assert world.made == [] and world.pools.states() == ()


async def test_what_is_asked_for_again_is_kept_ready(world: World) -> None:
    await world.warm(SPEC)
    (state,) = world.pools.states()
    assert (state.ready, state.making, state.hits, state.misses, state.reason) == (4, 0, 0, 1, "")
    assert (state.backend, state.image, state.profile, state.minimum, state.maximum) == ("one", "host", "moderate", 2, 4)
    assert {made.sandbox_id for made in world.stored} == set(world.pools.held())
    assert world.take(SPEC) is not None
    assert world.pools.states()[0].hits == 1


async def test_pools_that_are_ended_leave_nothing_and_the_others_stay(world: World) -> None:
    other = spec_of(pids=2)
    await world.warm(SPEC)
    await world.warm(other)
    world.take(SPEC)
    world.take(SPEC)
    world.take(SPEC)
    world.gate.clear()
    await world.later()
    assert world.under_way == 2
    ending = asyncio.ensure_future(world.pools.end(lambda spec: spec.resources == SPEC.resources))
    await world.later()
    assert not ending.done()  # what is on its way is waited for
    world.gate.set()
    assert await ending
    assert {made.spec.resources for made in world.stored} == {other.resources} and len(world.pools.held()) == 4
    assert not await world.pools.end(lambda spec: spec.resources == SPEC.resources)


async def test_two_asks_far_apart_begin_no_pool(world: World) -> None:
    assert world.take(SPEC) is None
    await world.later(51)
    assert world.take(SPEC) is None
    await world.later(10)
    assert world.made == []


async def test_it_is_filled_up_when_few_are_left_and_no_earlier(world: World) -> None:
    await world.warm(SPEC)
    for _ in range(2):
        world.take(SPEC)
        await world.later()
    assert (len(world.made), world.pools.states()[0].ready) == (4, 2)
    world.take(SPEC)
    await world.later()
    assert (len(world.made), world.pools.states()[0].ready) == (7, 4)


async def test_few_are_made_at_a_time(world: World) -> None:
    for pids in range(5):
        await world.warm(spec_of(pids))
    assert (world.most_under_way, len(world.stored)) == (2, 20)


async def test_what_is_still_being_made_for_a_pool_that_has_ended_counts_too(world: World) -> None:
    world.gate.clear()
    await world.warm(SPEC)
    await world.later(48)
    await world.warm(spec_of(2))
    await world.later(10)
    assert len(world.pools.states()) == 1 and world.most_under_way == 2


async def test_a_taken_one_has_the_name_environment_and_linger_of_who_took_it(world: World) -> None:
    await world.warm(SPEC)
    asked = replace(SPEC, name="another", environment=(*ENVIRONMENT, ("TOKEN", "secret")), linger_s=None)
    found = world.take(asked)
    assert found is not None and found.spec == asked
    for made in world.stored:
        assert (made.spec.name, made.spec.environment, made.spec.linger_s) == ("", (), 15.0)


@pytest.mark.parametrize("other", [spec_of(2), replace(SPEC, hostname="x"), replace(SPEC, profile="restrictive")])
async def test_what_differs_in_anything_else_is_another_pool(world: World, other: Any) -> None:
    await world.warm(SPEC)
    assert world.take(other) is None
    assert world.take(SPEC, backend="two") is None


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, mounts=(Bind(source="/a", target="/b"),)),
        replace(SPEC, home_source="/home/me"),
        replace(SPEC, workspace=Workspace(mode=WorkspaceMode.WRITABLE, source="/a")),
        replace(SPEC, workspace=Workspace(mode=WorkspaceMode.FILES, source="/a", files=("b",))),
        replace(SPEC, level=IsolationLevel.PROCESS),
    ],
    ids=["mounts", "home", "writable", "files", "process"],
)
async def test_what_shows_more_of_the_host_has_no_pool(world: World, spec: Any) -> None:
    assert not is_poolable(spec)
    for _ in range(3):
        assert world.take(spec) is None
        await world.later(2)
    assert world.made == []


async def test_switched_off_there_is_none() -> None:
    world = World(replace(SETTINGS, enabled=False))
    for _ in range(3):
        assert world.take(SPEC) is None
    assert world.made == []
    await world.pools.close()


async def test_old_ones_are_replaced(world: World) -> None:
    await world.warm(SPEC)
    old = list(world.made)
    for _ in range(5):
        await world.later(20)
        assert world.take(SPEC) is not None
    await world.later()
    assert all(made.destroyed or made.taken for made in old)
    assert world.pools.states()[0].ready >= SETTINGS.minimum


async def test_an_old_one_is_not_handed_out_though_upkeep_is_late(world: World) -> None:
    await world.warm(SPEC)
    world.now += 100
    assert world.take(SPEC) is None  # World.take would have seen its age


async def test_a_pool_that_nobody_asks_ends(world: World) -> None:
    await world.warm(SPEC)
    await world.later(48)
    assert world.pools.states()
    await world.later(1)
    assert world.pools.states() == () and not world.stored
    assert world.pools.tend() is None


async def test_the_pool_asked_least_lately_makes_room(world: World) -> None:
    for pids in range(MAX_POOLS + 1):
        await world.warm(spec_of(pids))
    assert len(world.pools.states()) == MAX_POOLS
    assert world.take(spec_of(0)) is None
    assert world.take(spec_of(1)) is not None


async def test_what_was_asked_for_once_is_forgotten_in_time(world: World) -> None:
    for pids in range(MAX_NOTED + 1):
        world.take(spec_of(pids))
    assert world.take(spec_of(0)) is None  # the first time again
    await world.later(2)
    assert world.made == []


async def test_a_changed_host_empties_the_pool_and_lets_it_settle(world: World) -> None:
    await world.warm(SPEC)
    world.shows += 1
    assert world.take(SPEC) is None
    await world.later(0.5)
    assert not world.stored
    await world.later(0.5)
    assert world.pools.states()[0].ready == 4
    assert world.take(SPEC) is not None


async def test_what_was_made_while_the_host_changed_is_not_kept(world: World) -> None:
    world.gate.clear()
    await world.warm(SPEC)
    world.shows += 1
    assert world.take(SPEC) is None
    world.gate.set()
    await world.later()
    assert not world.stored


async def test_a_change_is_noticed_by_the_refill_too(world: World) -> None:
    await world.warm(SPEC)
    for _ in range(3):
        world.take(SPEC)
    world.shows += 1
    await world.later()
    assert not world.stored


async def test_dead_ones_are_skipped_and_removed(world: World) -> None:
    await world.warm(SPEC)
    for made in world.made[:3]:
        made.alive = False
    assert world.take(SPEC) is world.made[3]
    await world.later()
    assert all(made.destroyed for made in world.made[:3])


async def test_one_that_dies_in_store_is_replaced_before_anybody_asks(world: World) -> None:
    await world.warm(SPEC)
    dead = list(world.made)
    for made in dead:
        made.die()
    assert world.pools.states()[0].ready == 0
    await world.later()
    assert all(made.destroyed for made in dead) and world.pools.states()[0].ready == 0, "the next might die at once, too"
    await world.later(1.0)
    assert world.pools.states()[0].ready == 4
    taken = world.take(SPEC)
    assert taken is not None and taken.alive
    taken.die()  # not the pool's any more
    await world.later()
    assert not taken.destroyed


async def test_what_has_never_worked_for_anybody_has_no_pool(world: World) -> None:
    for _ in range(5):
        assert world.pools.take("one", SPEC) is None
        await world.later(2)
    assert world.attempts == 0 and world.pools.states() == ()
    world.pools.worked("one", SPEC)
    assert world.take(SPEC) is None
    await world.later(1)
    assert world.pools.states()[0].ready == 4


async def test_a_pool_that_can_never_make_one_gives_up_and_says_why(world: World) -> None:
    assert world.take(SPEC) is None
    world.fails = True
    for _ in range(49):  # asked for all the time
        assert world.take(SPEC) is None
        await world.later(1)
    assert GIVEN_UP_AFTER <= world.attempts <= GIVEN_UP_AFTER * SETTINGS.at_once
    assert world.pools.states()[0].reason == "given up: the host is full"
    for _ in range(20):
        world.take(SPEC)
        await world.later(1)
    assert world.pools.states() == () and world.attempts <= GIVEN_UP_AFTER * SETTINGS.at_once
    world.fails = False
    await world.warm(SPEC)  # it works again for somebody
    assert world.pools.states()[0].ready == 4


async def test_failures_are_told_and_tried_again_ever_more_rarely(world: World) -> None:
    await world.warm(SPEC)
    world.fails = True
    while world.take(SPEC) is not None:
        await world.later()
    await world.later()
    assert world.pools.states()[0].reason == "the host is full"
    before = world.attempts
    for _ in range(3 * int(BACKOFF_MAX_S)):
        assert world.take(SPEC) is None
        await world.later(1)
    assert 3 * SETTINGS.at_once <= world.attempts - before <= 8 * SETTINGS.at_once
    world.fails = False
    for _ in range(int(BACKOFF_MAX_S)):
        await world.later(1)
        world.take(SPEC)
    assert (world.pools.states()[0].hits > 0, world.pools.states()[0].reason) == (True, "")


async def test_one_that_does_not_answer_is_removed(world: World) -> None:
    world.gate.clear()
    await world.warm(SPEC)
    for made in world.made:
        made.alive = False
    world.gate.set()
    await world.later()
    assert all(made.destroyed for made in world.made) and world.pools.states()[0].reason == "it has died"


async def test_a_backend_whose_sandboxes_cannot_be_assigned_has_no_pool(world: World) -> None:
    world.assignable = False
    await world.warm(SPEC)
    assert world.pools.states() == () and not world.stored and len(world.made) <= SETTINGS.at_once
    assert world.take(SPEC) is None and world.take(SPEC) is None
    await world.later(5)
    assert len(world.made) <= SETTINGS.at_once


async def test_one_that_cannot_be_removed_is_left_to_the_sweep(world: World) -> None:
    await world.warm(SPEC)
    world.removal_fails = True
    await world.later(50)
    assert not world.pools.held()


async def test_a_host_that_cannot_be_looked_at_gives_nothing_out(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    await world.warm(SPEC)
    monkeypatch.setattr("agentkernel.engine.pool.failpoint", _broken)
    assert world.take(SPEC) is None
    monkeypatch.undo()
    assert world.take(SPEC) is not None


def _broken(name: str) -> None:
    raise OSError(f"{name} fails")


@pytest.mark.parametrize("step", ["begin", "made", "answered"])
async def test_a_refill_that_fails_at_any_step_leaves_nothing(monkeypatch: pytest.MonkeyPatch, world: World, step: str) -> None:
    def failpoint(name: str) -> None:
        if name == f"pool.refill.{step}":
            raise OSError("the disk is broken")

    monkeypatch.setattr("agentkernel.engine.pool.failpoint", failpoint)
    await world.warm(SPEC)
    assert world.pools.states()[0].reason == "the disk is broken"
    assert not world.stored and not world.pools.held()


async def test_closing_removes_what_is_there_and_what_is_being_made(world: World) -> None:
    await world.warm(SPEC)
    taken = world.take(SPEC)
    world.gate.clear()
    for _ in range(3):
        world.take(SPEC)
    await world.later()
    assert world.under_way == 2
    await world.pools.close()
    assert not world.stored and world.under_way == 0 and not world.pools.held()
    assert taken is not None and not taken.destroyed
    assert world.take(SPEC) is None
    await world.pools.close()


async def test_closing_goes_on_though_it_is_cancelled(world: World) -> None:
    await world.warm(SPEC)
    closing = asyncio.create_task(world.pools.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert not world.stored


async def test_its_own_task_does_the_upkeep() -> None:
    world = World(replace(SETTINGS, settle_s=0))
    world.take(SPEC)
    world.take(SPEC)
    for _ in range(100):
        await asyncio.sleep(0)
    assert world.pools.states()[0].ready == 4
    await world.pools.close()
