"""What becomes of calls whose caller goes: in process and through the daemon alike."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentkernel import AsyncClient, assembly
from agentkernel.cli.verbs.cp import _running, _Visit
from agentkernel.errors import Conflict


@pytest.fixture(params=["local", "daemon"])
async def client(request: pytest.FixtureRequest, home: Path) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(local=request.param == "local") as client:
        yield client


@pytest.mark.parametrize("turns", [1, 5, 20, 100])
async def test_a_creation_that_is_cancelled_leaves_no_sandbox(turns: int, client: AsyncClient) -> None:
    making = asyncio.create_task(client.create(name="box"))
    for _ in range(turns):
        await asyncio.sleep(0)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert await client.list() == []


async def test_a_client_that_is_closed_does_nothing_more(client: AsyncClient) -> None:
    assert await client.list() == []
    await client.close()
    for call in (client.create, client.list, client.status):
        with pytest.raises(Conflict):
            await call()
    with pytest.raises(Conflict):
        async with client.sandbox():
            pass
    await client.close()


async def test_many_questions_at_once_are_all_answered(client: AsyncClient) -> None:
    box = await client.create(start=False)
    assert {found.name for found in await asyncio.gather(*(client.get(box.id) for _ in range(600)))} == {box.name}
    await box.remove()


@pytest.mark.parametrize("busy", [False, True])
async def test_a_copy_stops_the_sandbox_that_it_started_unless_somebody_works_in_it(busy: bool, home: Path) -> None:
    async with AsyncClient() as client:
        box = await client.create(start=False)
        kernel, visit = assembly.build_client(dict(os.environ)), _Visit(starts=True)
        async with _running(kernel, box.id, visit) as files:
            assert await files.list("/home/user") == []
            if busy:
                await box.spawn("sleep", "1000")
        await kernel.close()
        assert ((await box.info()).status, visit.is_left_running) == ("running" if busy else "stopped", busy)
        await box.remove(force=True)


async def test_logs_are_followed_until_the_sandbox_is_removed_whatever_it_is_called(client: AsyncClient) -> None:
    box = await client.create(name="box")
    await box.spawn("sh", "-c", "echo one; while [ ! -e /tmp/go ]; do sleep 0.01; done; echo two")
    said = b""
    async for entry in box.logs(follow=True):
        said += entry.data
        if said == b"one\n":
            await box.rename("other")
            await box.files.write("/tmp/go", b"")
        else:
            await box.remove(force=True)
    assert said == b"one\ntwo\n"
