"""CALL: what is asked is done once, answered in pages, and refused where it cannot be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from door_client import DoorClient, World, daemon_in, request_for

from agentkernel import __version__, errors
from agentkernel.abc import Caller
from agentkernel.channel.frames import FrameType
from agentkernel.daemon.calls import Calls
from agentkernel.model.codec import to_json

KEY = "0123456789abcdef" * 2


@pytest.fixture
async def world(guest_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("AGENTKERNEL_GUEST", str(guest_binary))
    monkeypatch.setenv("AGENTKERNEL_HOME", str(tmp_path))
    async with daemon_in(tmp_path) as world:
        yield world


@pytest.fixture
async def client(world: World) -> DoorClient:
    return await world.client()


async def test_the_status_counts_clients(world: World, client: DoorClient) -> None:
    await world.client()
    status = await client.call("status")
    assert (status["clients"], status["sandboxes"]) == (2, 0)


async def test_a_sandbox_is_made_found_changed_and_removed(client: DoorClient) -> None:
    made = await client.call("create", request=to_json(request_for()), options={"name": "box", "labels": [["a", "b"]]})
    assert (made["name"], made["status"]) == ("box", "stopped")
    assert (await client.call("start", name="box"))["status"] == "running"
    assert (await client.call("rename", name="box", new_name="case"))["name"] == "case"
    assert [info["name"] for info in await client.call("list", wanted={"labels": [["a", "b"]]})] == ["case"]
    assert (await client.call("spec", name="case"))["name"] == "case"
    assert await client.call("remove", name="case", force=True) is None
    with pytest.raises(errors.NotFound):
        await client.call("info", name="case")


async def test_a_repeat_with_the_same_key_is_answered_and_not_done_again(world: World, client: DoorClient) -> None:
    said = {"request": to_json(request_for()), "options": {"name": "box"}, "key": KEY}
    first = await client.call("create", **said)
    other = await world.client()
    assert await other.call("create", **said) == first
    assert len(await client.call("list", wanted={})) == 1
    with pytest.raises(errors.Conflict):
        await client.call("create", **(said | {"key": "f" * 32}))
    for _ in range(2):
        await client.call("remove", name="box", key="e" * 32)


async def test_a_call_that_failed_is_tried_again_by_its_repeat(world: World, client: DoorClient) -> None:
    with pytest.raises(errors.NotFound):
        await client.call("start", name="box", key=KEY)
    await client.call("create", request=to_json(request_for()), options={"name": "box"})
    assert (await client.call("start", name="box", key=KEY))["status"] == "running"


async def test_what_changes_something_is_done_though_the_client_is_gone(world: World, client: DoorClient) -> None:
    said = {"op": "create", "request": to_json(request_for()), "options": {"name": "box", "start": True}, "key": KEY}
    await client.send(FrameType.CALL, 5, json.dumps(said).encode())
    await client.call("status")  # it has been read
    client.close()
    other = await world.client()
    del said["op"]
    assert (await other.call("create", **said))["name"] == "box"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", errors.InvalidInput),
        (b"\xff", errors.InvalidInput),
        (b"[]", errors.InvalidInput),
        (b"[" * 50_000, errors.InvalidInput),
        (b"{}", errors.UnknownKey),
        (b'{"op": []}', errors.UnknownKey),
        (b'{"op": "close"}', errors.UnknownKey),
        (b'{"op": "info"}', errors.InvalidInput),
        (b'{"op": "info", "name": 5}', errors.InvalidInput),
        (b'{"op": "info", "name": "box", "caller": "root"}', errors.UnknownKey),
        (b'{"op": "list", "wanted": {"limit": 0}}', errors.InvalidInput),
        (b'{"op": "list", "wanted": {}, "wait_s": 5}', errors.UnknownKey),
        (b'{"op": "events", "wanted": {}, "wait_s": "long"}', errors.InvalidInput),
        (b'{"op": "start", "name": "nobody"}', errors.NotFound),
        (b'{"op": "start", "name": "\\udcff"}', errors.InvalidInput),
    ],
)
async def test_what_cannot_be_called_is_refused(client: DoorClient, text: bytes, expected: type[errors.AgentKernelError]) -> None:
    await client.send(FrameType.CALL, 5, text)
    with pytest.raises(expected):
        await client.until(FrameType.REPLY, 5)


async def test_events_are_waited_for(world: World, client: DoorClient) -> None:
    last = max([event["event_id"] for event in await client.call("events", wanted={})], default=0)
    waiting = asyncio.create_task(client.call("events", wanted={"after": last}, wait_s=30))
    await world.box()
    assert (await waiting)[0]["event_id"] > last
    assert await client.call("events", wanted={"after": 10**9}, wait_s=0.01) == []


@pytest.mark.parametrize("scope", ["full", "admin", "read-only", "run-only", "sandbox:box"])
async def test_who_may_little_does_not_end_the_daemon(world: World, scope: str) -> None:
    calls, caller = Calls(world.desk), Caller(principal="ann", scopes=frozenset({scope}))
    may = scope in ("full", "admin")
    assert json.loads(await calls.answer(caller, b'{"op": "hello", "version": "999.0"}'))["version"] == __version__
    assert world.desk.is_ending == may
    if not may:
        with pytest.raises(errors.Refused):
            await calls.answer(caller, b'{"op": "drain"}')
        assert not world.desk.is_ending


async def test_waiting_ends_with_the_daemon(world: World, client: DoorClient) -> None:
    waiting = asyncio.create_task(client.call("events", wanted={"after": 10**9}, wait_s=60))
    await (await world.client()).call("status")
    world.desk.end("the test says so")
    assert await waiting == []


async def test_logs_come_in_pages_and_are_waited_for(world: World, client: DoorClient) -> None:
    # no more than the agent keeps of a command that does not wait, however slow this process is
    await world.box()
    await client.start(9, "box", "seq 1 40000; read x; echo last", stdin=True, detached=True)
    await client.shows(9, b"\n40000\n")
    text, since = "", 0.0
    async with asyncio.timeout(20):
        while "\n40000\n" not in text:
            page = await client.call("logs", name="box", exec_id=9, since=since, wait_s=5.0)
            since = page[-1]["at"] if page else since
            text += "".join(entry["data"] for entry in page)
    assert text == "".join(f"{n}\n" for n in range(1, 40_001))
    other = await world.client()
    waiting = asyncio.create_task(other.call("logs", name="box", exec_id=9, since=since, wait_s=20.0))
    await client.send(FrameType.STDIN, 9, bytes(8) + b"go\n")
    assert "".join(entry["data"] for entry in await waiting) == "last\n"
    assert (await client.exited(9))[0] == 0


async def test_logs_of_bytes_that_json_writes_in_six_fit_a_frame(world: World, client: DoorClient) -> None:
    await world.box()
    await client.start(9, "box", "head -c 200000 /dev/zero; echo; read x", stdin=True, detached=True)
    await client.shows(9, b"\n")
    size, since = 0, 0.0
    async with asyncio.timeout(20):
        while size < 200_001:
            page = await client.call("logs", name="box", since=since, wait_s=5.0)
            since = page[-1]["at"] if page else since
            size += sum(len(entry["data"]) for entry in page)


async def test_a_draining_daemon_refuses_work_so_that_the_next_one_is_asked(world: World, client: DoorClient) -> None:
    world.desk.is_draining = True
    with pytest.raises(errors.DaemonUnavailable):
        await client.call("status")
    await client.start(5, "box", "true")
    with pytest.raises(errors.DaemonUnavailable):
        await client.until(FrameType.STARTED, 5)
    late = await world.client()
    assert late.hello is not None
    assert late.hello.state == 1
    world.desk.is_draining = False


async def test_versions_are_compared_and_a_later_one_ends_the_daemon(world: World, client: DoorClient) -> None:
    assert (await client.call("hello", version=__version__))["version"] == __version__
    assert (await client.call("hello", version="0.0.9"))["version"] == __version__
    assert not world.desk.is_ending
    await client.call("hello", version="100.0")
    assert world.desk.is_ending
