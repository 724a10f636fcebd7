"""The channel with the real agent, unsandboxed: what the scripted agent of the unit tests assumes is what the agent does."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from agent_process import AgentProcess

from agentkernel import errors
from agentkernel.channel.sandbox import GuestSandbox, open_sandbox
from agentkernel.model.command import Cause, Command, TerminalSize


@pytest.fixture
async def agent(guest_binary: Path, tmp_path: Path) -> AsyncIterator[AgentProcess]:
    agent = AgentProcess(binary=guest_binary, home=tmp_path)
    await agent.launch()
    yield agent
    await agent.destroy()


@pytest.fixture
async def sandbox(agent: AgentProcess) -> AsyncIterator[GuestSandbox]:
    sandbox = await open_sandbox(agent)
    yield sandbox
    await sandbox.close()


def shell(script: str, *, stdin: bool = False, detached: bool = False, timeout_s: float | None = None) -> Command:
    return Command(argv=(b"sh", b"-c", script.encode()), stdin=stdin, detached=detached, timeout_s=timeout_s)


async def test_a_command_gives_both_streams_and_its_code(sandbox: GuestSandbox, tmp_path: Path) -> None:
    result = await sandbox.exec(shell("pwd; echo err >&2; exit 7"))
    assert (result.stdout, result.stderr, result.exit_code) == (f"{tmp_path}\n".encode(), b"err\n", 7)
    assert 0 < result.status.wall_s < 5
    assert result.status.max_rss_bytes > 0


async def test_input_reaches_the_command(sandbox: GuestSandbox) -> None:
    data = os.urandom(1_000_000)
    assert (await sandbox.exec(Command(argv=(b"cat",)), stdin=data)).stdout == data
    assert (await sandbox.exec(Command(argv=(b"cat",), stdin=True))).stdout == b""
    assert (await sandbox.exec(Command(argv=(b"cat",)))).stdout == b""
    assert (await sandbox.exec(Command(argv=(b"true",)), stdin=data)).exit_code == 0


async def test_commands_that_cannot_start_say_which_way(sandbox: GuestSandbox, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    with pytest.raises(errors.CommandNotFound):
        await sandbox.exec(Command(argv=(b"no-such-program",)))
    with pytest.raises(errors.CommandNotExecutable):
        await sandbox.exec(Command(argv=(str(tmp_path / "plain").encode(),)))
    with pytest.raises(errors.CommandNotStarted, match="working directory"):
        await sandbox.exec(Command(argv=(b"true",), cwd="/no/such/place"))


async def test_the_environment_is_the_sandboxes_and_the_commands(sandbox: GuestSandbox, tmp_path: Path) -> None:
    result = await sandbox.exec(Command(argv=(b"env",), environment={b"A": b"b=c", b"HOME": b"/x"}))
    assert set(result.stdout.split(b"\n")) == {b"PATH=/usr/bin:/bin", b"HOME=/x", b"A=b=c", b""}


async def test_a_timeout_kills_the_whole_tree(sandbox: GuestSandbox) -> None:
    with pytest.raises(errors.TimedOut):
        await sandbox.exec(shell("setsid sleep 60 & sleep 60", timeout_s=0.2))
    assert (await sandbox.statistics()).processes == 0


async def test_signals_and_kills_are_told(sandbox: GuestSandbox) -> None:
    process = await sandbox.start(shell("sleep 60"))
    await process.signal(signal.SIGTERM)
    status = await process.wait()
    assert (status.exit_code, status.signal, status.cause) == (143, 15, Cause.ITSELF)
    process = await sandbox.start(shell("sleep 60 & wait"))
    await process.kill()
    status = await process.wait()
    assert (status.exit_code, status.cause) == (137, Cause.KILLED)


async def test_a_cancelled_command_is_gone(sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.exec(shell("sleep 60")))
    await asyncio.sleep(0.05)
    running.cancel()
    for _ in range(200):
        if not await sandbox.processes():
            return
        await asyncio.sleep(0.01)
    pytest.fail("the command is still there")


async def test_a_terminal_is_one(sandbox: GuestSandbox) -> None:
    process = await sandbox.start(
        Command(argv=(b"sh", b"-c", b"stty size; read line; stty size; echo got $line"), terminal=TerminalSize(rows=24, columns=80))
    )
    output = process.output()
    assert (await anext(output))[1].startswith(b"24 80")
    await process.resize(TerminalSize(rows=50, columns=100))
    await process.write_stdin(b"words\n")
    rest = b"".join([data async for _, data in output])
    assert b"50 100" in rest
    assert b"got words" in rest


async def test_a_slow_reader_slows_the_command_and_loses_nothing(sandbox: GuestSandbox) -> None:
    process = await sandbox.start(shell("head -c 20000000 /dev/zero"))
    await asyncio.sleep(0.2)
    assert (await sandbox.processes())[0].running
    assert sum([len(data) async for _, data in process.output()]) == 20_000_000


async def test_a_command_that_has_ended_is_not_forgotten_before_its_recording_has_read_it(sandbox: GuestSandbox) -> None:
    process = await sandbox.start(shell("echo out", detached=True))
    while any(record.running for record in await sandbox.processes()):
        await asyncio.sleep(0.01)
    read: list[tuple[int, int, bytes]] = []
    ending = sandbox.record(process.exec_id, (0, 0), lambda *each: read.append(each))
    await process.wait()  # and with it forgets
    assert (await ending).exit_code == 0
    assert read == [(1, 0, b"out\n")]
    await sandbox.statistics()
    assert list(await sandbox.processes()) == []


async def test_survivors_of_a_command_are_told(sandbox: GuestSandbox) -> None:
    result = await sandbox.exec(shell("sleep 1 & echo started"))
    assert (result.stdout, result.status.survivors) == (b"started\n", True)


async def test_a_detached_command_outlives_its_host_and_is_taken_up_again(agent: AgentProcess, sandbox: GuestSandbox) -> None:
    process = await sandbox.start(shell("echo one; read x; echo $x", stdin=True, detached=True))
    assert await anext(process.output()) == (1, b"one\n")
    ident = process.exec_id
    await sandbox.close()
    other = await open_sandbox(agent)
    assert [record.exec_id for record in await other.processes()] == [ident]
    process = await other.attach(ident)
    await process.write_stdin(b"two\n")
    assert b"".join([data async for _, data in process.output()]).endswith(b"two\n")
    assert (await process.wait()).exit_code == 0
    with pytest.raises(errors.NotFound):
        await other.attach(ident)
    await other.close()


async def test_a_detached_command_that_nobody_reads_runs_to_its_end_and_the_sandbox_goes_on(sandbox: GuestSandbox) -> None:
    process = await sandbox.start(shell("head -c 1000000 /dev/zero; echo end; sleep 0.2; touch done", detached=True))
    ended = shell("while ! [ -e done ]; do sleep 0.01; done; rm done")
    assert (await sandbox.exec(ended)).exit_code == 0
    output = b"".join([data async for _, data in process.output()])
    assert output.endswith(b"\0end\n")
    assert len(output) < 1_000_000
    assert (await process.wait()).output_lost


async def test_a_foreground_command_of_a_host_that_left_can_be_resumed(agent: AgentProcess, sandbox: GuestSandbox) -> None:
    process = await sandbox.start(shell("sleep 0.3; echo late"))
    await sandbox.close()
    other = await open_sandbox(agent)
    process = await other.attach(process.exec_id)
    assert [chunk async for chunk in process.output()] == [(1, b"late\n")]
    await other.close()


async def test_the_end_of_the_agent_ends_everything(agent: AgentProcess, sandbox: GuestSandbox) -> None:
    running = asyncio.create_task(sandbox.exec(shell("sleep 60")))
    await asyncio.sleep(0.05)
    assert agent.process is not None
    agent.process.kill()
    with pytest.raises(errors.SandboxLost, match="exited with -9"):
        await running


async def test_files_are_written_read_and_described(sandbox: GuestSandbox, tmp_path: Path) -> None:
    files, path = sandbox.files, str(tmp_path / "a" / "b.txt")
    await files.write(path, b"hello", parents=True, mode=0o640)
    await files.write(path, b" world", append=True)
    assert await files.read(path) == b"hello world"
    assert await files.read(path, offset=6, length=3) == b"wor"
    assert await files.read(path, length=0) == b""
    assert b"".join([chunk async for chunk in files.read_stream(path)]) == b"hello world"
    record = await files.stat(path)
    assert (record.name, record.size_bytes, record.mode & 0o7777) == (b"b.txt", 11, 0o640)
    await files.write(path, b"short")
    assert await files.read(path) == b"short"
    with pytest.raises(errors.FileOperationFailed) as caught:
        await files.write(path, b"", exclusive=True)
    assert caught.value.errno == errno.EEXIST
    with pytest.raises(errors.OutputTooLarge):
        await files.read(path, limit_bytes=4)
    assert await files.read(path, limit_bytes=5) == b"short"


async def test_large_files_come_and_go_in_pieces(sandbox: GuestSandbox, tmp_path: Path) -> None:
    data = os.urandom(5_000_000)

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 333_333):
            yield data[at : at + 333_333]

    path = str(tmp_path / "large")
    await sandbox.files.write(path, pieces())
    assert (tmp_path / "large").read_bytes() == data
    got = bytearray()
    async for chunk in sandbox.files.read_stream(path):
        got += chunk
    assert got == data
    async for _ in sandbox.files.read_stream(path):
        break  # the rest is not wanted


async def test_directories_links_and_modes(sandbox: GuestSandbox, tmp_path: Path) -> None:
    files, root = sandbox.files, tmp_path / "tree"
    await files.make_directory(str(root / "x" / "y"), parents=True)
    await files.write(str(root / "f"), b"1")
    await files.symlink("f", str(root / "link"))
    await files.change_mode(str(root / "f"), 0o600)
    await files.move(str(root / "f"), str(root / "g"))
    records = {record.name: record for record in await files.list(str(root))}
    assert set(records) == {b"x", b"g", b"link"}
    assert records[b"link"].target == b"f"
    assert records[b"g"].mode & 0o777 == 0o600
    assert (await files.stat(str(root / "link"), follow=False)).target == b"f"
    with pytest.raises(errors.FileOperationFailed) as caught:
        await files.stat(str(root / "link"))
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(errors.FileOperationFailed) as caught:
        await files.remove(str(root))
    assert caught.value.errno == errno.ENOTEMPTY
    await files.remove(str(root), recursive=True)
    assert not root.exists()


@pytest.mark.parametrize("path", ["relative", "", "/nul\0"])
async def test_paths_that_cannot_be_right_are_refused_on_the_host(sandbox: GuestSandbox, path: str) -> None:
    with pytest.raises(errors.InvalidInput):
        await sandbox.files.read(path)


async def test_a_watch_tells_when_it_is_in_place_and_what_happens(sandbox: GuestSandbox, tmp_path: Path) -> None:
    (tmp_path / "watched").mkdir()
    events = sandbox.files.watch(str(tmp_path / "watched"))
    assert (await anext(events)).mask == 0
    (tmp_path / "watched" / "new").write_text("x")
    event = await anext(events)
    assert (event.name, event.mask & 0x100) == (b"new", 0x100)
    await events.aclose()  # type: ignore[attr-defined]
    with pytest.raises(errors.FileOperationFailed):
        await anext(sandbox.files.watch(str(tmp_path / "missing")))


async def test_a_port_inside_can_be_talked_to(sandbox: GuestSandbox) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    process = await sandbox.connect(server.sockets[0].getsockname()[1])
    await process.write_stdin(b"hello\n")
    assert b"".join([data async for _, data in process.output()]) == b"HELLO\n"
    assert (await process.wait()).exit_code == 0
    server.close()
    await server.wait_closed()


async def test_many_commands_at_once(sandbox: GuestSandbox) -> None:
    results = await asyncio.gather(*(sandbox.exec(shell(f"echo {number}")) for number in range(60)))
    assert [result.stdout for result in results] == [b"%d\n" % number for number in range(60)]
    for _ in range(200):
        if (await sandbox.statistics()).records == 0:
            return
        await asyncio.sleep(0.01)
    pytest.fail("the agent keeps records that the host has dropped")
