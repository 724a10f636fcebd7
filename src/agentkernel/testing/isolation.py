"""What the workload can see and reach: the root, the network, the kernel, other users."""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentkernel.abc import Backend
from agentkernel.errors import CommandNotFound, CommandNotStarted, TimedOut
from agentkernel.model.command import Command, TerminalSize
from agentkernel.model.isolation import Feature, Fingerprint, Support
from agentkernel.model.spec import NetworkMode, RootFilesystem, RootKind, User
from agentkernel.testing.base import ConformanceBase, here, need, shell
from agentkernel.testing.probe import Probe

ROOT = User(uid=0, gid=0, name="root", home="/root")
NOT_TO_BE_WRITTEN = {errno.EROFS, errno.EACCES, errno.EPERM}
NOT_TO_BE_SEEN = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR}
BUSY_HOST_PORT_TEXT = b"of the host"


class RootConformance(ConformanceBase):
    """The root file system."""

    async def test_the_hosts_other_files_are_hidden(
        self, backend: Backend, fingerprint: Fingerprint, probe_binary: Path, tmp_path: Path
    ) -> None:
        if need(fingerprint, Feature.HOST_ROOT) is not Support.NATIVE:
            pytest.skip(f"{backend.name} only emulates the host's root")
        secret = tmp_path / "secret"
        secret.write_text("of the host")
        secret.chmod(0o644)
        async with self.probing(backend, probe_binary) as probe:
            for path in (
                secret,
                tmp_path,
                Path("/root/.bashrc"),
                Path("/etc/shadow"),
                Path("/etc/sudoers"),
                Path("/var/log"),
            ):
                (number,) = (await probe.facts("open", str(path)))["open"]
                assert number in NOT_TO_BE_SEEN, f"{path} can be opened inside"
            # A kernel of its own may show it, and it holds nothing of whoever started the sandbox.
            first = await probe.sandbox.exec(Command(argv=shell("cat /proc/1/environ")))
            told = {entry for entry in first.stdout.split(b"\0") if entry}
            assert told <= {b"HOME=/root"}, "the first process has variables"

    async def test_system_directories_are_not_writable(self, backend: Backend, fingerprint: Fingerprint, probe_binary: Path) -> None:
        if need(fingerprint, Feature.HOST_ROOT) is not Support.NATIVE:
            pytest.skip(f"{backend.name} only emulates the host's root")
        async with self.probing(backend, probe_binary) as probe:
            for directory in ("/usr", "/usr/bin", "/etc", "/"):
                (number,) = (await probe.facts("open", f"{directory.rstrip('/')}/agentkernel-conformance", "w"))["open"]
                assert number in NOT_TO_BE_WRITTEN, directory
        assert not on_host("/usr/agentkernel-conformance")

    async def test_home_and_tmp_are_private_and_writable(self, backend: Backend, fingerprint: Fingerprint) -> None:
        if need(fingerprint, Feature.HOST_ROOT) is not Support.NATIVE:
            pytest.skip(f"{backend.name} only emulates the host's root")
        async with self.running(backend) as first, self.running(backend) as second:
            for sandbox in (first, second):
                script = 'ls -A "$HOME" /tmp; echo mine > "$HOME/agentkernel-file" && echo mine > /tmp/agentkernel-file && echo written'
                said = (await sandbox.exec(Command(argv=shell(script), environment={b"HOME": sandbox.spec.user.home.encode()}))).stdout
                assert b"agentkernel-file" not in said
                assert said.endswith(b"written\n")
        assert not on_host("/tmp/agentkernel-file")  # noqa: S108 - a name, not a file of ours

    async def test_a_read_only_root_cannot_be_written(
        self, backend: Backend, fingerprint: Fingerprint, probe_binary: Path, tmp_path: Path
    ) -> None:
        need(fingerprint, Feature.READ_ONLY_ROOT)
        root = RootFilesystem(kind=RootKind.DIRECTORY, directory=str(image_with(probe_binary, tmp_path)), label="test")
        own = root if fingerprint.support(Feature.IMAGE_DIRECTORY) is not Support.REFUSED else self.base_spec().root
        async with self.running(backend, root=own, read_only_root=True) as sandbox:
            probe = await _reachable(sandbox.spec.user.home, Probe(sandbox=sandbox, path="/bin/probe"), probe_binary)
            for path in ("/agentkernel-conformance", "/bin/agentkernel-conformance"):
                (number,) = (await probe.facts("open", path, "w"))["open"]
                assert number in NOT_TO_BE_WRITTEN, path

    async def test_an_image_is_the_root_and_never_changes(
        self, backend: Backend, fingerprint: Fingerprint, probe_binary: Path, tmp_path: Path
    ) -> None:
        need(fingerprint, Feature.IMAGE_DIRECTORY)
        image = image_with(probe_binary, tmp_path)
        (image / "etc").mkdir()
        (image / "etc" / "os-release").write_text("NAME=image\n")
        async with self.image(backend, image, user=ROOT) as probe:
            assert await probe.sandbox.files.read("/etc/os-release") == b"NAME=image\n"
            for path in ("/made", "/bin/made"):
                assert (await probe.facts("open", path, "w"))["open"] == [0], "the root is the sandbox's own to write"
        assert sorted(path.name for path in image.rglob("*")) == sorted(["bin", "probe", "etc", "os-release"])

    async def test_an_image_needs_nothing_but_one_static_program(
        self, backend: Backend, fingerprint: Fingerprint, probe_binary: Path, tmp_path: Path
    ) -> None:
        need(fingerprint, Feature.IMAGE_DIRECTORY)
        async with self.image(backend, image_with(probe_binary, tmp_path)) as probe:
            assert (await probe.run("exit", "41")).exit_code == 41
            with pytest.raises(CommandNotFound):
                await probe.sandbox.exec(Command(argv=shell("true")))
            with pytest.raises(TimedOut):
                await probe.run("daemon", here(probe.sandbox, "beats"), "stay", timeout_s=0.5)
            await probe.sandbox.files.write(here(probe.sandbox, "a/b"), b"data", parents=True)
            assert await probe.sandbox.files.read(here(probe.sandbox, "a/b")) == b"data"
            piped = await probe.sandbox.exec(replace(probe.command("cat"), stdin=True), stdin=b"through")
            assert piped.stdout == b"through"
            on_terminal = await probe.sandbox.exec(replace(probe.command("argv", "x"), terminal=TerminalSize(rows=9, columns=9)))
            assert on_terminal.stdout == b"78\r\n"

    @asynccontextmanager
    async def image(self, backend: Backend, directory: Path, **changes: Any) -> AsyncIterator[Probe]:
        """A sandbox whose root is the image in `directory`, with the suite's program at /bin/probe."""
        root = RootFilesystem(kind=RootKind.DIRECTORY, directory=str(directory), label="test")
        async with self.running(backend, root=root, **changes) as sandbox:
            yield Probe(sandbox=sandbox, path="/bin/probe")


