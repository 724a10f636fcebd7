"""An engine that is killed at any of its steps: the next one finds the container, its files and its records, and loses nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conformance.roots import ENVIRONMENT
from engines.docker import DockerHost
from engines.images import REFERENCE

from agentkernel.backends.containers.backend import DockerBackend
from agentkernel.errors import LaunchFailed
from agentkernel.model.command import Command
from agentkernel.model.spec import NetworkMode, RootFilesystem, RootKind, SandboxSpec, StorageKind, Workspace, WorkspaceMode
from agentkernel.policy.inside import SSH_DROP_IN

OWNER = "ab" * 16
KILLED = -9
BOOT = ("state", "configuration", "mounts", "created", "started", "attached", "done")
ENDING = ("container", "mounts", "files", "state")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One test's state, engine and project."""

    state: Path
    docker: DockerHost
    project: Path

    @property
    def spec(self) -> SandboxSpec:
        """Of a sandbox with files to be kept and a private view of a directory."""
        return SandboxSpec(
            name="crash",
            profile="moderate",
            root=RootFilesystem(kind=RootKind.IMAGE, reference=REFERENCE),
            environment=ENVIRONMENT,
            storage=StorageKind.DISK,
            workspace=Workspace(mode=WorkspaceMode.COPY_ON_WRITE, source=str(self.project)),
        )

    def backend(self) -> DockerBackend:
        """A new engine's."""
        return DockerBackend(self.state, self.docker.environment)

    def killed(self, act: str, sandbox_id: str, failpoint: str) -> int:
        """Runs an act in another process that is killed at that step; returns its exit status."""
        argv = [sys.executable, "-c", PROGRAM, act, sandbox_id, str(self.state), str(self.project)]
        environment = {**self.docker.environment, "PYTHONPATH": os.pathsep.join(sys.path), "AGENTKERNEL_FAILPOINTS": f"{failpoint}=kill"}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode in (0, KILLED), done.stderr[-2000:]
        return done.returncode

    def left(self) -> Sequence[str]:
        """Containers, state directories, kept views and mounts."""
        containers = self.docker.run("ps", "--all", "--quiet", "--filter", "label=agentkernel.sandbox").split()
        places = (self.state / "docker" / "lasting", self.state / "docker" / "sandboxes", self.state / "data" / "docker")
        directories = [str(path) for place in places if place.is_dir() for path in place.iterdir()]
        mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.state) in line]
        return [*containers, *directories, *mounts]


PROGRAM = """
import asyncio, os, sys
from pathlib import Path
from unit.test_containers_crashes import OWNER, World
from engines.docker import DockerHost
from agentkernel.model.command import Command

act, sandbox_id, state, project = sys.argv[1:]
world = World(state=Path(state), project=Path(project), docker=DockerHost(socket=Path(os.environ["DOCKER_HOST"][7:]), directory=Path(state), pid=0))

async def main():
    backend = world.backend()
    if act == "create":
        await backend.create(world.spec)
    elif act == "boot":
        await backend.boot(sandbox_id, world.spec, OWNER)
    elif act == "sweep":
        await backend.sweep_owned(OWNER, ())
    elif act == "discard":
        await backend.discard(sandbox_id, OWNER)
    else:
        sandbox = await backend.recover(sandbox_id, world.spec, OWNER)
        if act == "stop":
            await sandbox.stop()

asyncio.run(main())
"""


