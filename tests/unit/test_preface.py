"""What a connection says before HELLO: it may only take power away, in whatever pieces it comes, and what is none ends the connection."""

from __future__ import annotations

import asyncio
import json
import os
import random
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from door_client import DoorClient, World, daemon_in, request_for

from agentkernel import assembly, errors
from agentkernel.abc import Caller
from agentkernel.channel import door
from agentkernel.channel.frames import FrameType
from agentkernel.channel.preface import HEAD, MAGIC, MAX_BYTES, encode_preface, length_of, read_preface
from agentkernel.channel.wire import HELLO, encode_frame, encode_hello
from agentkernel.config.principal import principal_of
from agentkernel.daemon import connection as connection_module
from agentkernel.daemon.greeting import Greeting
from agentkernel.errors import InvalidInput, ProtocolViolation
from agentkernel.model.codec import to_json
from agentkernel.model.command import Command
from agentkernel.model.record import CreateOptions, EventFilter
from agentkernel.model.rules import parse_rule

SEED = int(os.environ.get("AGENTKERNEL_FUZZ_SEED") or int.from_bytes(os.urandom(4), "little"))
FULL = Caller(principal="ann")
RUNNER = Caller(principal="ann", scopes=frozenset({"run-only"}), remote=True, via="ci")
HELLO_BYTES = encode_hello(b"\1" * 16)


def said(**changes: object) -> bytes:
    return json.dumps({"scopes": ["full"], "via": "", "remote": False, **changes}).encode()


def framed(text: bytes) -> bytes:
    return HEAD.pack(MAGIC, len(text)) + text


def test_a_preface_says_who_asks_and_the_full_caller_says_none() -> None:
    assert encode_preface(FULL) == b""
    vouched = replace(RUNNER, vouched=True)
    for caller in (
        RUNNER,
        vouched,
        replace(FULL, remote=True),
        replace(FULL, via="é x"),
        replace(FULL, scopes=frozenset({"sandbox:a", "host"})),
    ):
        encoded = encode_preface(caller)
        assert length_of(encoded[: HEAD.size]) == len(encoded) - HEAD.size
        assert read_preface(FULL, encoded[HEAD.size :]) == (caller, 0.0)
    assert read_preface(FULL, encode_preface(FULL, 2.5)[HEAD.size :]) == (FULL, 2.5)
    for wrong in (frozenset({"all"}), frozenset({"sandbox:"}), frozenset({f"sandbox:n{number}" for number in range(65)})):
        with pytest.raises(InvalidInput):
            encode_preface(replace(FULL, scopes=wrong))
    with pytest.raises(InvalidInput):
        encode_preface(replace(FULL, via="a\nb"))


@pytest.mark.parametrize(
    ("held", "asked", "kept"),
    [
        ({"full"}, ["full", "host"], {"full", "host"}),
        ({"full"}, ["admin"], set()),
        ({"full"}, ["admin", "read-only"], {"read-only"}),
        ({"full"}, [], set()),
        ({"run-only"}, ["full"], set()),
        ({"run-only"}, ["run-only", "host"], {"run-only"}),
        ({"sandbox:a"}, ["sandbox:a", "sandbox:b"], {"sandbox:a"}),
        ({"admin"}, ["admin"], {"admin"}),
    ],
)
def test_it_only_takes_away(held: set[str], asked: list[str], kept: set[str]) -> None:
    caller = Caller(principal="ann", scopes=frozenset(held), remote=True, via="one")
    found, _ = read_preface(caller, said(scopes=asked))
    assert found == Caller(principal="ann", scopes=frozenset(kept), remote=True, via="one")
    assert read_preface(caller, said(scopes=asked, via="two"))[0].via == "two"


