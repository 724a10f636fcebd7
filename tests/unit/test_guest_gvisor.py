"""The guest agent as init inside gVisor, by a real runsc, in an image that holds nothing else and in one with busybox.

AGENTKERNEL_RUNSC names another runsc than the one in PATH: what is promised is checked with a release of 2022 (ptrace) and of 2024 (systrap).
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
import shutil
import signal
import socket
import stat
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from unit.guest_wire import (
    CONNECT,
    DETACHED,
    FORGET,
    KILL,
    LIST_DIRECTORY,
    MAX_PAYLOAD,
    MOVE,
    PING,
    READ,
    REMOVE,
    RESIZE,
    SHUTDOWN,
    SIGNAL,
    STAT,
    STATS,
    STDIN,
    STDIN_FOLLOWS,
    SYMLINK,
    WATCH,
    WRITE,
    Failure,
    Host,
    Run,
    decode_entries,
    decode_events,
    decode_fields,
    encode_field,
)
from unit.gvisor_container import ARCHITECTURE, WORKLOAD, Container, GvisorBoundary, release
from unit.tunnel_wire import PROXY, TunnelHost, network

from agentkernel.channel.sandbox import open_sandbox
from agentkernel.model.command import Command
from agentkernel.policy.seccomp import compile_filter

WHOLE_TREES = 8  # of the attach's state
ITSELF, TIMEOUT, KILLED = range(3)


@pytest.fixture(scope="module")
def runsc() -> str:
    found = os.environ.get("AGENTKERNEL_RUNSC") or shutil.which("runsc")
    if found is None:
        pytest.skip("needs runsc: gVisor")
    if os.geteuid() != 0:
        pytest.skip("needs root: runsc makes namespaces and mounts")
    return found


def attached(stream: socket.socket, configuration: bytes = b"") -> Host:
    host = Host(stream, timeout_s=30)
    assert host.attach(padding=True) == 1
    host.configure(configuration)
    return host


def statistics(host: Host) -> tuple[int, ...]:
    """uptime_ms, running, records, pids, rss_bytes, cpu_us"""
    return struct.unpack("<QIIQQQ", next(decode_fields(host.request(STATS)))[2])


def eventually_counts(host: Host, pids: int) -> None:
    """Until the sandbox has so many processes, init among them."""
    deadline = time.monotonic() + 10
    while (counted := statistics(host)[3]) != pids:
        assert time.monotonic() < deadline, f"{counted} processes"
        time.sleep(0.02)


@pytest.fixture
def empty(runsc: str, guest_binary: Path) -> Iterator[Container]:
    container = Container(runsc, guest_binary)
    yield container
    container.stop()


@pytest.fixture(scope="module")
def container(runsc: str, guest_binary: Path) -> Iterator[Container]:
    """One with busybox that the tests share, one after the other."""
    container = Container(runsc, guest_binary, busybox=True)
    container.stream()
    yield container
    container.stop()


@dataclass
class Shell:
    """Runs busybox's programs in the shared container."""

    host: Host
    releases: int = 0
    left: list[Run] = field(default_factory=list)

    def run(self, script: str, **options: object) -> Run:
        return self.host.run("sh", "-c", script, **({"env": ("PATH=/bin",)} | options))

    def started(self, script: str, **options: object) -> Run:
        run = self.host.started("sh", "-c", script, **({"env": ("PATH=/bin",)} | options))
        self.left.append(run)
        return run


@pytest.fixture
def shell(container: Container, runsc: str) -> Iterator[Shell]:
    """Each test attaches anew, in the middle of whatever the one before has left on the stream."""
    shell = Shell(attached(container.sockets[0]), release(runsc))
    yield shell
    for run in shell.left:
        if run.exit is None:
            shell.host.send(KILL, run.id, struct.pack("<I", KILLED))
            shell.host.finish(run)


@pytest.fixture
def whole_trees(shell: Shell) -> None:
    if not shell.host.state & WHOLE_TREES:
        pytest.skip("needs child subreapers: a gVisor of 2023 or later")


@pytest.fixture
def terminals(shell: Shell) -> None:
    if shell.releases < 20230101:
        pytest.skip("needs terminals whose control keys work: a gVisor of 2023 or later")


