"""Commands relayed to clients, with the real agent as a plain process: offsets, credit, several readers, resuming."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from agent_process import AgentProcess

from agentkernel import errors
from agentkernel.channel import door
from agentkernel.channel.frames import FrameType
from agentkernel.channel.messages import KillCause, parse_resumed
from agentkernel.channel.relay import Relay
from agentkernel.channel.sandbox import GuestSandbox, open_sandbox
from agentkernel.model.command import Cause, Command, TerminalSize

LONG = 10.0


@dataclass
class Screen:
    """A client that keeps what it is sent, and says what it has consumed, at once or never."""

    consumes: bool = True
    is_full: bool = False
    full_after: int = 1 << 60
    frames: list[tuple[int, int, bytes]] = field(default_factory=list)  # type, flags, payload
    output: dict[int, bytearray] = field(default_factory=lambda: {1: bytearray(), 2: bytearray()})
    first: dict[int, int] = field(default_factory=dict)
    taken: int = 0
    limit: int = 0
    consumed: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    relay: Relay | None = None

    def send(self, kind: int, ident: int, payload: bytes = b"", flags: int = 0, rest: bytes | memoryview = b"") -> None:
        payload += rest
        if kind == FrameType.OUTPUT:
            offset, data = struct.unpack_from("<Q", payload)[0], payload[8:]
            kept = self.output[flags]
            assert offset == self.first.setdefault(flags, offset) + len(kept), "a gap, or bytes twice"
            kept += data
            self.taken += len(data)
            self.is_full = self.taken >= self.full_after
            if self.consumes:
                asyncio.get_running_loop().call_soon(self.release)
        else:
            self.frames.append((kind, flags, payload))
        if kind == FrameType.STDIN_CONSUMED:
            self.consumed, self.limit = struct.unpack("<QQ", payload)
        self.changed.set()

    def release(self) -> None:
        assert self.relay is not None
        for stream in (1, 2):
            if stream in self.first:
                assert self.relay.consumed(stream, self.first[stream] + len(self.output[stream]))

    def ready(self) -> None:
        """Reads again."""
        assert self.relay is not None
        self.is_full, self.taken = False, 0
        self.relay.client_is_ready()

    async def until(self, kind: FrameType) -> bytes:
        """The payload of the first frame of that type, which may still come."""
        async with asyncio.timeout(LONG):
            while True:
                for found, _, payload in self.frames:
                    if found == kind:
                        return payload
                self.changed.clear()
                await self.changed.wait()

    async def shows(self, text: bytes, stream: int = 1) -> None:
        """Waits until the output holds that text."""
        async with asyncio.timeout(LONG):
            while text not in self.output[stream]:
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def agent(guest_binary: Path, tmp_path: Path) -> AsyncIterator[AgentProcess]:
    agent = AgentProcess(guest_binary, tmp_path)
    await agent.launch()
    yield agent
    await agent.destroy()


@pytest.fixture
async def sandbox(agent: AgentProcess) -> AsyncIterator[GuestSandbox]:
    sandbox = await open_sandbox(agent)
    await sandbox.ready()
    yield sandbox
    await sandbox.close()


def shell(script: str, **more: object) -> Command:
    return Command(argv=(b"sh", b"-c", script.encode()), **more)  # type: ignore[arg-type]


def begin(sandbox: GuestSandbox, screen: Screen, command: Command, ident: int = 77) -> Relay:
    screen.relay = sandbox.relay(ident, sandbox.start_of(command), screen, door.encode_started)
    return screen.relay


async def go_on(sandbox: GuestSandbox, screen: Screen, offsets: tuple[int, int] = (0, 0), ident: int = 77) -> Relay:
    screen.relay = await sandbox.resume(ident, offsets, screen)
    return screen.relay


def write(screen: Screen, data: bytes, *, end: bool = False) -> bool:
    assert screen.relay is not None
    offset = screen.consumed
    return screen.relay.input(offset, memoryview(data), int(end))


async def test_a_command_has_the_clients_id_and_its_bytes_their_offsets(sandbox: GuestSandbox) -> None:
    screen = Screen()
    relay = begin(sandbox, screen, shell("echo out; echo err >&2; exit 3"), ident=2**63 + 5)
    assert door.decode_started(await screen.until(FrameType.STARTED))[0] > 0
    status = await relay.ended()
    assert status.exit_code == 3
    assert (bytes(screen.output[1]), bytes(screen.output[2])) == (b"out\n", b"err\n")
    relay.tell_end(status, 3, "said")
    exited, limits, cause, exit_status, message = door.decode_exited(await screen.until(FrameType.EXITED))
    assert (limits, cause, exit_status, message) == (0, 0, 3, "said")
    assert struct.unpack_from("<II", exited) == (0, 3)
    assert [record.exec_id for record in await sandbox.processes()] == [2**63 + 5]
    relay.release()
    await sandbox.ask(FrameType.PING)
    assert await sandbox.processes() == []


async def test_a_repeated_start_finds_the_command(sandbox: GuestSandbox) -> None:
    first, second = Screen(), Screen()
    command = shell("echo $$; sleep 0.2; echo more")
    begin(sandbox, first, command)
    await first.shows(b"\n")
    relay = begin(sandbox, second, command)
    await relay.ended()
    assert first.output == second.output
    assert len(await sandbox.processes()) == 1
    relay.lose()


async def test_the_agent_forgets_only_what_the_client_has_consumed(sandbox: GuestSandbox) -> None:
    slow = Screen(consumes=False)
    relay = begin(sandbox, slow, shell("head -c 600000 /dev/zero"))
    await slow.shows(bytes(262_144))
    relay.leave()  # as a daemon that is killed
    other = Screen()
    relay = await go_on(sandbox, other)
    await relay.ended()
    assert len(other.output[1]) == 600_000


async def test_a_client_resumes_where_it_stood_with_another_host(agent: AgentProcess, sandbox: GuestSandbox) -> None:
    screen = Screen()
    begin(sandbox, screen, shell("seq 1 2000; read x; seq 2001 200000", stdin=True))
    await screen.shows(b"\n2000\n")
    await screen.until(FrameType.STDIN_CONSUMED)
    stood = len(screen.output[1])
    async with asyncio.timeout(LONG):
        other = await open_sandbox(agent)
    again = Screen(consumed=screen.consumed)
    relay = await go_on(other, again, (stood, 0))
    resumed = parse_resumed(await again.until(FrameType.RESUMED))
    assert (resumed.state, resumed.stdin_consumed) == (0, 0)
    assert write(again, b"go\n", end=True)
    assert (await relay.ended()).exit_code == 0
    assert bytes(screen.output[1] + again.output[1]) == "".join(f"{n}\n" for n in range(1, 200_001)).encode()
    relay.release()
    await other.close()


async def test_a_result_is_told_to_a_client_that_comes_back_later(agent: AgentProcess, sandbox: GuestSandbox) -> None:
    screen = Screen()
    await begin(sandbox, screen, shell("echo kept; exit 4")).ended()
    other = await open_sandbox(agent)
    again = Screen()
    relay = await go_on(other, again, (2, 0))
    assert (await relay.ended()).exit_code == 4
    assert bytes(again.output[1]) == b"pt\n"
    assert parse_resumed(await again.until(FrameType.RESUMED)).state == 1
    await other.close()


async def test_a_client_that_reads_nothing_for_a_while_misses_nothing_and_blocks_nobody(sandbox: GuestSandbox) -> None:
    full = Screen(full_after=100_000)
    relay = begin(sandbox, full, shell("seq 1 100000; exit 2"))
    await full.shows(b"\n10000\n")
    for ident in range(1, 6):
        assert (await begin(sandbox, Screen(), shell("echo quick"), ident=ident).ended()).exit_code == 0
    ending = asyncio.create_task(relay.ended())
    async with asyncio.timeout(LONG):
        while not ending.done():
            full.ready()
            await asyncio.wait([ending], timeout=0.01)
    assert (await ending).exit_code == 2
    assert bytes(full.output[1]) == "".join(f"{n}\n" for n in range(1, 100_001)).encode()


async def test_a_lost_client_s_foreground_command_is_killed_and_a_detached_one_goes_on(sandbox: GuestSandbox) -> None:
    gone = Screen()
    relay = begin(sandbox, gone, shell("echo here; sleep 60"))
    await gone.shows(b"here")
    relay.lose()
    status = await relay.ended()
    assert status.cause is Cause.CLIENT_LOST
    stays = Screen()
    relay = begin(sandbox, stays, shell("echo here; sleep 60", detached=True), ident=78)
    await stays.shows(b"here")
    relay.lose()
    assert [(record.exec_id, record.running) for record in await sandbox.processes()] == [(78, True)]


async def test_a_command_lives_as_long_as_somebody_follows_it(sandbox: GuestSandbox) -> None:
    first, second = Screen(), Screen()
    relay = begin(sandbox, first, shell("echo here; read x; echo end", stdin=True))
    await first.shows(b"here")
    follower = await go_on(sandbox, second)
    await second.shows(b"here")
    relay.lose()
    assert write(second, b"x\n")
    await second.shows(b"end")
    assert (await follower.ended()).cause is Cause.ITSELF


async def test_input_is_the_newest_client_s(sandbox: GuestSandbox) -> None:
    first, second = Screen(), Screen()
    begin(sandbox, first, shell("read a; echo got $a; read b; echo got $b", stdin=True))
    await first.until(FrameType.STDIN_CONSUMED)
    assert write(first, b"one\n")
    await first.shows(b"got one")
    relay = await go_on(sandbox, second)
    assert parse_resumed(await second.until(FrameType.RESUMED)).stdin_consumed == 4
    assert first.frames[-1][:2] == (FrameType.STDIN_CONSUMED, 1)  # nobody reads it any more
    assert write(first, b"nobody hears this\n")
    second.consumed = 4
    assert write(second, b"two\n")
    await relay.ended()
    assert bytes(first.output[1]) == b"got one\ngot two\n"


async def test_impossible_input_and_credit_are_refused(sandbox: GuestSandbox) -> None:
    screen = Screen()
    relay = begin(sandbox, screen, shell("cat", stdin=True))
    await screen.until(FrameType.STDIN_CONSUMED)
    assert not relay.input(5, memoryview(b"a gap"), 0)
    assert not relay.input(0, memoryview(bytes(screen.limit + 1)), 0)
    assert not relay.consumed(1, 1)
    assert not relay.consumed(3, 0)
    assert relay.input(0, memoryview(b"fine"), 1)
    assert not relay.input(4, memoryview(b"after the end"), 0)
    assert (await relay.ended()).exit_code == 0
    assert bytes(screen.output[1]) == b"fine"


async def test_resuming_what_is_not_there_or_was_not_written_is_refused(sandbox: GuestSandbox) -> None:
    with pytest.raises(errors.NotFound):
        await go_on(sandbox, Screen())
    screen = Screen()
    relay = begin(sandbox, screen, shell("echo here; sleep 60"))
    await screen.shows(b"here")
    with pytest.raises(errors.InvalidInput):
        await go_on(sandbox, Screen(), (6, 0))
    relay.kill(KillCause.REQUEST)
    assert (await relay.ended()).cause is Cause.KILLED


async def test_a_command_that_cannot_start_says_so(sandbox: GuestSandbox) -> None:
    relay = begin(sandbox, Screen(), Command(argv=(b"no-such-command",)))
    with pytest.raises(errors.CommandNotFound):
        await relay.ended()
    assert relay.failure is not None
    assert relay.failure.stage == 8


async def test_a_terminal_is_resized(sandbox: GuestSandbox) -> None:
    screen = Screen()
    command = shell("trap 'stty size; exit' WINCH; stty size; while :; do sleep 0.05; done", terminal=TerminalSize(rows=10, columns=20))
    relay = begin(sandbox, screen, command)
    await screen.shows(b"10 20")
    relay.resize(TerminalSize(rows=30, columns=40))
    await screen.shows(b"30 40")
    await relay.ended()


async def test_a_recording_stands_beside_a_client_and_goes_on_where_the_last_one_stopped(
    agent: AgentProcess, sandbox: GuestSandbox
) -> None:
    screen = Screen()
    relay = begin(sandbox, screen, shell("seq 1 1000; read x; seq 1001 90000; exit 5", detached=True, stdin=True))
    recorded: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
    some = asyncio.Event()

    def keep(stream: int, offset: int, data: bytes) -> None:
        assert offset == len(recorded[stream])
        recorded[stream] += data
        some.set()

    recording = asyncio.create_task(sandbox.record(77, (0, 0), keep))
    await screen.shows(b"\n1000\n")
    async with asyncio.timeout(LONG):
        while len(recorded[1]) < len(screen.output[1]):
            some.clear()
            await some.wait()
    recording.cancel()
    await asyncio.wait([recording])
    relay.leave()
    other = await open_sandbox(agent)
    recording = asyncio.create_task(other.record(77, (len(recorded[1]), 0), keep))
    again = Screen()
    relay = await go_on(other, again)
    await again.until(FrameType.RESUMED)
    assert write(again, b"x\n")
    status = await recording
    assert status.exit_code == 5
    assert (await relay.ended()).exit_code == 5
    expected = "".join(f"{n}\n" for n in range(1, 90_001)).encode()
    assert bytes(recorded[1]) == expected
    assert bytes(again.output[1]) == expected
    assert [record.running for record in await other.processes()] == [False]
    await other.close()


async def test_recording_what_is_not_there_is_not_found(sandbox: GuestSandbox) -> None:
    with pytest.raises(errors.NotFound):
        await sandbox.record(5, (0, 0), lambda stream, offset, data: None)
