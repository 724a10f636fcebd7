"""What a program leaves that is killed, or interrupted, while it uses the SDK: nothing that nobody wants."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from parity.fronts import open_front

KILLED = """
import sys
from agentkernel import Client
with Client() as client, client.sandbox() as block:
    lasting = client.get(sys.argv[1])
    background = lasting.spawn("sleep", "1000")
    print(block.id, background.exec_id, flush=True)
    lasting.exec("sh", "-c", "sleep 1000; true")
"""
INTERRUPTED = """
import sys, time
from agentkernel import Client
with Client(local=sys.argv[1] == "local") as client, client.sandbox() as box:
    try:
        print("ready", flush=True)
        box.exec("sh", "-c", "touch /tmp/started; sleep 1000; true")
    except KeyboardInterrupt:
        while any(record.running for record in box.processes()):
            time.sleep(0.01)
        print(box.exec("echo", "still", "here").text, flush=True)
        raise
"""


async def _until(true: Any) -> None:
    async with asyncio.timeout(60):
        while not await true():
            await asyncio.sleep(0.05)


async def test_a_killed_program_leaves_its_background_commands_and_nothing_else(home: Path) -> None:
    async with open_front("async-daemon") as client:
        box = await client.create(name="shared")
        program = subprocess.Popen([sys.executable, "-c", KILLED, "shared"], stdout=subprocess.PIPE, text=True)
        assert program.stdout is not None
        block, exec_id = program.stdout.readline().split()

        async def both_run() -> bool:
            return sum(record.running for record in await box.processes()) == 2

        async def one_runs() -> bool:
            return [record.exec_id for record in await box.processes() if record.running] == [int(exec_id)]

        async def block_is_gone() -> bool:
            return [event async for event in client.events(sandbox=block, kinds=["sandbox.removed"])] != []

        await _until(both_run)
        program.kill()
        program.wait()
        program.stdout.close()
        await _until(one_runs)
        await _until(block_is_gone)
        await box.remove(force=True)


@pytest.mark.parametrize("place", ["local", "daemon"])
def test_an_interrupted_call_ends_its_command_and_the_block_its_sandbox(place: str, home: Path) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, place], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=60)
    assert out.splitlines()[0] == "still here"
    assert err.rstrip().endswith("KeyboardInterrupt")
