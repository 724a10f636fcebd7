"""What a process leaves that is killed, or whose disk fails, at any step: the next one goes on, and nothing is left over."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from registry_proxy import Proxy, running_proxy
from registry_world import RunningRegistry, make_image, running_registry, tar_of
from unit.images_world import World, needs_registry

import agentkernel
from agentkernel.model.image import PullPolicy

pytestmark = needs_registry

SOURCE, TESTS = Path(agentkernel.__file__).parents[1], Path(__file__).parents[1]
NOISE = random.Random(3).randbytes(2_500_000)
IMAGE = make_image(tar_of(("noise", NOISE)), tar_of(("etc/passwd", b"root:x:0:0:::\n")))
STEPS = sorted(
    {name for path in (SOURCE / "agentkernel/images").glob("*.py") for name in re.findall(r'failpoint\("([^"]+)"\)', path.read_text())}
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        running.push("app", "1", IMAGE)
        yield running


@pytest.fixture
def proxy(registry: RunningRegistry) -> Iterator[Proxy]:
    with running_proxy(registry.address) as running:
        yield running


def pull_and_remove(directory: Path, reference: str, failpoints: str) -> int:
    environment = {**os.environ, "PYTHONPATH": f"{SOURCE}:{TESTS}", "AGENTKERNEL_FAILPOINTS": failpoints}
    command = [sys.executable, "-m", "unit.images_puller", str(directory), reference]
    return subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, timeout=120, check=False).returncode


def test_the_steps_are_found() -> None:
    assert len(STEPS) >= 8


@pytest.mark.parametrize("step", STEPS)
async def test_after_a_kill_the_next_process_goes_on_and_nothing_is_left(tmp_path: Path, proxy: Proxy, step: str) -> None:
    name = f"{proxy.address}/app:1"
    assert pull_and_remove(tmp_path, name, f"{step}=kill") == -signal.SIGKILL, "the step was not reached"
    if step == "images.blob.piece":
        assert not [each for each in proxy.asked if "range" in each.headers]
    world = World(tmp_path)
    image = await world.library.obtain(name, PullPolicy.MISSING, world.report)
    assert Path(image.directory, "noise").read_bytes() == NOISE
    assert image.users == (("root", 0, 0),)
    if step == "images.blob.piece":
        assert [each for each in proxy.asked if "range" in each.headers], "what had come was not used"
    await world.library.remove_image(name)
    await world.library.prune_images(0, ())
    assert world.files() == []
    assert list((world.directory / "rootfs").iterdir()) == []
    world.library.close()


@pytest.mark.parametrize("step", [step for step in STEPS if not step.startswith(("images.remove", "images.root.set"))])
async def test_after_an_error_of_the_disk_nothing_half_is_an_image(tmp_path: Path, registry: RunningRegistry, step: str) -> None:
    name = f"{registry.address}/app:1"
    assert pull_and_remove(tmp_path, name, f"{step}=error:ENOSPC") == 1
    world = World(tmp_path)
    assert await world.library.find(name) is None or step == "images.record.written"
    image = await world.library.obtain(name, PullPolicy.MISSING, world.report)
    assert Path(image.directory, "noise").read_bytes() == NOISE
    await world.library.remove_image(name)
    await world.library.prune_images(0, ())
    assert world.files() == []
    world.library.close()
