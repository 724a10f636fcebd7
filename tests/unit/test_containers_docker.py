"""Sandboxes in a real Docker Engine: their walls, images with nothing in them, engines that are reached otherwise, and engines that fail."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import stat
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conformance.roots import ENVIRONMENT
from engines.docker import DockerHost, docker_host
from engines.images import REFERENCE, python_image, small_image

from agentkernel.abc import Sandbox
from agentkernel.backends.containers.backend import DockerBackend
from agentkernel.errors import BackendUnavailable, LaunchFailed, SandboxFailed, Unsupported
from agentkernel.model.command import Command, LimitHit
from agentkernel.model.isolation import Feature, IsolationLevel, Support
from agentkernel.model.spec import (
    Bind,
    NetworkMode,
    Resources,
    RootFilesystem,
    RootKind,
    SandboxSpec,
    StorageKind,
    User,
    Workspace,
    WorkspaceMode,
)
from agentkernel.policy.inside import CERTIFICATES

OWNER = "cd" * 16
ROOT = User(uid=0, gid=0, name="root", home="/root")
AGENTS_OWN = {0, 5, 6, 7, 8}  # CHOWN, KILL, SETGID, SETUID, SETPCAP (capabilities(7))
DAC_OVERRIDE = 1


def spec(reference: str = REFERENCE, **changes: Any) -> SandboxSpec:
    root = RootFilesystem(kind=RootKind.IMAGE, reference=reference)
    return SandboxSpec(**{"name": "test", "profile": "moderate", "root": root, "environment": ENVIRONMENT, **changes})


@pytest.fixture(autouse=True)
def _guest(guest_binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTKERNEL_GUEST", str(guest_binary))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "s"
    directory.mkdir(mode=0o711)
    return directory


@pytest.fixture
def backend(dockerd: DockerHost, state: Path) -> DockerBackend:
    return DockerBackend(state, dockerd.environment)


@asynccontextmanager
async def running(backend: DockerBackend, wanted: SandboxSpec) -> AsyncIterator[Sandbox]:
    sandbox = await backend.create(wanted)
    try:
        yield sandbox
    finally:
        await sandbox.destroy()


async def said(sandbox: Sandbox, script: str, **options: Any) -> str:
    result = await sandbox.exec(Command(argv=(b"sh", b"-c", script.encode()), **options))
    return (result.stdout + result.stderr).decode()


def capabilities(line: str) -> set[int]:
    value = int(line.split()[1], 16)
    return {number for number in range(64) if value >> number & 1}


# --- walls


async def test_the_workload_has_no_right_and_the_agent_only_its_own(backend: DockerBackend, state: Path) -> None:
    async with running(backend, spec()) as sandbox:
        status = await said(sandbox, "grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid)' /proc/self/status")
        lines = {line.split(":")[0]: line for line in status.splitlines()}
        assert all(not capabilities(lines[f"Cap{kind}"]) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"))
        assert lines["NoNewPrivs"].split()[1] == "1" and lines["Seccomp"].split()[1] == "2"
        assert set(lines["Uid"].split()[1:]) == {"1000"}
        (directory,) = (state / "docker" / "sandboxes").iterdir()
        agent = int((directory / "pid").read_text().split()[0])
        its = {line.split(":")[0]: line for line in Path(f"/proc/{agent}/status").read_text().splitlines()}
        assert capabilities(its["CapEff"]) == AGENTS_OWN | {DAC_OVERRIDE}
        assert its["NoNewPrivs"].split()[1] == "1" and its["Seccomp"].split()[1] == "2"


@pytest.mark.parametrize("user", [User(), ROOT], ids=["user", "root"])
async def test_what_the_engine_and_the_agent_have_is_out_of_reach(backend: DockerBackend, user: User) -> None:
    async with running(backend, spec(user=user)) as sandbox:
        for attempt in (
            "ls /.agentkernel/closed/run",
            "echo x > /.agentkernel/bin/agentkernel-guest",
            "rm /.agentkernel/closed/run/agent.sock",
            "cat /proc/kcore",
            "cat /proc/1/environ",
            "echo 1 > /proc/sys/kernel/panic",
            "ls /sys/firmware/*",
            "cat /sys/fs/cgroup/memory/release_agent",
            "chroot / true",
            "mknod /tmp/null c 1 3 && head -c1 /tmp/null",
        ):
            result = await sandbox.exec(Command(argv=(b"sh", b"-c", attempt.encode())))
            assert result.exit_code != 0, f"{attempt!r} was possible: {result.stdout!r}"
        assert await said(sandbox, "ls /dev | grep -E '^(sd|vd|nvme|kvm|mem|kmsg|fuse|loop)'") == ""


async def test_the_agents_own_is_closed_whatever_the_image_has_in_its_place(
    dockerd: DockerHost, backend: DockerBackend, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    archive = tmp_path / "open.tar"
    shutil.copy(python_image(tmp_path_factory.getbasetemp()), archive)
    with tarfile.open(archive, "a", format=tarfile.GNU_FORMAT) as tar:
        for name in (".agentkernel", ".agentkernel/closed", ".agentkernel/closed/run"):
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o777
            tar.addfile(member)
    dockerd.load_image(archive, "localhost/ak-tests:open")
    async with running(backend, spec("localhost/ak-tests:open")) as sandbox:
        for attempt in ("ls /.agentkernel/closed", "mv /.agentkernel/closed /.agentkernel/other", "rm -r /.agentkernel/closed"):
            result = await sandbox.exec(Command(argv=(b"sh", b"-c", attempt.encode())))
            assert result.exit_code != 0, attempt


async def test_a_home_is_shown_without_what_links_lead_to_and_without_sockets(backend: DockerBackend, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "dotfiles" / "keys").mkdir(parents=True)
    (home / "dotfiles" / "keys" / "id").write_text("secret")
    (home / ".keys").symlink_to(home / "dotfiles" / "keys")
    (home / "notes").write_text("shown")
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(home / "agent.sock"))
        agent.listen()
        async with running(backend, spec(home_source=str(home), home_denied=(".keys",))) as sandbox:
            inside = sandbox.spec.user.home
            assert await said(sandbox, f"cat {inside}/notes") == "shown"
            assert "secret" not in await said(sandbox, f"cat {inside}/.keys/id {inside}/dotfiles/keys/id")
            program = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
            result = await sandbox.exec(Command(argv=(b"python3", b"-c", program.encode(), f"{inside}/agent.sock".encode())))
            assert result.exit_code == 1 and b"Error" in result.stderr


async def test_a_read_only_root_has_no_place_to_write_but_tmp(backend: DockerBackend) -> None:
    async with running(backend, spec(read_only_root=True, user=ROOT)) as sandbox:
        script = "for d in / /usr /etc /root /var/tmp /workspace /tmp /dev/shm; do (: > $d/x) 2>/dev/null && echo $d; done; true"
        assert (await said(sandbox, script)).split() == ["/tmp", "/dev/shm"]


async def test_the_environment_and_the_commands_of_the_image_are_not_the_agents(
    dockerd: DockerHost, backend: DockerBackend, tmp_path: Path
) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        f'FROM {REFERENCE}\nENV LEAK=1\nUSER nobody\nWORKDIR /absent\nENTRYPOINT ["/bin/false"]\nHEALTHCHECK CMD false\nVOLUME /data\n'
    )
    dockerd.run("build", "--quiet", "--tag", "localhost/ak-tests:odd", str(context))
    volumes = dockerd.run("volume", "ls", "--quiet")
    async with running(backend, spec("localhost/ak-tests:odd")) as sandbox:
        assert await said(sandbox, "echo $LEAK $(id -u)") == "1000\n"
        name = f"agentkernel-{sandbox.sandbox_id}"
        agent = int(dockerd.run("inspect", "--format", "{{.State.Pid}}", name))
        assert b"LEAK" not in Path(f"/proc/{agent}/environ").read_bytes()
        assert dockerd.run("inspect", "--format", "{{.State.Health}}", name).strip() in ("<nil>", "")
    async with running(backend, spec("localhost/ak-tests:odd", read_only_root=True, user=ROOT)) as sandbox:
        assert "Read-only file system" in await said(sandbox, "echo x > /data/x")
    assert dockerd.run("volume", "ls", "--quiet") == volumes


async def test_what_an_image_lets_be_written_counts_as_the_sandboxs_own(
    dockerd: DockerHost, backend: DockerBackend, tmp_path: Path
) -> None:
    """Storage is in memory here; the container's layer and the image's VOLUME are on the engine's disk all the same."""
    (tmp_path / "Dockerfile").write_text(f"FROM {REFERENCE}\nVOLUME /data\n")
    dockerd.run("build", "--quiet", "--tag", "localhost/ak-tests:volume", str(tmp_path))
    for place in ("/big", "/data/big"):
        limited = spec("localhost/ak-tests:volume", user=ROOT, resources=Resources(disk_bytes=16 * 1024**2))
        async with running(backend, limited) as sandbox:
            script = f"dd if=/dev/zero of={place} bs=1M count=20 && sleep 60"
            result = await sandbox.exec(Command(argv=(b"sh", b"-c", script.encode())))
            assert result.status.limits_hit == (LimitHit.DISK,), place


