"""Commands in a v1 group, which each joins by itself: nothing else is ever in it, and its limits are exact."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from unit.guest_wire import STDIN_FOLLOWS, Failure, Host
from unit.launch_samples import PLAIN_UID, root_steps, status, user_steps
from unit.plan_wire import Launch, Step, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups of v1")

STAGE_CGROUP = 2
IDENTITIES: dict[str, Callable[[Path], list[Step]]] = {"a range of ids": root_steps, "one id": lambda place: user_steps(place, PLAIN_UID)}


@dataclass(frozen=True, slots=True)
class Sandbox:
    """An agent whose commands join one v1 group, and a host attached to it."""

    launch: Launch
    group: Path
    host: Host

    def members(self) -> list[int]:
        return [int(pid) for pid in (self.group / "cgroup.procs").read_text().split()]

    def names(self) -> list[str]:
        return [status(pid)["Name"] for pid in self.members()]


def sandboxes(guest: Path, steps: list[Step], group: Path) -> Iterator[Sandbox]:
    launch = run(guest, [("CGROUP", 1, str(group)), *steps])
    assert launch.ready, launch.records
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(launch.listener.getsockname())
    host = Host(sock)
    assert host.attach() == 1
    host.configure()
    yield Sandbox(launch, group, host)
    host.close()
    launch.close()


@pytest.fixture(params=IDENTITIES)
def sandbox(request: pytest.FixtureRequest, guest: Path, place: Path, cgroups: dict[int, Path]) -> Iterator[Sandbox]:
    yield from sandboxes(guest, IDENTITIES[request.param](place), cgroups[1])


@pytest.fixture
def single(guest: Path, place: Path, cgroups: dict[int, Path]) -> Iterator[Sandbox]:
    """One id: the workload may signal and limit whatever it finds."""
    yield from sandboxes(guest, IDENTITIES["one id"](place), cgroups[1])


def test_the_group_holds_the_commands_alone(sandbox: Sandbox) -> None:
    host = sandbox.host
    assert not sandbox.members()
    runs = [host.start("sh", "-c", f"read line; echo {number} $line", flags=STDIN_FOLLOWS) for number in range(20)]
    host.until(lambda: all(ran.stdin_limit for ran in runs))
    assert sandbox.names() == ["sh"] * 20
    for ran in runs:
        host.type(ran, b"on\n", end=True)
    assert [host.finish(ran).stdout for ran in runs] == [f"{number} on\n".encode() for number in range(20)]
    assert not sandbox.members()


def test_who_joins_has_one_thread(sandbox: Sandbox) -> None:
    """A thread that writes to `tasks` moves itself alone: the agent, of which commands are forked, has no second one."""
    command = sandbox.host.started("sleep", "60")
    assert [status(pid)["NSpid"].split()[-1] for pid in sandbox.members()] == [str(command.pid)]
    supervisor = int(status(sandbox.members()[0])["PPid"])
    assert [status(pid)["Threads"] for pid in (sandbox.launch.pid, supervisor)] == ["1", "1"]


def test_a_command_has_exactly_the_processes_that_were_granted(sandbox: Sandbox) -> None:
    (sandbox.group / "pids.max").write_text("5")
    assert sandbox.host.run("true").exit.value == 0  # nothing of it counts in what follows
    ran = sandbox.host.run("sh", "-c", "n=1; while sleep 60 >/dev/null 2>&1 & do n=$((n+1)); echo $n; done")
    assert ran.stdout == b"2\n3\n4\n5\n" and b"fork" in ran.stderr
    assert sandbox.names() == ["sleep"] * 4


def test_a_command_that_cannot_join_does_not_run(sandbox: Sandbox) -> None:
    sandbox.group.rmdir()
    with pytest.raises(Failure) as failure:
        sandbox.host.run("touch", "/tmp/ran")
    assert (failure.value.errno, failure.value.stage) == (errno.ENODEV, STAGE_CGROUP)
    assert len(sandbox.host.processes()) == 1
    sandbox.group.mkdir()  # for the fixture, which removes it; the agent still means the one that is gone


@pytest.mark.parametrize("number", ["KILL", "TERM", "STOP", "HUP"])
def test_a_workload_that_signals_everybody_hits_no_later_command(single: Sandbox, number: str) -> None:
    for round_ in range(8):
        single.host.run("bash", "-c", f"kill -{number} -1; exit 0", timeout_ms=500)
        ran = single.host.run("echo", f"round {round_}", timeout_ms=8000)
        assert (ran.stdout, ran.exit.kind, ran.exit.cause) == (f"round {round_}\n".encode(), 0, 0)


def test_agent_and_supervisor_cannot_be_read_by_a_workload_with_their_user(single: Sandbox) -> None:
    script = "for p in /proc/[0-9]*; do [ $p = /proc/$$ ] || echo $(cat $p/comm) $(ls $p/fd 2>/dev/null | wc -l); done"
    lines = single.host.run("bash", "-c", script).stdout.decode().splitlines()
    assert sorted(lines) == ["ak-supervisor 0", "guest 0"]


def test_the_affinity_of_the_agent_counts_at_the_start(sandbox: Sandbox) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two processors")
    os.sched_setaffinity(sandbox.launch.pid, {min(os.sched_getaffinity(0))})
    assert sandbox.host.run("nproc").stdout == b"1\n"