# --- An image with nothing in it ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["socket", "pipes"])
def test_the_agent_is_init_of_an_image_that_holds_nothing_else(empty: Container, kind: str) -> None:
    host = attached(empty.stream() if kind == "socket" else empty.pipes())
    assert host.state & 6 == 6
    assert "agentkernel-guest" in {entry.name for entry in decode_entries(host.run("/", builtin=LIST_DIRECTORY).stdout)}
    assert host.run("/a/b", "640", "cp", builtin=WRITE, stdin=b"hello").exit.value == 0
    assert host.run("/a/b", "0", "0", builtin=READ).stdout == b"hello"
    assert (empty.root / "a" / "b").exists() or host.run("/a", "r", builtin=REMOVE).exit.value == 0
    with pytest.raises(Failure) as failure:
        host.run("true")
    assert (failure.value.errno, failure.value.stage) == (errno.ENOENT, 8)
    assert host.run("/agentkernel-guest", "version").stdout == b"protocol 1\n"
    assert statistics(host)[3] >= 1
    host.request(SHUTDOWN)
    assert empty.process is not None and empty.process.wait(10) == 0
    assert empty.errors() == ""


async def test_the_channel_works_over_a_stream_that_is_cut(runsc: str, guest_binary: Path) -> None:
    container = Container(runsc, guest_binary, busybox=True)
    boundary = GvisorBoundary(container)
    try:
        sandbox = await open_sandbox(boundary)
        result = await sandbox.exec(Command(argv=(b"sh", b"-c", b"id -u; cat; ulimit -n; exit 3")), stdin=b"input\n")
        assert (result.stdout, result.exit_code) == (f"{WORKLOAD[0]}\ninput\n256\n".encode(), 3)
        running = asyncio.create_task(sandbox.exec(Command(argv=(b"sh", b"-c", b"for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.1; done"))))
        await asyncio.sleep(0.3)
        boundary.cut()
        assert (await running).stdout.split() == [b"%d" % i for i in range(1, 9)]
        assert boundary.connects == 2
        await sandbox.files.write("/tmp/file", b"content")
        assert await sandbox.files.read("/tmp/file") == b"content"
        assert (await sandbox.statistics()).processes == 0
        await sandbox.destroy()
    finally:
        container.stop()


# --- Tunnels -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def networked(runsc: str, guest_binary: Path) -> Iterator[TunnelHost]:
    """Attached to an agent with listeners; gVisor asks for no capability for port 53."""
    container = Container(runsc, guest_binary, busybox=True)
    host = TunnelHost(container.stream(), timeout_s=30)
    assert host.attach(padding=True) == 1
    host.configure(network(3128, 53))
    host.auto_credit = True
    yield host
    container.stop()


def test_connections_of_the_workload_go_on_through_the_stream(networked: TunnelHost) -> None:
    size = 10_000_000
    script = f"(echo request; head -c {size} /dev/zero) | nc 127.0.0.1 3128 | md5sum"
    run = networked.start("sh", "-c", script, env=("PATH=/bin",))
    tunnel = networked.next_accepted()
    assert tunnel.kind == PROXY
    answer = random.Random(3).randbytes(3_000_000)
    networked.pour(tunnel, answer)
    networked.until(lambda: tunnel.ended)
    assert tunnel.data == b"request\n" + bytes(size)
    networked.pour(tunnel, b"", end=True)
    assert networked.finish(run).stdout.split()[0].decode() == hashlib.md5(answer).hexdigest()


def test_the_host_connects_to_a_port_of_the_workload(networked: TunnelHost) -> None:
    assert networked.open(8000).closed == errno.ECONNREFUSED
    run = networked.started("nc", "-l", "-p", "8000", "-e", "/bin/cat", env=("PATH=/bin",))
    deadline = time.monotonic() + 10
    while not (tunnel := networked.open(8000)).opened:
        assert time.monotonic() < deadline
    networked.pour(tunnel, b"there and back", end=True)
    networked.until(lambda: tunnel.ended)
    assert tunnel.data == b"there and back"
    networked.finish(run)


def test_a_datagram_is_answered(networked: TunnelHost) -> None:
    """To the agent they are all the same, so it need not be DNS: busybox speaks TFTP to any port."""
    run = networked.started("tftp", "-g", "-r", "some-name", "-l", "/tmp/some-name", "127.0.0.1", "53", env=("PATH=/bin",))
    networked.until(lambda: networked.queries)
    ((ident, question),) = networked.queries.items()
    assert question.startswith(b"\0\1some-name\0")
    networked.answer(ident, b"\0\5\0\1an answer\0")
    assert b"an answer" in networked.finish(run).stderr


