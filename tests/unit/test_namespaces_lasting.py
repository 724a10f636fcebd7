"""What is this backend's own about sandboxes that last: what a stop ends, whose files are, and what an agent is told twice."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conformance.directories import own_temporary_directory
from conformance.roots import ENVIRONMENT, host_root

from agentkernel.abc import Mortal, Sandbox
from agentkernel.backends._configuration import Configuration
from agentkernel.backends._linux import ranges
from agentkernel.backends._linux.kept import make_kept, open_data_root
from agentkernel.backends._linux.watch import DiskGauge
from agentkernel.backends.namespaces.backend import NamespacesBackend
from agentkernel.channel.messages import NetworkPorts
from agentkernel.errors import AgentKernelError, LaunchFailed, SandboxLost, Unsupported
from agentkernel.model.command import Command
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.spec import RootFilesystem, RootKind, SandboxSpec, StorageKind, Workspace, WorkspaceMode

OWNER = "cd" * 16
ID = "0123456789abcdef"
SPEC = SandboxSpec(name="lasting", profile="moderate", root=host_root(), environment=ENVIRONMENT, storage=StorageKind.DISK)


@pytest.fixture(autouse=True)
def _guest(guest_binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTKERNEL_GUEST", str(guest_binary))


@pytest.fixture
def state() -> Iterator[Path]:
    with own_temporary_directory():
        directory = Path(tempfile.gettempdir()) / "s"
        directory.mkdir(mode=0o711)
        yield directory


@pytest.fixture
async def backend(state: Path) -> AsyncIterator[NamespacesBackend]:
    backend = NamespacesBackend(state)
    yield backend
    await backend.sweep_owned(OWNER, ())


async def said(sandbox: Sandbox, script: str) -> str:
    result = await sandbox.exec(Command(argv=(b"sh", b"-c", script.encode())))
    return (result.stdout + result.stderr).decode()


async def test_what_programs_expect_to_be_empty_after_a_start_is_empty(backend: NamespacesBackend) -> None:
    sandbox = await backend.boot(ID, SPEC, OWNER)
    await said(sandbox, "mkdir -p /tmp/a/b; chmod 000 /tmp/a; echo x > /dev/shm/x; echo kept > /var/tmp/kept; echo kept > ~/kept")
    await sandbox.stop()
    sandbox = await backend.boot(ID, SPEC, OWNER)
    assert await said(sandbox, "ls -A /tmp /dev/shm; cat /var/tmp/kept ~/kept") == "/dev/shm:\n\n/tmp:\nkept\nkept\n"
    await sandbox.destroy()


async def test_an_image_keeps_its_changes_but_not_those_of_run(backend: NamespacesBackend, tmp_path: Path) -> None:
    image = Path(tempfile.gettempdir()) / "image"
    for directory in ("bin", "usr", "lib", "lib64", "run", "etc", "tmp", "home/user", "workspace", "proc", "sys", "dev"):
        (image / directory).mkdir(parents=True)
    (image / "run/shipped").write_text("shipped\n")
    (image / "etc/shipped").write_text("shipped\n")
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("this host has no busybox to make an image of")
    shutil.copy(busybox, image / "bin/busybox")
    (image / "bin/sh").symlink_to("busybox")
    subprocess.run(["chmod", "-R", "a+rwX", str(image)], check=True)
    root = RootFilesystem(kind=RootKind.DIRECTORY, directory=str(image))
    spec = SandboxSpec(name="image", profile="moderate", root=root, environment=(("PATH", "/bin"),), storage=StorageKind.DISK)
    sandbox = await backend.boot(ID, spec, OWNER)
    await said(sandbox, "cd /; echo pid > run/pid; busybox rm run/shipped etc/shipped; echo new > etc/new")
    await sandbox.stop()
    sandbox = await backend.boot(ID, spec, OWNER)
    assert await said(sandbox, "cd /; busybox ls run etc; busybox cat etc/new") == "etc:\nnew\n\nrun:\nshipped\nnew\n"
    await sandbox.destroy()


async def test_a_private_view_keeps_its_changes_and_follows_the_rest(backend: NamespacesBackend) -> None:
    project = Path(tempfile.gettempdir()) / "project"
    project.mkdir()
    (project / "one").write_text("one")
    (project / "two").write_text("two")
    spec = SandboxSpec(
        name="view",
        profile="moderate",
        root=host_root(),
        environment=ENVIRONMENT,
        storage=StorageKind.DISK,
        workspace=Workspace(mode=WorkspaceMode.COPY_ON_WRITE, source=str(project)),
    )
    sandbox = await backend.boot(ID, spec, OWNER)
    await said(sandbox, "echo -n changed > one; echo -n new > three")
    await sandbox.stop()
    (project / "two").write_text("two of the host")
    sandbox = await backend.boot(ID, spec, OWNER)
    assert await said(sandbox, "cat one; echo; cat two; echo; cat three") == "changed\ntwo of the host\nnew"
    assert sorted(path.name for path in project.iterdir()) == ["one", "two"]
    await sandbox.destroy()


async def test_files_and_their_ids_outlast_the_hosts_next_start(backend: NamespacesBackend, state: Path) -> None:
    sandbox = await backend.boot(ID, SPEC, OWNER)
    await said(sandbox, "echo kept > kept; chmod 600 kept")
    await sandbox.close()
    pid = int((state / "lasting" / ID / "pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    kept = state / "data/sandboxes" / ID
    owner = (kept / "files/home/kept").stat().st_uid
    for line in (state / "lasting" / ID / "cgroups").read_text().splitlines() if (state / "lasting" / ID / "cgroups").exists() else ():
        os.rmdir(line.split(" ", 2)[2])
    for runtime in ("lasting", "ranges", "sandboxes"):
        shutil.rmtree(state / runtime)
    after = NamespacesBackend(state)
    assert await after.recover(ID, SPEC, OWNER) is None
    sandbox = await after.boot(ID, SPEC, OWNER)
    assert await said(sandbox, "cat kept; stat -c '%a %U' kept") == "kept\n600 user\n"
    assert (kept / "files/home/kept").stat().st_uid == owner
    await sandbox.destroy()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: id ranges")
async def test_a_stopped_sandbox_keeps_its_range_from_others(
    backend: NamespacesBackend, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "RANGE_COUNT", 2)
    await (await backend.boot(ID, SPEC, OWNER)).stop()
    running = await backend.create(SPEC)
    with pytest.raises(LaunchFailed, match="in use"):
        await backend.create(SPEC)
    await backend.discard(ID, OWNER)
    await (await backend.create(SPEC)).destroy()
    await running.destroy()
    assert list((state / "ranges").iterdir()) == list((state / "data/ranges").iterdir()) == []


async def test_nobody_else_can_enter_what_a_sandbox_wrote(backend: NamespacesBackend, state: Path) -> None:
    sandbox = await backend.boot(ID, SPEC, OWNER)
    assert await said(sandbox, "cp /bin/true mine && chmod 755 mine") == ""
    await sandbox.stop()
    kept = state / "data/sandboxes" / ID
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert kept.stat().st_uid == os.geteuid()


async def test_an_agent_is_told_the_same_by_an_engine_with_other_limits(backend: NamespacesBackend, state: Path) -> None:
    sandbox = await backend.boot(ID, SPEC, OWNER)
    before = await said(sandbox, "ulimit -a")
    await sandbox.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (soft // 2, hard))
    try:
        again = await NamespacesBackend(state).recover(ID, SPEC, OWNER)
        assert again is not None
        assert await said(again, "ulimit -a") == before
        await again.destroy()
    finally:
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (soft, hard))


async def test_isolation_level_process_lasts_too(backend: NamespacesBackend) -> None:
    spec = SandboxSpec(name="process", profile="moderate", root=host_root(), environment=ENVIRONMENT, level=IsolationLevel.PROCESS)
    try:
        sandbox = await backend.boot(ID, spec, OWNER)
    except Unsupported as missing:
        pytest.skip(missing.message)
    await said(sandbox, "echo kept > ~/kept; echo gone > $TMPDIR/gone")
    await sandbox.close()
    again = await backend.recover(ID, spec, OWNER)
    assert again is not None
    assert await said(again, "cat ~/kept") == "kept\n"
    await again.stop()
    sandbox = await backend.boot(ID, spec, OWNER)
    assert await said(sandbox, "cat ~/kept; ls ${TMPDIR:-$HOME/../tmp}") == "kept\n"
    await sandbox.destroy()


async def test_a_home_with_a_long_path_has_room_for_its_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    with own_temporary_directory() as directory:
        home = directory / ("long" * 20)
        home.mkdir(mode=0o700)
        monkeypatch.setenv("AGENTKERNEL_HOME", str(home))
        backend = NamespacesBackend()
        sandbox = await backend.boot(ID, SPEC, OWNER)
        assert await said(sandbox, "echo here") == "here\n"
        await sandbox.close()
        again = await backend.recover(ID, SPEC, OWNER)
        assert again is not None
        await again.destroy()


def test_a_configuration_is_read_as_it_was_written() -> None:
    written = Configuration(seccomp=bytes(range(256)) * 8, rlimits=((4, 0, 0), (7, 1024, -1)), level="container")
    assert Configuration.decode(written.encode()) == written
    networked = replace(written, network=NetworkPorts(3128, 53, 0), level="vm-emulated")
    assert Configuration.decode(networked.encode()) == networked
    assert Configuration.decode(b"") == Configuration()
    assert Configuration.decode(b"container\n4 0 0\n\0") == Configuration(level="container", rlimits=((4, 0, 0),), seccomp=b"\0")


async def test_what_was_over_the_limit_before_is_no_news(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"x" * 3_000_000)
    gauge = DiskGauge(tmp_path, 1_000_000, resumed=True)
    assert not await gauge.is_exceeded()
    assert not gauge.is_far_over
    fresh = DiskGauge(tmp_path, 1_000_000, resumed=False)
    assert await fresh.is_exceeded()
    assert fresh.is_far_over


async def test_a_sandbox_that_is_ended_for_its_disk_limit_says_so(backend: NamespacesBackend, state: Path) -> None:
    wanted = replace(SPEC, resources=replace(SPEC.resources, disk_bytes=2_000_000))
    sandbox = await backend.boot(ID, wanted, OWNER)
    death: asyncio.Future[AgentKernelError] = asyncio.get_running_loop().create_future()
    assert isinstance(sandbox, Mortal)
    sandbox.when_lost(death.set_result)
    (files,) = state.rglob(f"{ID}/files")
    (files / "much").write_bytes(os.urandom(8_000_000))  # as many short commands can between two samples
    error = await asyncio.wait_for(death, 60)
    assert "its own files went over their limit of 1.9MiB (--disk allows more)" in error.message
    with pytest.raises(SandboxLost, match="--disk"):
        await sandbox.exec(Command(argv=(b"true",)))
    await sandbox.stop()


async def test_no_other_id_walks_into_a_stopped_sandbox_s_files(tmp_path: Path) -> None:
    kept, is_new = make_kept(open_data_root(tmp_path / "data", os.geteuid(), "namespaces"), ID, OWNER)
    assert is_new
    kept.make_files(passable=True)  # as at level `process`, by root
    assert stat.S_IMODE(kept.path.stat().st_mode) == 0o711
    await kept.remove_volatile()
    assert stat.S_IMODE(kept.path.stat().st_mode) == 0o700
