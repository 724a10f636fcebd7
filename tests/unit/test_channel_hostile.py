"""An agent that breaks the protocol is cut off at once, and nothing hangs or grows."""

from __future__ import annotations

import asyncio
import struct
import tracemalloc
from collections.abc import Awaitable, Callable

import pytest
from channel_peer import QUICK, FakeBoundary, Peer

from agentkernel import errors
from agentkernel.channel import mux
from agentkernel.channel.commands import RING_BYTES
from agentkernel.channel.frames import FrameType
from agentkernel.channel.sandbox import GuestSandbox
from agentkernel.model.command import Command

TRUE = Command(argv=(b"true",))
CAT = Command(argv=(b"cat",), stdin=True)


async def too_much_output(peer: Peer, ident: int) -> None:
    for at in range(0, RING_BYTES, 65_536):
        await peer.output(ident, at, b"y" * 65_536)
    await peer.output(ident, RING_BYTES, b"y")


async def output_again(peer: Peer, ident: int) -> None:
    await peer.output(ident, 0, b"abc")
    await peer.output(ident, 1, b"bc")


async def output_with_a_gap(peer: Peer, ident: int) -> None:
    await peer.output(ident, 1, b"abc")


async def output_of_a_third_stream(peer: Peer, ident: int) -> None:
    await peer.output(ident, 0, b"abc", stream=3)


async def output_of_nothing(peer: Peer, ident: int) -> None:
    await peer.output(ident, 0, b"")


async def output_without_an_offset(peer: Peer, ident: int) -> None:
    await peer.send(FrameType.OUTPUT, ident, b"abc", 1)


async def output_longer_than_a_frame_may_be(peer: Peer, ident: int) -> None:
    await peer.output(ident, 0, b"y" * 65_537)


async def output_of_an_unknown_process(peer: Peer, ident: int) -> None:
    await peer.output(ident ^ 1, 0, b"y")


async def output_at_the_end_of_all_numbers(peer: Peer, ident: int) -> None:
    await peer.output(ident, 2**64 - 2, b"abc")


async def an_unknown_answer(peer: Peer, ident: int) -> None:
    await peer.send(FrameType.REPLY, 77)


async def a_reply_for_a_process(peer: Peer, ident: int) -> None:
    await peer.send(FrameType.REPLY, ident)


async def a_second_start(peer: Peer, ident: int) -> None:
    await peer.send(FrameType.STARTED, ident, struct.pack("<I", 1))


async def a_late_failure(peer: Peer, ident: int) -> None:
    await peer.send(FrameType.FAILED, ident, struct.pack("<II", 2, 8))


async def an_unasked_resume(peer: Peer, ident: int) -> None:
    await peer.resumed(ident)


async def an_end_before_the_output(peer: Peer, ident: int) -> None:
    await peer.exited(ident, ends=(1, 0))


async def an_end_that_denies_output(peer: Peer, ident: int) -> None:
    await peer.output(ident, 0, b"abc")
    await peer.exited(ident, ends=(2, 0))


async def an_impossible_end(peer: Peer, ident: int) -> None:
    await peer.exited(ident, kind=7)


async def input_taken_that_was_never_sent(peer: Peer, ident: int) -> None:
    await peer.window(ident, 1, 2)


async def an_input_limit_that_shrinks(peer: Peer, ident: int) -> None:
    await peer.window(ident, 0, 2)
    await peer.window(ident, 0, 1)


async def a_cut_field(peer: Peer, ident: int) -> None:
    await peer.send(FrameType.STDIN_CONSUMED, ident, b"abc")


async def a_giant_length(peer: Peer, ident: int) -> None:
    await peer.send_bytes(b"\xff" * 16)


async def an_unknown_type(peer: Peer, ident: int) -> None:
    await peer.send(200, ident)


async def a_type_of_the_host(peer: Peer, ident: int) -> None:
    await peer.send(FrameType.START, ident)


async def another_tag(peer: Peer, ident: int) -> None:
    peer.epoch = bytes(16)
    await peer.send(FrameType.REPLY, 1)


