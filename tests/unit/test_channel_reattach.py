"""Losing the connection loses nothing; losing the sandbox says so."""

from __future__ import annotations

import asyncio
import struct

import pytest
from channel_peer import QUICK, FakeBoundary, Peer

from agentkernel import errors
from agentkernel.channel.frames import FrameType
from agentkernel.channel.process import GuestProcess
from agentkernel.channel.sandbox import GuestSandbox, open_sandbox
from agentkernel.model.command import Command, TerminalSize

TRUE = Command(argv=(b"true",))
CAT = Command(argv=(b"cat",), stdin=True)


async def begun(peer: Peer, sandbox: GuestSandbox, command: Command = TRUE) -> tuple[GuestProcess, int]:
    starting = asyncio.create_task(sandbox.start(command))
    ident = await peer.started()
    return await starting, ident


async def cut(peer: Peer, boundary: FakeBoundary) -> Peer:
    peer.close()
    peer = await boundary.attach()
    await peer.greet()
    return peer


async def resume(peer: Peer) -> tuple[int, int]:
    frame = await peer.expect(FrameType.RESUME)
    for _ in range(2):
        await peer.expect(FrameType.CONSUMED)
    stdout, stderr = struct.unpack("<QQ", frame.payload)
    return stdout, stderr


async def test_output_goes_on_where_the_host_stands(boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox) -> None:
    process, ident = await begun(peer, sandbox)
    output = process.output()
    await peer.output(ident, 0, b"one")
    assert await anext(output) == (1, b"one")
    peer = await cut(peer, boundary)
    assert await resume(peer) == (3, 0)
    await peer.resumed(ident)
    await peer.output(ident, 3, b"two")
    await peer.exited(ident, ends=(6, 0))
    assert [chunk async for chunk in output] == [(1, b"two")]
    assert (await process.wait()).exit_code == 0


async def test_an_unanswered_start_is_repeated_with_its_id_and_known_output_is_cut_off(
    boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox
) -> None:
    running = asyncio.create_task(sandbox.exec(TRUE))
    first = await peer.expect(FrameType.START)
    peer = await cut(peer, boundary)
    second = await peer.expect(FrameType.START)
    assert second == first
    await peer.send(FrameType.STARTED, first.id, struct.pack("<I", 3))
    await peer.output(first.id, 0, b"once")
    await peer.exited(first.id, ends=(4, 0))
    assert (await running).stdout == b"once"


async def test_unanswered_requests_are_repeated_with_their_ids(boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox) -> None:
    process, ident = await begun(peer, sandbox)
    signalling = asyncio.create_task(process.signal(15))
    first = await peer.expect(FrameType.SIGNAL)
    peer = await cut(peer, boundary)
    assert await peer.expect(FrameType.SIGNAL) == first
    await peer.send(FrameType.REPLY, first.id)
    await signalling
    assert (await peer.expect(FrameType.RESUME)).id == ident


async def test_input_goes_on_where_the_agent_stands(boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox) -> None:
    process, ident = await begun(peer, sandbox, CAT)
    await peer.window(ident, 0, 10)
    await process.write_stdin(b"0123456789")
    await peer.expect(FrameType.STDIN)
    await process.close_stdin()
    peer = await cut(peer, boundary)
    await resume(peer)
    await peer.resumed(ident, stdin=(4, 14))
    assert (await peer.expect(FrameType.STDIN)).payload == struct.pack("<Q", 4) + b"456789"
    end = await peer.expect(FrameType.STDIN)
    assert (end.flags, end.payload) == (1, struct.pack("<Q", 10))


async def test_nothing_is_sent_before_the_agent_is_known_to_be_the_same(boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox) -> None:
    process, _ = await begun(peer, sandbox, CAT)
    peer.close()
    peer = await boundary.attach()
    await peer.receive_hello()
    await process.write_stdin(b"")
    await process.resize(TerminalSize(rows=1, columns=1))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(peer.frame(), 0.05)


async def test_kill_and_size_are_repeated(boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox) -> None:
    process, ident = await begun(peer, sandbox)
    await process.resize(TerminalSize(rows=5, columns=6))
    await process.kill()
    peer = await cut(peer, boundary)
    await resume(peer)
    assert (await peer.expect(FrameType.RESIZE)).payload == struct.pack("<HH", 5, 6)
    assert (await peer.expect(FrameType.KILL)).id == ident


async def test_credit_taken_while_cut_off_is_told_after_the_resume(boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox) -> None:
    process, ident = await begun(peer, sandbox)
    output = process.output()
    for at in range(0, 262_144, 65_536):
        await peer.output(ident, at, b"y" * 65_536)
    await asyncio.sleep(0.02)
    peer = await cut(peer, boundary)
    await resume(peer)
    taken = 0
    while taken < 262_144:
        taken += len((await anext(output))[1])
    await peer.resumed(ident)
    assert (await peer.expect(FrameType.CONSUMED)).payload == struct.pack("<Q", 262_144)


async def test_a_forgotten_result_is_forgotten_again(boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.exec(TRUE))
    ident = await peer.started()
    await peer.exited(ident)
    await running
    peer = await cut(peer, boundary)
    assert (await peer.expect(FrameType.FORGET)).id == ident