# --- images


async def test_an_image_with_one_static_program_is_enough(dockerd: DockerHost, backend: DockerBackend, tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("needs busybox")
    dockerd.load_image(small_image(tmp_path, {"/bin/busybox": Path(busybox).read_bytes()}), "localhost/ak-tests:only")
    async with running(backend, spec("localhost/ak-tests:only", network=NetworkMode.FILTERED)) as sandbox:
        result = await sandbox.exec(Command(argv=(b"/bin/busybox", b"echo", b"alone")))
        assert (result.stdout, result.exit_code) == (b"alone\n", 0)
        await sandbox.files.write(f"{sandbox.spec.user.home}/a/b", b"data", parents=True)
        assert await sandbox.files.read(f"{sandbox.spec.user.home}/a/b") == b"data"


async def test_an_image_that_is_not_there_is_named_and_nothing_is_left(dockerd: DockerHost, backend: DockerBackend, state: Path) -> None:
    with pytest.raises(LaunchFailed, match="localhost/ak-tests:absent") as failed:
        await backend.create(spec("localhost/ak-tests:absent"))
    assert "image pull" in failed.value.hint
    assert list((state / "docker" / "sandboxes").iterdir()) == []
    assert dockerd.run("ps", "--all", "--quiet") == ""


async def test_a_certificate_is_shown_by_its_file(backend: DockerBackend, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("certificates\n")
    mounts = (Bind(source=str(bundle), target=CERTIFICATES, executable=False),)
    async with running(backend, spec(mounts=mounts, network=NetworkMode.FILTERED, read_only_root=True)) as sandbox:
        assert await said(sandbox, f"cat {CERTIFICATES} /etc/resolv.conf") == "certificates\nnameserver 127.0.0.1\n"


# --- runtimes and engines that share no socket


async def test_a_runtime_that_the_engine_lacks_is_refused_with_what_brings_it(backend: DockerBackend) -> None:
    with pytest.raises(Unsupported, match="kata") as refused:
        await backend.create(spec(runtime="kata"))
    assert "Kata" in refused.value.hint


async def test_gpus_that_the_engine_lacks_are_refused(backend: DockerBackend) -> None:
    with pytest.raises(Unsupported, match="gpus"):
        await backend.create(spec(gpus="all"))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerHost]:
    """An engine with gVisor's runtime that also listens on TCP: what is reached so may be on any host."""
    runsc = shutil.which("runsc")
    if runsc is None:
        pytest.skip("needs runsc: gVisor")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    runtimes = {"runtimes": {"runsc": {"path": runsc, "runtimeArgs": ["--network=none"]}}}
    with docker_host("--host", f"tcp://127.0.0.1:{port}", "--tls=false", configuration=runtimes) as host:
        host.load_image(python_image(tmp_path_factory.getbasetemp()))
        (host.directory / "port").write_text(str(port))
        yield host


def over_tcp(engine: DockerHost) -> dict[str, str]:
    return {**engine.environment, "DOCKER_HOST": f"tcp://127.0.0.1:{(engine.directory / 'port').read_text()}"}


async def test_with_gvisor_the_stream_is_the_engines_and_the_level_the_runtimes(elsewhere: DockerHost, state: Path) -> None:
    backend = DockerBackend(state, elsewhere.environment)
    found = await backend.probe()
    assert {runtime.name: runtime.level for runtime in found.runtimes}["runsc"] is IsolationLevel.USER_KERNEL
    async with running(backend, spec(runtime="runsc", resources=Resources(memory_bytes=None, cpus=None, pids=None))) as sandbox:
        assert sandbox.spec.level is IsolationLevel.USER_KERNEL
        assert await said(sandbox, "uname -r") != f"{os.uname().release}\n"
        assert (await sandbox.exec(Command(argv=(b"cat",), stdin=True), stdin=b"through")).stdout == b"through"
        assert (await sandbox.exec(Command(argv=(b"sh", b"-c", b"id -u; exit 7")))).exit_code == 7


OPEN_THE_AGENTS = """
import os
for number in range(64):
    path, what = f"/proc/1/fd/{number}", ""
    try:
        what = os.readlink(path)
        os.chmod(path, 0o666)
    except OSError:
        pass
    for how in (os.O_RDONLY, os.O_WRONLY):
        try:
            if os.open(path, how | os.O_NONBLOCK) >= 0 and what not in ("/dev/null", "/proc"):
                print(path, what)
        except OSError:
            pass
"""


async def test_with_gvisor_the_agent_is_apart_from_root_inside_too(elsewhere: DockerHost, state: Path) -> None:
    backend = DockerBackend(state, elsewhere.environment)
    runtime = {each.name: each for each in (await backend.probe()).runtimes}["runsc"]
    assert Feature.AGENT_SEPARATION not in runtime.features, "it is as with the default runtime: native"
    unlimited = Resources(memory_bytes=None, cpus=None, pids=None)
    async with running(backend, spec(runtime="runsc", user=ROOT, resources=unlimited)) as sandbox:
        tried = await sandbox.exec(Command(argv=(b"python3", b"-c", OPEN_THE_AGENTS.encode())))
        assert (tried.stdout, tried.stderr) == (b"", b"")
        assert "not permitted" in await said(sandbox, "kill -9 1")
        assert await said(sandbox, "echo alive") == "alive\n"


async def test_gvisor_hides_of_a_home_what_it_masks_for_no_engine(elsewhere: DockerHost, state: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    for secret in (home / ".aws" / "credentials", home / ".netrc"):
        secret.write_text("secret")
    (home / "notes").write_text("shown")
    unlimited = Resources(memory_bytes=None, cpus=None, pids=None)
    wanted = spec(runtime="runsc", home_source=str(home), home_denied=(".aws", ".netrc"), resources=unlimited)
    async with running(DockerBackend(state, elsewhere.environment), wanted) as sandbox:
        assert await said(sandbox, "cd; cat notes; cat .netrc .aws/credentials 2>/dev/null; true") == "shown"


async def test_an_engine_elsewhere_has_the_same_sandboxes_over_its_own_stream(elsewhere: DockerHost, state: Path, tmp_path: Path) -> None:
    backend = DockerBackend(state, over_tcp(elsewhere))
    found = await backend.probe()
    assert found.ready, found.reason
    assert (found.support(Feature.MOUNTS), found.support(Feature.WORKSPACE_COPY_ON_WRITE)) == (Support.REFUSED, Support.EMULATED)
    project = tmp_path / "project"
    project.mkdir()
    (project / "file").write_text("of the host\n")
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("certificates\n")
    wanted = spec(
        network=NetworkMode.FILTERED,
        storage=StorageKind.DISK,
        workspace=Workspace(mode=WorkspaceMode.COPY_ON_WRITE, source=str(project)),
        mounts=(Bind(source=str(bundle), target=CERTIFICATES, executable=False),),
    )
    for less in (wanted, replace(wanted, workspace=Workspace())):
        with pytest.raises(Unsupported, match="read-only root") as refused:
            await backend.create(replace(less, read_only_root=True))
        assert refused.value.hint == "leave --read-only out"
    sandbox = await backend.boot("e" * 16, wanted, OWNER)
    script = f"cat file {CERTIFICATES}; echo changed > file; stat -c %u . file; echo kept > $HOME/kept"
    assert await said(sandbox, script) == "of the host\ncertificates\n1000\n1000\n"
    process = await sandbox.start(Command(argv=(b"sh", b"-c", b"sleep 0.3; echo late"), detached=True))
    await sandbox.close()
    again = await DockerBackend(state, over_tcp(elsewhere)).recover("e" * 16, wanted, OWNER)
    assert again is not None
    assert b"".join([data async for _, data in (await again.attach(process.exec_id)).output()]) == b"late\n"
    await again.stop()
    back = await backend.boot("e" * 16, wanted, OWNER)
    assert await said(back, "cat file $HOME/kept") == "changed\nkept\n"
    await back.destroy()
    assert (project / "file").read_text() == "of the host\n"
    assert elsewhere.run("ps", "--all", "--quiet") == ""


async def test_a_container_that_is_killed_from_outside_is_lost_at_once(elsewhere: DockerHost, dockerd: DockerHost, state: Path) -> None:
    for host, environment in ((dockerd, dockerd.environment), (elsewhere, over_tcp(elsewhere))):
        backend = DockerBackend(state, environment)
        sandbox = await backend.create(spec())
        waiting = asyncio.create_task(sandbox.exec(Command(argv=(b"sleep", b"60"))))
        await said(sandbox, "true")
        host.run("kill", f"agentkernel-{sandbox.sandbox_id}")
        with pytest.raises(SandboxFailed):
            await asyncio.wait_for(waiting, 20)
        await sandbox.destroy()


# --- engines that are not there, or do not answer


async def test_without_an_engine_it_says_what_is_missing(state: Path, tmp_path: Path) -> None:
    backend = DockerBackend(state, {"DOCKER_HOST": f"unix://{tmp_path}/absent.sock"})
    found = await backend.probe()
    assert not found.ready and "absent.sock" in found.reason and found.remedy
    with pytest.raises(BackendUnavailable):
        await backend.create(spec())
    assert (await backend.sweep(), await backend.sweep_owned(OWNER, ())) == (0, 0)


async def test_who_never_had_a_sandbox_of_an_engine_does_not_ask_it_what_is_left(state: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(tmp_path / "engine.sock"))
        engine.listen()
        engine.setblocking(False)
        backend = DockerBackend(state, {"DOCKER_HOST": f"unix://{tmp_path}/engine.sock"})
        assert (await backend.sweep(), await backend.sweep_owned(OWNER, ())) == (0, 0)
        with pytest.raises(BlockingIOError):
            engine.accept()


async def test_a_socket_that_may_not_be_used_is_told_from_one_that_is_not_there(state: Path, tmp_path: Path) -> None:
    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    found = await DockerBackend(state, {"DOCKER_HOST": f"unix://{path}"}).probe()
    assert not found.ready and "nobody listens" in found.reason


async def test_what_speaks_no_http_is_no_engine(state: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd.sock"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-odd\r\n")
        writer.close()

    server = await asyncio.start_unix_server(serve, str(path))
    async with server:
        found = await DockerBackend(state, {"DOCKER_HOST": f"unix://{path}"}).probe()
    assert not found.ready and "cannot be used" in found.reason
