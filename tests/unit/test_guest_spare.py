"""The spare (guest/spare.h): a process that has joined its v1 cgroup before the command comes. Nothing may be lost, seen or gained through it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from unit.agent_wire import field
from unit.guest_wire import LIST_DIRECTORY, SHUTDOWN, SIGNAL, STATS, STDIN_FOLLOWS, Failure, Gone, Host, Run, decode_fields
from unit.launch_samples import ALL_ACCESS, PLAIN_UID, root_steps, status, user_steps
from unit.plan_wire import Launch, Step, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups of v1")

LIBC = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH, PTRACE_DETACH = 16, 17
RLIMIT = 3  # of CONFIGURE
WALL = 0x40000000  # __WALL
IDENTITIES: dict[str, Callable[[Path], list[Step]]] = {"a range of ids": root_steps, "one id": lambda place: user_steps(place, PLAIN_UID)}


def plan(identity: str, place: Path, group: Path) -> list[Step]:
    """A sandbox whose commands join one v1 group, and may open terminals."""
    steps = IDENTITIES[identity](place)
    steps.insert(steps.index(("LANDLOCK_APPLY",)), ("LANDLOCK_PATH", "/dev/pts", ALL_ACCESS))
    return [("CGROUP", 1, str(group)), *steps]


def eventually(condition: Callable[[], object], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.002)


class Sandbox:
    """An agent whose commands join one v1 group, which shows from outside who is in it."""

    def __init__(self, launch: Launch, group: Path) -> None:
        assert launch.ready, launch.records
        self.launch = launch
        self.group = group
        self.hosts: list[Host] = []

    def host(self, configuration: bytes = b"") -> Host:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.launch.listener.getsockname())
        host = Host(sock)
        self.hosts.append(host)
        assert host.attach() == 1
        host.configure(configuration)
        return host

    def members(self) -> list[int]:
        return [int(pid) for pid in (self.group / "cgroup.procs").read_text().split()]

    def names(self) -> dict[int, str]:
        found = {}
        for pid in self.members():
            try:
                found[pid] = status(pid)["Name"]
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found

    def spares(self) -> list[int]:
        """Who has joined without having become a command; their pids as seen here."""
        return [pid for pid, name in self.names().items() if name == "ak-supervisor"]

    def spare(self) -> int:
        """Waits for one that stays: a command that is about to execute its program, or could not, looks like one for a moment."""
        seen: list[list[int]] = [[]]

        def stays() -> bool:
            seen.append(self.spares())
            time.sleep(0.02)
            return len(seen[-1]) == 1 and seen[-1] == seen[-2] == self.spares() and status(seen[-1][0])["State"][0] == "S"

        eventually(stays)
        return seen[-1][0]

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        self.launch.close()
        eventually(lambda: not self.members())


@pytest.fixture(params=IDENTITIES)
def sandbox(request: pytest.FixtureRequest, guest: Path, place: Path, cgroups: dict[int, Path]) -> Iterator[Sandbox]:
    made = Sandbox(run(guest, plan(request.param, place, cgroups[1])), cgroups[1])
    yield made
    made.close()


@pytest.fixture
def single(guest: Path, place: Path, cgroups: dict[int, Path]) -> Iterator[Sandbox]:
    """One id: the workload may signal and limit whatever it finds."""
    made = Sandbox(run(guest, plan("one id", place, cgroups[1])), cgroups[1])
    yield made
    made.close()


def supervisor_of(pid: int) -> int:
    return int(status(pid)["PPid"])


@contextlib.contextmanager
def unable_to_run(pid: int) -> Iterator[None]:
    """Holds a process so that no SIGCONT lets it go on; it has to be killed within the context."""
    assert LIBC.ptrace(PTRACE_ATTACH, pid, 0, 0) == 0
    os.waitpid(pid, WALL)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, WALL)  # a tracer hears of its end before its parent does


def test_the_spare_becomes_the_command_and_another_takes_its_place(sandbox: Sandbox) -> None:
    host = sandbox.host()
    spare = sandbox.spare()
    host.started("sleep", "60")
    assert sandbox.names()[spare] == "sleep"
    assert sandbox.spare() != spare


def test_it_is_there_before_a_host_is(sandbox: Sandbox) -> None:
    spare = sandbox.spare()
    host = sandbox.host()
    host.started("sleep", "60")
    assert sandbox.names()[spare] == "sleep"


def test_the_first_command_may_come_at_once(guest: Path, place: Path, cgroups: dict[int, Path]) -> None:
    for number in range(10):
        sandbox = Sandbox(run(guest, plan("a range of ids", place, cgroups[1])), cgroups[1])
        ran = sandbox.host().run("sh", "-c", f"echo {number}; cat; exit {number}", stdin=b"in")
        assert (ran.stdout, ran.exit.value) == (f"{number}\nin".encode(), number)
        sandbox.close()


def test_a_command_of_a_spare_is_like_any_other(sandbox: Sandbox) -> None:
    host = sandbox.host(field(RLIMIT, struct.pack("<IQQ", 7, 77, 77)))  # the spare is older than the configuration
    script = "echo $A-$B; ulimit -n; umask; ls /proc/self/fd | wc -l; grep -c . /proc/self/status; cut -d' ' -f6 /proc/$$/stat; echo $$; exec pwd"
    seen = []
    for with_spare in (True, False):
        sandbox.spare()
        if not with_spare:
            host.started("sleep", "60")  # takes it
        ran = host.run("sh", "-c", script, env=("PATH=/usr/bin", f"A={with_spare}"), cwd="/tmp")
        lines = ran.stdout.decode().splitlines()
        assert lines[0] == f"{with_spare}-"
        assert lines[-3] == lines[-2], "leads a session of its own"
        assert ran.starts == 1 and ran.stderr == b""
        seen.append([*lines[1:-3], lines[-1]])
        sandbox.spare()
        assert host.run("stty", "size", terminal=(30, 90)).stdout == b"30 90\r\n"
        sandbox.spare()
        assert host.run("/", builtin=LIST_DIRECTORY).stdout
        for failing, stage in ((("/no/such/program",), 8), (("pwd",), 5)):
            sandbox.spare()
            with pytest.raises(Failure) as failure:
                host.run(*failing, cwd="/no/such/directory" if stage == 5 else "/")
            assert (failure.value.errno, failure.value.stage) == (2, stage)
    assert seen[0] == seen[1]


def test_nobody_sees_a_spare_among_the_processes(sandbox: Sandbox) -> None:
    host = sandbox.host()
    sandbox.spare()
    assert host.processes() == {}
    ((_, _, data),) = decode_fields(host.request(STATS))
    _, running, records, pids, _, _ = struct.unpack("<QIIQQQ", data)
    assert (running, records, pids) == (0, 0, 1)


def test_a_spare_holds_nothing_of_a_command(sandbox: Sandbox) -> None:
    host = sandbox.host()
    sleeper = host.started("sleep", "60", flags=STDIN_FOLLOWS, env=("SECRET=of-another", "PATH=/usr/bin"))
    spare = sandbox.spare()
    commands = {pid for pid, name in sandbox.names().items() if name == "sleep"}
    pipes = {os.readlink(f"/proc/{pid}/fd/{fd}") for pid in commands for fd in (0, 1, 2)}
    held = {os.readlink(entry) for pid in (spare, supervisor_of(spare)) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    assert sleeper.pid and len(pipes) == 3 and not pipes & held
    assert host.run("env", env=("PATH=/usr/bin",)).stdout == b"PATH=/usr/bin\n"


def test_a_burst_makes_no_more_than_one_spare(sandbox: Sandbox) -> None:
    host = sandbox.host()
    sandbox.spare()
    runs = [host.start("sh", "-c", f"sleep 0.2; echo {number}") for number in range(20)]
    most = 0
    while not all(ran.exit for ran in runs):
        host.quiet(0.01)
        most = max(most, len(sandbox.spares()))
    assert [ran.stdout for ran in runs] == [f"{number}\n".encode() for number in range(20)]
    # Each that had no spare bears its supervisor's name, too, until it executes its program.
    sandbox.spare()
    assert most <= 20 and len(sandbox.members()) == 1


@pytest.mark.parametrize("who", ["child", "supervisor", "both"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGTSTP, signal.SIGUSR1])
def test_a_signal_to_a_spare_costs_no_more_than_the_spare(sandbox: Sandbox, number: int, who: str) -> None:
    host = sandbox.host()
    for _ in range(3):
        spare = sandbox.spare()
        supervisor = supervisor_of(spare)
        for pid in {"child": [spare], "supervisor": [supervisor], "both": [spare, supervisor]}[who]:
            with contextlib.suppress(ProcessLookupError):  # the child's end is its supervisor's, too
                os.kill(pid, number)
        ran = host.run("sh", "-c", "echo fine; exit 3", timeout_ms=8000)
        assert (ran.stdout, ran.exit.kind, ran.exit.value, ran.starts) == (b"fine\n", 0, 3, 1)
    eventually(lambda: len(sandbox.members()) == 1)
    assert len(host.processes()) == 3


@pytest.mark.parametrize("victim", ["child", "supervisor"])
def test_a_spare_that_is_lost_with_a_command_in_its_hands_loses_nothing(sandbox: Sandbox, victim: str) -> None:
    host = sandbox.host()
    for terminal in (None, (30, 90)):
        spare = sandbox.spare()
        supervisor = supervisor_of(spare)
        with unable_to_run(spare):
            ran = host.start("sh", "-c", "read line; echo got $line; exit 7", flags=STDIN_FOLLOWS, terminal=terminal)
            host.quiet(0.1)
            assert ran.pid is None and ran.failure is None
            os.kill(spare if victim == "child" else supervisor, signal.SIGKILL)
        finish_typing(host, ran, terminal is not None)
        eventually(lambda spare=spare: not Path(f"/proc/{spare}").exists())
    sandbox.spare()
    assert len(sandbox.members()) == 1


def finish_typing(host: Host, ran: Run, terminal: bool) -> None:
    host.until(lambda: ran.stdin_limit)
    host.type(ran, b"text\n", end=not terminal)
    host.finish(ran)
    assert ran.stdout.endswith(b"got text\r\n" if terminal else b"got text\n")
    assert (ran.exit.kind, ran.exit.value, ran.exit.cause, ran.starts) == (0, 7, 0, 1)


def test_a_command_that_a_spare_does_not_take_can_be_killed(sandbox: Sandbox) -> None:
    host = sandbox.host()
    spare = sandbox.spare()
    assert LIBC.ptrace(PTRACE_ATTACH, spare, 0, 0) == 0
    os.waitpid(spare, WALL)
    ran = host.start("sleep", "60", timeout_ms=300)
    host.quiet(0.1)
    assert LIBC.ptrace(PTRACE_DETACH, spare, 0, signal.SIGSTOP) == 0  # the agent's SIGCONT came before
    host.finish(ran)
    assert (ran.exit.kind, ran.exit.value, ran.exit.cause) == (1, 9, 1)
    assert host.run("echo", "on").stdout == b"on\n"


def test_a_signal_to_a_command_that_a_spare_has_not_taken_yet_ends_it(sandbox: Sandbox) -> None:
    host = sandbox.host()
    spare = sandbox.spare()
    assert LIBC.ptrace(PTRACE_ATTACH, spare, 0, 0) == 0
    os.waitpid(spare, WALL)
    ran = host.start("sleep", "60")
    host.request(SIGNAL, struct.pack("<QII", ran.id, signal.SIGTERM, 0))
    assert LIBC.ptrace(PTRACE_DETACH, spare, 0, 0) == 0
    host.finish(ran)
    assert (ran.exit.kind, ran.exit.value, ran.exit.cause) == (1, signal.SIGTERM, 0)


def test_a_stopped_spare_ends_with_its_supervisor(sandbox: Sandbox) -> None:
    sandbox.host()
    spare = sandbox.spare()
    os.kill(spare, signal.SIGSTOP)
    os.kill(supervisor_of(spare), signal.SIGKILL)
    eventually(lambda: not sandbox.members())


@pytest.mark.parametrize("number", ["KILL", "TERM", "STOP", "HUP"])
def test_a_workload_that_signals_everybody_hits_no_later_command(single: Sandbox, number: str) -> None:
    host = single.host()
    for round_ in range(8):
        single.spare()
        host.run("bash", "-c", f"kill -{number} -1; exit 0", timeout_ms=500)
        ran = host.run("echo", f"round {round_}", timeout_ms=8000)
        assert (ran.stdout, ran.exit.kind, ran.exit.cause) == (f"round {round_}\n".encode(), 0, 0)


@pytest.mark.parametrize("files", [3, 30])
def test_a_workload_that_limits_everybody_hits_no_later_command(single: Sandbox, files: int) -> None:
    """Three descriptors are too few to take the request; thirty are too few to raise them to what is configured."""
    host = single.host(field(RLIMIT, struct.pack("<IQQ", 7, 64, 64)))
    everybody = (
        "for p in $(ls /proc | grep -E '^[0-9]+$'); do [ $p = 1 ] || [ $p = $$ ] || prlimit --pid $p --nofile={0}:{0} && echo $p; done"
    )
    limiting = host.start("bash", "-c", f"read line; {everybody.format(files)}", flags=STDIN_FOLLOWS)
    host.until(lambda: limiting.stdin_limit)
    spare = single.spare()
    host.type(limiting, b"go\n", end=True)
    assert status(spare)["NSpid"].split()[-1].encode() in host.finish(limiting).stdout.split()
    assert host.run("bash", "-c", "ulimit -n").stdout == b"64\n"


def test_a_spare_cannot_be_read_by_the_workload(single: Sandbox) -> None:
    host = single.host()
    spare = single.spare()
    inside = status(spare)["NSpid"].split()[-1]
    # Who looks is a command that takes the spare; the next one is there after a moment.
    script = "sleep 0.3; for p in /proc/[0-9]*; do [ $p = /proc/$$ ] || [ $p = /proc/1 ] || echo $(cat $p/comm) $(ls $p/fd 2>/dev/null | wc -l); done"
    lines = host.run("bash", "-c", script).stdout.decode().splitlines()
    assert inside and lines.count("ak-supervisor 0") == 3, lines


def test_the_affinity_of_the_agent_counts_at_the_start(sandbox: Sandbox) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two processors")
    host = sandbox.host()
    sandbox.spare()
    os.sched_setaffinity(sandbox.launch.pid, {min(os.sched_getaffinity(0))})
    assert host.run("nproc").stdout == b"1\n"


def test_shutdown_leaves_no_spare(sandbox: Sandbox) -> None:
    host = sandbox.host()
    sandbox.spare()
    host.request(SHUTDOWN)
    with pytest.raises(Gone):
        host.quiet(10)
    assert os.waitstatus_to_exitcode(os.waitpid(sandbox.launch.pid, 0)[1]) == 0
    assert not sandbox.members()


def test_an_agent_that_is_killed_leaves_no_spare(sandbox: Sandbox) -> None:
    sandbox.spare()
    os.kill(sandbox.launch.pid, signal.SIGKILL)
    eventually(lambda: not sandbox.members())


def test_an_idle_agent_with_a_spare_does_not_wake_up(sandbox: Sandbox) -> None:
    host = sandbox.host()
    host.run("true")
    spare = sandbox.spare()
    time.sleep(0.2)

    def switches() -> int:
        return sum(int(status(pid)["voluntary_ctxt_switches"]) for pid in (sandbox.launch.pid, spare, supervisor_of(spare)))

    before = switches()
    time.sleep(1)
    assert switches() - before <= 2


def test_without_a_v1_group_there_is_none(guest: Path, place: Path, cgroups: dict[int, Path]) -> None:
    made = Sandbox(run(guest, [("CGROUP", 2, str(cgroups[2])), *root_steps(place)]), cgroups[2])
    assert made.host().run("echo", "hi").stdout == b"hi\n"
    time.sleep(0.2)
    assert not made.members()
    assert Path(f"/proc/{made.launch.pid}/task/{made.launch.pid}/children").read_text() == ""
    made.close()