def test_connections_are_reset_with_the_attach(networked: TunnelHost) -> None:
    run = networked.started("nc", "127.0.0.1", "3128", env=("PATH=/bin",), flags=STDIN_FOLLOWS)
    networked.next_accepted()
    assert networked.attach(padding=True) == 1
    networked.resume(run)
    assert networked.finish(run).exit is not None


# --- Commands ----------------------------------------------------------------------------------------------------------------------------


def test_streams_are_kept_apart_and_the_exit_code_is_the_commands(shell: Shell) -> None:
    run = shell.run("echo out; echo err >&2; cat; exit 7", stdin=b"input")
    assert (run.stdout, run.stderr, run.exit.value) == (b"out\ninput", b"err\n", 7)
    assert shell.run("kill -SEGV $$").exit.kind == 1
    with pytest.raises(Failure) as failure:
        shell.host.run("nosuch", env=("PATH=/bin",))
    assert (failure.value.errno, failure.value.stage) == (errno.ENOENT, 8)


def test_a_command_runs_clean_and_as_its_user(shell: Shell) -> None:
    script = "id -u; id -g; id -G; readlink /proc/self/fd/0; ls /proc/$$/fd; grep -E '^Cap(Inh|Prm|Eff|Bnd)' /proc/self/status"
    lines = shell.run(script, user=WORKLOAD, groups=(2345, 77)).stdout.decode().splitlines()
    assert lines[:4] == ["1234", "2345", "2345 77", "/dev/null"]
    assert lines[4:7] == ["0", "1", "2"]
    assert [line.split()[1] for line in lines[7:]] == ["0" * 16] * 4


def test_the_filter_holds(runsc: str, guest_binary: Path) -> None:
    container = Container(runsc, guest_binary, busybox=True)
    try:
        host = attached(container.stream(), encode_field(1, compile_filter("restrictive", ARCHITECTURE)))
        script = "grep Seccomp: /proc/self/status; unshare -U true; chroot / true; mount -t tmpfs x /tmp"
        run = host.run("sh", "-c", script, env=("PATH=/bin",), user=WORKLOAD)
        assert run.stdout.split() == [b"Seccomp:", b"2"]
        assert run.stderr.count(b"ermi") == 3
        root = host.run("sh", "-c", "unshare -U true; chroot / true; mount -t tmpfs x /tmp; cat /proc/1/mem", env=("PATH=/bin",))
        assert (root.stdout, root.stderr.count(b"ermi")) == (b"", 4)
    finally:
        container.stop()


def test_a_command_takes_milliseconds(shell: Shell) -> None:
    """On a quiet machine 4 to 9 ms. The bound is for a busy one: starting a runtime for each command would break it."""
    times = []
    for _ in range(200):
        before = time.monotonic()
        run = shell.host.run("/bin/true")
        times.append(time.monotonic() - before)
        shell.host.send(FORGET, run.id)
    assert sorted(times)[100] < 0.1


def test_many_commands_run_at_once(shell: Shell) -> None:
    runs = [shell.started(f"echo {i}; sleep 0.2") for i in range(60)]
    for run in runs:
        shell.host.finish(run)
    assert [run.stdout for run in runs] == [b"%d\n" % i for i in range(60)]


def test_a_hundred_megabytes_arrive_whole(shell: Shell) -> None:
    run = shell.host.start("head", "-c", str(100 << 20), "/dev/zero", env=("PATH=/bin",))
    shell.host.finish(run, 60)
    assert (len(run.stdout), run.stdout.count(0), run.exit.stdout_end) == (100 << 20, 100 << 20, 100 << 20)


def test_input_is_passed_on_whole(shell: Shell) -> None:
    data = random.Random(3).randbytes(3_000_000)
    assert shell.run("cat", stdin=data).stdout == data


