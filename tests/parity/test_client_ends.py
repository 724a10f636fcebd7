"""What becomes of calls whose caller goes: in process and through the daemon alike."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentkernel import AsyncClient, assembly
from agentkernel.abc import Kernel
from agentkernel.cli.caller import local_caller
from agentkernel.errors import Conflict, NotFound
from agentkernel.model.command import Command
from agentkernel.model.record import CreateOptions
from agentkernel.model.request import SandboxRequest


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


@pytest.fixture(params=["local", "daemon"])
async def kernel(request: pytest.FixtureRequest, home: Path) -> AsyncIterator[Kernel]:
    """With a stopped sandbox `box`."""
    build = assembly.build_engine if request.param == "local" else assembly.build_client
    kernel = build(dict(os.environ))
    await kernel.create(local_caller(), SandboxRequest(cwd="/", backend="namespaces"), CreateOptions(name="box"))
    yield kernel
    await kernel.remove(local_caller(), "box", force=True)
    await kernel.close()


@pytest.mark.parametrize("busy", [False, True])
async def test_a_visit_stops_the_sandbox_that_it_started_unless_somebody_works_in_it(busy: bool, kernel: Kernel) -> None:
    caller = local_caller()
    async with kernel.visit(caller, "box") as visit:
        assert (await visit.sandbox.files.list("/home/user"), visit.is_started) == ([], True)
        async with kernel.visit(caller, "box") as second:
            assert not second.is_started
        assert second.goes_on
        if busy:
            await visit.sandbox.start(Command(argv=(b"sleep", b"1000"), detached=True))
    assert ((await kernel.info(caller, "box")).status.value, visit.goes_on) == ("running" if busy else "stopped", busy)
    with pytest.raises(NotFound):
        async with kernel.visit(caller, "none"):
            pytest.fail("there is no such sandbox")


async def test_a_visit_that_is_cancelled_has_ended(kernel: Kernel) -> None:
    caller = local_caller()

    async def visit() -> None:
        async with kernel.visit(caller, "box"):
            visiting.set()
            await asyncio.Event().wait()

    visiting = asyncio.Event()
    task = asyncio.create_task(visit())
    await visiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await kernel.info(caller, "box")).status.value == "stopped"


async def test_of_the_log_of_a_command_that_prints_fast_nothing_is_missing_untold(
    client: AsyncClient, request: pytest.FixtureRequest
) -> None:
    whole = {
        1: b"".join(b"%d\n" % number for number in range(1, 500001)),
        2: b"".join(b"%d\n" % number for number in range(500001, 600001)),
    }
    box = await client.create(name="box")
    process = await box.spawn("sh", "-c", "seq 1 500000; seq 500001 600000 >&2")
    assert (await process.wait()).exit_code == 0
    reached, missing = {1: 0, 2: 0}, 0
    async with asyncio.timeout(60):
        while reached[2] < len(whole[2]):
            reached, missing = {1: 0, 2: 0}, 0
            async for entry in box.logs():
                begin = reached[entry.stream]
                reached[entry.stream] += entry.missing or len(entry.data)
                missing += entry.missing
                assert entry.missing or entry.data == whole[entry.stream][begin : reached[entry.stream]]
    assert reached == {1: len(whole[1]), 2: len(whole[2])}
    if "daemon" in request.node.name:  # in process a command runs before its recording has begun
        assert missing == 0
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
