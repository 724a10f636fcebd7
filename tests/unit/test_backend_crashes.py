"""Whatever an engine was about to ask of the system when it ended, or was refused: the next one finds everything of its sandboxes.

`AGENTKERNEL_CRASH_SEED` repeats a run; `AGENTKERNEL_CRASH_SHARE` is how many of the places are tried in each act (1.0: every one).
"""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conformance.directories import own_temporary_directory
from conformance.roots import ENVIRONMENT, host_root
from unit.crashing_engine import ACTS, Order

from agentkernel.abc import Backend
from agentkernel.backends.gvisor.backend import GvisorBackend
from agentkernel.backends.namespaces.backend import NamespacesBackend
from agentkernel.model.command import Command
from agentkernel.model.spec import SandboxSpec, StorageKind
from agentkernel.testing.host import HostSnapshot, adopting_orphans, take

SEED = int(os.environ.get("AGENTKERNEL_CRASH_SEED") or random.randrange(1 << 32))
SHARE = float(os.environ.get("AGENTKERNEL_CRASH_SHARE") or 0.06)
SHARE_OF_GVISOR = SHARE / 6  # it starts in a second, not in milliseconds
FAILURES = ("kill", "error:EMFILE", "error:ENOSPC")
OWNER = "ab" * 16
SPEC = SandboxSpec(name="crash", profile="moderate", root=host_root(), environment=ENVIRONMENT, storage=StorageKind.DISK)
PATIENCE_S = 5.0


@pytest.fixture(autouse=True)
def _guest(guest_binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTKERNEL_GUEST", str(guest_binary))


@pytest.fixture
def state() -> Iterator[Path]:
    """Where the backend keeps everything."""
    with own_temporary_directory(), adopting_orphans():
        directory = Path(tempfile.gettempdir()) / "s"
        directory.mkdir(mode=0o711)
        yield directory


@dataclass(frozen=True)
class Kind:
    """A backend, and where it records its sandboxes beneath its directories for state and data."""

    make: Callable[[Path], Backend]
    place: str
    share: float


NAMESPACES = Kind(NamespacesBackend, "", SHARE)
GVISOR = Kind(GvisorBackend, "gvisor", SHARE_OF_GVISOR)


def engine(kind: Kind, state: Path, act: str, sandbox_id: str, nth: int, failure: str) -> tuple[int, str]:
    """Runs the act in another process; how many things it asked for until its end (0: it had none), and how it ended."""
    order = Order(
        make=kind.make,
        state=state,
        lasting=state / kind.place / "lasting",
        act=act,
        sandbox_id=sandbox_id,
        owner=OWNER,
        spec=SPEC,
        nth=nth,
        failure=failure,
    )
    program = Path(__file__).with_name("crashing_engine.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, str(program)], input=pickle.dumps(order), env=environment, capture_output=True, timeout=60)
    count, _, said = done.stdout.decode().partition(" ")
    assert done.returncode == 0 or (failure == "kill" and done.returncode == -9), done.stderr.decode()
    return int(count or 0), said


async def settle(kind: Kind, state: Path, act: str, sandbox_id: str) -> None:
    """What the next engine does: takes up what runs, has the files that were promised, and removes it all."""
    backend = kind.make(state)
    sandbox = await backend.recover(sandbox_id, SPEC, OWNER)
    if sandbox is not None:
        assert (await sandbox.exec(Command(argv=(b"sh", b"-c", b"echo alive")))).stdout == b"alive\n"
        await sandbox.stop()
    if act not in ("boot", "discard", "discard-stopped", "sweep"):
        sandbox = await backend.boot(sandbox_id, SPEC, OWNER)
        found = await sandbox.exec(Command(argv=(b"sh", b"-c", b"cat kept; stat -c %a .; ls /tmp")))
        assert found.stdout == b"kept\n700\n"
        await sandbox.close()
    await backend.sweep_owned(OWNER, ())


def own_leftovers(before: HostSnapshot, after: HostSnapshot, state: Path, sandbox_id: str) -> list[str]:
    """Others have groups, files and mounts, too; processes and namespaces below this process are ours."""
    return [
        fact
        for fact in before.new_in(after)
        if not fact.startswith(("cgroups", "files", "mounts")) or sandbox_id in fact or str(state) in fact
    ]


async def nothing_is_left(before: HostSnapshot, watched: list[Path], state: Path, sandbox_id: str) -> None:
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while left := own_leftovers(before, take(watched), state, sandbox_id):
        assert asyncio.get_running_loop().time() < deadline, left
        reap()
        await asyncio.sleep(0.02)


def reap() -> None:
    """An engine that was killed while it launched leaves its first process to us."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


@pytest.mark.parametrize("act", ACTS)
async def test_after_a_fault_anywhere_nothing_is_lost_and_nothing_is_left(state: Path, act: str) -> None:
    await faults(NAMESPACES, state, act)


@pytest.mark.parametrize("act", ACTS)
async def test_the_same_of_gvisor(state: Path, act: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "AGENTKERNEL_TEST_RUNSC" in os.environ:
        monkeypatch.setenv("AGENTKERNEL_RUNSC", os.environ["AGENTKERNEL_TEST_RUNSC"])
    found = await GvisorBackend(state).probe()
    if not found.ready:
        pytest.skip(f"gVisor is not ready on this host: {found.reason}")
    await faults(GVISOR, state, act)


async def faults(kind: Kind, state: Path, act: str) -> None:
    """Tries some of the places where the act can fail."""
    backend = kind.make(state)
    watched = [state / kind.place / "lasting", state / "ranges", state / "data" / kind.place / "sandboxes", state / "data" / "ranges"]
    await (await backend.boot("0" * 16, SPEC, OWNER)).destroy()
    before = take(watched)
    places, said = await asyncio.to_thread(engine, kind, state, act, "1" * 16, 0, "kill")
    assert said == "done\n"
    await settle(kind, state, act, "1" * 16)
    source = random.Random(f"{SEED} {act}")
    for nth in sorted(source.sample(range(1, places + 1), max(3, round(places * kind.share)))):
        failure, sandbox_id = source.choice(FAILURES), source.randbytes(8).hex()
        print(f"AGENTKERNEL_CRASH_SEED={SEED}: {act}, {failure} at {nth} of {places}")
        _, said = await asyncio.to_thread(engine, kind, state, act, sandbox_id, nth, failure)
        assert "OSError" not in said, said
        if act == "boot" and said.startswith("failed"):
            await nothing_is_left(before, watched, state, sandbox_id)  # its maker is alive and tidies up itself
        await settle(kind, state, act, sandbox_id)
        await nothing_is_left(before, watched, state, sandbox_id)