class NetworkConformance(ConformanceBase):
    """What the sandbox can reach."""

    async def test_without_network_there_is_only_loopback(self, backend: Backend, fingerprint: Fingerprint, probe_binary: Path) -> None:
        need(fingerprint, Feature.NETWORK_NONE)
        async with self.probing(backend, probe_binary, network=NetworkMode.NONE) as probe:
            assert (await probe.run("interfaces")).stdout == b"lo\n"

    async def test_without_network_the_hosts_loopback_is_not_reached(
        self, backend: Backend, fingerprint: Fingerprint, probe_binary: Path
    ) -> None:
        need(fingerprint, Feature.NETWORK_NONE)
        async with _host_server() as (port, visits), self.probing(backend, probe_binary, network=NetworkMode.NONE) as probe:
            facts = await probe.facts("connect", "127.0.0.1", str(port))
            assert facts["connect"] == [errno.ECONNREFUSED], "its own loopback answers, and nothing listens there"
            outside = await probe.facts("connect", "192.0.2.1", "80")
            assert outside["connect"][0] in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EPERM, errno.EACCES)
        assert visits == []

    async def test_each_sandbox_has_a_loopback_of_its_own(self, backend: Backend, fingerprint: Fingerprint, probe_binary: Path) -> None:
        need(fingerprint, Feature.NETWORK_NONE)
        async with (
            self.probing(backend, probe_binary, network=NetworkMode.NONE) as first,
            self.probing(backend, probe_binary, network=NetworkMode.NONE) as second,
        ):
            for probe in (first, second):
                server = await probe.sandbox.start(probe.command("serve", "18999", timeout_s=None))
                assert await asyncio.wait_for(anext(server.output()), 10) == (1, b"ready\n"), "the port is free in each"
            assert (await first.facts("connect", "127.0.0.1", "18999"))["connect"] == [0]

    async def test_the_hosts_network_is_reached_when_it_is_granted(
        self, backend: Backend, fingerprint: Fingerprint, probe_binary: Path
    ) -> None:
        need(fingerprint, Feature.NETWORK_HOST)
        async with _host_server() as (port, visits), self.probing(backend, probe_binary, network=NetworkMode.HOST) as probe:
            assert (await probe.facts("connect", "127.0.0.1", str(port)))["connect"] == [0]
            await asyncio.sleep(0.05)
        assert len(visits) == 1