WRONG = [
    b"",
    b"junk",
    b"[" * 100_000,
    b"[]",
    b"{}",
    b"\xff",
    said(scopes="full"),
    said(scopes=["full"] * 65),
    said(scopes=[7]),
    said(scopes=["sandbox:"]),
    said(scopes=["sandbox:a\n"]),
    said(scopes=["full\n"]),
    said(scopes=["sandbox:" + "a" * 64]),
    said(via=None),
    said(via="x" * 256),
    said(via="\ud800"),
    said(via="line\nline"),
    said(remote=1),
    said(vouched=1),
    said(principal="root"),
    said(patience_s=61),
    said(patience_s=-1),
    said(patience_s=True),
    said(patience_s="1"),
    said(patience_s=float("nan")),
]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_preface_is_told_apart(text: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        read_preface(FULL, text)


def _fed(greeting: Greeting, data: bytes, source: random.Random) -> tuple[bool, int]:
    """Gives it the bytes in pieces; whether it is complete, and how many it took."""
    taken, complete = 0, False
    while taken < len(data) and not complete:
        room = greeting.writable()
        count = min(len(room), len(data) - taken, source.choice((1, 2, 7, 100, 5000, 100_000)))
        room[:count] = data[taken : taken + count]
        del room
        taken += count
        complete = greeting.received(count)
    return complete, taken


def test_a_greeting_is_found_in_whatever_pieces_it_comes() -> None:
    print(f"repeat with AGENTKERNEL_FUZZ_SEED={SEED}")
    source = random.Random(SEED)
    for _ in range(300):
        preface = source.choice((None, said(), b"x" * source.randrange(1, MAX_BYTES)))
        frames = source.randbytes(source.choice((0, 1, 20, 3000)))
        greeting = Greeting()
        data = (b"" if preface is None else framed(preface)) + HELLO_BYTES + frames
        complete, taken = _fed(greeting, data, source)
        assert complete
        assert (greeting.preface, greeting.hello) == (preface, HELLO_BYTES)
        assert greeting.rest == data[len(data) - len(frames) : taken]


def test_it_holds_no_more_than_a_preface_may_have() -> None:
    with pytest.raises(ProtocolViolation, match="longer than"):
        _fed(Greeting(), HEAD.pack(MAGIC, MAX_BYTES + 1) + bytes(HELLO.size), random.Random(1))
    greeting = Greeting()
    assert not _fed(greeting, framed(b"x" * MAX_BYTES), random.Random(1))[0]
    assert len(greeting.writable()) == HELLO.size


def test_random_beginnings_are_refused_or_waited_for() -> None:
    print(f"repeat with AGENTKERNEL_FUZZ_SEED={SEED}")
    source = random.Random(SEED)
    for _ in range(2000):
        data = bytearray(framed(said(scopes=["run-only"])) + HELLO_BYTES)
        for _ in range(source.randrange(1, 5)):
            data[source.randrange(len(data))] = source.randrange(256)
        greeting = Greeting()
        try:
            complete, _ = _fed(greeting, bytes(data), source)
            if complete and (text := greeting.preface) is not None:
                assert "full" not in read_preface(replace(FULL, scopes=frozenset({"run-only"})), text)[0].scopes
        except ProtocolViolation:
            pass


# -- at the door


@pytest.fixture
async def world(guest_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("AGENTKERNEL_GUEST", str(guest_binary))
    monkeypatch.setenv("AGENTKERNEL_HOME", str(tmp_path))
    async with daemon_in(tmp_path) as world:
        yield world


async def narrow(world: World, caller: Caller) -> DoorClient:
    """A client that begins with the preface of a caller."""
    client = DoorClient(world.path)
    client.preface = encode_preface(caller)
    world.clients.append(client)
    return await client.open()


async def test_a_connection_may_do_what_its_preface_says(world: World) -> None:
    await world.box()
    looker = await narrow(world, replace(FULL, scopes=frozenset({"read-only"})))
    assert [info["name"] for info in await looker.call("list", wanted={})] == ["box"]
    with pytest.raises(errors.Refused):
        await looker.call("stop", name="box")
    await looker.start(3, "box", "true")
    with pytest.raises(errors.Refused):
        await looker.until(FrameType.STARTED, 3)
    await looker.once(4, Command(argv=(b"true",)))
    with pytest.raises(errors.Refused):
        await looker.until(FrameType.STARTED, 4)
    runner = await narrow(world, RUNNER)
    await runner.once(5, Command(argv=(b"sh", b"-c", b"exit 6")))
    assert (await runner.exited(5))[0] == 6
    for op, more in (("list", {"wanted": {}}), ("info", {"name": "box"}), ("drain", {})):
        with pytest.raises(errors.Refused):
            await runner.call(op, **more)
    one = await narrow(world, replace(FULL, scopes=frozenset({"sandbox:box"})))
    await one.start(7, "box", "exit 8")
    assert (await one.exited(7))[0] == 8
    trail = await (await world.client()).call("events", wanted={"kinds": ["exec.started"]})
    assert [dict(event["details"]).get("via") for event in trail] == ["ci", None]


async def test_a_remote_connection_has_no_words_and_ends_no_daemon(world: World) -> None:
    client = await narrow(world, replace(FULL, remote=True, scopes=frozenset({"full", "host"})))
    await client.send(FrameType.START, 3, door.encode_words([b"run", b"true"], b"/", [], 0, None))
    with pytest.raises(errors.Refused):
        await client.until(FrameType.STARTED, 3)
    with pytest.raises(errors.Refused):
        await client.call("drain")
    await client.call("hello", version="999.0")
    assert not world.desk.is_ending
    far = await narrow(world, replace(FULL, remote=True))
    with pytest.raises(errors.Refused, match="remote caller"):
        await far.call("grant", request=to_json(request_for(directory="/usr")))


@pytest.mark.parametrize("begin", [framed(text) for text in WRONG if len(text) <= MAX_BYTES] + [struct.pack("<8sI", MAGIC, MAX_BYTES + 1)])
async def test_who_begins_otherwise_is_cut_off(world: World, begin: bytes) -> None:
    client = DoorClient(world.path)
    client.preface = begin
    world.clients.append(client)
    await client.open(waits=False)
    await client.gone()


async def test_a_second_preface_is_none(world: World) -> None:
    client = DoorClient(world.path)
    client.preface = encode_preface(RUNNER) + encode_preface(RUNNER)
    world.clients.append(client)
    await client.open(waits=False)
    await client.gone()


async def test_who_stops_in_a_preface_is_not_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "HELLO_S", 0.05)
    client = DoorClient(world.path)
    world.clients.append(client)
    await client.connect()
    await client.send_bytes(framed(b"x" * 1000)[:500])
    await client.gone()


async def test_the_kernel_of_a_caller_is_that_caller_on_all_its_connections(world: World) -> None:
    principal = principal_of(os.getuid())
    caller = Caller(principal=principal, scopes=frozenset({"full"}), remote=True, via="laptop")
    kernel = assembly.build_client(world.environment, caller)
    try:
        await kernel.create(caller, request_for(), CreateOptions(name="mine", start=True))
        box = await kernel.open(caller, "mine")
        assert (await box.exec(Command(argv=(b"true",)))).exit_code == 0
        await box.close()
        async with kernel.run(caller, request_for(), Command(argv=(b"true",))) as run:
            assert (await run.process.wait()).exit_code == 0
        async with kernel.sandbox(caller, request_for()) as (held, _):
            assert (await held.exec(Command(argv=(b"true",)))).exit_code == 0
        with pytest.raises(errors.Refused):
            await kernel.grant(caller, request_for(directory="/usr"))
        told = [event async for event in kernel.events(caller, EventFilter(kinds=("exec.started",)))]
        assert [dict(event.details)["via"] for event in told] == ["laptop"] * 3
        await kernel.remove(caller, "mine", force=True)
    finally:
        await kernel.close()
    with pytest.raises(InvalidInput):
        assembly.build_client(world.environment, replace(caller, scopes=frozenset({"everything"})))


async def test_a_door_is_a_stream_that_begins_with_hello(world: World) -> None:
    reader, writer = await assembly.open_door(world.environment, RUNNER)
    writer.write(HELLO_BYTES + encode_frame(0x01010101, FrameType.PING, 7, b"echo"))
    await writer.drain()
    assert (await reader.readexactly(48))[8:24] == b"\1" * 16
    assert await reader.readuntil(b"echo")
    writer.close()
    await writer.wait_closed()


async def test_nobody_vouches_for_what_comes_through_a_door(world: World) -> None:
    """What a server says its operator has added is believed; what a client behind it says of that is not."""
    rule = parse_rule("10.1.0.0/16")
    request = to_json(request_for(allow_hosts=(rule,), added_hosts=(rule,)))
    vouched = replace(RUNNER, vouched=True)
    assert (await (await narrow(world, vouched)).call("grant", request=request))["backend"]
    reader, writer = await assembly.open_door(world.environment, vouched)
    ask = json.dumps({"op": "grant", "request": request}).encode()
    writer.write(HELLO_BYTES + encode_frame(0x01010101, FrameType.CALL, 7, ask))
    await writer.drain()
    async with asyncio.timeout(20):
        assert b'"refused"' in await reader.readuntil(b"may not open the host")
    writer.close()
    await writer.wait_closed()
