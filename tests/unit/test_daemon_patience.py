"""Connections that may be away for a while: what goes over them waits for the next one, and is told once; nobody comes, and it ends."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from door_client import DoorClient, World, daemon_in

from agentkernel import errors
from agentkernel.abc import Caller
from agentkernel.channel import door
from agentkernel.channel.frames import FrameType
from agentkernel.channel.preface import encode_preface
from agentkernel.daemon import connection as connection_module
from agentkernel.model.command import Command

FAR = Caller(principal="ann", remote=True, via="laptop")
OTHERS = [replace(FAR, via="desk"), replace(FAR, scopes=frozenset({"run-only"})), replace(FAR, remote=False)]  # of the same user
AT_START = bytes(16)
WAITING = "echo up; read x; echo $x; exit 6"
LONG_S, SHORT_S = 60.0, 0.2


@pytest.fixture
async def world(guest_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("AGENTKERNEL_GUEST", str(guest_binary))
    monkeypatch.setenv("AGENTKERNEL_HOME", str(tmp_path))
    async with daemon_in(tmp_path) as world:
        yield world


async def patient(world: World, patience_s: float = LONG_S, caller: Caller = FAR) -> DoorClient:
    """A client whose loss is not taken for its end."""
    client = DoorClient(world.path)
    client.preface = encode_preface(caller, patience_s)
    world.clients.append(client)
    return await client.open()


async def test_servers_leave_room_for_the_users_of_the_machine(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "MAX_PASSED_ON", 2)
    first, _ = await patient(world), await patient(world, caller=OTHERS[0])
    with pytest.raises((EOFError, ConnectionError)):
        await patient(world)
    assert (await (await world.client()).call("status"))["clients"] == 3
    await cut(world, first)
    assert world.desk.passed_on == 1
    assert (await (await patient(world)).call("status"))["clients"] == 3


async def cut(world: World, client: DoorClient) -> None:
    """Its connection is gone, and the daemon knows."""
    there = world.desk.clients
    client.close()
    while world.desk.clients == there:
        await asyncio.sleep(0)


async def none_is_left(world: World) -> None:
    """Waits until nothing runs, and every sandbox that was made for a command is gone."""
    client = await world.client()
    async with asyncio.timeout(20):
        while world.host.busy() or [each for each in await client.call("list", wanted={"ephemeral": True}) if each.get("name") != "box"]:
            await asyncio.sleep(0.01)


async def told(world: World) -> list[str]:
    trail = await (await world.client()).call("events", wanted={"kinds": ["exec."]})
    return [f"{event['kind']} {event.get('outcome', 'ok')}" for event in trail]


async def goes_on(client: DoorClient, payload: bytes, ident: int = 7) -> None:
    """Takes the command up from its beginning, gives it its input and sees its end."""
    await client.send(FrameType.RESUME, ident, payload)
    await client.shows(ident, b"up\n")
    await client.send(FrameType.STDIN, ident, bytes(8) + b"go\n", 1)
    assert (await client.exited(ident))[0] == 6
    assert client.output[ident, 1] == b"up\ngo\n"


async def test_a_command_and_its_sandbox_wait_for_their_client(world: World) -> None:
    first = await patient(world)
    await first.once(7, Command(argv=(b"sh", b"-c", WAITING.encode()), stdin=True))
    await first.shows(7, b"up\n")
    await cut(world, first)
    await goes_on(await patient(world), door.encode_addressed("", AT_START))
    await none_is_left(world)
    assert await told(world) == ["exec.started ok", "exec.ended ok"]


async def test_so_does_one_in_a_sandbox_that_lasts(world: World) -> None:
    await world.box()
    first = await patient(world)
    await first.start(7, "box", WAITING, stdin=True)
    await first.shows(7, b"up\n")
    await cut(world, first)
    second = await patient(world)
    await second.send(FrameType.RESUME, 7, door.encode_addressed("box", AT_START))
    await second.shows(7, b"up\n")
    await cut(world, second)
    await goes_on(await patient(world), door.encode_addressed("box", AT_START))
    assert await told(world) == ["exec.started ok", "exec.ended ok"]


async def test_a_start_that_was_not_answered_is_repeated_and_done_once(world: World) -> None:
    first = await patient(world)
    command = Command(argv=(b"sh", b"-c", WAITING.encode()), stdin=True)
    await first.once(7, command)
    await first.until(FrameType.STARTED, 7)
    await cut(world, first)
    second = await patient(world)
    await second.once(7, command)
    await second.until(FrameType.STARTED, 7)
    await second.send(FrameType.STDIN, 7, bytes(8) + b"go\n", 1)
    assert (await second.exited(7))[0] == 6
    assert second.output[7, 1] == b"up\ngo\n"
    await none_is_left(world)
    assert await told(world) == ["exec.started ok", "exec.ended ok"]


async def test_an_end_that_was_not_heard_is_told_again(world: World) -> None:
    await world.box()
    first = await patient(world)
    await first.start(7, "box", "read x; echo up; exit 6", stdin=True)
    await first.until(FrameType.STARTED, 7)
    await first.send(FrameType.STDIN, 7, bytes(8) + b"go\n", 1)
    await cut(world, first)
    second = await patient(world)
    await second.send(FrameType.RESUME, 7, door.encode_addressed("box", AT_START))
    assert (await second.exited(7))[0] == 6
    assert second.output[7, 1] == b"up\n"
    assert await told(world) == ["exec.started ok", "exec.ended ok"]


async def test_more_output_than_is_kept_comes_whole(world: World) -> None:
    await world.box()
    first = await patient(world)
    await first.start(7, "box", "head -c 2000000 /dev/zero; exit 6")
    await first.until(FrameType.STARTED, 7)
    await cut(world, first)
    second = await patient(world)
    seen = len(first.output.get((7, 1), b""))
    second.output[7, 1] = bytearray(seen)
    await second.send(FrameType.RESUME, 7, door.encode_addressed("box", struct.pack("<QQ", seen, 0)))
    assert (await second.exited(7))[0] == 6
    assert len(second.output[7, 1]) == 2_000_000


async def test_a_held_sandbox_waits_too(world: World) -> None:
    first = await patient(world)
    await first.once(7, None)
    box = door.decode_started((await first.until(FrameType.STARTED, 7)).payload)[1]
    await cut(world, first)
    second = await patient(world)
    await second.send(FrameType.RESUME, 7, door.encode_addressed("", AT_START))
    await second.until(FrameType.RESUMED, 7)
    await second.start(8, box, "exit 3")
    assert (await second.exited(8))[0] == 3
    await second.send(FrameType.KILL, 7, struct.pack("<I", 2))
    await second.until(FrameType.EXITED, 7)
    await none_is_left(world)


async def test_nobody_comes_and_everything_ends(world: World) -> None:
    await world.box()
    client = await patient(world, SHORT_S)
    await client.once(7, Command(argv=(b"sh", b"-c", b"echo up; exec sleep 1000")))
    await client.once(8, None)
    await client.start(9, "box", "echo up; exec sleep 1000")
    await client.shows(7, b"up\n")
    await client.shows(9, b"up\n")
    await cut(world, client)
    await none_is_left(world)


async def test_who_breaks_the_rules_is_not_waited_for(world: World) -> None:
    client = await patient(world)
    await client.once(7, Command(argv=(b"sleep", b"1000")))
    await client.until(FrameType.STARTED, 7)
    await client.send_bytes(bytes(64))
    await client.gone()
    await none_is_left(world)


async def test_the_next_daemon_takes_up_what_waited(world: World) -> None:
    await world.box()
    client = await patient(world)
    await client.start(7, "box", WAITING, stdin=True)
    await client.shows(7, b"up\n")
    await cut(world, client)
    await world.server.drain(0)
    await world.host.close()
    await world.begin()
    await goes_on(await patient(world), door.encode_addressed("box", AT_START))


@pytest.mark.parametrize("other", OTHERS)
async def test_what_waits_for_one_token_is_not_had_with_another(world: World, other: Caller) -> None:
    """Neither asking for it nor repeating its START gives another token power over the command, and its own client finds it as it was."""
    first = await patient(world)
    command = Command(argv=(b"sh", b"-c", WAITING.encode()), stdin=True)
    await first.once(7, command)
    await first.shows(7, b"up\n")
    await cut(world, first)
    stranger = await patient(world, caller=other)
    await stranger.send(FrameType.RESUME, 7, door.encode_addressed("", AT_START))
    with pytest.raises(errors.NotFound):
        await stranger.until(FrameType.RESUMED, 7)
    await stranger.once(7, command)
    with pytest.raises(errors.NotFound):
        await stranger.until(FrameType.STARTED, 7)
    await goes_on(await patient(world), door.encode_addressed("", AT_START))
    await none_is_left(world)
    assert await told(world) == ["exec.started ok", "exec.ended ok"]


async def test_a_held_sandbox_is_not_let_go_with_another_token(world: World) -> None:
    first = await patient(world)
    await first.once(7, None)
    box = door.decode_started((await first.until(FrameType.STARTED, 7)).payload)[1]
    stranger = await patient(world, SHORT_S, OTHERS[0])
    await stranger.once(7, None)
    await stranger.send(FrameType.KILL, 7, struct.pack("<I", 2))
    with pytest.raises(errors.NotFound):
        await stranger.until(FrameType.EXITED, 7)
    await stranger.start(8, box, "exit 3")  # which it may: the sandbox is its user's
    assert (await stranger.exited(8))[0] == 3
    await cut(world, stranger)
    await first.start(9, box, "exit 4")
    assert (await first.exited(9))[0] == 4


async def test_who_follows_a_command_with_another_token_does_not_make_the_first_one_s_end_void(world: World) -> None:
    """Followed by the name of its sandbox it goes on as long as its own client may come back, and no longer."""
    first = await patient(world, SHORT_S)
    await first.once(7, Command(argv=(b"sh", b"-c", WAITING.encode()), stdin=True))
    box = door.decode_started((await first.until(FrameType.STARTED, 7)).payload)[1]
    other = await patient(world, caller=OTHERS[0])
    await other.send(FrameType.RESUME, 7, door.encode_addressed(box, AT_START))
    await other.shows(7, b"up\n")
    await cut(world, first)
    await none_is_left(world)
