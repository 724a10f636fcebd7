"""The agent over an engine's attach: frames of any size, connections that break, several attaches, TLS and ssh between."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl
import stat
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from agent_process import spec_for
from attached_engine import AttachedEngine

from agentkernel.backends.containers import stdio
from agentkernel.backends.containers.api import Api
from agentkernel.backends.containers.endpoint import Certificates, Endpoint, Transport, parse_endpoint
from agentkernel.channel.messages import NetworkPorts
from agentkernel.channel.sandbox import GuestSandbox, open_sandbox
from agentkernel.errors import NotFound
from agentkernel.model.command import Command, LimitHit
from agentkernel.model.spec import SandboxSpec

FRAME = struct.Struct(">BxxxI")


@dataclass
class Attached:
    """A boundary whose stream is an engine's attach."""

    engine: AttachedEngine
    api: Api
    home: Path
    seccomp: bytes = b""
    rlimits: tuple[tuple[int, int, int], ...] = ()
    network: NetworkPorts | None = None
    backend: str = "attached"
    sandbox_id: str = "0" * 16

    @property
    def spec(self) -> SandboxSpec:
        return spec_for(self.home)

    async def connect(self) -> socket.socket:
        return await stdio.attach(self.api, "box")

    async def wait_dead(self) -> str:
        return await self.engine.wait_dead()

    async def limits_hit(self) -> tuple[LimitHit, ...]:
        return ()

    async def close(self) -> None:
        self.api.close()

    async def stop(self) -> None:
        self.api.close()

    async def destroy(self) -> None:
        self.api.close()


def shell(script: str, *, detached: bool = False) -> Command:
    return Command(argv=(b"sh", b"-c", script.encode()), detached=detached)


@pytest.fixture
async def engine(guest_binary: Path, tmp_path: Path) -> AsyncIterator[AttachedEngine]:
    async with AttachedEngine(guest=guest_binary, directory=tmp_path, noise=b"of the runtime\n") as engine:
        yield engine


def over(engine: AttachedEngine, endpoint: Endpoint) -> Attached:
    return Attached(engine=engine, api=Api(lambda: endpoint), home=engine.directory)


@pytest.fixture
async def sandbox(engine: AttachedEngine) -> AsyncIterator[GuestSandbox]:
    sandbox = await open_sandbox(over(engine, parse_endpoint(engine.path, source="the test")))
    yield sandbox
    await sandbox.destroy()


async def test_commands_run_and_their_streams_are_whole(sandbox: GuestSandbox) -> None:
    result = await sandbox.exec(shell("echo out; echo err >&2; exit 7"))
    assert (result.stdout, result.stderr, result.exit_code) == (b"out\n", b"err\n", 7)
    data = os.urandom(700_000)
    assert (await sandbox.exec(Command(argv=(b"cat",)), stdin=data)).stdout == data


async def test_a_connection_that_breaks_loses_nothing(sandbox: GuestSandbox, engine: AttachedEngine) -> None:
    process = await sandbox.start(shell("for n in 1 2 3 4 5 6; do echo line $n; sleep 0.1; done"))
    said = b""
    async for _, data in process.output():
        said += data
        if b"line 2" in said and engine.attaches == 1:
            engine.cut()
    assert said == b"".join(b"line %d\n" % n for n in range(1, 7))
    assert (await process.wait()).exit_code == 0
    assert engine.attaches == 2


async def test_the_newest_host_is_answered_and_takes_up_what_runs(sandbox: GuestSandbox, engine: AttachedEngine) -> None:
    process = await sandbox.start(shell("echo first; sleep 0.5; echo second", detached=True))
    again = await open_sandbox(over(engine, parse_endpoint(engine.path, source="the test")))
    taken = await again.attach(process.exec_id)
    said = b"".join([data async for _, data in taken.output()])
    assert said == b"first\nsecond\n"
    with pytest.raises(NotFound):
        await again.attach(12345)
    await again.destroy()


async def test_an_attach_that_the_engine_refuses_is_an_error_that_can_be_tried_again(guest_binary: Path, tmp_path: Path) -> None:
    async with AttachedEngine(guest=guest_binary, directory=tmp_path, status="404 Not Found") as engine:
        boundary = over(engine, parse_endpoint(engine.path, source="the test"))
        with pytest.raises(ConnectionError, match="404 Not Found"):
            await boundary.connect()
        await boundary.destroy()


