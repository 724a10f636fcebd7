"""Many callers at once, who give up at any moment, on a host that fails now and then: afterwards rows, host and memory agree."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from unit.engine_world import ANN, World

from agentkernel.engine.admission import Limits
from agentkernel.errors import AgentKernelError, LaunchFailed
from agentkernel.model.command import Command
from agentkernel.model.record import CreateOptions
from agentkernel.model.status import Status

NAMES = ("one", "two", "three", "four")
CALLERS, ACTS = 12, 25


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "home").mkdir()
    world = World(directory=tmp_path, limits=Limits(boots=3))
    yield world
    await world.end()


class Callers:
    """Act on few names, so that they meet."""

    def __init__(self, world: World, engine: Any, seed: int) -> None:
        self.world = world
        self.engine = engine
        self.random = random.Random(seed)

    def make_the_host_unreliable(self) -> None:
        for what in ("boot", "stop", "destroy", "discard", "recover"):
            self.world.gates[what] = self._hesitate

    async def act_for_a_while(self) -> None:
        for _ in range(ACTS):
            task = asyncio.ensure_future(self._one_act())
            for _ in range(self.random.randrange(30)):
                await asyncio.sleep(0)
            if self.random.random() < 0.4:
                task.cancel()
            with suppress(AgentKernelError, asyncio.CancelledError):
                await task
            if self.random.random() < 0.1:
                self.world.now += 3
                self.engine._upkeep.tick()

    async def _hesitate(self, sandbox_id: str) -> None:
        for _ in range(self.random.randrange(6)):
            await asyncio.sleep(0)
        if self.random.random() < 0.15:
            raise self.random.choice((OSError(24, "Too many open files"), LaunchFailed("the host says no")))

    async def _one_act(self) -> None:
        engine, request, name, other = self.engine, self.world.request(), *self.random.sample(NAMES, 2)
        exec_id = self.random.randrange(1, 5)
        ttl_s = self.random.choice((None, None, 5.0))
        acts: tuple[Callable[[], Awaitable[Any]], ...] = (
            lambda: engine.create(ANN, request, CreateOptions(name=name, start=self.random.random() < 0.5, ttl_s=ttl_s)),
            lambda: engine.start(ANN, name),
            lambda: engine.start(ANN, name),
            lambda: engine.stop(ANN, name),
            lambda: engine.remove(ANN, name, force=True),
            lambda: engine.rename(ANN, name, other),
            lambda: engine.extend(ANN, name, ttl_s),
            lambda: self._exec(name),
            lambda: self._exec(name),
            lambda: engine.ephemeral(ANN, request, exec_id),
            lambda: engine.dispose(exec_id),
            lambda: self._block(),
            lambda: engine.collect_garbage(ANN),
        )
        await self.random.choice(acts)()

    async def _exec(self, name: str) -> None:
        await (await self.engine.open(ANN, name)).exec(Command(argv=(b"true",)))

    async def _block(self) -> None:
        async with self.engine.sandbox(ANN, self.world.request()) as (sandbox, _):
            await sandbox.exec(Command(argv=(b"true",)))


async def _settle(engine: Any) -> None:
    await engine._core.operations.drain()
    await engine._reconciler.settle_all()
    await engine._core.operations.drain()


def _check(world: World, engine: Any) -> None:
    core = engine._core
    rows = {row.sandbox_id: row for row in world.store.sandboxes()}
    assert {row.status for row in rows.values()} <= {Status.RUNNING, Status.STOPPED}
    running = {each for each, row in rows.items() if row.status is Status.RUNNING}
    assert running == {each for each, machine in world.machines.items() if machine.running}
    assert running == {live.sandbox_id for live in core.registry}
    assert world.machines.keys() <= rows.keys() == set(core.census)
    assert all(core.registry.get(each).record == rows[each] for each in running)
    assert not any(live.sandbox.closed for live in core.registry)
    assert (core.unsettled, core.locks._locks, core.registry.commands(), core.boots._inside) == (set(), {}, 0, 0)


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_callers_do_at_once_rows_host_and_memory_agree(world: World, seed: int) -> None:
    engine = world.engine()
    await engine.recover()
    await engine.settled()
    callers = Callers(world, engine, seed)
    callers.make_the_host_unreliable()
    await asyncio.gather(*(callers.act_for_a_while() for _ in range(CALLERS)))
    world.gates.clear()
    await _settle(engine)
    _check(world, engine)
    again = world.engine()
    await again.recover()
    await again.settled()
    await _settle(again)
    _check(world, again)


async def test_fifty_running_ones_are_taken_up_while_callers_ask_for_them(world: World) -> None:
    before = world.engine()
    made = await asyncio.gather(*(before.create(ANN, world.request(), CreateOptions(name=f"n{n}", start=True)) for n in range(50)))
    handles = [await before.open(ANN, info.name) for info in made]
    for number, handle in enumerate(handles):
        handle.files["mine"] = b"%d" % number
    engine = world.engine()
    await engine.recover()

    async def use(number: int) -> bytes:
        sandbox = await engine.open(ANN, f"n{number}")
        await sandbox.exec(Command(argv=(b"true",)))
        content: bytes = sandbox.files["mine"]
        return content

    assert await asyncio.gather(*(use(number) for number in range(50))) == [b"%d" % number for number in range(50)]
    await engine.settled()
    assert (world.boots, len(engine._core.registry)) == (50, 50)
    _check(world, engine)
