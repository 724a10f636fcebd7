"""Warm pools over real backends: what is handed out works, is fresh, shows the host as it is now, and nothing is left."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conformance.roots import ENVIRONMENT, host_root

from agentkernel.abc import Backend, Sandbox
from agentkernel.backends.memory.backend import MemoryBackend
from agentkernel.backends.namespaces.backend import NamespacesBackend
from agentkernel.engine.pool import Pools
from agentkernel.engine.reserve import PoolSettings
from agentkernel.model.command import Command
from agentkernel.model.spec import NetworkMode, Resources, SandboxSpec, Workspace, WorkspaceMode

OWNER = "0123456789abcdef" * 2
SETTINGS = PoolSettings(minimum=1, maximum=2, settle_s=0)
SPEC = SandboxSpec(name="first", profile="moderate", root=host_root(), environment=ENVIRONMENT)
# What the memory backend can give.
MEMORY_SPEC = replace(SPEC, network=NetworkMode.HOST, resources=Resources(memory_bytes=None, cpus=None, pids=None))


def booted(backend: Backend) -> Pools:
    return Pools(lambda _, sandbox_id, spec: backend.boot(sandbox_id, spec, OWNER), SETTINGS)


@pytest.fixture
async def namespaces(state_directory: Path) -> Backend:
    backend = NamespacesBackend(state_directory)
    found = await backend.probe()
    if not found.ready:
        pytest.skip(f"namespaces: {found.reason}")
    return backend


@pytest.fixture
async def pools(namespaces: Backend, state_directory: Path) -> AsyncIterator[Pools]:
    pools = booted(namespaces)
    yield pools
    await pools.close()
    assert list((state_directory / "lasting").iterdir()) == []


async def ready(pools: Pools, spec: SandboxSpec, backend: str = "namespaces") -> None:
    """Asks, makes one, asks again, and waits until the pool is full."""
    assert pools.take(backend, spec) is None
    pools.worked(backend, spec)
    assert pools.take(backend, spec) is None
    async with asyncio.timeout(30):
        while not any(state.ready == SETTINGS.maximum for state in pools.states()):
            assert not any(state.reason for state in pools.states()), pools.states()
            await asyncio.sleep(0.005)


def taken(pools: Pools, spec: SandboxSpec, backend: str = "namespaces") -> Sandbox:
    sandbox = pools.take(backend, spec)
    assert sandbox is not None
    return sandbox


async def said(sandbox: Sandbox, script: str) -> str:
    result = await sandbox.exec(Command(argv=(b"sh", b"-c", script.encode())))
    assert (result.exit_code, result.stderr) == (0, b"")
    return result.stdout.decode()


async def test_what_is_handed_out_is_fresh_and_has_the_environment_asked_for(pools: Pools) -> None:
    await ready(pools, SPEC)
    spec = replace(SPEC, name="second", environment=(*ENVIRONMENT, ("TOKEN", "secret")), linger_s=7.0)
    for _ in range(2):
        sandbox = taken(pools, spec)
        assert sandbox.spec == spec and sandbox.sandbox_id not in pools.held()
        assert (
            await said(sandbox, "echo $TOKEN $HOME; ls /tmp $HOME; touch /tmp/mine $HOME/mine")
            == "secret /home/user\n/home/user:\n\n/tmp:\n"
        )
        await sandbox.destroy()


async def test_a_taken_one_outlives_the_pools(namespaces: Backend, state_directory: Path) -> None:
    pools = booted(namespaces)
    await ready(pools, SPEC)
    spec = replace(SPEC, linger_s=None)
    sandbox = taken(pools, spec)
    await pools.close()
    await said(sandbox, "echo kept > $HOME/file")
    await sandbox.close()
    assert [entry.name for entry in (state_directory / "lasting").iterdir()] == [sandbox.sandbox_id]
    again = await namespaces.recover(sandbox.sandbox_id, spec, OWNER)
    assert again is not None
    assert await said(again, "cat $HOME/file") == "kept\n"
    await again.destroy()


async def test_a_private_view_made_before_shows_the_files_as_they_are_when_it_is_taken(pools: Pools, tmp_path: Path) -> None:
    project = tmp_path / "project"
    for directory in ("kept/deep", "replaced", "removed"):
        (project / directory).mkdir(parents=True)
        (project / directory / "file").write_text("old")
    for name in ("written", "renamed", "gone"):
        (project / name).write_text("old")
    spec = replace(SPEC, workspace=Workspace(mode=WorkspaceMode.COPY_ON_WRITE, source=str(project)))
    tmp_path.chmod(0o755)
    await ready(pools, spec)

    (project / "written").write_text("new")
    (project / "renamed.new").write_text("new")
    (project / "renamed.new").rename(project / "renamed")
    (project / "gone").unlink()
    (project / "kept" / "deep" / "file").write_text("new")
    (project / "kept" / "added").write_text("new")
    (project / "replaced").rename(tmp_path / "aside")
    (project / "replaced").mkdir()
    (project / "replaced" / "other").write_text("new")
    shutil.rmtree(project / "removed")
    (project / "removed").write_text("new")

    sandbox = taken(pools, spec)
    files = "kept/added kept/deep/file removed renamed replaced/other written"
    assert (
        await said(sandbox, "find . -type f | sort | xargs echo; cat $(find . -type f)") == f"./{files.replace(' ', ' ./')}\n" + "new" * 6
    )
    (project / "late").write_text("new")
    assert await said(sandbox, "cat late") == "new"
    await sandbox.destroy()


async def test_a_project_in_the_place_of_another_is_not_shown_by_what_was_made_before(pools: Pools, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    spec = replace(SPEC, workspace=Workspace(mode=WorkspaceMode.COPY_ON_WRITE, source=str(project)))
    tmp_path.chmod(0o755)
    await ready(pools, spec)
    project.rename(tmp_path / "aside")
    project.mkdir()
    assert pools.take("namespaces", spec) is None


async def test_the_memory_backend_has_pools_too(state_directory: Path) -> None:
    pools = booted(MemoryBackend(state_directory))
    await ready(pools, MEMORY_SPEC, "memory")
    sandbox = taken(pools, replace(MEMORY_SPEC, environment=(*ENVIRONMENT, ("TOKEN", "secret"))), "memory")
    assert await said(sandbox, "echo $TOKEN; cd; pwd") == f"secret\n{sandbox.spec.user.home}\n"
    await sandbox.destroy()
    await pools.close()
    assert not [path for path in state_directory.rglob("*") if path.name in (sandbox.sandbox_id, "agent.sock")]


KILLED = """
import asyncio, sys
from pathlib import Path
from agentkernel.engine import pool
from conformance.test_pool import SPEC, booted, ready
from agentkernel.backends.namespaces.backend import NamespacesBackend

pool.LINGER_S = 0.3

async def main():
    pools = booted(NamespacesBackend(Path(sys.argv[1])))
    await ready(pools, SPEC)
    print(*sorted(pools.held()), flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


async def test_after_a_kill_they_end_by_themselves_and_the_sweep_finds_what_is_left(namespaces: Backend, state_directory: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    engine = subprocess.Popen([sys.executable, "-c", KILLED, str(state_directory)], stdout=subprocess.PIPE, env=environment, text=True)
    assert engine.stdout is not None
    ids = (await asyncio.to_thread(engine.stdout.readline)).split()
    assert len(ids) == SETTINGS.maximum
    running = [int((state_directory / "lasting" / name / "pid").read_text().split()[0]) for name in ids]
    assert all(map(_runs, running))
    engine.send_signal(signal.SIGKILL)
    engine.wait()
    engine.stdout.close()
    await _until(lambda: not any(map(_runs, running)))
    assert await namespaces.sweep_owned(OWNER, frozenset()) == SETTINGS.maximum
    assert list((state_directory / "lasting").iterdir()) == []


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)
