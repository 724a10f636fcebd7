"""The daemon as a process of its own, over real sandboxes: started, fenced, killed, drained, replaced."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from door_client import DoorClient
from unit.cli_harness import SOURCE

from agentkernel import errors
from agentkernel.channel import door
from agentkernel.channel.frames import FrameType
from agentkernel.channel.messages import parse_resumed
from agentkernel.config.daemon_process import daemon_argv, daemon_environment, last_words, spawn
from agentkernel.model.codec import to_json
from agentkernel.model.request import SandboxRequest

LONG_S = 30.0
STRANGER = 12345
REQUEST = to_json(SandboxRequest(profile="restrictive", cwd="/", backend="namespaces"))


@dataclass
class Daemons:
    """Those of one home."""

    home: Path
    environment: dict[str, str]
    clients: list[DoorClient] = field(default_factory=list)
    pids: set[int] = field(default_factory=set)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def path(self) -> str:
        return str(self.home / "run" / "daemon.sock")

    async def spawn(self) -> None:
        """As every client does it."""
        await asyncio.to_thread(spawn, self.environment)

    def begin(self, *more: str, **options: object) -> subprocess.Popen[bytes]:
        """In the foreground, as a child."""
        argv = [*daemon_argv(background=False), *more]
        environment = options.pop("environment", None) or daemon_environment(self.environment)
        process = subprocess.Popen(argv, env=environment, cwd="/", stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]
        self.processes.append(process)
        return process

    async def client(self) -> DoorClient:
        """Connected, to a daemon that is started where there is none."""
        async with asyncio.timeout(LONG_S):
            while True:
                try:
                    client = await DoorClient(self.path).open()
                    break
                except (FileNotFoundError, ConnectionError):
                    await self.spawn()
        self.clients.append(client)
        self.pids.add(await self.pid(client))
        return client

    async def pid(self, client: DoorClient) -> int:
        return int((await client.call("hello"))["pid"])

    async def box(self, name: str = "box") -> str:
        client = await self.client()
        info = await client.call("create", request=REQUEST, options={"name": name, "start": True})
        return str(info["sandbox_id"])

    async def gone(self, pid: int) -> None:
        """Waits for a process's end."""
        async with asyncio.timeout(LONG_S):
            while _lives(pid):
                await asyncio.sleep(0.01)

    @property
    def log(self) -> str:
        return (self.home / "data" / "daemon.log").read_text()

    async def end(self) -> None:
        client = await self.client()
        for info in await client.call("list", wanted={"ephemeral": True}):
            with contextlib.suppress(errors.NotFound):
                await client.call("remove", name=info["sandbox_id"], force=True)
        pid = await self.pid(client)
        await client.call("drain")
        for each in self.clients:
            each.close()
        await self.gone(pid)
        for process in self.processes:
            process.wait(LONG_S)
            if process.stderr is not None:
                process.stderr.close()


