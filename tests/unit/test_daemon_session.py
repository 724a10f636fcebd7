"""Commands through the daemon, in this process and over the memory backend."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from door_client import DoorClient, World, daemon_in

from agentkernel import errors
from agentkernel.channel import door
from agentkernel.channel.frames import FrameType
from agentkernel.channel.messages import Start, encode_start, parse_resumed
from agentkernel.model.command import Command, TerminalSize
from agentkernel.model.isolation import IsolationLevel

KILL = struct.pack("<I", 2)
AT_START = bytes(16)


@pytest.fixture
async def world(guest_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("AGENTKERNEL_GUEST", str(guest_binary))
    monkeypatch.setenv("AGENTKERNEL_HOME", str(tmp_path))
    async with daemon_in(tmp_path) as world:
        yield world


@pytest.fixture
async def client(world: World) -> DoorClient:
    return await world.client()


async def processes(client: DoorClient, sandbox: str) -> bytes:
    ident = int.from_bytes(os.urandom(8), "little") | 1
    await client.send(FrameType.LIST, ident, door.encode_addressed(sandbox))
    return bytes((await client.until(FrameType.REPLY, ident)).payload)


async def test_a_command_runs_in_a_named_sandbox(world: World, client: DoorClient) -> None:
    box = await world.box()
    await client.start(5, "box", "echo out; echo err >&2; exit 3")
    assert door.decode_started((await client.until(FrameType.STARTED, 5)).payload)[1:] == ("", [], "", 0)
    assert await client.exited(5) == (3, 0, None, "")
    assert client.output == {(5, 1): b"out\n", (5, 2): b"err\n"}
    kinds = [event["kind"] for event in await client.call("events", wanted={"sandbox": box})]
    assert kinds[-2:] == ["exec.started", "exec.ended"]


async def test_a_command_that_cannot_start_is_told_as_the_agent_tells_it(world: World, client: DoorClient) -> None:
    await world.box()
    await client.send(FrameType.START, 5, door.encode_addressed("box", encode_start(Start(argv=(b"no-such-thing",)))))
    frame = await client.until(FrameType.FAILED, 5)
    assert struct.unpack_from("<II", frame.payload) == (2, 8)


async def test_what_cannot_be_asked_is_refused(world: World, client: DoorClient) -> None:
    await world.box()
    for payload in (b"", b"junk", door.encode_addressed("box"), door.encode_addressed("", b"x"), door.encode_addressed("box", b"junk")):
        await client.send(FrameType.START, 5, payload)
        with pytest.raises(errors.InvalidInput):
            await client.until(FrameType.STARTED, 5)
    for payload in (b"", door.encode_addressed("box", b"short")):
        await client.send(FrameType.RESUME, 6, payload)
        with pytest.raises(errors.InvalidInput):
            await client.until(FrameType.RESUMED, 6)
    await client.start(7, "nobody", "true")
    with pytest.raises(errors.NotFound):
        await client.until(FrameType.STARTED, 7)
    await client.send(FrameType.RESUME, 8, door.encode_addressed("box", AT_START))
    with pytest.raises(errors.NotFound):
        await client.until(FrameType.RESUMED, 8)
    await client.start(0, "box", "true")
    with pytest.raises(errors.InvalidInput):
        await client.until(FrameType.STARTED, 0)
    await client.send(FrameType.LIST, 9)
    with pytest.raises(errors.InvalidInput):
        await client.until(FrameType.REPLY, 9)
    await client.start(10, "box", "exit 4")
    assert (await client.exited(10))[0] == 4


async def test_a_sandbox_is_made_for_a_command_and_goes_with_it(world: World, client: DoorClient) -> None:
    await client.once(7, Command(argv=(b"sh", b"-c", b"echo once; exit 6")))
    _, ident, _, backend, level = door.decode_started((await client.until(FrameType.STARTED, 7)).payload)
    assert (len(ident), backend, level) == (16, "memory", IsolationLevel.CONTAINER)
    assert (await client.exited(7))[0] == 6
    assert client.output[7, 1] == b"once\n"
    async with asyncio.timeout(10):
        while await client.call("list", wanted={"ephemeral": True}):
            await asyncio.sleep(0.01)


async def test_a_sandbox_is_held_until_it_is_let_go(world: World, client: DoorClient) -> None:
    await client.once(7, None)
    pid, box, *_ = door.decode_started((await client.until(FrameType.STARTED, 7)).payload)
    assert pid == 1
    other = await world.client()
    await other.start(8, box, "echo inside")
    assert (await other.exited(8))[0] == 0
    await client.send(FrameType.KILL, 7, KILL)
    assert (await client.exited(7))[:2] == (0, 2)
    assert await client.call("list", wanted={"ephemeral": True}) == []


async def test_a_held_sandbox_goes_with_its_client(world: World, client: DoorClient) -> None:
    await client.once(7, None)
    await client.until(FrameType.STARTED, 7)
    client.close()
    other = await world.client()
    async with asyncio.timeout(10):
        while await other.call("list", wanted={"ephemeral": True}):
            await asyncio.sleep(0.01)


async def test_a_lost_client_s_command_is_killed_and_its_detached_one_goes_on(world: World, client: DoorClient) -> None:
    box = await world.box()
    await client.start(5, "box", "echo here; sleep 60")
    await client.start(6, "box", "echo here; sleep 60", detached=True)
    await client.shows(5, b"here")
    await client.shows(6, b"here")
    client.close()
    other = await world.client()
    async with asyncio.timeout(10):
        while "client-lost" not in json.dumps(await other.call("events", wanted={"sandbox": box, "kinds": ["exec.ended"]})):
            await asyncio.sleep(0.01)
    await other.send(FrameType.RESUME, 6, door.encode_addressed("box", AT_START))
    assert parse_resumed((await other.until(FrameType.RESUMED, 6)).payload).state == 0
    await other.shows(6, b"here")
    await other.send(FrameType.KILL, 6, KILL)
    assert (await other.exited(6))[1] == 2


async def test_a_client_that_goes_while_its_sandbox_is_made_leaves_nothing(world: World, client: DoorClient) -> None:
    await client.once(7, Command(argv=(b"sleep", b"60")))
    client.close()
    other = await world.client()
    async with asyncio.timeout(10):
        while world.desk.clients > 1 or world.host.busy() or await other.call("list", wanted={"ephemeral": True}):
            await asyncio.sleep(0.01)
    assert world.desk.unfinished() == ()


async def test_what_is_killed_before_it_started_does_not_start(world: World, client: DoorClient) -> None:
    await client.once(7, Command(argv=(b"sleep", b"60")))
    await client.send(FrameType.KILL, 7, KILL)
    try:
        assert (await client.exited(7))[1] == 2  # it was quicker
    except errors.CommandNotStarted:
        pass


async def test_words_are_parsed_and_answered_with_what_to_exit_with_and_to_say(world: World, client: DoorClient) -> None:
    await world.box()
    words = [b"exec", b"--timeout", b"0.3", b"box", b"--", b"sh", b"-c", b"echo $GIVEN; sleep 60"]
    environment = [b"PATH=/usr/bin:/bin", b"HOME=%b" % os.fsencode(world.home), b"TERM=xterm"]
    words[1:1] = [b"-e", b"GIVEN=value"]
    await client.send(FrameType.START, 5, door.encode_words(words, b"/tmp", environment, 4, (24, 80)))
    await client.until(FrameType.STARTED, 5)
    code, cause, status, message = await client.exited(5)
    assert (code, cause, status) == (9, 1, 124)
    assert "ran longer than" in message
    assert "\x1b[31m" in message
    assert client.output[5, 1] == b"value\n"


async def test_words_that_are_wrong_are_answered_with_the_verbs_errors(world: World, client: DoorClient) -> None:
    for words, expected in (
        ([b"exec", b"--no-such", b"box", b"true"], errors.InvalidInput),
        ([b"exec", b"nobody", b"true"], errors.NotFound),
        ([b"list"], errors.InvalidInput),
        ([b"exec", b"-d", b"box", b"true"], errors.DaemonUnavailable),
        ([b"run", b"--profile", b"wrong", b"--", b"true"], errors.UnknownKey),
    ):
        await client.send(FrameType.START, 5, door.encode_words(words, b"/tmp", [b"HOME=/nonexistent"], 0, None))
        with pytest.raises(expected):
            await client.until(FrameType.STARTED, 5)
    await client.send(FrameType.START, 5, door.encode_words([b"exec", b"box", b"true"], b"relative", [], 0, None))
    with pytest.raises(errors.InvalidInput):
        await client.until(FrameType.STARTED, 5)


async def test_a_terminal_has_a_size_and_signals_reach_the_command(world: World, client: DoorClient) -> None:
    await world.box()
    await client.start(
        5,
        "box",
        "trap 'stty size' WINCH; trap 'exit 9' USR1; stty size; while :; do sleep 0.05; done",
        terminal=TerminalSize(rows=9, columns=8),
    )
    await client.shows(5, b"9 8")
    await client.send(FrameType.RESIZE, 5, struct.pack("<HH", 7, 6))
    await client.shows(5, b"7 6")
    await client.send(FrameType.SIGNAL, 77, door.encode_addressed("box", struct.pack("<QII", 5, 10, 0)))
    await client.until(FrameType.REPLY, 77)
    assert (await client.exited(5))[0] == 9
    await client.send(FrameType.SIGNAL, 78, door.encode_addressed("box", struct.pack("<QII", 555, 10, 0)))
    assert struct.unpack_from("<I", (await client.until(FrameType.FAILED, 78)).payload)[0] == 2


async def test_input_goes_through_with_its_offsets(world: World, client: DoorClient) -> None:
    await world.box()
    await client.start(5, "box", "cat", stdin=True)
    limit = struct.unpack("<QQ", (await client.until(FrameType.STDIN_CONSUMED, 5)).payload)[1]
    data = os.urandom(limit)
    await client.send(FrameType.STDIN, 5, struct.pack("<Q", 0) + data[:60_000])
    for at in range(0, limit, 60_000):  # the first piece again: it is known
        end = at + 60_000 >= limit
        await client.send(FrameType.STDIN, 5, struct.pack("<Q", at) + data[at : at + 60_000], int(end))
    assert (await client.exited(5))[0] == 0
    assert client.output[5, 1] == data


async def test_a_repeated_start_and_a_resume_find_the_command(world: World, client: DoorClient) -> None:
    await world.box()
    await client.start(5, "box", "echo once >> ran; echo begun; read x; echo end; cat ran; rm ran", stdin=True)
    await client.shows(5, b"begun")
    other = await world.client()
    await other.start(5, "box", "echo once >> ran", stdin=True)
    await other.until(FrameType.STARTED, 5)
    await other.shows(5, b"begun")
    third = await world.client()
    await third.send(FrameType.RESUME, 5, door.encode_addressed("box", struct.pack("<QQ", 3, 0)))
    resumed = parse_resumed((await third.until(FrameType.RESUMED, 5)).payload)
    assert (resumed.state, resumed.stdin_consumed) == (0, 0)
    await third.send(FrameType.STDIN, 5, struct.pack("<Q", 0) + b"go\n", 1)
    assert [(await each.exited(5))[0] for each in (client, other, third)] == [0, 0, 0]
    assert client.output[5, 1] == other.output[5, 1] == b"begun\nend\nonce\n"
    assert third.output[5, 1] == bytes(3) + b"un\nend\nonce\n"


async def test_a_client_that_does_not_read_blocks_nobody_and_misses_nothing(world: World, client: DoorClient) -> None:
    await world.box()
    slow = await world.client()
    for ident in range(1, 9):
        await slow.start(ident, "box", "seq 1 300000")
    fast = await world.client()
    for ident in range(11, 31):
        await fast.start(ident, "box", "seq 1 20000 | tail -n 1")
        assert (await fast.exited(ident))[0] == 0
    expected = "".join(f"{n}\n" for n in range(1, 300_001)).encode()
    for ident in range(1, 9):
        assert (await slow.exited(ident))[0] == 0
        assert slow.output[ident, 1] == expected


async def test_commands_are_taken_up_at_their_offsets_by_the_next_daemon(world: World, client: DoorClient) -> None:
    await world.box()
    await client.start(5, "box", "seq 1 20000; read x; seq 20001 90000; exit 3", stdin=True)
    await client.shows(5, b"\n20000\n")
    stood = len(client.output[5, 1])
    await client.once(6, None)
    await client.until(FrameType.STARTED, 6)
    await world.server.drain(0)
    await client.gone()
    await world.host.close()
    await world.begin()
    again = await world.client()
    await again.send(FrameType.RESUME, 5, door.encode_addressed("box", struct.pack("<QQ", stood, 0)))
    assert parse_resumed((await again.until(FrameType.RESUMED, 5)).payload).state == 0
    await again.send(FrameType.STDIN, 5, struct.pack("<Q", 0) + b"go\n", 1)
    assert await again.exited(5) == (3, 0, 3, "")
    whole = bytes(client.output[5, 1]) + bytes(again.output[5, 1][stood:])
    assert whole == "".join(f"{n}\n" for n in range(1, 90_001)).encode()
    await again.send(FrameType.RESUME, 6, door.encode_addressed("", AT_START))
    resumed = parse_resumed((await again.until(FrameType.RESUMED, 6)).payload)
    assert (resumed.state, resumed.pid) == (0, 1)
    await again.send(FrameType.KILL, 6, KILL)
    assert (await again.exited(6))[:2] == (0, 2)
