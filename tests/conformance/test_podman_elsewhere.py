"""Podman where it shares neither sockets nor directories with this host, and with another runtime than its own: over its sessions."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from engines.docker import image_of_tests
from engines.images import REFERENCE
from engines.podman import PodmanHost, another_podman, podman_host, with_image_of_tests

from agentkernel.abc import Backend, Sandbox
from agentkernel.backends.containers.api import Api
from agentkernel.backends.containers.backend import ContainersBackend
from agentkernel.backends.containers.dialect import EngineFacts
from agentkernel.backends.containers.endpoint import Endpoint, Transport
from agentkernel.backends.containers.podman import PodmanBackend, PodmanDialect
from agentkernel.backends.containers.podman_makers import Makers
from agentkernel.backends.containers.podman_service import PodmanService
from agentkernel.errors import LaunchFailed, Unsupported
from agentkernel.model.command import Command
from agentkernel.model.isolation import Feature, Fingerprint, IsolationLevel, Support
from agentkernel.model.spec import RootFilesystem, RootKind, SandboxSpec, StorageKind, User
from agentkernel.testing.base import eventually, shell
from agentkernel.testing.exec import InputConformance


class Elsewhere(PodmanDialect):
    """A Podman that is not on this host, as far as anybody asks."""

    async def facts(self) -> EngineFacts:
        return replace(await super().facts(), local=False)


class BackendElsewhere(ContainersBackend):
    def __init__(self, state_directory: Path) -> None:
        super().__init__(Elsewhere(data=state_directory / "data"), state_directory)


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PodmanHost, str]]:
    with podman_host() as host:
        yield host, with_image_of_tests(host, image_of_tests(tmp_path_factory.getbasetemp(), None))


@pytest.fixture
def named(podman: tuple[PodmanHost, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The tests' image, of a Podman that this process's environment names."""
    host, image = podman
    for name, value in host.environment.items():
        monkeypatch.setenv(name, value)
    return image


def spec_of(image: str) -> SandboxSpec:
    root = RootFilesystem(kind=RootKind.IMAGE, reference=REFERENCE, digest=image, label=REFERENCE)
    return SandboxSpec(name="elsewhere", profile="moderate", root=root, environment=(("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8")))


class TestPodmanElsewhere(InputConformance):
    @pytest.fixture
    def backend(self, named: str, state_directory: Path) -> Backend:
        self._image, self._state = named, state_directory
        return BackendElsewhere(state_directory)

    def base_spec(self) -> SandboxSpec:
        return spec_of(self._image)

    async def test_what_needs_this_hosts_directories_is_said(self, fingerprint: Fingerprint) -> None:
        assert fingerprint.support(Feature.MOUNTS) is Support.REFUSED
        assert fingerprint.support(Feature.WORKSPACE_COPY_ON_WRITE) is Support.EMULATED

    async def test_it_goes_on_without_its_engine_and_keeps_its_files(self, backend: Backend, fingerprint: Fingerprint) -> None:
        spec, sandbox_id, owner = self.spec(storage=StorageKind.DISK), os.urandom(8).hex(), os.urandom(16).hex()
        first = await backend.boot(sandbox_id, spec, owner)
        process = await first.start(Command(argv=shell("echo kept > kept; sleep 0.5; echo done"), detached=True))
        await first.close()
        again = await BackendElsewhere(self._state).recover(sandbox_id, spec, owner)
        assert again is not None
        taken = await again.attach(process.exec_id)
        assert b"".join([data async for _, data in taken.output()]) == b"done\n"
        await again.stop()
        booted = await backend.boot(sandbox_id, spec, owner)
        assert (await booted.exec(Command(argv=shell("cat kept")))).stdout == b"kept\n"
        await booted.destroy()
        assert await backend.sweep_owned(owner, ()) == 0


@asynccontextmanager
async def running(backend: Backend, spec: SandboxSpec) -> AsyncIterator[Sandbox]:
    sandbox = await backend.create(spec)
    try:
        yield sandbox
    finally:
        await sandbox.destroy()


@pytest.mark.skipif(os.geteuid() != 0, reason="a plain user's runsc needs more than this host gives")
async def test_gvisor_as_podmans_runtime_isolates_more(named: str, state_directory: Path) -> None:
    if shutil.which("runsc") is None:
        pytest.skip("needs runsc")
    backend = PodmanBackend(state_directory)
    fingerprint = await backend.probe()
    runtime = {each.name: each for each in fingerprint.runtimes}["runsc"]
    assert runtime.level is IsolationLevel.USER_KERNEL
    assert fingerprint.support(Feature.AGENT_SEPARATION) is Support.NATIVE
    assert runtime.features[Feature.AGENT_SEPARATION].support is Support.EMULATED
    root = User(uid=0, gid=0, name="root", home="/root")
    for user, closed in ((User(), True), (root, False)):
        async with running(backend, replace(spec_of(named), runtime="runsc", user=user)) as sandbox:
            reached = await sandbox.exec(Command(argv=shell("test -S /.agentkernel/closed/agent.sock")))
            assert (reached.exit_code != 0) is closed, "as declared: root inside gets to the agent's socket"
    async with running(backend, replace(spec_of(named), runtime="runsc")) as sandbox:
        assert sandbox.spec.level is IsolationLevel.USER_KERNEL
        result = await sandbox.exec(Command(argv=shell("id -u; dmesg 2>/dev/null | head -1; cat"), stdin=True), stdin=b"through")
        assert (result.stdout.split(b"\n")[0], result.stdout.endswith(b"through")) == (b"1000", True)