async def test_through_tls_to_an_engine_with_certificates(guest_binary: Path, tmp_path: Path) -> None:
    authority, server, client = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*server)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    async with AttachedEngine(guest=guest_binary, directory=tmp_path, tls=context) as engine:
        files = Certificates(authority=authority, certificate=client[0], key=client[1])
        boundary = over(engine, Endpoint(transport=Transport.TCP, address="localhost", port=engine.port, tls=files))
        sandbox = await open_sandbox(boundary)
        data = os.urandom(500_000)
        assert (await sandbox.exec(Command(argv=(b"cat",)), stdin=data)).stdout == data
        process = await sandbox.start(shell("echo before; sleep 0.3; echo after"))
        engine.cut()
        assert b"".join([data async for _, data in process.output()]) == b"before\nafter\n"
        await sandbox.destroy()
        stranger = Endpoint(transport=Transport.TCP, address="localhost", port=engine.port, tls=Certificates())
        with pytest.raises(ssl.SSLError):
            await asyncio.to_thread(stranger.open, 5.0)


async def test_through_a_program_that_ssh_starts(engine: AttachedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_ssh(tmp_path / "bin", engine.path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    sandbox = await open_sandbox(over(engine, parse_endpoint("ssh://me@far:2222", source="the test")))
    data = os.urandom(300_000)
    assert (await sandbox.exec(Command(argv=(b"cat",)), stdin=data)).stdout == data
    await sandbox.destroy()
    said = (tmp_path / "bin" / "said").read_text().splitlines()[-1]
    assert said == "-T -o BatchMode=yes -o ConnectTimeout=10 -p 2222 -- me@far docker system dial-stdio"


@pytest.mark.parametrize("seed", range(12))
def test_frames_are_taken_off_whatever_the_pieces_are(seed: int) -> None:
    rng = random.Random(seed)
    wanted, framed = bytearray(), bytearray()
    for _ in range(60):
        stream, data = rng.choice([1, 1, 2]), rng.randbytes(rng.choice([0, 1, 7, 8, 9, 300, 5000]))
        framed += FRAME.pack(stream, len(data)) + data
        wanted += data if stream == 1 else b""
    near, far = socket.socketpair()
    reading = stdio.FramedSocket(near.detach())
    reading.setblocking(False)
    got = bytearray()
    with far, reading:
        while framed or len(got) < len(wanted):
            size = rng.choice([1, 3, 8, 9, 100, 4000])
            far.sendall(framed[:size])
            del framed[:size]
            got += taken(reading, rng.choice([1, 2, 8, 50, 6000]))
        assert got == wanted
        far.shutdown(socket.SHUT_WR)
        assert reading.recv_into(bytearray(8)) == 0


@pytest.mark.parametrize("header", [b"\3\0\0\0\0\0\0\1", b"\1\0\1\0\0\0\0\1", b"HTTP/1.1"])
def test_what_is_no_frame_breaks_the_connection(header: bytes) -> None:
    near, far = socket.socketpair()
    with far, stdio.FramedSocket(near.detach()) as reading:
        far.sendall(header)
        with pytest.raises(ConnectionError, match="out of step"):
            reading.recv_into(bytearray(100))


def taken(reading: stdio.FramedSocket, size: int) -> bytes:
    """Everything that is there, read in pieces of that size at most."""
    found = bytearray()
    buffer = bytearray(size)
    while True:
        try:
            count = reading.recv_into(memoryview(buffer))
        except BlockingIOError:
            return bytes(found)
        found += buffer[:count]


def pretend_ssh(directory: Path, path: str) -> None:
    """A program `ssh` that notes its arguments and joins its standard streams with the engine's socket."""
    directory.mkdir()
    program = directory / "ssh"
    program.write_text(
        f"#!{sys.executable} -IS\n"
        "import os, select, socket, sys\n"
        f"open({str(directory / 'said')!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        f"far = socket.socket(socket.AF_UNIX); far.connect({path!r})\n"
        "while True:\n"
        "    for ready in select.select([0, far], [], [])[0]:\n"
        "        data = os.read(ready if ready == 0 else far.fileno(), 65536)\n"
        "        if not data: sys.exit()\n"
        "        far.sendall(data) if ready == 0 else os.write(1, data)\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def make_certificates(directory: Path) -> tuple[str, tuple[str, str], tuple[str, str]]:
    """An authority, and certificates of a server named localhost and of a client."""

    def run(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=directory)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=tests", "-days", "2")
    for name, subject in (("server", "/CN=localhost"), ("client", "/CN=client")):
        run("req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)
        (directory / f"{name}.ext").write_text("subjectAltName=DNS:localhost\n")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext")
        run("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
    server, client = ((str(directory / f"{name}.pem"), str(directory / f"{name}.key")) for name in ("server", "client"))
    return str(directory / "ca.pem"), server, client
