"""Commands over the channel, against a scripted agent."""

from __future__ import annotations

import asyncio
import os
import struct
from typing import Any

import pytest
from channel_peer import QUICK, SPEC, FakeBoundary, Peer

from agentkernel import errors
from agentkernel.channel import process as process_module
from agentkernel.channel.commands import RING_BYTES, start_of
from agentkernel.channel.frames import FrameType
from agentkernel.channel.sandbox import GuestSandbox, open_sandbox
from agentkernel.channel.wire import decode_fields
from agentkernel.model.command import Cause, Command, LimitHit, TerminalSize
from agentkernel.model.spec import Workspace, WorkspaceMode

TRUE = Command(argv=(b"true",))


async def test_hello_configuration_and_the_first_command_travel_together(boundary: FakeBoundary, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.exec(TRUE))
    peer = await boundary.attach()
    await peer.receive_hello()
    await peer.expect(FrameType.CONFIGURE)
    await peer.expect(FrameType.START)
    running.cancel()


async def test_a_result_carries_both_streams_and_the_status(peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.exec(TRUE))
    ident = await peer.started()
    await peer.output(ident, 0, b"out")
    await peer.output(ident, 0, b"err\xff", stream=2)
    await peer.output(ident, 3, b"put")
    await peer.exited(ident, ends=(6, 4), value=3)
    result = await running
    assert (result.stdout, result.stderr, result.exit_code) == (b"output", b"err\xff", 3)
    assert result.status.wall_s == 0.0015
    assert not (result.stdout_truncated or result.stderr_truncated)
    assert (await peer.expect(FrameType.FORGET)).id == ident


async def test_a_signal_becomes_128_plus_its_number_with_the_limits_hit(boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox) -> None:
    boundary.limits = (LimitHit.MEMORY,)
    running = asyncio.create_task(sandbox.exec(TRUE))
    await peer.exited(await peer.started(), kind=1, value=9, flags=1)
    status = (await running).status
    assert (status.exit_code, status.signal, status.limits_hit, status.survivors) == (137, 9, (LimitHit.MEMORY,), True)


async def test_a_limit_that_only_hindered_a_command_is_told_with_its_success(
    boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox
) -> None:
    boundary.limits = (LimitHit.PIDS,)
    running = asyncio.create_task(sandbox.exec(TRUE))
    await peer.exited(await peer.started())
    assert (await running).status.limits_hit == (LimitHit.PIDS,)


async def test_output_beyond_the_limit_is_drained_and_said(peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.exec(Command(argv=(b"yes",), output_limit_bytes=5)))
    ident = await peer.started()
    for at in range(0, 10 * RING_BYTES, 65_536):
        await peer.output(ident, at, b"y" * 65_536)
    await peer.exited(ident, ends=(10 * RING_BYTES, 0))
    result = await running
    assert (result.stdout, result.stdout_truncated, result.stderr_truncated) == (b"yyyyy", True, False)


async def test_credit_is_given_at_least_every_quarter_of_the_ring(peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.exec(TRUE))
    ident = await peer.started()
    await peer.output(ident, 0, b"y" * 65_535)
    await peer.output(ident, 65_535, b"y")
    frame = await peer.expect(FrameType.CONSUMED)
    assert (frame.id, frame.flags, struct.unpack("<Q", frame.payload)) == (ident, 1, (65_536,))
    running.cancel()


@pytest.mark.parametrize(
    ("errno", "stage", "error", "text"),
    [
        (2, 8, errors.CommandNotFound, "no such command"),
        (13, 8, errors.CommandNotExecutable, "Permission denied"),
        (8, 8, errors.CommandNotExecutable, "Exec format error"),
        (2, 5, errors.CommandNotStarted, "working directory"),
        (11, 1, errors.CommandNotStarted, "no process could be made"),
        (1, 4, errors.CommandNotStarted, "user"),
    ],
)
async def test_a_command_that_does_not_start_says_why(
    peer: Peer, sandbox: GuestSandbox, errno: int, stage: int, error: type[Exception], text: str
) -> None:
    for begin in (sandbox.exec, sandbox.start):
        running = asyncio.ensure_future(begin(TRUE))
        ident = (await peer.expect(FrameType.START)).id
        await peer.send(FrameType.FAILED, ident, struct.pack("<II", errno, stage) + b"detail")
        with pytest.raises(error, match=text) as caught:
            await running
        assert type(caught.value) is error
        await peer.expect(FrameType.FORGET)


