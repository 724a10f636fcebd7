"""What clients may send, and that each harms only itself."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from door_client import DoorClient, World, daemon_in

from agentkernel import errors
from agentkernel.channel import door
from agentkernel.channel.frames import CLIENT_TYPES, FrameType
from agentkernel.channel.messages import Start, encode_start
from agentkernel.channel.wire import HOST_MAGIC, MAX_FRAME, encode_frame, encode_hello
from agentkernel.daemon import connection as connection_module

SEED = int(os.environ.get("AGENTKERNEL_FUZZ_SEED") or int.from_bytes(os.urandom(4), "little"))
FRAMES = 100_000


@pytest.fixture
async def world(guest_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("AGENTKERNEL_GUEST", str(guest_binary))
    monkeypatch.setenv("AGENTKERNEL_HOME", str(tmp_path))
    async with daemon_in(tmp_path) as world:
        yield world


@pytest.fixture
async def client(world: World) -> DoorClient:
    return await world.client()


async def raw(world: World, data: bytes) -> DoorClient:
    """A connection that begins with those bytes."""
    client = DoorClient(world.path)
    client.sock = socket.socket(socket.AF_UNIX)
    client.sock.setblocking(False)
    world.clients.append(client)
    await asyncio.get_running_loop().sock_connect(client.sock, world.path)
    await client.send_bytes(data)
    return client


async def test_the_greeting_tells_the_store_and_that_work_is_taken(world: World, client: DoorClient) -> None:
    assert client.hello is not None
    assert (client.hello.version, client.hello.arch, client.hello.state) == (1, 0, 0)
    assert client.hello.boot_id.hex() == world.host.identity


async def test_an_echo_comes_back(client: DoorClient) -> None:
    await client.send(FrameType.PING, 7, b"echo")
    assert bytes((await client.until(FrameType.REPLY, 7)).payload).endswith(b"echo")
    await client.send(FrameType.PING, 7, bytes(65))
    with pytest.raises(errors.InvalidInput):
        await client.until(FrameType.REPLY, 7)


@pytest.mark.parametrize(
    "greeting",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        HOST_MAGIC + bytes(24),  # an epoch with the tag 0
        bytes(32),
        encode_hello(b"\1" * 16)[:28] + b"\1\0\0\0",
    ],
)
async def test_who_greets_otherwise_is_cut_off(world: World, greeting: bytes) -> None:
    await (await raw(world, greeting)).gone()


async def test_who_speaks_no_common_version_is_told(world: World) -> None:
    client = await raw(world, encode_hello(b"\1" * 16, 7, 9))
    answer = await asyncio.get_running_loop().sock_recv(client.sock, 48)
    assert struct.unpack_from("<H", answer, 24)[0] == 0
    await client.gone()


async def test_who_does_not_greet_is_not_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "HELLO_S", 0.05)
    await (await raw(world, HOST_MAGIC)).gone()


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack("<IBBHQ", 200_000, FrameType.PING, 0, 0, 1),
        encode_frame(0x01010101, FrameType.CONFIGURE, 1),
        encode_frame(0x01010101, FrameType.SHUTDOWN, 1),
        encode_frame(0x01010101, FrameType.OUTPUT, 1),
        encode_frame(0x02020202, FrameType.PING, 1),
    ],
)
async def test_frames_that_no_client_may_send_end_its_connection_and_nothing_else(world: World, client: DoorClient, frame: bytes) -> None:
    hostile = await raw(world, encode_hello(b"\1" * 16) + frame)
    await hostile.gone()
    assert (await client.call("status"))["clients"] == 1


async def test_frames_in_the_first_write_are_read_however_many(world: World) -> None:
    pings = b"".join(encode_frame(0x01010101, FrameType.PING, ident, b"p") for ident in range(1, 1001))
    client = await raw(world, encode_hello(b"\1" * 16) + pings)
    answers = b""
    while len(answers) < 48 + 1000 * 29:
        answers += await asyncio.get_running_loop().sock_recv(client.sock, 1 << 16)
    assert len(answers) == 48 + 1000 * 29


async def test_impossible_frames_about_a_command_are_refused_alone(world: World, client: DoorClient) -> None:
    await world.box()
    await client.start(5, "box", "cat", stdin=True)
    await client.until(FrameType.STDIN_CONSUMED, 5)
    for kind, payload, flags in (
        (FrameType.STDIN, b"short", 0),
        (FrameType.STDIN, struct.pack("<Q", 9) + b"gap", 0),
        (FrameType.STDIN, struct.pack("<Q", 0) + b"x", 2),
        (FrameType.CONSUMED, struct.pack("<Q", 1), 1),
        (FrameType.CONSUMED, b"", 1),
        (FrameType.CONSUMED, struct.pack("<Q", 0), 3),
        (FrameType.RESIZE, b"\0\0\0\0", 0),
        (FrameType.KILL, struct.pack("<I", 9), 0),
        (FrameType.FORGET, b"x", 0),
        (FrameType.START, door.encode_addressed("box", encode_start(Start(argv=(b"x",)))), 0),
    ):
        await client.send(kind, 5, payload, flags)
        with pytest.raises(errors.InvalidInput):
            await client.until(FrameType.RESUMED, 5)
    await client.send(FrameType.CONSUMED, 1234, b"about nobody")
    await client.send(FrameType.STDIN, 5, struct.pack("<Q", 0) + b"still here", 1)
    assert (await client.exited(5))[0] == 0
    assert client.output[5, 1] == b"still here"


async def test_a_connection_has_a_bounded_number_of_commands_and_calls(
    world: World, client: DoorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "MAX_COMMANDS", 2)
    monkeypatch.setattr(connection_module, "MAX_CALLS", 2)
    await world.box()
    for ident in (1, 2, 3):
        await client.start(ident, "box", "sleep 60")
    with pytest.raises(errors.Busy):
        await client.until(FrameType.STARTED, 3)
    wait = b'{"op": "events", "wanted": {"after": 1000000}, "wait_s": 60}'
    for ident in (11, 12, 13):
        await client.send(FrameType.CALL, ident, wait)
    with pytest.raises(errors.Busy):
        await client.until(FrameType.REPLY, 13)
    await client.send(FrameType.CALL, 12, wait)
    with pytest.raises(errors.InvalidInput):
        await client.until(FrameType.REPLY, 12)


async def test_a_client_that_asks_but_does_not_read_is_not_read_any_more(
    world: World, client: DoorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "BACKLOG_LIMIT_BYTES", 65_536)
    await world.box()
    loop = asyncio.get_running_loop()
    sent = 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(LONG_ENOUGH):
            while True:
                await client.send(FrameType.PING, 1 + sent, bytes(64))
                sent += 1
    (connection,) = [each for each in world.server._connections if each.is_full]
    assert connection._link.backlog_bytes < 65_536 + 2 * MAX_FRAME
    other = await world.client()
    await other.call("status")
    received = 0
    client.sock.settimeout(0)
    while received < sent:  # it is read again when it reads
        data = await loop.sock_recv(client.sock, 1 << 18)
        received += sum(frame.type == FrameType.REPLY for frame in client._decoder.feed(data))
    assert received >= sent


LONG_ENOUGH = 1.0


async def test_many_clients_at_once(world: World) -> None:
    await world.box()

    async def work(number: int) -> None:
        client = await world.client()
        await client.start(number, "box", f"echo {number}")
        assert (await client.exited(number))[0] == 0
        assert client.output[number, 1] == b"%d\n" % number

    await asyncio.gather(*(work(number) for number in range(1, 201)))
    assert world.desk.clients >= 200


async def test_a_hundred_thousand_hostile_frames_harm_nobody(world: World) -> None:
    print(f"repeat with AGENTKERNEL_FUZZ_SEED={SEED}")
    source = random.Random(SEED)
    box = await world.box()
    good = await world.client()
    await good.start(1, "box", "cat", stdin=True)
    await good.until(FrameType.STDIN_CONSUMED, 1)
    seeds = payloads(box)
    sent = closed = 0
    while sent < FRAMES:
        client = await DoorClient(world.path).open()
        reading = asyncio.create_task(client.gone())
        try:
            for _ in range(source.randrange(1, 4000)):
                await client.send_bytes(hostile(source, client._tag, seeds))
                sent += 1
        except ConnectionError:
            closed += 1
        if source.random() < 0.5:
            client.sock.close()
        reading.cancel()
        await asyncio.wait([reading])
        client.close()
    assert closed  # the framing was broken, and that alone ends a connection
    await good.send(FrameType.STDIN, 1, struct.pack("<Q", 0) + b"unharmed", 1)
    assert (await good.exited(1))[0] == 0
    assert good.output[1, 1] == b"unharmed"
    assert not [line for line in world.lines if "failed" in line or "unexpected" in line]


def payloads(box: str) -> list[tuple[FrameType, bytes]]:
    """Plausible ones, to be mutilated."""
    start = encode_start(Start(argv=(b"true",), environment=(b"A=b",)))
    signal = struct.pack("<QII", 1, 0, 0)
    return [
        (FrameType.START, door.encode_addressed(box, start)),
        (FrameType.START, door.encode_words([b"exec", b"nobody", b"true"], b"/", [b"A=b"], 15, (24, 80))),
        (FrameType.START, door.encode_once(b'{"profile": "x"}', b'{"argv": ["true"]}')),
        (FrameType.RESUME, door.encode_addressed(box, bytes(16))),
        (FrameType.SIGNAL, door.encode_addressed(box, signal)),
        (FrameType.LIST, door.encode_addressed(box)),
        (FrameType.STATS, door.encode_addressed(box)),
        (FrameType.CALL, b'{"op": "list", "wanted": {"limit": 5}}'),
        (FrameType.CALL, b'{"op": "info", "name": "box"}'),
        (FrameType.CALL, b'{"op": "events", "wanted": {"limit": 5}, "wait_s": 0.01}'),
        (FrameType.STDIN, struct.pack("<Q", 0) + b"data"),
        (FrameType.CONSUMED, struct.pack("<Q", 5)),
        (FrameType.RESIZE, struct.pack("<HH", 5, 5)),
        (FrameType.KILL, struct.pack("<I", 3)),
        (FrameType.FORGET, b""),
        (FrameType.PING, b"ping"),
    ]


def hostile(source: random.Random, tag: int, seeds: list[tuple[FrameType, bytes]]) -> bytes:
    """A frame with something wrong in most cases."""
    kind, payload = source.choice(seeds)
    ident = source.choice((0, 2, 3, 4, 2**64 - 1, source.randrange(2**64)))
    if source.random() < 0.5:
        at = source.randrange(len(payload) + 1)
        payload = payload[:at] + source.randbytes(source.randrange(9)) + payload[at + source.randrange(9) :]
    flags = source.choice((0, 0, 1, 2, 255))
    number = source.choice(sorted(CLIENT_TYPES)) if source.random() < 0.1 else int(kind)
    frame = encode_frame(tag, number, ident, payload, flags)
    if source.random() < 0.002:
        at = source.randrange(len(frame))
        frame = frame[:at] + bytes([frame[at] ^ 1 << source.randrange(8)]) + frame[at + 1 :]
    return frame
