"""The launcher's last step for an agent behind a kernel of its own: a program with one stream, which whoever connects is joined to."""

from __future__ import annotations

import errno
import os
import select
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from unit.guest_wire import MAX_FRAME
from unit.plan_wire import LISTEN_FD, NEWPID, NEWUSER, Launch, encode, start

LOG_FD = 13
IDS = f"0 {os.geteuid()} 1\n", f"0 {os.getegid()} 1\n"


@pytest.fixture
def busybox() -> str:
    found = shutil.which("busybox")
    if found is None:
        pytest.skip("needs a static busybox")
    return os.path.realpath(found)


Begin = Callable[..., Launch]


@pytest.fixture
def begin(guest: Path, busybox: str, tmp_path: Path) -> Iterator[Begin]:
    """Starts busybox with these words as the program; what it complains of is in the file `log`."""
    launches: list[Launch] = []
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def launch(*words: str, program: str = busybox) -> Launch:
        encoded = b"".join(word.encode() + b"\0" for word in ("busybox", *words))
        clone = ("CLONE", NEWUSER | NEWPID)
        steps = [clone, ("IDMAP", *IDS, 1), ("GO",), ("PROGRAM", LISTEN_FD, LOG_FD, program, encoded)]
        launches.append(start(guest, encode(steps), leaked=((log, LOG_FD),)))
        return launches[-1].finish()

    yield launch
    for each in launches:
        each.close()
    os.close(log)


def connected(launch: Launch) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(launch.listener.getsockname())
    return connection


def received(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := connection.recv(65536)):
        data += more
    return data


def ended(launch: Launch, within_s: float = 10.0) -> int:
    """The exit status of the sandbox's first process."""
    pidfd = os.pidfd_open(launch.pid)
    try:
        assert select.select([pidfd], [], [], within_s)[0], "it goes on"
        return os.waitstatus_to_exitcode(os.waitpid(launch.pid, 0)[1])
    finally:
        os.close(pidfd)


def content_of(path: Path, size: int) -> bytes:
    """Once it has so many bytes."""
    deadline = time.monotonic() + 10
    while (data := path.read_bytes() if path.exists() else b"") is not None and len(data) < size:
        assert time.monotonic() < deadline, f"{len(data)} bytes"
        time.sleep(0.01)
    return data


def test_whoever_connects_is_joined_to_the_program(begin: Begin) -> None:
    launch = begin("cat")
    assert launch.ready
    with connected(launch) as connection:
        data = os.urandom(3_000_000)
        sent = 0
        back = b""
        while len(back) < len(data):
            readable, writable, _ = select.select([connection], [connection] if sent < len(data) else [], [], 10)
            if writable:
                sent += connection.send(data[sent : sent + 100_000], socket.MSG_DONTWAIT)
            if readable:
                back += connection.recv(65536)
        assert back == data


def test_the_end_of_a_connection_is_as_many_zeros_as_the_longest_frame(begin: Begin, tmp_path: Path) -> None:
    launch = begin("sh", "-c", f"exec cat > {tmp_path}/heard")
    for text in (b"first", b"second"):
        with connected(launch) as connection:
            connection.sendall(text)
    size = len(b"firstsecond") + 2 * MAX_FRAME
    assert content_of(tmp_path / "heard", size) == b"first" + bytes(MAX_FRAME) + b"second" + bytes(MAX_FRAME)


def test_the_newest_connection_takes_the_place_of_the_one_before(begin: Begin) -> None:
    launch = begin("cat")
    with connected(launch) as first, connected(launch) as second:
        assert first.recv(1) == b""
        second.sendall(b"of the second")
        data = b""
        while not data.endswith(b"of the second"):
            data += second.recv(65536)
        assert set(data[: -len(b"of the second")]) <= {0}
        assert len(data) <= MAX_FRAME + len(b"of the second")


def test_a_program_that_does_not_listen_keeps_nobody_from_connecting(begin: Begin) -> None:
    launch = begin("sleep", "1000")
    with connected(launch) as first:
        first.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                first.send(bytes(65536))
        with connected(launch):
            first.settimeout(10)
            with pytest.raises(ConnectionError):
                while True:
                    first.send(b"x")


def test_what_is_said_to_nobody_is_dropped(begin: Begin) -> None:
    launch = begin("sh", "-c", "head -c 1000000 /dev/zero; read line; echo heard $line")
    with connected(launch) as connection:
        connection.sendall(b"\nword\n")
        assert received(connection, 10_000_000).endswith(b"heard\n")
    assert ended(launch) == 0


def test_its_end_is_everybodys(begin: Begin) -> None:
    launch = begin("sh", "-c", "sleep 1000 & setsid sleep 1000 & exit 3")
    assert ended(launch) == 3
    launch.listener.close()


def test_it_has_no_variables_and_its_complaints_are_in_the_log(begin: Begin, tmp_path: Path) -> None:
    launch = begin("sh", "-c", "read go; env; echo complaint >&2")
    with connected(launch) as connection:
        connection.sendall(b"go\n")
        said = received(connection, 10_000)
    assert b"SECRET" not in said
    assert ended(launch) == 0
    assert (tmp_path / "log").read_text() == "complaint\n"


def test_a_program_that_is_not_there_fails_the_step(begin: Begin) -> None:
    launch = begin(program="/absent/program")
    assert (launch.failure.error, launch.failure.step) == (errno.ENOENT, 3)