@pytest.fixture
def world(dockerd: DockerHost, tmp_path: Path, guest_binary: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("AGENTKERNEL_GUEST", str(guest_binary))
    project = tmp_path / "project"
    project.mkdir()
    (project / "file").write_text("of the host\n")
    state = tmp_path / "s"
    state.mkdir(mode=0o711)
    return World(state=state, docker=dockerd, project=project)


async def said(sandbox: object, script: str) -> bytes:
    result = await sandbox.exec(Command(argv=(b"sh", b"-c", script.encode())))  # type: ignore[attr-defined]
    assert result.stderr == b""
    return bytes(result.stdout)


async def with_files(world: World, sandbox_id: str) -> None:
    """Boots one that has written to its home and its view, and lets go of it."""
    sandbox = await world.backend().boot(sandbox_id, world.spec, OWNER)
    await said(sandbox, "echo kept > $HOME/kept; echo changed > file")
    await sandbox.close()


async def promised(world: World, sandbox_id: str) -> bytes:
    """What the next engine finds in the files."""
    backend = world.backend()
    sandbox = await backend.recover(sandbox_id, world.spec, OWNER) or await backend.boot(sandbox_id, world.spec, OWNER)
    found = await said(sandbox, "cat $HOME/kept file")
    await sandbox.close()
    return found


@pytest.mark.parametrize("step", BOOT)
async def test_killed_while_it_boots(world: World, step: str) -> None:
    assert await asyncio.to_thread(world.killed, "boot", "1" * 16, f"containers.boot.{step}") == KILLED
    backend = world.backend()
    sandbox = await backend.recover("1" * 16, world.spec, OWNER)
    if sandbox is None:
        sandbox = await backend.boot("1" * 16, world.spec, OWNER)
    assert await said(sandbox, "cat file; pwd") == b"of the host\n/workspace\n"
    await sandbox.close()
    assert await backend.sweep_owned(OWNER, ()) == 1
    assert world.left() == []


@pytest.mark.parametrize("step", ["mounts", "started"])
async def test_killed_while_it_boots_again(world: World, step: str) -> None:
    await with_files(world, "2" * 16)
    backend = world.backend()
    sandbox = await backend.recover("2" * 16, world.spec, OWNER)
    assert sandbox is not None
    await sandbox.stop()
    assert await asyncio.to_thread(world.killed, "boot", "2" * 16, f"containers.boot.{step}") == KILLED
    assert await promised(world, "2" * 16) == b"kept\nchanged\n"
    await backend.discard("2" * 16, OWNER)
    assert world.left() == []


@pytest.mark.parametrize("step", ENDING)
async def test_killed_while_it_stops(world: World, step: str) -> None:
    await with_files(world, "3" * 16)
    assert await asyncio.to_thread(world.killed, "stop", "3" * 16, f"containers.stop.{step}") == KILLED
    assert await promised(world, "3" * 16) == b"kept\nchanged\n"
    await world.backend().discard("3" * 16, OWNER)
    assert world.left() == []


@pytest.mark.parametrize(("act", "step"), [*(("discard", step) for step in ENDING), ("sweep", "records"), ("sweep", "container")])
async def test_killed_while_it_removes(world: World, act: str, step: str) -> None:
    await with_files(world, "4" * 16)
    assert await asyncio.to_thread(world.killed, act, "4" * 16, f"containers.{act}.{step}") == KILLED
    backend = world.backend()
    await backend.sweep_owned(OWNER, ())
    assert await backend.recover("4" * 16, world.spec, OWNER) is None
    assert world.left() == []


async def test_killed_while_it_takes_up(world: World) -> None:
    await with_files(world, "5" * 16)
    assert await asyncio.to_thread(world.killed, "recover", "5" * 16, "containers.recover.attached") == KILLED
    assert await promised(world, "5" * 16) == b"kept\nchanged\n"
    await world.backend().discard("5" * 16, OWNER)
    assert world.left() == []


@pytest.mark.parametrize("step", ["create.state", "boot.mounts", "boot.created", "boot.attached"])
async def test_what_a_killed_engine_had_made_for_itself_is_swept(world: World, step: str) -> None:
    assert await asyncio.to_thread(world.killed, "create", "", f"containers.{step}") == KILLED
    backend = world.backend()
    assert await backend.sweep() == 1
    assert (await backend.sweep(), world.left()) == (0, [])


async def test_a_container_whose_records_the_hosts_restart_took_is_found_by_its_label(world: World) -> None:
    assert await asyncio.to_thread(world.killed, "create", "", "containers.boot.attached") == KILLED
    (directory,) = (world.state / "docker" / "sandboxes").iterdir()
    subprocess.run(["rm", "-r", str(directory)], check=True)
    assert await world.backend().sweep() == 1
    assert world.left() == []


@pytest.mark.parametrize("said", ["../../../treasure", "0123456789abcdef"], ids=["path", "other"])
async def test_a_label_that_somebody_else_gave_a_container_names_no_sandbox(world: World, said: str) -> None:
    """Whoever uses the engine gives containers what labels they like, and an image's labels become its containers'."""
    (world.project.parent / "treasure").mkdir()
    host = world.backend()._host
    host.note_use()
    assert host.state.sandboxes.is_dir()
    kept = host.make_files("0123456789abcdef", OWNER)
    owners = (host.lease_label, OWNER)
    for number, owner in enumerate(owners):
        labels = ("--label", f"agentkernel.owner={owner}", "--label", f"agentkernel.sandbox={said}")
        world.docker.run("create", "--name", f"strangers-{number}", *labels, REFERENCE, "true")
    try:
        assert [await host.containers.owned(owner) for owner in owners] == [[], []]
        await world.backend().sweep()
        await world.backend().sweep_owned(OWNER, {"0123456789abcdef"})
        assert (world.project.parent / "treasure").is_dir() and kept.is_dir()
    finally:
        world.docker.run("rm", "--force", *(f"strangers-{number}" for number in range(len(owners))))


async def test_what_a_killed_engine_booted_is_found_without_its_records(world: World) -> None:
    await with_files(world, "6" * 16)
    subprocess.run(["rm", "-r", str(world.state / "docker" / "lasting" / ("6" * 16))], check=True)
    backend = world.backend()
    assert await backend.recover("6" * 16, world.spec, OWNER) is None, "whose agent was told what, nobody knows any more"
    assert await promised(world, "6" * 16) == b"kept\nchanged\n"
    assert await backend.sweep_owned(OWNER, ()) == 1
    assert world.left() == []


async def test_a_sandbox_that_is_shown_small_files_starts_again(world: World) -> None:
    """With a filtered network there is one, of ssh."""
    filtered = replace(world.spec, network=NetworkMode.FILTERED)
    for number, script in enumerate(("echo kept > $HOME/kept", "cat $HOME/kept", "cat $HOME/kept")):
        sandbox = await world.backend().boot("8" * 16, filtered, OWNER)
        assert await said(sandbox, f"test -s {SSH_DROP_IN} && {script}") == (b"kept\n" if number else b"")
        await sandbox.stop()
    await world.backend().discard("8" * 16, OWNER)
    assert world.left() == []


async def test_other_settings_are_refused_and_the_files_stay(world: World) -> None:
    await with_files(world, "7" * 16)
    backend = world.backend()
    sandbox = await backend.recover("7" * 16, world.spec, OWNER)
    assert sandbox is not None
    await sandbox.stop()
    other = SandboxSpec(name="x", profile="moderate", root=world.spec.root, storage=StorageKind.DISK)
    with pytest.raises(LaunchFailed, match="other settings"):
        await backend.boot("7" * 16, other, OWNER)
    assert await promised(world, "7" * 16) == b"kept\nchanged\n"
    await backend.discard("7" * 16, OWNER)
    assert world.left() == []


async def test_a_guest_volume_that_somebody_removed_is_filled_again(world: World) -> None:
    backend = world.backend()
    await (await backend.create(world.spec)).destroy()
    guests = world.docker.run("volume", "ls", "--quiet", "--filter", "name=agentkernel-guest-").split()
    assert len(guests) == 1
    world.docker.run("volume", "rm", *guests)
    sandbox = await backend.create(world.spec)
    assert await said(sandbox, "cat file") == b"of the host\n"
    await sandbox.destroy()
    assert world.left() == []