async def test_a_runtime_that_podman_lacks_is_refused_before_anything_is_done(named: str, state_directory: Path) -> None:
    with pytest.raises(Unsupported, match="no runtime 'kata'") as refused:
        await PodmanBackend(state_directory).create(replace(spec_of(named), runtime="kata"))
    assert "katacontainers" in refused.value.hint


async def test_where_nobody_serves_a_service_is_started_and_may_be_killed(
    named: str, state_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if Path("/run/podman/podman.sock").exists():
        pytest.skip("root's own Podman is served on this host")
    monkeypatch.delenv("CONTAINER_HOST")
    backend = PodmanBackend(state_directory)
    async with running(backend, spec_of(named)) as sandbox:
        records = list(Path(os.environ["AGENTKERNEL_HOME"], "run", "podman").glob("*/pid"))
        assert records
        services = [int(record.read_text()) for record in records]
        for pid in services:
            os.kill(pid, signal.SIGKILL)

        async def gone() -> bool:
            return not any(Path(f"/proc/{pid}").exists() for pid in services)

        assert await eventually(gone)
        assert (await sandbox.exec(Command(argv=shell("echo alive")))).stdout == b"alive\n"
        async with running(backend, spec_of(named)) as another:
            assert (await another.exec(Command(argv=shell("echo more")))).stdout == b"more\n"


def containers_of(host: PodmanHost) -> str:
    return host.run("ps", "--all", "--format", "{{.ID}} {{.Names}}")


@pytest.mark.skipif(os.geteuid() != 0, reason="a plain user's Podman keeps one storage")
@pytest.mark.parametrize("tcp", [False, True])
async def test_another_storage_has_its_own_containers(
    podman: tuple[PodmanHost, str], named: str, state_directory: Path, monkeypatch: pytest.MonkeyPatch, *, tcp: bool
) -> None:
    """Whatever its runtime can do on this host: nothing is made in this user's own storage, and nothing stays in the other."""
    here, _ = podman
    before = containers_of(here)
    with another_podman(here, tcp=tcp) as other:
        monkeypatch.setenv("CONTAINER_HOST", other.environment["CONTAINER_HOST"])
        found = await PodmanBackend(state_directory).probe()
        if not found.ready:
            assert "crun does not run where cgroups are of both versions" in found.reason
        assert (containers_of(here), containers_of(other)) == (before, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="a plain user's Podman keeps one storage")
@pytest.mark.parametrize("tcp", [False, True])
async def test_another_storage_has_the_runtime_that_it_is_served_with(
    podman: tuple[PodmanHost, str], named: str, state_directory: Path, monkeypatch: pytest.MonkeyPatch, *, tcp: bool
) -> None:
    here, _ = podman
    before = containers_of(here)
    with another_podman(here, "--runtime", shutil.which("runc") or "crun", tcp=tcp) as other:
        monkeypatch.setenv("CONTAINER_HOST", other.environment["CONTAINER_HOST"])
        found = await PodmanBackend(state_directory).probe()
        assert (found.reason, found.ready, len(found.runtimes)) == ("", True, 1)
        assert (containers_of(here), containers_of(other)) == (before, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="a plain user's Podman keeps one storage")
async def test_what_was_created_in_another_storage_than_the_engines_is_removed_there(podman: tuple[PodmanHost, str], named: str) -> None:
    here, _ = podman
    before = containers_of(here)
    with another_podman(here) as other:
        api = Api(lambda: Endpoint(transport=Transport.UNIX, address=str(other.socket)))
        makers = Makers(api, lambda _: Endpoint(transport=Transport.UNIX, address=str(here.socket)), "Podman")
        assert not await makers.share(await api.call("GET", "/libpod/info"), "runc")
        with pytest.raises(LaunchFailed, match="has other containers"):
            await makers.create("runc", {"name": "stranded", "image": REFERENCE, "command": ["/bin/true"]})
        assert (containers_of(here), containers_of(other)) == (before, "")
        makers.close()
        api.close()


IN_ANOTHER_NAMESPACE = """
import os, pathlib, sys
from agentkernel.backends.containers.podman_service import PodmanService
service = PodmanService(sys.argv[1], pathlib.Path(sys.argv[2]), os.environ)
service.open(10).close()
print(service.address)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a plain user's Podman goes into a mount namespace of its own anyway")
def test_a_service_that_was_started_in_another_mount_namespace_is_not_used(named: str) -> None:
    podman, directory = shutil.which("podman") or "", Path(os.environ["AGENTKERNEL_HOME"], "run", "podman")
    argv = ["unshare", "--mount", "--", sys.executable, "-c", IN_ANOTHER_NAMESPACE, podman, str(directory)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    elsewhere = Path(subprocess.run(argv, check=True, env=environment, capture_output=True, text=True).stdout.strip())
    service = PodmanService(podman, directory, os.environ)
    service.open(10).close()
    here = os.readlink("/proc/self/ns/mnt")
    assert mount_namespace(Path(service.address)) == here
    assert mount_namespace(elsewhere) != here


def mount_namespace(address: Path) -> str:
    """Of the process that serves there."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(address))
        pid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return os.readlink(f"/proc/{pid}/ns/mnt")