async def test_a_timeout_is_an_error_and_the_sandbox_goes_on(peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.exec(Command(argv=(b"sleep", b"9"), timeout_s=0.5)))
    start = await peer.expect(FrameType.START)
    assert {key: value for key, _, value in decode_fields(start.payload)}[10] == struct.pack("<Q", 500)
    await peer.send(FrameType.STARTED, start.id, struct.pack("<I", 2))
    await peer.exited(start.id, kind=1, value=9, cause=1)
    with pytest.raises(errors.TimedOut, match=r"0\.5 seconds"):
        await running
    await peer.expect(FrameType.FORGET)
    running = asyncio.create_task(sandbox.exec(TRUE))
    await peer.exited(await peer.started())
    assert (await running).exit_code == 0


async def test_an_agent_that_ignores_a_timeout_is_told_to_kill(peer: Peer, sandbox: GuestSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "TIMEOUT_GRACE_S", 0.05)
    running = asyncio.create_task(sandbox.exec(Command(argv=(b"sleep", b"9"), timeout_s=0.05)))
    ident = await peer.started()
    assert (await peer.expect(FrameType.KILL)).payload == struct.pack("<I", 2)
    await peer.exited(ident, kind=1, value=9, cause=2)
    with pytest.raises(errors.TimedOut):
        await running


async def test_a_cancelled_exec_kills_the_command_as_its_client_is_lost(peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.exec(TRUE))
    ident = await peer.started()
    running.cancel()
    frame = await peer.expect(FrameType.KILL)
    assert (frame.id, frame.payload) == (ident, struct.pack("<I", 3))
    await peer.output(ident, 0, b"late")
    await peer.exited(ident, ends=(4, 0), kind=1, value=9, cause=3)
    await peer.expect(FrameType.FORGET)


async def test_a_start_cancelled_before_its_answer_leaves_nothing_running(peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.start(Command(argv=(b"true",), detached=True)))
    ident = (await peer.expect(FrameType.START)).id
    running.cancel()
    assert (await peer.expect(FrameType.KILL)).id == ident
    await peer.send(FrameType.STARTED, ident, struct.pack("<I", 5))
    await peer.exited(ident, kind=1, value=9, cause=3)
    await peer.expect(FrameType.FORGET)


async def test_an_abandoned_detached_command_goes_on(peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.start(Command(argv=(b"true",), detached=True)))
    ident = await peer.started()
    (await running).abandon()
    again = await sandbox.attach(ident)
    await peer.output(ident, 0, b"still here")
    assert await anext(again.output()) == (1, b"still here")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(peer.frame(), 0.05)


async def test_output_is_streamed_in_order_and_ends_with_the_command(peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.start(TRUE))
    ident = await peer.started()
    process = await running
    assert (process.pid, process.exec_id) == (42, ident)

    async def consume() -> list[tuple[int, bytes]]:
        return [chunk async for chunk in process.output()]

    consumer = asyncio.create_task(consume())
    await peer.output(ident, 0, b"a" * 5000)
    await peer.output(ident, 0, b"b" * 5000, stream=2)
    await peer.output(ident, 5000, b"c" * 5000)
    await peer.exited(ident, ends=(10_000, 5000))
    assert await consumer == [(1, b"a" * 5000), (2, b"b" * 5000), (1, b"c" * 5000)]
    assert (await process.wait()).exit_code == 0


async def test_a_consumer_that_pauses_gives_no_credit(peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.start(TRUE))
    ident = await peer.started()
    process = await running
    output = process.output()
    for at in range(0, RING_BYTES, 65_536):
        await peer.output(ident, at, b"y" * 65_536)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(peer.frame(), 0.05)
    _, taken = await anext(output)
    assert len(taken) <= RING_BYTES // 2
    assert (await peer.expect(FrameType.CONSUMED)).payload == struct.pack("<Q", len(taken))


async def test_waiting_discards_what_nobody_reads(peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.start(TRUE))
    ident = await peer.started()
    waiting = asyncio.create_task((await running).wait())
    for at in range(0, 4 * RING_BYTES, 65_536):
        await peer.output(ident, at, b"y" * 65_536)
    await peer.exited(ident, ends=(4 * RING_BYTES, 0))
    assert (await waiting).exit_code == 0