def test_a_stream_is_attached_again_in_the_middle_of_a_frame(shell: Shell) -> None:
    run = shell.started("while :; do echo x; sleep 0.005; done")
    cut = struct.pack("<IBBHQ", MAX_PAYLOAD, STDIN, 0, 0, run.id) + b"AKCHAN1\n\1\0\0\0" + bytes(12) + b"\1\0\1\0" + bytes(4) + b"cut"
    shell.host.sock.sendall(cut)
    second = Host(shell.host.sock)
    second.received = shell.host.received
    assert second.attach(padding=True) == 1
    assert second.boot_id == shell.host.boot_id
    second.resume(run)
    seen = len(run.stdout)
    second.until(lambda: len(run.stdout) > seen + 20)
    second.send(KILL, run.id, struct.pack("<I", KILLED))
    second.finish(run)
    assert set(run.stdout) == set(b"x\n") and run.gaps == 0


# --- Ends --------------------------------------------------------------------------------------------------------------------------------

FAMILY = "setsid sh -c 'sleep 1000 & sleep 1000' & (sleep 1000 | setsid sleep 1000) & wait"
DAEMONS = "for i in 1 2 3; do (setsid sh -c '(sleep 1000 &) ; sleep 1000' >/dev/null 2>&1 &); done; echo ready; sleep 1000"


def test_a_timeout_ends_the_tree(shell: Shell) -> None:
    assert shell.run(FAMILY, timeout_ms=400).exit.cause == TIMEOUT
    eventually_counts(shell.host, 1)


def test_a_kill_ends_daemons_too(shell: Shell, whole_trees: None) -> None:
    run = shell.started(DAEMONS)
    shell.host.until(lambda: run.stdout)
    shell.host.send(KILL, run.id, struct.pack("<I", KILLED))
    assert shell.host.finish(run).exit.cause == KILLED
    eventually_counts(shell.host, 1)


def test_a_fork_bomb_is_ended(shell: Shell, whole_trees: None) -> None:
    bomb = "i=0; while [ $i -lt 20 ]; do setsid sh -c 'while :; do sleep 1 & sleep 0.1; done' & i=$((i+1)); done; wait"
    assert shell.run(bomb, timeout_ms=1000).exit.cause == TIMEOUT
    eventually_counts(shell.host, 1)


def test_survivors_go_on(shell: Shell) -> None:
    run = shell.run("sleep 1000 & echo $!")
    eventually_counts(shell.host, 2)
    assert bool(run.exit.flags & 1) == bool(shell.host.state & WHOLE_TREES)
    assert shell.run(f"kill -9 {int(run.stdout)}").exit.value == 0
    eventually_counts(shell.host, 1)


def test_signals_reach_the_main_process(shell: Shell) -> None:
    run = shell.started("trap 'echo got; exit 3' TERM; echo ready; while :; do sleep 0.01; done")
    shell.host.until(lambda: run.stdout)
    shell.host.request(SIGNAL, struct.pack("<QII", run.id, signal.SIGTERM, 0))
    assert (shell.host.finish(run).stdout, run.exit.value) == (b"ready\ngot\n", 3)


def test_signals_reach_the_whole_tree(shell: Shell, whole_trees: None) -> None:
    tree = shell.started("sleep 1000 & setsid sleep 1000 & echo ready; wait; wait")
    shell.host.until(lambda: tree.stdout)
    shell.host.request(SIGNAL, struct.pack("<QII", tree.id, signal.SIGTERM, 1))
    assert shell.host.finish(tree).exit.value == signal.SIGTERM
    eventually_counts(shell.host, 1)


def test_a_workload_cannot_end_or_stop_the_agent(shell: Shell) -> None:
    for user in (None, WORKLOAD):
        script = "kill -TERM 1; kill -INT 1; kill -KILL 1; kill -STOP 1; kill -STOP $PPID; kill -9 -1; echo tried"
        assert shell.run(script, user=user, timeout_ms=3000).exit is not None
        assert shell.host.request(PING, b"x")
    eventually_counts(shell.host, 1)


def test_the_runtime_ends_the_agent(runsc: str, guest_binary: Path) -> None:
    container = Container(runsc, guest_binary, busybox=True)
    try:
        host = attached(container.stream())
        host.started("sh", "-c", "trap : TERM; while :; do sleep 1; done", env=("PATH=/bin",))
        container.signal("TERM")
        assert container.process is not None and container.process.wait(10) == 0
    finally:
        container.stop()