class KernelConformance(ConformanceBase):
    """System calls, users and the agent itself."""

    async def test_system_calls_are_filtered(self, probe: Probe, fingerprint: Fingerprint) -> None:
        facts = await probe.facts("identity")
        if fingerprint.support(Feature.SECCOMP) is Support.REFUSED:
            assert facts["seccomp"] == [0], "a filter that was not declared"
            return
        assert facts["seccomp"] == [2]
        numbers = await probe.facts("syscalls")
        assert numbers.pop("unknown") == [errno.ENOSYS]
        through = {name for name, (number,) in numbers.items() if number not in (errno.EPERM, errno.ENOSYS)}
        assert through == set()

    async def test_landlock_is_as_declared(self, probe: Probe, fingerprint: Fingerprint) -> None:
        facts = await probe.facts("landlock")
        if facts.get("landlock_create_ruleset", [0])[0] != 0:
            pytest.skip("the workload may not ask the kernel about Landlock, so layers cannot be counted")
        bare = fingerprint.support(Feature.LANDLOCK) is Support.REFUSED
        assert facts["layers"] == [16] if bare else facts["layers"][0] < 16

    async def test_a_command_can_run_as_another_user(self, probe: Probe, fingerprint: Fingerprint) -> None:
        support = need(fingerprint, Feature.USER_SWITCH)
        command = Command(argv=shell("id -u; id -g; id -G"), user=(1234, 1235), cwd="/")
        if support is not Support.NATIVE:
            with pytest.raises(CommandNotStarted):
                await probe.sandbox.exec(command)
            return
        assert (await probe.sandbox.exec(command)).stdout == b"1234\n1235\n1235\n"
        assert (await probe.sandbox.exec(replace(command, user=(0, 0)))).stdout == b"0\n0\n0\n"

    async def test_a_whole_sandbox_can_belong_to_another_user(self, backend: Backend, fingerprint: Fingerprint, probe_binary: Path) -> None:
        need(fingerprint, Feature.USER_SWITCH)
        if fingerprint.support(Feature.AGENT_SEPARATION) is Support.REFUSED:
            pytest.skip(f"{backend.name} has no users of its own")
        async with self.probing(backend, probe_binary, user=ROOT) as probe:
            facts = await probe.facts("identity")
            assert (facts["uid"], facts["gid"], facts["capabilities"]) == ([0], [0], [0])
            assert (await probe.facts("open", here(probe.sandbox, "made"), "w"))["open"] == [0]

    async def test_the_agent_cannot_be_harmed_from_inside(self, probe: Probe, fingerprint: Fingerprint) -> None:
        support = need(fingerprint, Feature.AGENT_SEPARATION)
        assert (await probe.sandbox.exec(Command(argv=shell("echo $$")))).stdout != b"1\n"
        for number in (0, 2, 9, 15, 19):
            (result,) = (await probe.facts("signal", "1", str(number)))["kill"]
            if support is Support.NATIVE:
                assert result in (errno.EPERM, errno.ESRCH), f"signal {number} reached the agent"
        assert (await probe.sandbox.exec(Command(argv=shell("echo alive"), timeout_s=10))).stdout == b"alive\n"


def on_host(path: str) -> bool:
    """Whether the host has such a file."""
    return Path(path).exists()


def image_with(program: Path, directory: Path) -> Path:
    """An image that holds one program, /bin/probe, and nothing else."""
    image = directory / "image"
    (image / "bin").mkdir(parents=True)
    for made in (directory, image, image / "bin"):
        made.chmod(0o755)
    shutil.copy(program, image / "bin" / "probe")
    (image / "bin" / "probe").chmod(0o755)
    return image


async def _reachable(home: str, wanted: Probe, binary: Path) -> Probe:
    """The program of the image, or a copy in HOME where the root is not an image."""
    try:
        await wanted.run("exit", "0")
    except CommandNotFound:
        path = f"{home}/.probe"
        await wanted.sandbox.files.write(path, await asyncio.to_thread(binary.read_bytes), mode=0o755)
        return replace(wanted, path=path)
    return wanted


@asynccontextmanager
async def _host_server() -> AsyncIterator[tuple[int, list[object]]]:
    """A server on the host's loopback: its port, and who came."""
    visits: list[object] = []

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visits.append(writer.get_extra_info("peername"))
        writer.write(BUSY_HOST_PORT_TEXT)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], visits