async def test_a_detached_command_may_have_lost_output_and_says_so(boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox) -> None:
    process, ident = await begun(peer, sandbox, Command(argv=(b"x",), detached=True))
    await peer.output(ident, 0, b"a")
    output = process.output()
    await anext(output)
    peer = await cut(peer, boundary)
    await resume(peer)
    await peer.resumed(ident, first=(100, 0))
    await peer.output(ident, 100, b"b")
    await peer.exited(ident, ends=(101, 0))
    assert [chunk async for chunk in output] == [(1, b"b")]
    assert (await process.wait()).output_lost


async def test_a_command_that_ended_while_cut_off_is_told(boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.exec(CAT, stdin=b"data"))
    ident = await peer.started()
    peer = await cut(peer, boundary)
    await resume(peer)
    await peer.resumed(ident, state=1)
    await peer.output(ident, 0, b"done")
    await peer.exited(ident, ends=(4, 0), value=1)
    result = await running
    assert (result.exit_code, result.stdout) == (1, b"done")


async def test_a_command_that_the_agent_forgot_is_lost_alone(boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox) -> None:
    process, ident = await begun(peer, sandbox)
    peer = await cut(peer, boundary)
    await resume(peer)
    await peer.send(FrameType.FAILED, ident, struct.pack("<II", 2, 0))
    with pytest.raises(errors.SandboxLost, match="no longer knows"):
        await process.wait()
    await peer.expect(FrameType.FORGET)
    running = asyncio.create_task(sandbox.exec(TRUE))
    await peer.exited(await peer.started())
    assert (await running).exit_code == 0


async def test_another_boot_means_that_everything_is_lost(boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox) -> None:
    process, _ = await begun(peer, sandbox)
    peer.close()
    await (await boundary.attach()).greet(boot=b"another-boot-id!")
    with pytest.raises(errors.SandboxLost, match="restarted"):
        await process.wait()


async def test_a_dead_boundary_says_why_and_its_last_words_are_read(boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.exec(TRUE))
    ident = await peer.started()
    other = asyncio.create_task(sandbox.exec(TRUE))
    await peer.started()
    await peer.exited(ident, value=7)
    boundary.dead.set_result("it ran out of memory")
    assert (await running).exit_code == 7
    with pytest.raises(errors.SandboxLost, match="it ran out of memory"):
        await other
    with pytest.raises(errors.SandboxLost, match="it ran out of memory"):
        await sandbox.exec(TRUE)


async def test_a_death_is_told_once_to_everybody_who_asked_before_or_after(
    boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox
) -> None:
    told: list[str] = []
    sandbox.when_lost(lambda error: told.append(f"before: {error}"))
    boundary.dead.set_result("it ran out of memory")
    with pytest.raises(errors.SandboxLost):
        await sandbox.exec(TRUE)
    sandbox.when_lost(lambda error: told.append(f"after: {error}"))
    await asyncio.sleep(0)
    assert told == ["before: the sandbox died: it ran out of memory", "after: the sandbox died: it ran out of memory"]
    await sandbox.close()
    sandbox.when_lost(lambda error: told.append("never"))
    await asyncio.sleep(0)
    assert len(told) == 2


async def test_a_sandbox_that_is_closed_here_has_not_died(boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox) -> None:
    told: list[errors.AgentKernelError] = []
    sandbox.when_lost(told.append)
    await sandbox.close()
    await asyncio.sleep(0)
    assert told == []


async def test_an_agent_that_cannot_be_reached_again_is_lost(boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.exec(TRUE))
    await peer.started()
    boundary.refuse = ConnectionRefusedError("nobody listens")
    peer.close()
    with pytest.raises(errors.SandboxLost, match="nobody listens"):
        await running
    assert boundary.connects > 5


async def test_a_backend_that_knows_better_ends_the_attempts_at_once(boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.exec(TRUE))
    await peer.started()
    boundary.refuse = errors.SandboxLost("the container was removed")
    peer.close()
    with pytest.raises(errors.SandboxLost, match="removed"):
        await running
    assert boundary.connects == 2


async def test_opening_waits_for_an_agent_that_listens_late(boundary: FakeBoundary) -> None:
    boundary.refuse = FileNotFoundError("no socket yet")
    opening = asyncio.create_task(open_sandbox(boundary, QUICK))
    await asyncio.sleep(0.05)
    boundary.refuse = None
    sandbox = await opening
    await sandbox.close()


async def test_opening_a_boundary_that_nobody_answers_for_fails(boundary: FakeBoundary) -> None:
    boundary.refuse = FileNotFoundError("no socket")
    with pytest.raises(errors.SandboxLost, match="no socket"):
        await open_sandbox(boundary, QUICK)


async def test_opening_may_be_cancelled(boundary: FakeBoundary) -> None:
    boundary.refuse = FileNotFoundError("no socket")
    opening = asyncio.create_task(open_sandbox(boundary, QUICK))
    await asyncio.sleep(0.02)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_many_cuts_in_a_row_back_off(boundary: FakeBoundary, peer: Peer, sandbox: GuestSandbox) -> None:
    loop = asyncio.get_running_loop()
    begin = loop.time()
    for _ in range(8):
        peer = await cut(peer, boundary)
    assert loop.time() - begin > 0.06