def _lives(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
async def daemons(shared_environment: dict[str, str]) -> AsyncIterator[Daemons]:
    home = Path(tempfile.mkdtemp(prefix="ak-daemon-", dir="/tmp"))  # short: sockets lie in it
    home.chmod(0o755)
    environment = shared_environment | {"AGENTKERNEL_HOME": str(home)}
    daemons = Daemons(home, environment)
    yield daemons
    await daemons.end()
    shutil.rmtree(home)


async def test_fifty_clients_at_once_start_one_daemon(daemons: Daemons) -> None:
    await asyncio.gather(*(daemons.spawn() for _ in range(50)))
    clients = [await DoorClient(daemons.path).open() for _ in range(50)]
    daemons.clients += clients
    assert len({await daemons.pid(client) for client in clients}) == 1
    assert daemons.log.count(" serves ") == 1


async def test_the_daemon_is_nobody_s_child_and_has_little_of_the_environment(daemons: Daemons) -> None:
    daemons.environment |= {"SECRET": "hunter2", "XDG_DATA_DIRS": "/x"}
    pid = await daemons.pid(await daemons.client())
    proc = Path("/proc") / str(pid)
    names = {variable.split(b"=")[0].decode() for variable in (proc / "environ").read_bytes().split(b"\0") if variable}
    assert "SECRET" not in names
    assert names <= {"PATH", "HOME", "LANG", "PYTHONPATH", "XDG_DATA_DIRS", "AGENTKERNEL_HOME", "AGENTKERNEL_GUEST", "AGENTKERNEL_RUNSC"}
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    assert int(fields[1]) != os.getpid()
    assert int(fields[3]) == pid  # a session of its own
    assert os.readlink(proc / "cwd") == "/"
    assert {os.readlink(proc / "fd" / str(number)) for number in (0, 1)} == {"/dev/null"}
    limits = (proc / "limits").read_text().splitlines()
    assert next(line.split()[4:6] for line in limits if line.startswith("Max core file size")) == ["0", "0"]  # secrets are in its memory


async def test_a_second_daemon_leaves_the_first_alone(daemons: Daemons) -> None:
    client = await daemons.client()
    second = daemons.begin()
    assert await asyncio.to_thread(second.wait, LONG_S) == 0
    assert second.stderr is not None
    assert second.stderr.read() == b""
    assert (await client.call("status"))["clients"] == 1
    await daemons.client()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
async def test_nobody_else_gets_in(daemons: Daemons) -> None:
    client = await daemons.client()
    program = "import os, socket, sys\nos.setresuid(12345, 12345, 12345)\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\nprint(s.recv(1))"
    refused = await asyncio.to_thread(_python, program, daemons.path)
    assert "PermissionError" in refused.stderr
    os.chmod(daemons.path, 0o666)
    assert (await asyncio.to_thread(_python, program, daemons.path)).stdout == "b''\n"
    assert (await client.call("status"))["clients"] == 1
    assert f"uid {STRANGER} was turned away" in daemons.log


def _python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=LONG_S)


async def test_a_kill_in_the_middle_of_fifty_megabytes_loses_nothing(daemons: Daemons) -> None:
    await daemons.box()
    client = await daemons.client()
    size = 50 * 2**20
    last = 6_700_000
    await client.start(9, "box", f"seq 1 {last}; exit 7")
    kills = 0
    digest = hashlib.sha256()
    taken = 0
    while True:
        try:
            while True:
                if kills < 4 and len(client.output.get((9, 1), b"")) > (kills + 1) * size // 5:
                    kills += 1
                    os.kill(await daemons.pid(client), signal.SIGKILL)
                frame = next((frame for frame in client.frames if frame.id == 9 and frame.type == FrameType.EXITED), None)
                if frame is not None:
                    break
                await client._receive()
            break
        except ConnectionError:
            stood = len(client.output[9, 1])
            digest.update(client.output[9, 1][taken:])
            taken = stood
            client = await daemons.client()
            client.output[9, 1] = bytearray(stood)
            await client.send(FrameType.RESUME, 9, door.encode_addressed("box", struct.pack("<QQ", stood, 0)))
            assert parse_resumed((await client.until(FrameType.RESUMED, 9)).payload).stdout_first <= stood
    assert kills == 4
    assert (await client.exited(9))[:2] == (7, 0)
    digest.update(client.output[9, 1][taken:])
    assert len(client.output[9, 1]) > size
    assert digest.digest() == hashlib.sha256("".join(f"{number}\n" for number in range(1, last + 1)).encode()).digest()


