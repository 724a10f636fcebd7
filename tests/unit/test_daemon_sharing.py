"""Several sessions of one command, of one client or of several principals: none of them takes the sandbox from another."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from door_client import LONG, DoorClient, World, daemon_in, request_for

from agentkernel import errors
from agentkernel.abc import Caller
from agentkernel.channel import door
from agentkernel.channel.frames import FrameType
from agentkernel.config.principal import principal_of
from agentkernel.daemon import server as server_module
from agentkernel.daemon.reaching import sandbox_of
from agentkernel.model.codec import to_json
from agentkernel.model.command import Command

AT_START = bytes(16)
KILL = struct.pack("<I", 2)
FAR_BEHIND = b"\xff" * 16
WAITING = Command(argv=(b"sh", b"-c", b"echo up; read x; exit 6"), stdin=True)


@pytest.fixture
async def world(guest_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("AGENTKERNEL_GUEST", str(guest_binary))
    monkeypatch.setenv("AGENTKERNEL_HOME", str(tmp_path))
    async with daemon_in(tmp_path) as world:
        yield world


@pytest.fixture
async def owner(world: World) -> DoorClient:
    """A client whose command waits for input in a sandbox that was made for it."""
    client = await world.client()
    await client.once(7, WAITING)
    await client.shows(7, b"up")
    return client


async def settled(world: World) -> None:
    """Waits until what sessions have begun in passing, removals above all, is done."""
    while any("removal" in task.get_name() for task in world.desk.unfinished()) or len(world.desk.unfinished()) > 1:
        await asyncio.sleep(0)


async def goes_on(world: World, owner: DoorClient) -> None:
    await settled(world)
    await owner.send(FrameType.STDIN, 7, bytes(8) + b"go\n", 1)
    assert (await owner.exited(7))[0] == 6


@pytest.mark.parametrize(
    ("kind", "payload"),
    [(FrameType.START, b""), (FrameType.START, b"junk"), (FrameType.RESUME, door.encode_addressed("", FAR_BEHIND))],
)
async def test_a_refused_request_leaves_a_command_that_another_follows(
    world: World, owner: DoorClient, kind: FrameType, payload: bytes
) -> None:
    other = await world.client()
    await other.send(kind, 7, payload)
    await other.until(FrameType.FAILED, 7)
    await goes_on(world, owner)


async def test_one_of_two_followers_may_go(world: World, owner: DoorClient) -> None:
    other = await world.client()
    await other.send(FrameType.RESUME, 7, door.encode_addressed("", AT_START))
    await other.shows(7, b"up")
    owner.close()
    await goes_on(world, other)


async def test_the_last_follower_takes_the_sandbox_along(world: World, owner: DoorClient) -> None:
    other = await world.client()
    await other.send(FrameType.RESUME, 7, door.encode_addressed("", AT_START))
    await other.shows(7, b"up")
    owner.close()
    other.close()
    looking = await world.client()
    while await looking.call("list", wanted={"ephemeral": True}):
        await asyncio.sleep(0)


async def test_who_lets_a_held_sandbox_go_lets_it_go_for_all(world: World) -> None:
    holders = [await world.client(), await world.client(), await world.client()]
    await holders[0].once(7, None)
    await holders[0].until(FrameType.STARTED, 7)
    for other in holders[1:]:
        await other.send(FrameType.RESUME, 7, door.encode_addressed("", AT_START))
        await other.until(FrameType.RESUMED, 7)
    await holders[1].send(FrameType.KILL, 7, KILL)
    for each in holders:
        assert (await each.exited(7))[:2] == (0, 2)
    assert await holders[0].call("list", wanted={"ephemeral": True}) == []
    await settled(world)


async def test_one_of_two_holders_may_go(world: World) -> None:
    first, second = await world.client(), await world.client()
    await first.once(7, None)
    await first.until(FrameType.STARTED, 7)
    await second.send(FrameType.RESUME, 7, door.encode_addressed("", AT_START))
    await second.until(FrameType.RESUMED, 7)
    first.close()
    await settled(world)
    assert len(await second.call("list", wanted={"ephemeral": True})) == 1
    await second.send(FrameType.KILL, 7, KILL)
    assert (await second.exited(7))[:2] == (0, 2)


@pytest.mark.parametrize("ends", ["kill", "close"])
async def test_a_visit_ends_with_a_word_or_with_its_connection(world: World, ends: str) -> None:
    client, looking = await world.client(), await world.client()
    await looking.call("create", request=to_json(request_for()), options={"name": "box"})
    await client.send(FrameType.START, 7, door.encode_visit("box"))
    _, sandbox_id, notices = door.decode_started((await client.until(FrameType.STARTED, 7)).payload)
    assert (sandbox_id, len(notices)) == ((await looking.call("info", name="box"))["sandbox_id"], 1)
    assert (await looking.call("info", name="box"))["status"] == "running"
    if ends == "kill":
        await client.send(FrameType.KILL, 7, KILL)
        assert (await client.exited(7))[:2] == (0, 2)
    else:
        client.close()
    async with asyncio.timeout(LONG):
        while (await looking.call("info", name="box"))["status"] != "stopped":
            await asyncio.sleep(0)


async def test_a_visit_is_taken_up_with_the_next_daemon(world: World) -> None:
    client = await world.client()
    await client.call("create", request=to_json(request_for()), options={"name": "box"})
    await client.send(FrameType.START, 7, door.encode_visit("box"))
    await client.until(FrameType.STARTED, 7)
    await world.server.drain(0)
    await client.gone()
    await world.host.close()
    await world.begin()
    again = await world.client()
    await again.send(FrameType.RESUME, 7, door.encode_visit("box", AT_START))
    await again.until(FrameType.RESUMED, 7)
    assert (await again.call("info", name="box"))["status"] == "running"
    await again.send(FrameType.KILL, 7, KILL)
    assert (await again.exited(7))[:2] == (0, 2)
    assert (await again.call("info", name="box"))["status"] == "stopped"


async def test_a_visit_of_one_that_runs_leaves_it_running(world: World) -> None:
    await world.box()
    client = await world.client()
    await client.send(FrameType.START, 7, door.encode_visit("box"))
    assert door.decode_started((await client.until(FrameType.STARTED, 7)).payload)[2] == []
    await client.send(FrameType.KILL, 7, KILL)
    assert (await client.exited(7))[:2] == (1, 2)


@pytest.mark.parametrize(
    "payload", [door.encode_visit("none"), door.encode_visit("box", AT_START), door.encode_fields([(door.VISIT, b"")])]
)
async def test_a_visit_that_cannot_be_is_refused(world: World, payload: bytes) -> None:
    await world.box()
    client = await world.client()
    await client.send(FrameType.START, 7, payload)
    with pytest.raises((errors.InvalidInput, errors.NotFound)):
        await client.until(FrameType.STARTED, 7)


async def test_an_exec_id_of_somebody_else_gives_no_power_over_it(world: World, owner: DoorClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "principal_of", lambda _: "somebody")
    stranger = await world.client()
    await stranger.once(7, Command(argv=(b"true",)))
    with pytest.raises(errors.NotFound):
        await stranger.until(FrameType.STARTED, 7)
    await stranger.send(FrameType.RESUME, 7, door.encode_addressed("", AT_START))
    with pytest.raises(errors.NotFound):
        await stranger.until(FrameType.RESUMED, 7)
    await goes_on(world, owner)


async def test_impossible_offsets_cost_neither_command_nor_sandbox(world: World) -> None:
    await world.box()
    client = await world.client()
    await client.start(5, "box", "echo up; read x; exit 4", stdin=True)
    await client.shows(5, b"up")
    await world.server.drain(0)
    await client.gone()
    await world.host.close()
    await world.begin()
    again = await world.client()
    await again.send(FrameType.RESUME, 5, door.encode_addressed("box", FAR_BEHIND))
    with pytest.raises(errors.InvalidInput, match="has not written that much"):
        await again.until(FrameType.RESUMED, 5)
    await again.send(FrameType.RESUME, 5, door.encode_addressed("box", AT_START))
    await again.shows(5, b"up")
    await again.send(FrameType.STDIN, 5, bytes(8) + b"go\n", 1)
    assert (await again.exited(5))[0] == 4
    assert (await again.call("info", name="box"))["status"] == "running"


async def test_who_has_the_scope_of_one_sandbox_reaches_its_commands(world: World, owner: DoorClient) -> None:
    await world.box()
    narrow = Caller(principal=principal_of(os.geteuid()), scopes=frozenset({"sandbox:box"}))
    found, is_made_for_it = await sandbox_of(world.host, narrow, {door.SANDBOX: [b"box"]}, 5)
    assert (found.spec.name, is_made_for_it) == ("box", False)
    with pytest.raises(errors.Refused):
        await sandbox_of(world.host, narrow, {}, 7)
    with pytest.raises(errors.Refused):
        await found.destroy()


async def test_out_of_descriptors_the_daemon_does_not_ask_again_and_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_ACCEPT_AGAIN_S", 0.5)
    listener = world.server._listener
    short = Short(listener.socket)
    monkeypatch.setattr(listener, "socket", short)
    connecting = asyncio.create_task(world.client())
    while not world.lines[-1:] or "cannot be taken" not in world.lines[-1]:
        await asyncio.sleep(0)
    for _ in range(50):
        await asyncio.sleep(0)
    assert short.tries == 1
    short.is_over = True
    assert (await connecting).hello is not None


class Short:
    """A listening socket of a process that has no descriptor left for now."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.tries = 0
        self.is_over = False
        self.fileno, self.close = sock.fileno, sock.close

    def accept(self) -> tuple[socket.socket, object]:
        if self.is_over:
            return self._sock.accept()
        self.tries += 1
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
