"""A copy that is killed, interrupted or failed at every named step: the sandbox is stopped again, and nothing is there in part."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from door_client import LONG, World, daemon_in, request_for
from unit.cli_harness import SOURCE

import agentkernel.client
from agentkernel.failpoints import ENVIRONMENT_NAME
from agentkernel.model.codec import to_json

CLIENT = Path(agentkernel.client.__file__).parent
STEPS = sorted({step for path in CLIENT.glob("*.py") for step in re.findall(r'failpoint\("(client\.[a-z.]+)"\)', path.read_text())})
OLD = {"small": b"old", "large": b"old" * 200_000, "link": b"old"}
NEW = {"small": b"new" * 10, "large": b"new" * 200_000, "link": b"new" * 10}


def _tree(top: Path, content: dict[str, bytes]) -> None:
    top.mkdir(parents=True)
    for name in ("small", "large"):
        (top / name).write_bytes(content[name])
    if content is NEW:
        (top / "link").symlink_to("small")
    else:
        (top / "link").write_bytes(content["link"])


def _seen(top: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in top.iterdir()}


@dataclass
class Copying:
    """A stopped sandbox `box` behind a daemon in this process; its files are the host's, so both sides of a copy can be looked at."""

    world: World
    directory: Path

    @property
    def source(self) -> Path:
        return self.directory / "source" / "tree"

    @property
    def target(self) -> Path:
        return self.directory / "target" / "tree"

    def words(self, direction: str) -> tuple[str, str]:
        """Source and target, as `cp` takes them."""
        return (f"{self.source}/.", f"box:{self.target}") if direction == "in" else (f"box:{self.source}/.", str(self.target))

    async def start(self, direction: str, failpoints: str = "") -> asyncio.subprocess.Process:
        """Begins one."""
        paths = os.pathsep.join([str(SOURCE), *(path for path in sys.path if path)])
        places = {"HOME": str(self.directory), "AGENTKERNEL_HOME": str(self.world.home)}
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agentkernel", "cp", *self.words(direction)),
            env={"PATH": os.environ["PATH"], "PYTHONPATH": paths, ENVIRONMENT_NAME: failpoints, **places},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, direction: str, failpoints: str = "") -> tuple[int | None, str]:
        """One to its end: exit status and what it said on stderr."""
        process = await self.start(direction, failpoints)
        _, said = await asyncio.wait_for(process.communicate(), LONG * 3)
        return process.returncode, said.decode()

    async def status(self) -> str:
        """Of the sandbox."""
        client = await self.world.client()
        try:
            return str((await client.call("info", name="box"))["status"])
        finally:
            client.close()

    async def stopped(self) -> None:
        """Waits until the sandbox is."""
        async with asyncio.timeout(LONG * 3):
            while await self.status() != "stopped":
                await asyncio.sleep(0.01)

    def check(self) -> dict[str, bytes]:
        """Each file is the old or the new one; returns what is there besides."""
        seen = _seen(self.target)
        for name, old in OLD.items():
            assert seen.pop(name) in (old, NEW[name]), name
        return seen


@pytest.fixture
async def copying(guest_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Copying]:
    home = tmp_path / "h"
    home.mkdir()
    monkeypatch.setenv("AGENTKERNEL_GUEST", str(guest_binary))
    monkeypatch.setenv("AGENTKERNEL_HOME", str(home))
    async with daemon_in(home) as world:
        with tempfile.TemporaryDirectory(prefix="ak-copies-", dir="/var/tmp") as place:  # in /tmp no file of a sandbox outlives a stop
            found = Copying(world, Path(place))
            _tree(found.source, NEW)
            _tree(found.target, OLD)
            client = await world.client()
            await client.call("create", request=to_json(request_for()), options={"name": "box"})
            yield found


def test_the_steps_are_known() -> None:
    assert {step.split(".")[1] for step in STEPS} == {"copy", "visit"}
    assert len(STEPS) >= 10


@pytest.mark.parametrize("direction", ["in", "out"])
@pytest.mark.parametrize("step", STEPS)
async def test_whatever_ends_a_copy_at_a_step_nothing_is_there_in_part(copying: Copying, step: str, direction: str) -> None:
    status, said = await copying.run(direction, f"{step}@1=error:EIO")
    assert (status, "Input/output error" in said, "Traceback" in said) == (125, True, False), said
    assert await copying.status() == "stopped"
    assert copying.check() == {}
    status, said = await copying.run(direction, f"{step}@1=kill")
    assert status == -signal.SIGKILL, said
    await copying.stopped()
    for name, content in copying.check().items():  # what was not yet in its place
        assert name.startswith(".agentkernel-")
        assert direction == "in" or (copying.target / name).is_symlink() or content in NEW.values()
    status, said = await copying.run(direction)
    assert (status, await copying.status()) == (0, "stopped"), said
    seen = _seen(copying.target)
    assert {name: seen[name] for name in NEW} == NEW


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("direction", ["in", "out"])
async def test_a_signal_ends_it_in_good_order(copying: Copying, direction: str, number: signal.Signals) -> None:
    process = await copying.start(direction, "client.copy.piece@1=stop")
    async with asyncio.timeout(LONG * 3):
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            await asyncio.sleep(0.01)
    assert await copying.status() == "running"
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    _, said = await asyncio.wait_for(process.communicate(), LONG * 3)
    assert (process.returncode, await copying.status()) == (128 + number, "stopped"), said
    assert b"stopped again" in said
    assert copying.check() == {}


async def test_a_copy_that_stands_still_keeps_it_running_and_its_end_stops_it(copying: Copying) -> None:
    process = await copying.start("in", "client.copy.piece@1=stop")
    async with asyncio.timeout(LONG * 3):
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            await asyncio.sleep(0.01)
    assert await copying.run("out") == (0, "")  # another one meanwhile, which does not stop it
    assert await copying.status() == "running"
    process.kill()
    await process.communicate()
    await copying.stopped()