async def test_twenty_megabytes_go_in_and_come_out(daemons: Daemons) -> None:
    await daemons.box()
    client = await daemons.client()
    await client.start(9, "box", "cat", stdin=True)
    data = os.urandom(2**20) * 20
    sent = 0
    while sent < len(data):
        account = (await client.until(FrameType.STDIN_CONSUMED, 9)).payload
        limit = struct.unpack("<QQ", account)[1]
        while sent < min(limit, len(data)):
            piece = data[sent : min(sent + 65_536, limit)]
            await client.send(FrameType.STDIN, 9, struct.pack("<Q", sent) + piece, int(sent + len(piece) == len(data)))
            sent += len(piece)
    assert (await client.exited(9))[0] == 0
    assert client.output[9, 1] == data


async def test_two_hundred_clients_run_a_command_each(daemons: Daemons) -> None:
    await daemons.box()

    async def work(number: int) -> None:
        client = await DoorClient(daemons.path).open()
        daemons.clients.append(client)
        await client.start(number, "box", f"echo {number}")
        assert (await client.exited(number))[0] == 0
        assert client.output[number, 1] == b"%d\n" % number

    await asyncio.gather(*(work(number) for number in range(1, 201)))
    rss = (await (await daemons.client()).call("status"))["rss_bytes"]
    assert rss < 60 * 2**20


async def test_being_told_to_end_it_waits_for_what_is_under_way_and_leaves_what_lasts(daemons: Daemons) -> None:
    box = await daemons.box()
    client = await daemons.client()
    pid = await daemons.pid(client)
    await client.start(8, "box", "echo begun; sleep 1; echo ended; exit 4")
    await client.start(9, "box", "echo begun; sleep 600", detached=True)
    await client.shows(8, b"begun")
    await client.shows(9, b"begun")
    os.kill(pid, signal.SIGTERM)
    async with asyncio.timeout(LONG_S):
        with pytest.raises(errors.DaemonUnavailable):
            while True:  # until the signal has come
                await client.call("info", name="box")
    assert (await client.exited(8))[0] == 4
    await daemons.gone(pid)
    again = await daemons.client()
    assert (await again.call("info", name="box"))["status"] == "running"
    await again.send(FrameType.RESUME, 9, door.encode_addressed(box, bytes(16)))
    await again.shows(9, b"begun")
    await again.send(FrameType.KILL, 9, struct.pack("<I", 2))
    assert (await again.exited(9))[1] == 2


async def test_a_command_that_outlasts_the_draining_goes_on_with_the_next_daemon(daemons: Daemons) -> None:
    await daemons.box()
    client = await daemons.client()
    pid = await daemons.pid(client)
    await client.start(8, "box", "echo begun; read x; echo $x", stdin=True)
    await client.shows(8, b"begun")
    os.kill(pid, signal.SIGTERM)
    await client.gone()
    await daemons.gone(pid)
    again = await daemons.client()
    await again.send(FrameType.RESUME, 8, door.encode_addressed("box", struct.pack("<QQ", 6, 0)))
    await again.until(FrameType.RESUMED, 8)
    await again.send(FrameType.STDIN, 8, struct.pack("<Q", 0) + b"later\n", 1)
    assert (await again.exited(8))[0] == 0
    assert again.output[8, 1][6:] == b"later\n"


async def test_a_second_signal_ends_it_at_once_and_a_hangup_does_nothing(daemons: Daemons) -> None:
    await daemons.box()
    client = await daemons.client()
    pid = await daemons.pid(client)
    os.kill(pid, signal.SIGHUP)
    await client.start(8, "box", "echo begun; sleep 600")
    await client.shows(8, b"begun")
    os.kill(pid, signal.SIGTERM)
    async with asyncio.timeout(LONG_S):
        while Path(daemons.path).exists():
            await asyncio.sleep(0.01)
    os.kill(pid, signal.SIGTERM)
    await daemons.gone(pid)
    assert (await (await daemons.client()).call("info", name="box"))["status"] == "running"