# --- The agent's own descriptors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["socket", "pipes"])
def test_a_workload_of_the_agents_own_user_does_not_get_the_stream(runsc: str, guest_binary: Path, kind: str) -> None:
    """gVisor lets it list and open /proc/1/fd, which Linux refuses because the agent is not dumpable."""
    container = Container(runsc, guest_binary, busybox=True)
    try:
        host = attached(container.stream() if kind == "socket" else container.pipes())
        script = """for fd in /proc/1/fd/* /proc/$PPID/fd/*; do
            case $(readlink $fd) in host:*) echo $fd; chmod 666 $fd; echo forged > $fd; timeout 1 head -c 1 < $fd; esac
        done 2>/dev/null; echo end"""
        run = host.run("sh", "-c", script, env=("PATH=/bin",))
        *hosts, end = run.stdout.decode().splitlines()
        assert hosts and end == "end"
        assert all(line.startswith("/proc/1/fd/") for line in hosts), "a supervisor keeps a descriptor of the host's, or one could be read"
        assert host.request(PING, b"x")
        assert container.errors() == ""
    finally:
        container.stop()


def test_only_the_owner_of_the_listening_socket_connects(runsc: str, guest_binary: Path) -> None:
    container = Container(runsc, guest_binary, flags=("--host-uds=create",))
    shared = container.directory / "run"
    shared.mkdir(mode=0o755)
    try:
        mount: dict[str, object] = {"destination": "/run", "type": "bind", "source": str(shared), "options": ["rbind", "rw"]}
        container.run("--listen", "/run/agent.sock", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, mounts=[mount])
        first = Host(connect_to(shared / "agent.sock"))
        assert first.attach() == 1
        first.configure()
        assert stat.S_IMODE((shared / "agent.sock").stat().st_mode) == 0o600
        intruder = first.run("unix", "/run/agent.sock", builtin=CONNECT, user=WORKLOAD, stdin=b"")
        assert intruder.exit.value in (errno.EACCES, errno.EPERM)
        with connect_to(shared / "agent.sock") as sock:
            second = Host(sock)
            assert second.attach() == 1
            assert second.boot_id == first.boot_id
            data = random.Random(4).randbytes(2_000_000)
            assert second.run("/file", "644", "c", builtin=WRITE, stdin=data).exit.value == 0
            assert second.run("/file", "0", "0", builtin=READ).stdout == data
            second.request(SHUTDOWN)
        first.close()
        assert container.process is not None and container.process.wait(10) == 0
    finally:
        container.stop()


def connect_to(path: Path) -> socket.socket:
    deadline = time.monotonic() + 10
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(path))
            return sock
        except OSError:
            sock.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


# --- Terminals ---------------------------------------------------------------------------------------------------------------------------


def test_a_terminal_has_its_size_and_echoes(shell: Shell) -> None:
    run = shell.started("stty size; tty; read x; echo got $x", terminal=(33, 77), flags=STDIN_FOLLOWS)
    shell.host.until(lambda: b"pts" in run.stdout and run.stdin_limit)
    shell.host.type(run, b"hello\n")
    assert shell.host.finish(run).stdout.split(b"\r\n") == [b"33 77", b"/dev/pts/0", b"hello", b"got hello", b""]


def test_a_resize_reaches_every_program_on_the_terminal(shell: Shell) -> None:
    script = "trap : WINCH; sh -c 'trap \"stty size; exit\" WINCH; echo ready; while :; do sleep 0.02; done'; echo end"
    run = shell.started(script, terminal=(24, 80))
    shell.host.until(lambda: b"ready" in run.stdout)
    shell.host.send(RESIZE, run.id, struct.pack("<HH", 50, 132))
    assert shell.host.finish(run).stdout == b"ready\r\n50 132\r\nend\r\n"


def test_control_keys_interrupt_and_end_the_input(shell: Shell, terminals: None) -> None:
    run = shell.started("exec sleep 1000", terminal=(24, 80), flags=STDIN_FOLLOWS)
    shell.host.until(lambda: run.stdin_limit)
    shell.host.type(run, b"\x03")
    assert (shell.host.finish(run).exit.kind, run.exit.value) == (1, signal.SIGINT)
    copied = shell.started("exec cat", terminal=(24, 80), flags=STDIN_FOLLOWS)
    shell.host.until(lambda: copied.stdin_limit)
    shell.host.type(copied, b"line\npart", end=True)
    assert shell.host.finish(copied).stdout == b"line\r\nline\r\npartpart" or copied.stdout == b"line\r\npartline\r\npart"


