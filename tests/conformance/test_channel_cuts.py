"""The stream to a real agent is cut at random bytes, in both directions: nothing is lost, nothing is doubled, nothing runs twice.

`AGENTKERNEL_CUTS_SEED` repeats a run's decisions (the timing is the kernel's).
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from agent_process import CuttingAgent

from agentkernel.channel.mux import Deadlines
from agentkernel.channel.process import GuestProcess
from agentkernel.channel.sandbox import GuestSandbox, open_sandbox
from agentkernel.model.command import Command

SEED = int(os.environ.get("AGENTKERNEL_CUTS_SEED") or int.from_bytes(os.urandom(4), "little"))
FAST = Deadlines(backoff_first_s=0.001, backoff_max_s=0.005)


@pytest.fixture
async def agent(guest_binary: Path, tmp_path: Path) -> AsyncIterator[CuttingAgent]:
    print(f"repeat with AGENTKERNEL_CUTS_SEED={SEED}")
    agent = CuttingAgent(binary=guest_binary, home=tmp_path, source=random.Random(SEED))
    await agent.launch()
    yield agent
    await agent.destroy()


@pytest.fixture
async def sandbox(agent: CuttingAgent) -> AsyncIterator[GuestSandbox]:
    agent.cuts_left = 10**9
    sandbox = await open_sandbox(agent, FAST)
    yield sandbox
    await sandbox.close()


def shell(script: str, *arguments: str, stdin: bool = False) -> Command:
    return Command(argv=(b"/bin/sh", b"-c", script.encode(), b"sh", *(a.encode() for a in arguments)), stdin=stdin)


async def test_no_command_runs_twice_and_none_is_lost(agent: CuttingAgent, sandbox: GuestSandbox, tmp_path: Path) -> None:
    agent.largest = 3000
    number = 0
    while agent.cuts < 150:
        for _ in range(20):
            number += 1
            result = await sandbox.exec(shell('echo "$1" >> log; echo "said $1"; exit 3', str(number)))
            assert (result.stdout, result.exit_code) == (b"said %d\n" % number, 3)
    assert (tmp_path / "log").read_text().split() == [str(at) for at in range(1, number + 1)]


async def test_commands_side_by_side_keep_apart(agent: CuttingAgent, sandbox: GuestSandbox, tmp_path: Path) -> None:
    agent.largest = 5000
    rounds = 0

    async def one(number: int) -> None:
        result = await sandbox.exec(shell('echo x >> "log.$1"; cat', str(number)), stdin=b"%d" % number * 300)
        assert result.stdout == b"%d" % number * 300

    while agent.cuts < 100:
        await asyncio.gather(*(one(rounds * 8 + at) for at in range(8)))
        rounds += 1
    logs = list(tmp_path.glob("log.*"))
    assert len(logs) == rounds * 8
    assert all(log.read_text() == "x\n" for log in logs)


async def test_no_output_is_lost_or_doubled(agent: CuttingAgent, sandbox: GuestSandbox) -> None:
    expected = b"".join(b"%d\n" % number for number in range(1, 60_001))
    while agent.cuts < 80:
        process = await sandbox.start(shell("seq 1 60000; seq 1 60000 >&2"))
        got = {1: bytearray(), 2: bytearray()}
        async for stream, data in process.output():
            got[stream] += data
        assert (await process.wait()).exit_code == 0
        assert got[1] == expected
        assert got[2] == expected


async def write_in_pieces(process: GuestProcess, data: bytes, source: random.Random) -> None:
    at = 0
    while at < len(data):
        size = source.randint(1, 100_000)
        await process.write_stdin(data[at : at + size])
        at += size
    await process.close_stdin()


async def test_no_input_is_lost_or_doubled(agent: CuttingAgent, sandbox: GuestSandbox) -> None:
    source = random.Random(SEED)
    while agent.cuts < 100:
        data = source.randbytes(source.randint(1, 600_000))
        process = await sandbox.start(Command(argv=(b"cat",), stdin=True))

        writing = asyncio.create_task(write_in_pieces(process, data, source))
        got = bytearray()
        async for _, chunk in process.output():
            got += chunk
        await writing
        assert got == data
        assert (await process.wait()).exit_code == 0


async def test_files_arrive_whole(agent: CuttingAgent, sandbox: GuestSandbox, tmp_path: Path) -> None:
    source = random.Random(SEED)
    number = 0
    while number < 5 or agent.cuts <= 20:
        number += 1
        data = source.randbytes(100_000)
        path = str(tmp_path / f"file{number}")
        await sandbox.files.write(path, data, exclusive=True)
        assert await sandbox.files.read(path) == data


async def test_signals_are_sent_once(agent: CuttingAgent, sandbox: GuestSandbox, tmp_path: Path) -> None:
    agent.largest = 600
    script = "trap 'echo got >> log' USR1; trap exit TERM; echo ready; while :; do read x || sleep 0.01; done"
    process = await sandbox.start(shell(script, stdin=True))
    output = process.output()
    assert await anext(output) == (1, b"ready\n")
    number = 0
    while number < 30 or agent.cuts <= 5:
        number += 1
        await process.signal(10)
        for _ in range(500):
            if (tmp_path / "log").exists() and len((tmp_path / "log").read_text().split()) >= number:
                break
            await asyncio.sleep(0.005)
        assert len((tmp_path / "log").read_text().split()) == number
    await process.signal(15)
    assert [chunk async for chunk in output] == []


async def test_nothing_is_left_in_the_agent_afterwards(agent: CuttingAgent, sandbox: GuestSandbox) -> None:
    agent.largest = 2000
    for _ in range(25):
        await sandbox.exec(shell("echo done"))
    agent.cuts_left = 0
    while agent.tasks:
        await asyncio.sleep(0.01)  # the last attach that is cut ends by using up its budget
        await sandbox.statistics()
    assert await sandbox.processes() == []