async def test_it_ends_when_nobody_is_there_and_no_sandbox(daemons: Daemons) -> None:
    process = daemons.begin("--idle", "0.3")
    async with asyncio.timeout(LONG_S):
        while not Path(daemons.path).exists():
            await asyncio.sleep(0.01)
    box = await daemons.box()
    for client in daemons.clients:
        client.close()
    with pytest.raises(subprocess.TimeoutExpired):
        await asyncio.to_thread(process.wait, 1.0)  # there is a sandbox
    client = await daemons.client()
    await client.call("remove", name=box, force=True)
    client.close()
    assert await asyncio.to_thread(process.wait, LONG_S) == 0
    assert not Path(daemons.path).exists()
    assert "nobody was there" in daemons.log


async def test_a_client_of_a_later_version_gets_another_daemon(daemons: Daemons) -> None:
    client = await daemons.client()
    pid = await daemons.pid(client)
    assert (await client.call("hello", version="0.0.1"))["pid"] == pid
    await client.call("hello", version="99.0")
    await daemons.gone(pid)
    assert await daemons.pid(await daemons.client()) != pid


async def test_a_replaced_package_replaces_the_daemon(daemons: Daemons) -> None:
    copy = daemons.home / "package"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    process = daemons.begin(environment=daemon_environment(daemons.environment) | {"PYTHONPATH": str(copy)})
    async with asyncio.timeout(LONG_S):
        while not Path(daemons.path).exists():
            await asyncio.sleep(0.01)
    client = await daemons.client()
    init = copy / "agentkernel" / "__init__.py"
    init.with_suffix(".new").write_text(init.read_text().replace('__version__ = "', '__version__ = "99.'))
    os.replace(init.with_suffix(".new"), init)
    with contextlib.suppress(ConnectionError):
        (await DoorClient(daemons.path).open()).close()
    await client.gone()
    async with asyncio.timeout(LONG_S):
        while True:  # by somebody who starts none: a client that does may be quicker, and then its daemon is the next one
            with contextlib.suppress(FileNotFoundError, ConnectionError):
                client = await DoorClient(daemons.path).open()
                with contextlib.closing(client):
                    hello = await client.call("hello")
                if hello["version"].startswith("99."):
                    break
            await asyncio.sleep(0.01)
    assert hello["pid"] == process.pid  # the same process: whoever watches it sees one daemon


async def test_a_socket_that_is_passed_is_taken(daemons: Daemons) -> None:
    (daemons.home / "run").mkdir(mode=0o711)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(daemons.path)
    os.chmod(daemons.path, 0o600)
    listening.listen(5)
    waiting = asyncio.create_task(DoorClient(daemons.path).open())
    wrapper = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.argv[2], sys.argv[2:])"
    )
    environment = daemon_environment(daemons.environment) | {"LISTEN_FDS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", wrapper, str(listening.fileno()), *daemon_argv(background=False)],
        env=environment,
        pass_fds=[listening.fileno()],
        stderr=subprocess.PIPE,
    )
    daemons.processes.append(process)
    client = await asyncio.wait_for(waiting, LONG_S)
    daemons.clients.append(client)
    assert await daemons.pid(client) == process.pid
    await client.call("drain")
    assert await asyncio.to_thread(process.wait, LONG_S) == 0
    assert Path(daemons.path).exists()  # it is systemd's
    listening.close()
    os.unlink(daemons.path)


async def test_a_daemon_that_cannot_start_says_why(daemons: Daemons) -> None:
    (daemons.home / "data").write_text("in the way")
    try:
        await daemons.spawn()
        assert "the daemon cannot start" in last_words(daemons.environment)
    finally:
        (daemons.home / "data").unlink()


async def test_a_stopped_daemon_s_place_is_not_taken(daemons: Daemons) -> None:
    client = await daemons.client()
    pid = await daemons.pid(client)
    os.kill(pid, signal.SIGSTOP)
    try:
        second = daemons.begin()
        assert await asyncio.to_thread(second.wait, LONG_S) == 0
    finally:
        os.kill(pid, signal.SIGCONT)
    assert await daemons.pid(client) == pid
