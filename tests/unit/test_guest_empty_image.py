"""The agent as init of an image that holds nothing, or nothing but the agent: no /proc, no /dev, no /tmp, no program."""

from __future__ import annotations

import errno
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.guest_wire import (
    KILL,
    LIST_DIRECTORY,
    MKDIR,
    PING,
    READ,
    REMOVE,
    SHUTDOWN,
    STAT,
    STATS,
    WATCH,
    WRITE,
    Failure,
    Host,
    decode_entries,
    decode_events,
    decode_fields,
)

from agentkernel.backends.namespaces.backend import NamespacesBackend
from agentkernel.channel.sandbox import GuestSandbox
from agentkernel.errors import CommandNotFound
from agentkernel.model.command import Command
from agentkernel.model.spec import RootFilesystem, RootKind, SandboxSpec

NAMESPACES = ["--user", "--map-root-user", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]


@pytest.fixture
def host(guest: Path, place: Path) -> Iterator[Host]:
    """Attached to the agent behind unshare and chroot; nothing is mounted."""
    root = place / "root"
    root.mkdir()
    shutil.copy(guest, root / "agent")
    ours, theirs = socket.socketpair()
    argv = ["unshare", *NAMESPACES, "chroot", str(root), "/agent", "agent", "--stream", "0"]
    with theirs, ours, subprocess.Popen(argv, stdin=theirs, stdout=theirs) as process:
        theirs.close()
        host = Host(ours)
        try:
            assert host.attach(padding=True) == 1
            host.configure()
            yield host
            host.request(SHUTDOWN)
            assert process.wait(10) == 0
        finally:
            process.kill()


def test_builtins_need_nothing(host: Host) -> None:
    assert host.state & 4
    assert [entry.name for entry in decode_entries(host.run("/", builtin=LIST_DIRECTORY).stdout)] == ["agent"]
    data = bytes(range(256)) * 4000
    assert host.run("/a/b/file", "640", "cp", builtin=WRITE, stdin=data).exit.value == 0
    assert host.run("/a/b/file", "0", "0", builtin=READ).stdout == data
    (found,) = decode_entries(host.run("/a/b/file", "f", builtin=STAT).stdout)
    assert found.size == len(data)
    assert host.run("/a", "r", builtin=REMOVE).exit.value == 0
    assert host.run("/a", "f", builtin=STAT).exit.value == errno.ENOENT


def test_what_is_not_there_is_named(host: Host) -> None:
    with pytest.raises(Failure) as program:
        host.run("sh")
    assert (program.value.errno, program.value.stage) == (errno.ENOENT, 8)
    with pytest.raises(Failure) as directory:
        host.run("/agent", "version", cwd="/tmp")
    assert (directory.value.errno, directory.value.stage) == (errno.ENOENT, 5)
    with pytest.raises(Failure) as terminal:
        host.run("/agent", "version", terminal=(24, 80))
    assert (terminal.value.errno, terminal.value.stage) == (errno.ENOENT, 6)
    assert struct.unpack("<QIIQQQ", next(decode_fields(host.request(STATS)))[2])[3:5] == (0, 0)


def test_a_program_runs_is_timed_out_and_killed(host: Host) -> None:
    assert host.run("/agent", "version").stdout == b"protocol 1\n"
    assert host.run("/d", "755", "-", builtin=MKDIR).exit.value == 0
    late = host.run("/d", builtin=WATCH, timeout_ms=200)
    assert (late.exit.cause, decode_events(late.stdout)) == (1, [(0, 0, "")])
    killed = host.started("/d", builtin=WATCH)
    host.send(KILL, killed.id, struct.pack("<I", 2))
    assert host.finish(killed).exit.cause == 2
    assert host.request(PING, b"x")


async def test_the_namespaces_backend_runs_an_image_with_nothing_in_it(guest: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTKERNEL_GUEST", str(guest))
    for name in ("image", "state"):
        (place / name).mkdir(mode=0o711)
    (place / "image").chmod(0o755)
    backend = NamespacesBackend(place / "state")
    root = RootFilesystem(kind=RootKind.DIRECTORY, directory=str(place / "image"))
    sandbox = await backend.create(SandboxSpec(name="empty", profile="moderate", root=root))
    try:
        assert isinstance(sandbox, GuestSandbox)
        with pytest.raises(CommandNotFound):
            await sandbox.exec(Command(argv=(b"sh",)))
        await sandbox.files.write("/tmp/file", b"content")
        assert await sandbox.files.read("/tmp/file") == b"content"
        assert (await sandbox.statistics()).processes == 0
    finally:
        await sandbox.destroy()
    assert list((place / "image").iterdir()) == []
