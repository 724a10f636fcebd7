"""Opened sandboxes that are kept: asked for without a question, by name and id, closed when nobody uses them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentkernel.abc import Caller
from agentkernel.api.handles import Handles
from agentkernel.api.seats import Seats
from agentkernel.errors import Busy, Conflict, NotFound, SandboxLost
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.record import SandboxInfo
from agentkernel.model.status import Status

ANN = Caller(principal="ann")


class Machine:
    """A sandbox that was opened; with `address` it says whom each command is for."""

    def __init__(self, kernel: Machines, address: str, *, addressed: bool) -> None:
        self.kernel = kernel
        self.opened_by = address
        self.open = True
        if addressed:
            self.address = address

    async def run(self) -> str:
        """What a command would print: the id of the sandbox that it was run in."""
        if not self.open:
            raise SandboxLost("closed")
        return self.kernel.find(self.opened_by).sandbox_id

    async def close(self) -> None:
        self.open = False


class Machines:
    """A kernel that counts what it is asked."""

    def __init__(self, *, addressed: bool) -> None:
        self.rows: dict[str, SandboxInfo] = {}
        self.asked: list[str] = []
        self.opened: list[Machine] = []
        self.addressed = addressed

    def make(self, name: str, ident: str) -> None:
        self.rows[name] = SandboxInfo(
            sandbox_id=ident,
            name=name,
            owner="ann",
            status=Status.RUNNING,
            backend="namespaces",
            isolation=IsolationLevel.CONTAINER,
            image="host",
            profile="moderate",
            created_at=1.0,
            started_at=1.0,
        )

    def find(self, address: str) -> SandboxInfo:
        name, _, ident = address.partition("@")
        row = self.rows.get(name) or next((each for each in self.rows.values() if each.sandbox_id == name), None)
        if row is None or ident not in ("", row.sandbox_id):
            raise NotFound(f"there is no sandbox {name!r}")
        return row

    async def info(self, caller: Caller, name: str) -> SandboxInfo:
        self.asked.append(name)
        return self.find(name)

    async def open(self, caller: Caller, name: str) -> Any:
        if self.find(name).status is not Status.RUNNING:
            raise Conflict("it does not run")
        self.opened.append(Machine(self, name, addressed=self.addressed))
        return self.opened[-1]


@pytest.fixture(params=[True, False], ids=["addressed", "plain"])
def machines(request: pytest.FixtureRequest) -> Machines:
    found = Machines(addressed=request.param)
    found.make("box", "a" * 16)
    return found


def handles_of(machines: Machines, most: int = 64) -> Handles:
    return Handles(machines, ANN, Seats(640), most)  # type: ignore[arg-type]


async def _run(_: SandboxInfo, sandbox: Any) -> str:
    return str(await sandbox.run())


async def test_the_second_command_finds_it_open(machines: Machines) -> None:
    handles = handles_of(machines)
    assert [await handles.start("box", _run) for _ in range(3)] == ["a" * 16] * 3
    assert len(machines.opened) == 1
    assert len(machines.asked) == (1 if machines.addressed else 3)


async def test_a_name_that_is_another_s_means_that_other(machines: Machines) -> None:
    handles = handles_of(machines)
    await handles.start("box", _run)
    machines.rows["old"] = replace(machines.rows["box"], name="old")
    machines.make("box", "b" * 16)
    assert await handles.start("box", _run) == "b" * 16
    assert await handles.start("old", _run) == "a" * 16
    assert [each.open for each in machines.opened] == [False, True, True]


async def test_one_that_has_gone_is_not_found_and_closed(machines: Machines) -> None:
    handles = handles_of(machines)
    await handles.start("box", _run)
    del machines.rows["box"]
    with pytest.raises(NotFound):
        await handles.start("box", _run)
    assert not machines.opened[0].open or not machines.addressed
    await handles.close()
    assert not machines.opened[0].open


async def test_one_that_was_started_again_is_opened_again(machines: Machines) -> None:
    handles = handles_of(machines)
    async with handles.use("box"):
        pass
    machines.rows["box"] = replace(machines.rows["box"], started_at=2.0)
    async with handles.use("box"):
        assert [each.open for each in machines.opened] == [False, True]
    machines.rows["box"] = replace(machines.rows["box"], status=Status.STOPPED)
    with pytest.raises(Conflict):
        async with handles.use("box"):
            pass


async def test_one_that_was_lost_is_let_go(machines: Machines) -> None:
    handles = handles_of(machines)
    await handles.start("box", _run)
    machines.opened[0].open = False
    with pytest.raises(SandboxLost):
        await handles.start("box", _run)
    assert await handles.start("box", _run) == "a" * 16


async def test_no_more_are_kept_than_may_be_and_none_is_closed_under_its_user(machines: Machines) -> None:
    handles = handles_of(machines, most=2)
    for name in ("b", "c", "d"):
        machines.make(name, name * 16)
    async with handles.use("box"):
        for name in ("b", "c", "d"):
            await handles.start(name, _run)
        assert [each.open for each in machines.opened] == [True, False, False, True]
    await handles.close()
    assert not any(each.open for each in machines.opened)


async def test_closing_waits_for_who_uses_it(machines: Machines) -> None:
    handles = handles_of(machines)
    async with handles.use("box"):
        await handles.close()
        assert machines.opened[0].open
    assert not machines.opened[0].open


async def test_those_that_come_together_open_it_once(machines: Machines) -> None:
    handles = handles_of(machines)
    assert await asyncio.gather(*(handles.start("box", _run) for _ in range(5))) == ["a" * 16] * 5
    assert len(machines.opened) == 1


async def test_what_is_only_kept_makes_way_for_another_caller_and_what_is_used_does_not(machines: Machines) -> None:
    seats = Seats(2)
    mine, others = Handles(machines, ANN, seats), Handles(machines, replace(ANN, via="other"), seats)  # type: ignore[arg-type]
    for name in ("b", "c", "d"):
        machines.make(name, name * 16)
    await mine.start("b", _run)
    await mine.start("c", _run)
    async with others.use("d"), others.use("box"):
        assert [each.open for each in machines.opened] == [False, False, True, True]
        with pytest.raises(Busy):
            await mine.start("b", _run)
        assert seats.taken == 2
    assert await mine.start("b", _run) == "b" * 16
    await mine.close()
    await others.close()
    assert seats.taken == 0 and not any(each.open for each in machines.opened)


async def test_what_cannot_be_opened_takes_no_seat(machines: Machines) -> None:
    seats = Seats(1)
    handles = Handles(machines, ANN, seats)  # type: ignore[arg-type]
    machines.rows["box"] = replace(machines.rows["box"], status=Status.STOPPED)
    for _ in range(3):
        with pytest.raises(Conflict):
            await handles.start("box", _run)
    assert seats.taken == 0
