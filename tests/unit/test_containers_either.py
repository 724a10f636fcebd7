"""What holds with Docker and Podman alike: images that are odd where something is mounted, and what a killed process leaves in an engine."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conformance.roots import ENVIRONMENT
from engines.docker import DockerHost
from engines.podman import PodmanHost, podman_host

from agentkernel.abc import Sandbox
from agentkernel.backends.containers.backend import ContainersBackend, DockerBackend
from agentkernel.backends.containers.podman import PodmanBackend
from agentkernel.errors import LaunchFailed
from agentkernel.model.command import Command
from agentkernel.model.spec import Bind, RootFilesystem, RootKind, SandboxSpec, StorageKind, User

OWNER = "ef" * 16
ROOT = User(uid=0, gid=0, name="root", home="/root")
CLOSED = "localhost/ak-places:closed"
PLACES = ("tmp", "var/tmp", "home", "home/user", "workspace", "root")


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A real engine of the tests' own."""

    host: DockerHost | PodmanHost
    environment: dict[str, str]

    def backend(self, state: Path) -> ContainersBackend:
        """One more user of it."""
        make = DockerBackend if isinstance(self.host, DockerHost) else PodmanBackend
        return make(state, {**os.environ, **self.environment})


@pytest.fixture(scope="module", params=["docker", "podman"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if request.param == "docker":
        docker: DockerHost = request.getfixturevalue("dockerd")
        yield Engine(host=docker, environment=docker.environment)
    else:
        with podman_host() as podman:
            yield Engine(host=podman, environment=podman.environment)


@pytest.fixture(autouse=True)
def _surroundings(engine: Engine, guest_binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTKERNEL_GUEST", str(guest_binary))
    for name, value in engine.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def backend(engine: Engine, tmp_path: Path) -> ContainersBackend:
    state = tmp_path / "s"
    state.mkdir(mode=0o711)
    return engine.backend(state)


@pytest.fixture
def busybox() -> str:
    program = shutil.which("busybox")
    if program is None:
        pytest.skip("needs busybox (Debian: busybox-static)")
    return program


def imported(engine: Engine, place: Path, busybox: str, reference: str, members: dict[str, tarfile.TarInfo | bytes], *options: str) -> None:
    """Imports an image of busybox and these members, by path; bytes are a file's content."""
    archive = place / "image.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(busybox, arcname="bin/busybox")
        for name in ("sh", "stat", "cat", "touch", "chmod", "ls"):
            link = symlink("busybox")
            link.name = f"bin/{name}"
            tar.addfile(link)
        for path, member in members.items():
            content = member if isinstance(member, bytes) else b""
            header = tarfile.TarInfo() if isinstance(member, bytes) else member
            header.name, header.size = path, len(content)
            tar.addfile(header, io.BytesIO(content))
    engine.host.run("import", *options, str(archive), reference)


def directory(mode: int, uid: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo()
    member.type, member.mode, member.uid, member.gid = tarfile.DIRTYPE, mode, uid, uid
    return member


def symlink(target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo()
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def spec(reference: str, **changes: Any) -> SandboxSpec:
    root = RootFilesystem(kind=RootKind.IMAGE, reference=reference)
    return SandboxSpec(**{"name": "places", "profile": "moderate", "root": root, "environment": ENVIRONMENT, **changes})


@asynccontextmanager
async def running(backend: ContainersBackend, wanted: SandboxSpec) -> AsyncIterator[Sandbox]:
    sandbox = await backend.create(wanted)
    try:
        yield sandbox
    finally:
        await sandbox.destroy()


async def said(sandbox: Sandbox, script: str) -> str:
    result = await sandbox.exec(Command(argv=(b"sh", b"-c", script.encode()), cwd="/"))
    return (result.stdout + result.stderr).decode()


@pytest.mark.parametrize(
    ("storage", "user"),
    [(StorageKind.MEMORY, User()), (StorageKind.DISK, User()), (StorageKind.MEMORY, ROOT)],
    ids=["memory", "disk", "root"],
)
async def test_what_an_image_has_closed_is_the_workloads_to_write(
    engine: Engine, backend: ContainersBackend, tmp_path: Path, busybox: str, storage: StorageKind, user: User
) -> None:
    """runc before 1.2 gives a file system in memory the mode of what is in its place, and no engine opens what is above."""
    imported(engine, tmp_path, busybox, CLOSED, {place: directory(0o700, 4321) for place in PLACES})
    async with running(backend, spec(CLOSED, storage=storage, user=user)) as sandbox:
        for place, mode in (("/tmp", "1777 0"), ("/var/tmp", "1777 0"), (user.home, f"755 {user.uid}"), ("/workspace", f"755 {user.uid}")):
            assert await said(sandbox, f"cd {place} && stat -c '%a %u' . && touch it && echo done") == f"{mode}\ndone\n", place


async def test_a_place_is_opened_again_by_each_start_and_by_who_takes_up_what_a_crash_left(
    engine: Engine, backend: ContainersBackend, tmp_path: Path, busybox: str
) -> None:
    imported(engine, tmp_path, busybox, CLOSED, {place: directory(0o700) for place in PLACES})
    lasting = spec(CLOSED, storage=StorageKind.DISK)
    sandbox = await backend.boot("a" * 16, lasting, OWNER)
    assert await said(sandbox, "chmod 700 $HOME && touch $HOME/kept /tmp/gone && echo done") == "done\n"
    await sandbox.stop()
    sandbox = await backend.boot("a" * 16, lasting, OWNER)
    assert await said(sandbox, "stat -c %a $HOME && touch $HOME/kept /tmp/new && ls /tmp") == "700\nnew\n"
    await sandbox.close()
    (ready,) = tmp_path.glob("s/*/lasting/*/files/ready")
    ready.unlink()
    again = await engine.backend(tmp_path / "s").recover("a" * 16, lasting, OWNER)
    assert again is not None and ready.exists()
    await again.stop()
    assert await backend.has_files("a" * 16, OWNER)
    engine.host.run("container", "prune", "--force")  # by whoever tidies up
    assert not await backend.has_files("a" * 16, OWNER)
    await backend.discard("a" * 16, OWNER)


async def test_what_is_shown_of_the_host_keeps_its_mode_wherever_an_image_links_to(
    engine: Engine, backend: ContainersBackend, tmp_path: Path, busybox: str
) -> None:
    shown = tmp_path / "shown"
    (shown / "tmp").mkdir(parents=True)
    shown.chmod(0o711)
    (shown / "tmp").chmod(0o711)
    links = {"workspace": symlink("/shown"), "tmp": symlink("/shown/tmp")}
    imported(engine, tmp_path, busybox, "localhost/ak-places:links", {"shown": directory(0o755), **links})
    mounted = spec("localhost/ak-places:links", mounts=(Bind(source=str(shown), target="/shown", writable=True),))
    async with running(backend, mounted):
        assert [stat.S_IMODE(path.stat().st_mode) for path in (shown, shown / "tmp")] == [0o711, 0o711]


@pytest.mark.parametrize(
    ("path", "member", "kind"),
    [(".agentkernel", b"x", "file"), (".agentkernel", symlink("/srv"), "link"), ("home", b"x", "file"), ("tmp", symlink("/tmp"), "link")],
    ids=["own-file", "own-link", "above-home", "loop"],
)
async def test_an_image_with_something_in_the_way_is_refused_in_one_line_and_nothing_is_left(
    engine: Engine, backend: ContainersBackend, tmp_path: Path, busybox: str, path: str, member: tarfile.TarInfo | bytes, kind: str
) -> None:
    imported(engine, tmp_path, busybox, "localhost/ak-places:odd", {"srv": directory(0o755), path: member})
    with pytest.raises(LaunchFailed) as refused:
        await backend.boot("c" * 16, spec("localhost/ak-places:odd", storage=StorageKind.DISK), OWNER)
    assert refused.value.message.startswith(f"the image has a {kind} at /{path}, where the sandbox")
    assert (refused.value.code, refused.value.hint) == ("launch_failed", "use an image without it")
    assert (containers(engine), list((tmp_path / "s" / backend.name).glob("*/*"))) == ([], [])


async def test_what_must_not_be_seen_of_a_home_is_found_out_at_each_start(
    engine: Engine, backend: ContainersBackend, tmp_path: Path, busybox: str
) -> None:
    imported(engine, tmp_path, busybox, "localhost/ak-places:home", {})
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    (home / ".aws" / "credentials").write_text("secret")
    (home / "notes").write_text("shown\n")
    wanted = spec("localhost/ak-places:home", home_source=str(home), home_denied=(".aws", ".netrc", ".ssh"), storage=StorageKind.DISK)
    look = "cd; cat notes; cat .netrc .aws/* .ssh/* 2>/dev/null; ls .aws"
    sandbox = await backend.boot("b" * 16, wanted, OWNER)
    assert await said(sandbox, look) == "shown\n"
    await sandbox.stop()
    (home / ".ssh").mkdir()
    for secret in (home / ".netrc", home / ".ssh" / "id"):
        secret.write_text("secret")
    sandbox = await backend.boot("b" * 16, wanted, OWNER)
    assert "secret" not in (shown := await said(sandbox, f"{look}; ls -A")) and shown.endswith(".aws\n.netrc\n.ssh\nnotes\n"), shown
    await sandbox.destroy()
    assert [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"{tmp_path}/s" in line] == []


# --- what a killed process leaves


LOOK = """
import asyncio, sys
from pathlib import Path
from agentkernel.backends.containers.backend import DockerBackend
from agentkernel.backends.containers.podman import PodmanBackend
from agentkernel.backends.containers.guest_volume import Guest, fill

name, state, act, argument = sys.argv[1:]
backend = {"docker": DockerBackend, "podman": PodmanBackend}[name](Path(state))

async def main():
    if act == "look":
        await backend.keeper.find(argument)
    else:
        guest = Guest(path=Path(argument), digest="0" * 16, size=Path(argument).stat().st_size)
        await fill(backend._host.dialect.api, guest, backend._host.momentary)

asyncio.run(main())
"""


def containers(engine: Engine) -> list[str]:
    return engine.host.run("ps", "--all", "--format", "{{.Names}}", "--filter", "label=agentkernel.sandbox").split()


@pytest.mark.parametrize(("act", "is_recorded"), [("look", True), ("fill", False)], ids=["look", "fill-before-the-hosts-restart"])
async def test_a_container_that_is_made_for_a_moment_is_swept_once_its_maker_was_killed(
    engine: Engine, backend: ContainersBackend, tmp_path: Path, guest_binary: Path, busybox: str, act: str, is_recorded: bool
) -> None:
    imported(engine, tmp_path, busybox, "localhost/ak-places:user", {}, "--change", "USER service")
    argument = "localhost/ak-places:user" if act == "look" else str(guest_binary)
    argv = [sys.executable, "-c", LOOK, backend.name, str(tmp_path / "s"), act, argument]
    surroundings = {**os.environ, **engine.environment, "PYTHONPATH": os.pathsep.join(sys.path)}
    surroundings["AGENTKERNEL_FAILPOINTS"] = "containers.momentary.created=kill"
    done = await asyncio.to_thread(subprocess.run, argv, env=surroundings, capture_output=True, text=True, timeout=60)
    assert done.returncode == -9, done.stderr[-2000:]
    (left,) = containers(engine)
    (record,) = (tmp_path / "s" / backend.name / "sandboxes").iterdir()
    assert left == f"agentkernel-{record.name}", "its name was recorded before it was made"
    if not is_recorded:
        shutil.rmtree(record)
    strangers = [f"agentkernel-{'5' * 15}{number}" for number in range(2)]
    labels = ("--label", f"agentkernel.sandbox={record.name}", "--label", f"agentkernel.owner={backend._host.lease_label}")
    engine.host.run("create", "--name", strangers[0], *labels, "localhost/ak-places:user", "sh")
    engine.host.run("create", "--name", strangers[1], "--label", "agentkernel.sandbox=5", "localhost/ak-places:user", "sh")
    try:
        assert await backend.sweep() == 1
        assert sorted(containers(engine)) == strangers, "and what only says that it is ours stays"
        assert await backend.sweep() == 0
    finally:
        engine.host.run("rm", "--force", *strangers)


async def test_nothing_is_left_of_a_look_into_an_image(engine: Engine, backend: ContainersBackend, tmp_path: Path, busybox: str) -> None:
    reference = "localhost/ak-places:passwd"
    content = b"service:x:4321:4322::/srv:/bin/sh\n"
    imported(engine, tmp_path, busybox, reference, {"etc/passwd": content}, "--change", "USER service")
    found = await backend.keeper.find(reference)
    assert found is not None and found.users == (("service", 4321, 4322),)
    assert containers(engine) == [] and list((tmp_path / "s" / backend.name / "sandboxes").iterdir()) == []
