"""`kill -9` of the daemon in the middle of what its clients do: they go on with the next daemon, and nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from parity.fronts import open_front
from parity.network_scenarios import ask, listening, written

FRONTS = ("async-daemon", "sync-daemon")
PIECES = 300
PIECE_BYTES = 100_000


@pytest.fixture(params=FRONTS)
async def client(request: pytest.FixtureRequest, home: Path) -> AsyncIterator[Any]:
    """A client of a daemon, which the tests kill."""
    async with open_front(request.param) as client:
        yield client


@pytest.fixture
async def box(client: Any) -> AsyncIterator[Any]:
    """A sandbox that lasts."""
    box = await client.create()
    yield box
    await box.remove(force=True)


async def _kill(client: Any) -> int:
    """Kills the daemon; returns the pid that it had."""
    pid: int = (await client.status()).pid
    os.kill(pid, signal.SIGKILL)
    return pid


async def _until_there(box: Any, path: str) -> None:
    while not await box.files.exists(path):
        await asyncio.sleep(0.01)


async def test_a_command_is_run_once_and_its_output_is_complete(client: Any, box: Any) -> None:
    script = "echo once >> /tmp/runs; for i in $(seq 1 200); do echo $i; [ $i = 100 ] && touch /tmp/half; sleep 0.005; done; exit 3"
    running = asyncio.ensure_future(box.exec("sh", "-c", script))
    await _until_there(box, "/tmp/half")
    first = await _kill(client)
    result = await running
    assert (result.text.split(), result.exit_code) == ([str(number) for number in range(1, 201)], 3)
    assert await box.files.read_text("/tmp/runs") == "once\n"
    assert (await client.status()).pid != first


async def test_a_command_survives_one_daemon_after_the_other(client: Any, box: Any) -> None:
    script = "for i in $(seq 1 5); do echo $i; touch /tmp/at-$i; while [ -e /tmp/at-$i ]; do sleep 0.01; done; done"
    running = asyncio.ensure_future(box.exec("sh", "-c", script))
    for number in range(1, 6):
        await _until_there(box, f"/tmp/at-{number}")
        await _kill(client)
        await box.files.remove(f"/tmp/at-{number}")
    assert (await running).text.split() == ["1", "2", "3", "4", "5"]


async def test_rules_and_ports_are_as_they_were(client: Any) -> None:
    box = await client.create(ports=[8000])
    async with listening(box):
        (before,) = await box.ports()
        more = await box.publish(8001)
        await box.allow("example.com")
        await _kill(client)
        assert list(await box.ports()) == [before, more]
        assert await ask(before) == b"TEXT"
        assert written(await box.network())[1] == ["example.com"]
    await box.remove(force=True)


async def test_a_stream_goes_on_at_its_byte(client: Any, box: Any) -> None:
    count = 20_000_000
    seen = hashlib.sha256()
    total, killed = 0, 0
    async for chunk in box.stream("sh", "-c", f"yes 0123456789abcde | head -c {count}"):
        seen.update(chunk.data)
        total += len(chunk.data)
        if total > (killed + 1) * 5_000_000 and killed < 3:
            killed += 1
            await _kill(client)
    assert (total, killed) == (count, 3)
    assert seen.hexdigest() == hashlib.sha256(b"0123456789abcde\n" * (count // 16)).hexdigest()


async def test_what_is_written_arrives_whole(client: Any, box: Any, tmp_path: Path) -> None:
    pieces = [bytes([number % 256]) * PIECE_BYTES for number in range(PIECES)]
    source = tmp_path / "source"
    source.mkdir()
    (source / "data").write_bytes(b"".join(pieces))
    for number in range(30):
        (source / f"small-{number}").write_text(str(number))
    uploading = asyncio.ensure_future(box.files.upload(source, "/tmp/copy"))
    for _ in range(3):
        await _kill(client)
        await asyncio.sleep(0.05)
    copied = await uploading
    assert (copied.files, copied.bytes) == (31, sum(len(str(number)) for number in range(30)) + PIECES * PIECE_BYTES)
    downloading = asyncio.ensure_future(box.files.download("/tmp/copy", tmp_path / "back"))
    await _kill(client)
    await downloading
    for path in source.iterdir():
        assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()


async def test_input_is_taken_once(client: Any, box: Any) -> None:
    process = await box.spawn("sh", "-c", "cat > /tmp/input; touch /tmp/done", stdin=True)
    for number in range(40):
        await process.write(b"%d\n" % number * 1000)
        if number % 10 == 5:
            await _kill(client)
    await process.close_input()
    assert (await process.wait()).exit_code == 0
    assert await box.files.read("/tmp/input") == b"".join(b"%d\n" % number * 1000 for number in range(40))


async def test_a_block_keeps_its_sandbox_and_ends_it(client: Any) -> None:
    async with client.sandbox() as held:
        await held.files.write("/tmp/kept", b"x")
        await _kill(client)
        assert await held.files.read("/tmp/kept") == b"x"
        await _kill(client)
        assert (await held.exec("cat", "/tmp/kept")).text == "x"
        name = held.id
    processes = [event async for event in client.events(sandbox=name, kinds=["sandbox.removed"])]
    assert len(processes) == 1


async def test_a_background_command_is_found_again(client: Any, box: Any) -> None:
    process = await box.spawn("sh", "-c", "echo before; while [ ! -e /tmp/go ]; do sleep 0.01; done; echo after; exit 9")
    await _kill(client)
    again = await box.process(process.exec_id)
    await box.files.write("/tmp/go", b"")
    said = b"".join([chunk.data async for chunk in again.output()])
    assert (said, (await again.wait()).exit_code) == (b"before\nafter\n", 9)


async def test_every_acknowledged_sandbox_is_there_and_no_other(client: Any) -> None:
    names = [f"made-{number}" for number in range(6)]
    for name in names:
        making = asyncio.ensure_future(client.create(name=name, start=False))
        await _kill(client)
        assert (await making).name == name
    assert sorted(found.name for found in await client.list()) == names
    for found in await client.list():
        removing = asyncio.ensure_future(found.remove())
        await _kill(client)
        await removing
    assert await client.list() == []


async def test_many_commands_at_once_all_end(client: Any, box: Any) -> None:
    running = [asyncio.ensure_future(box.exec("sh", "-c", f"echo {number}; sleep 0.3; echo end")) for number in range(15)]
    await asyncio.sleep(0)
    await _kill(client)
    assert [(await each).text for each in running] == [f"{number}\nend\n" for number in range(15)]