# --- Builtins ----------------------------------------------------------------------------------------------------------------------------


def test_files_are_written_read_listed_and_removed(shell: Shell) -> None:
    host = shell.host
    data = random.Random(5).randbytes(700_000)
    for place in ("/tmp/files", "/files"):  # a tmpfs, and the image
        path = f"{place}/a/f"
        assert host.run(path, "640", "c", builtin=WRITE, stdin=b"").exit.value == errno.ENOENT
        assert host.run(path, "640", "cp", builtin=WRITE, stdin=data).exit.value == 0
        assert host.run(path, "0", "0", builtin=READ).stdout == data
        assert host.run(path, "5", "10", builtin=READ).stdout == data[5:15]
        assert host.run(path, "640", "x", builtin=WRITE, stdin=b"").exit.value == errno.EEXIST
        assert host.run(path, "640", "a", builtin=WRITE, stdin=b"more").exit.value == 0
        assert host.run(path, "700000", "0", builtin=READ).stdout == b"more"
        assert host.run("a/f", f"{place}/link", builtin=SYMLINK).exit.value == 0
        entries = {entry.name: entry for entry in decode_entries(host.run(place, builtin=LIST_DIRECTORY).stdout)}
        assert set(entries) == {"a", "link"} and entries["link"].target == "a/f"
        (found,) = decode_entries(host.run(f"{place}/link", "f", builtin=STAT).stdout)
        assert (stat.S_IMODE(found.mode), found.size) == (0o640, 700_004)
        assert host.run(path, f"{place}/moved", builtin=MOVE).exit.value == 0
        assert host.run(place, "-", builtin=REMOVE).exit.value == errno.ENOTEMPTY
        assert host.run(place, "r", builtin=REMOVE).exit.value == 0
        assert host.run(place, "f", builtin=STAT).exit.value == errno.ENOENT
    for path in ("/dev/zero", "/tmp"):
        assert host.run(path, "0", "0", builtin=READ).exit.value == errno.EINVAL


def test_deep_trees_are_removed_and_large_directories_listed(shell: Shell) -> None:
    deep = "mkdir /tmp/deep; cd /tmp/deep; i=0; while [ $i -lt 100 ]; do mkdir d; : > f; ln -s / s; cd d; i=$((i+1)); done"
    wide = "mkdir /tmp/wide; cd /tmp/wide; i=0; while [ $i -lt 500 ]; do : > $i; i=$((i+1)); done"
    assert shell.run(f"{deep}; {wide}").exit.value == 0
    names = {entry.name for entry in decode_entries(shell.host.run("/tmp/wide", builtin=LIST_DIRECTORY).stdout)}
    assert names == {str(i) for i in range(500)}
    for path in ("/tmp/deep", "/tmp/wide"):
        assert shell.host.run(path, "r", builtin=REMOVE).exit.value == 0
    assert shell.run("ls /bin/sh").exit.value == 0


@pytest.mark.parametrize("place", ["/tmp/watched", "/watched"])
def test_watch_reports_changes(shell: Shell, place: str) -> None:
    host = shell.host
    shell.run(f"mkdir {place}")
    run = host.started(place, builtin=WATCH)
    shell.left.append(run)
    host.until(lambda: run.stdout)
    assert host.run(f"{place}/new", "644", "c", builtin=WRITE, stdin=b"x").exit.value == 0
    host.until(lambda: len(decode_events(run.stdout)) >= 4)
    assert {name for _, _, name in decode_events(run.stdout)[1:]} == {"new"}


def test_connect_reaches_servers_inside(shell: Shell) -> None:
    server = shell.started("exec nc -l -p 5555 -e cat", flags=DETACHED)
    data = random.Random(9).randbytes(300_000)
    deadline = time.monotonic() + 10
    while (run := shell.host.run("tcp", "5555", builtin=CONNECT, stdin=data)).exit.value == errno.ECONNREFUSED:
        assert time.monotonic() < deadline and server.exit is None
        time.sleep(0.02)
    assert (run.stdout, run.exit.value) == (data, 0)
    assert shell.host.run("tcp", "5556", builtin=CONNECT, stdin=b"").exit.value == errno.ECONNREFUSED
    assert shell.host.run("unix", "/tmp/nothing", builtin=CONNECT, stdin=b"").exit.value == errno.ENOENT