ATTACKS = [
    too_much_output,
    output_again,
    output_with_a_gap,
    output_of_a_third_stream,
    output_of_nothing,
    output_without_an_offset,
    output_longer_than_a_frame_may_be,
    output_of_an_unknown_process,
    output_at_the_end_of_all_numbers,
    an_unknown_answer,
    a_reply_for_a_process,
    a_second_start,
    a_late_failure,
    an_unasked_resume,
    an_end_before_the_output,
    an_end_that_denies_output,
    an_impossible_end,
    input_taken_that_was_never_sent,
    an_input_limit_that_shrinks,
    a_cut_field,
    a_giant_length,
    an_unknown_type,
    a_type_of_the_host,
    another_tag,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_a_violation_closes_the_channel(
    boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox, attack: Callable[[Peer, int], Awaitable[None]]
) -> None:
    starting = asyncio.create_task(sandbox.start(CAT))
    ident = await peer.started()
    process = await starting
    output = process.output()
    await attack(peer, ident)
    with pytest.raises(errors.ProtocolViolation):
        async with asyncio.timeout(2):
            await process.ended()
    with pytest.raises(errors.ProtocolViolation):
        async for _ in output:
            pass
    with pytest.raises(errors.ProtocolViolation):
        await sandbox.exec(TRUE)
    with pytest.raises(ConnectionError):
        while True:
            await peer.frame()
    assert boundary.connects == 1  # a hostile agent is not attached to again


@pytest.mark.parametrize("attack", [output_again, output_at_the_end_of_all_numbers], ids=lambda attack: attack.__name__)
async def test_a_detached_process_may_drop_output_but_no_more(
    peer: Peer, sandbox: GuestSandbox, attack: Callable[[Peer, int], Awaitable[None]]
) -> None:
    starting = asyncio.create_task(sandbox.start(Command(argv=(b"x",), detached=True)))
    ident = await peer.started()
    process = await starting
    await attack(peer, ident)
    with pytest.raises(errors.ProtocolViolation):
        async with asyncio.timeout(2):
            await process.ended()


async def test_of_a_detached_process_that_nobody_reads_the_oldest_output_is_dropped(peer: Peer, sandbox: GuestSandbox) -> None:
    starting = asyncio.create_task(sandbox.start(Command(argv=(b"x",), detached=True)))
    ident = await peer.started()
    process = await starting
    await peer.output(ident, 0, b"first", stream=2)
    for at in range(0, 2 * RING_BYTES, 65_536):
        await peer.output(ident, at, at.to_bytes(4, "big") * 16_384)
    await peer.output(ident, 2 * RING_BYTES, b"y")
    await peer.exited(ident, ends=(2 * RING_BYTES + 1, 5))
    async with asyncio.timeout(2):
        await process.ended()
    chunks = [chunk async for chunk in process.output()]
    assert chunks[0] == (2, b"first")
    stdout = b"".join(data for stream, data in chunks if stream == 1)
    assert RING_BYTES - 65_536 <= len(stdout) <= RING_BYTES
    assert stdout.endswith((2 * RING_BYTES - 65_536).to_bytes(4, "big") * 16_384 + b"y")
    assert (await process.wait()).output_lost


async def test_a_second_end_is_a_violation(peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.exec(TRUE))
    ident = await peer.started()
    await peer.exited(ident)
    assert (await running).exit_code == 0
    await peer.exited(ident)
    await asyncio.sleep(0.02)
    with pytest.raises(errors.ProtocolViolation):
        await sandbox.exec(TRUE)


async def test_a_malformed_list_is_a_violation(peer: Peer, sandbox: GuestSandbox) -> None:
    listing = asyncio.create_task(sandbox.processes())
    await peer.send(FrameType.REPLY, (await peer.expect(FrameType.LIST)).id, b"\1\0\0\0\5\0\0\0x")
    with pytest.raises(errors.ProtocolViolation):
        await listing
    with pytest.raises(errors.ProtocolViolation):
        await sandbox.exec(TRUE)


async def test_output_before_the_start_is_a_violation(peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.exec(TRUE))
    await peer.output((await peer.expect(FrameType.START)).id, 0, b"x")
    with pytest.raises(errors.ProtocolViolation):
        await running


@pytest.mark.parametrize("kind", [FrameType.STARTED, FrameType.RESUMED, FrameType.EXITED, FrameType.STDIN_CONSUMED])
async def test_a_start_that_is_answered_with_something_else_is_a_violation(peer: Peer, sandbox: GuestSandbox, kind: FrameType) -> None:
    running = asyncio.create_task(sandbox.exec(TRUE))
    await peer.send(kind, (await peer.expect(FrameType.START)).id, b"")
    with pytest.raises(errors.ProtocolViolation):
        await running


async def test_an_agent_that_never_answers_the_attach_is_given_up(boundary: FakeBoundary, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.exec(TRUE))
    await boundary.attach()
    with pytest.raises(errors.ProtocolViolation, match="attach"):
        async with asyncio.timeout(5):
            await running


async def test_an_agent_that_drips_junk_before_the_attach_is_given_up(boundary: FakeBoundary, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.exec(TRUE))
    peer = await boundary.attach()

    async def drip() -> None:
        while True:
            await peer.send_bytes(b"A")
            await asyncio.sleep(0.005)

    dripping = asyncio.create_task(drip())
    with pytest.raises(errors.ProtocolViolation, match="attach"):
        async with asyncio.timeout(5):
            await running
    with pytest.raises(OSError):
        await dripping


async def test_an_agent_without_a_common_version_is_refused(boundary: FakeBoundary, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.exec(TRUE))
    await (await boundary.attach()).greet(version=0)
    with pytest.raises(errors.ProtocolViolation, match="version"):
        await running


async def test_a_start_that_is_never_answered_ends(peer: Peer, sandbox: GuestSandbox) -> None:
    with pytest.raises(errors.ProtocolViolation, match="did not answer"):
        async with asyncio.timeout(5):
            await sandbox.exec(TRUE)


async def test_a_request_that_is_never_answered_ends(peer: Peer, sandbox: GuestSandbox) -> None:
    with pytest.raises(errors.ProtocolViolation, match="did not answer"):
        async with asyncio.timeout(5):
            await sandbox.statistics()


async def test_a_kill_that_is_never_answered_ends(peer: Peer, sandbox: GuestSandbox) -> None:
    starting = asyncio.create_task(sandbox.start(TRUE))
    await peer.started()
    process = await starting
    await process.kill()
    with pytest.raises(errors.ProtocolViolation, match="did not answer"):
        async with asyncio.timeout(5):
            await process.wait()


async def test_an_agent_that_answers_every_attach_and_then_leaves_gains_no_time(
    boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox
) -> None:
    starting = asyncio.create_task(sandbox.start(TRUE))
    await peer.started()
    process = await starting

    async def flap(peer: Peer) -> None:
        while True:
            peer.close()
            peer = await boundary.attaches.get()
            await peer.greet()

    flapping = asyncio.create_task(flap(peer))
    with pytest.raises(errors.ProtocolViolation, match="did not answer"):
        async with asyncio.timeout(5):
            await process.wait()
    flapping.cancel()


async def test_a_command_that_runs_long_in_silence_is_not_taken_for_an_attack(peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.exec(TRUE))
    ident = await peer.started()
    await asyncio.sleep(QUICK.answer_s * 1.5)
    await peer.exited(ident)
    assert (await running).exit_code == 0


async def test_an_agent_that_sends_but_never_reads_is_cut_off(peer: Peer, sandbox: GuestSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mux, "BACKLOG_LIMIT_BYTES", 10_000)
    process_task = asyncio.create_task(sandbox.start(CAT))
    ident = await peer.started()
    process = await process_task
    waiting = asyncio.create_task(process.wait())
    with pytest.raises(OSError):
        for at in range(0, 2**40, 65_536):
            await peer.output(ident, at, b"y" * 65_536)
    with pytest.raises(errors.ProtocolViolation, match="does not read"):
        await waiting


async def test_a_drip_of_tiny_output_costs_the_host_little(peer: Peer, sandbox: GuestSandbox) -> None:
    starting = asyncio.create_task(sandbox.start(TRUE))
    ident = await peer.started()
    process = await starting
    tracemalloc.start()
    try:
        for at in range(30_000):
            await peer.output(ident, at, b"y", stream=1)
            await peer.output(ident, at, b"y", stream=2)
        await peer.exited(ident, ends=(30_000, 30_000))
        await process.ended()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2_000_000
    assert sum([len(data) async for _, data in process.output()]) == 60_000