async def test_waiting_goes_on_when_the_reader_stops_half_way(peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.start(TRUE))
    ident = await peer.started()
    process = await running

    async def read_one() -> None:
        async for _ in process.output():
            return

    await peer.output(ident, 0, b"y")
    await asyncio.gather(read_one(), asyncio.sleep(0))
    waiting = asyncio.create_task(process.wait())
    for at in range(1, 2 * RING_BYTES, 65_536):
        await peer.output(ident, at, b"y" * 65_536)
    await peer.exited(ident, ends=(2 * RING_BYTES + 1, 0))
    assert (await waiting).exit_code == 0


async def test_a_drip_of_single_bytes_is_joined(peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.start(TRUE))
    ident = await peer.started()
    process = await running
    for at in range(3000):
        await peer.output(ident, at, b"o")
        await peer.output(ident, at, b"e", stream=2)
    await peer.exited(ident, ends=(3000, 3000))
    assert (await process.ended()).value == 0
    chunks = [chunk async for chunk in process.output()]
    assert len(chunks) < 300
    assert b"".join(data for stream, data in chunks if stream == 2) == b"e" * 3000


async def test_input_never_passes_the_agents_limit(peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.exec(TRUE, stdin=b"0123456789"))
    ident = await peer.started()
    await peer.window(ident, 0, 4)
    frame = await peer.expect(FrameType.STDIN)
    assert (frame.payload, frame.flags) == (struct.pack("<Q", 0) + b"0123", 0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(peer.frame(), 0.05)
    await peer.window(ident, 4, 400)
    assert (await peer.expect(FrameType.STDIN)).payload == struct.pack("<Q", 4) + b"456789"
    end = await peer.expect(FrameType.STDIN)
    assert (end.payload, end.flags) == (struct.pack("<Q", 10), 1)
    await peer.exited(ident)
    await running


async def test_input_that_the_command_closed_is_discarded(peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.start(Command(argv=(b"true",), stdin=True)))
    ident = await peer.started()
    process = await running
    await peer.window(ident, 0, 100)
    writing = asyncio.create_task(process.write_stdin(b"x" * 1000))
    await peer.expect(FrameType.STDIN)
    await peer.window(ident, 100, 200, flags=1)
    await asyncio.wait_for(writing, 1)
    await asyncio.wait_for(process.write_stdin(b"more"), 1)


async def test_writers_wake_when_the_command_ends(peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.start(Command(argv=(b"true",), stdin=True)))
    ident = await peer.started()
    writing = asyncio.create_task((await running).write_stdin(b"x"))
    await peer.exited(ident)
    await asyncio.wait_for(writing, 1)


async def test_signal_resize_and_kill_reach_the_agent(peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.start(Command(argv=(b"sh",), terminal=TerminalSize(rows=24, columns=80))))
    ident = await peer.started()
    process = await running
    signalling = asyncio.create_task(process.signal(15, tree=True))
    frame = await peer.expect(FrameType.SIGNAL)
    assert frame.payload == struct.pack("<QII", ident, 15, 1)
    await peer.send(FrameType.REPLY, frame.id)
    await signalling
    await process.resize(TerminalSize(rows=50, columns=132))
    assert (await peer.expect(FrameType.RESIZE)).payload == struct.pack("<HH", 50, 132)
    await process.kill()
    assert (await peer.expect(FrameType.KILL)).payload == struct.pack("<I", 2)
    await peer.exited(ident, kind=1, value=9, cause=2)
    assert (await process.wait()).cause is Cause.KILLED
    await process.signal(15)  # nobody is there any more


async def test_a_signal_to_a_process_that_just_ended_is_no_error(peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.start(TRUE))
    await peer.started()
    signalling = asyncio.create_task((await running).signal(15))
    frame = await peer.expect(FrameType.SIGNAL)
    await peer.send(FrameType.FAILED, frame.id, struct.pack("<II", 3, 0))
    await signalling


async def test_the_sandbox_counts_and_lists(peer: Peer, sandbox: GuestSandbox) -> None:
    asking = asyncio.create_task(sandbox.statistics())
    frame = await peer.expect(FrameType.STATS)
    await peer.send(FrameType.REPLY, frame.id, struct.pack("<HHIQIIQQQ", 2, 0, 40, 1, 2, 3, 4, 5, 6))
    assert (await asking).rss_bytes == 5
    listing = asyncio.create_task(sandbox.processes())
    frame = await peer.expect(FrameType.LIST)
    record = struct.pack("<QIIIIQ", 7, 8, 0, 1, 0, 9) + b"a\0b"
    await peer.send(FrameType.REPLY, frame.id, struct.pack("<HHI", 1, 0, len(record)) + record)
    assert [(p.exec_id, p.argv, p.detached) for p in await listing] == [(7, (b"a", b"b"), True)]


async def test_a_refused_configuration_ends_the_sandbox(boundary: FakeBoundary, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.exec(TRUE))
    peer = await boundary.attach()
    await peer.greet()
    frame = await peer.expect(FrameType.CONFIGURE)
    await peer.send(FrameType.FAILED, frame.id, struct.pack("<II", 17, 0))
    with pytest.raises(errors.SandboxFailed, match="refused its configuration"):
        await running
    with pytest.raises(errors.SandboxFailed):
        await sandbox.ready()


async def test_ready_means_that_the_agent_is_configured(boundary: FakeBoundary, sandbox: GuestSandbox) -> None:
    ready = asyncio.create_task(sandbox.ready())
    peer = await boundary.attach()
    await peer.greet()
    await asyncio.sleep(0.01)
    assert not ready.done()
    await peer.send(FrameType.REPLY, (await peer.expect(FrameType.CONFIGURE)).id)
    await asyncio.wait_for(ready, 1)


async def test_taking_up_an_unknown_process_is_not_found(peer: Peer, sandbox: GuestSandbox) -> None:
    attaching = asyncio.create_task(sandbox.attach(99))
    assert (await peer.expect(FrameType.RESUME)).id == 99
    await peer.send(FrameType.FAILED, 99, struct.pack("<II", 2, 0))
    with pytest.raises(errors.NotFound):
        await attaching


async def test_a_process_of_an_earlier_host_is_taken_up_where_its_ring_begins(peer: Peer, sandbox: GuestSandbox) -> None:
    attaching = asyncio.create_task(sandbox.attach(99))
    await peer.expect(FrameType.RESUME)
    await peer.resumed(99, first=(1000, 0))
    process = await attaching
    await peer.output(99, 1000, b"tail")
    await peer.exited(99, ends=(1004, 0))
    assert [data async for _, data in process.output()] == [b"tail"]
    assert (await process.wait()).output_lost


async def test_destroying_ends_what_waits_and_may_be_repeated(boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.exec(TRUE))
    await peer.started()
    await sandbox.destroy()
    with pytest.raises(errors.SandboxLost):
        await running
    await sandbox.destroy()
    assert boundary.destroyed == 2
    with pytest.raises(errors.SandboxLost):
        await sandbox.exec(TRUE)


def start_fields(command: Command, **changes: Any) -> Any:
    environment = {b"PATH": b"/bin", b"LANG": b"C"}
    spec = SPEC if not changes else SPEC.__class__(**{**{name: getattr(SPEC, name) for name in SPEC.__dataclass_fields__}, **changes})
    return start_of(spec, environment, command, stdin=False)


def test_a_command_runs_as_the_sandboxes_user_in_its_home_unless_told_otherwise() -> None:
    start = start_fields(TRUE)
    assert (start.uid, start.gid, start.cwd) == (1000, 1000, b"/home/user")
    start = start_fields(TRUE, workspace=Workspace(mode=WorkspaceMode.COPY_ON_WRITE, source="/src"))
    assert start.cwd == b"/workspace"
    start = start_fields(Command(argv=(b"x",), cwd="/tmp", user=(0, 5)))
    assert (start.uid, start.gid, start.cwd) == (0, 5, b"/tmp")


def test_a_commands_environment_lies_over_the_sandboxes() -> None:
    start = start_fields(Command(argv=(b"x",), environment={b"LANG": b"de", b"A": b"b=c"}))
    assert set(start.environment) == {b"PATH=/bin", b"LANG=de", b"A=b=c"}


@pytest.mark.parametrize(
    "command",
    [
        Command(argv=()),
        Command(argv=(b"x",), cwd="relative"),
        Command(argv=(b"x",), timeout_s=0),
        Command(argv=(b"x",), timeout_s=float("nan")),
        Command(argv=(b"x",), environment={b"": b""}),
        Command(argv=(b"x",), environment={b"A=B": b""}),
        Command(argv=(b"x",), user=(-1, 0)),
        Command(argv=(b"x",), terminal=TerminalSize(rows=0, columns=80)),
    ],
)
def test_an_impossible_command_is_refused(command: Command) -> None:
    with pytest.raises(errors.InvalidInput):
        start_fields(command)


async def test_no_descriptor_is_left_open(boundary: FakeBoundary) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for _ in range(20):
        sandbox = await open_sandbox(boundary, QUICK)
        peer = await boundary.attach()
        await peer.configure()
        await sandbox.destroy()
        peer.close()
    assert count() <= before
