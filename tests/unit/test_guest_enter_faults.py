"""The launcher refuses what is malformed before it does anything, names the step that fails, and leaves nothing behind - whoever is killed, whenever."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.launch_samples import HARD, PLAIN_UID, host_mounts, processes, root_steps, status, user_steps
from unit.plan_wire import FAILED, LISTEN_FD, MALFORMED, NEWUTS, PLAN_FD, RDONLY, STARTED, Launch, Record, Step, encode, run, run_as, start

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: id ranges, and other users to become")

OUTSIDE, INSIDE = 0, 1


def children() -> set[str]:
    """The pids of this process's children, zombies too."""
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


@pytest.fixture(autouse=True)
def _nothing_is_left(guest: Path, place: Path) -> Iterator[None]:
    """No test may change the host's mounts or leave a process or a zombie."""
    before = host_mounts(place)
    mine = children()
    yield
    deadline = time.monotonic() + 5
    while processes(guest) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert processes(guest) == set()
    assert host_mounts(place) == before
    assert children() <= mine


def placed(steps: list[Step], extra: Step, *, before: str) -> tuple[list[Step], int]:
    """The steps with one more before the first step of that name, and its index."""
    at = next(index for index, step in enumerate(steps) if step[0] == before)
    return [*steps[:at], extra, *steps[at:]], at


FAILING: list[tuple[Step, str, int, int]] = [
    (("CGROUP", 1, "/no/such/cgroup"), "CLONE", errno.ENOENT, OUTSIDE),
    (("CGROUP", 2, "/proc"), "CLONE", errno.ENOENT, OUTSIDE),
    (("IDMAP_TREE", 9, "/usr", 0, 1, "no map"), "CLONE", errno.EINVAL, OUTSIDE),
    (("IDMAP_TREE", 9, "/proc", 0, 0, "0 1000 1\n"), "GO", errno.EINVAL, OUTSIDE),
    (("TREE", 9, "/no/such/tree", 0, 1, 1), "GO", errno.ENOENT, OUTSIDE),
    (("TREE", 9, "/proc/self/root", 0, 1, 0), "GO", errno.ELOOP, OUTSIDE),
    (("ROOT_TMPFS", "/no/such/directory", ""), "REMOUNT_ROOT", errno.ENOENT, INSIDE),
    (("ROOT_TMPFS", "/proc/self/cwd", ""), "REMOUNT_ROOT", errno.ELOOP, INSIDE),
    (("ROOT_TMPFS", "/mnt", "size=many"), "REMOUNT_ROOT", errno.EINVAL, INSIDE),
    (("ROOT_OVERLAY", "/mnt", "lowerdir=/no/such/layer"), "REMOUNT_ROOT", errno.ENOENT, INSIDE),
    (("ROOT_BIND", "/no/such/tree", "/mnt", 0), "REMOUNT_ROOT", errno.ENOENT, INSIDE),
    (("TMPFS", "etc/passwd", "", 0), "REMOUNT_ROOT", errno.ENOTDIR, INSIDE),
    (("TMPFS", "bin/x", "", 0), "REMOUNT_ROOT", errno.ELOOP, INSIDE),
    (("BIND", "/no/such/source", "x", 0, 0), "REMOUNT_ROOT", errno.ENOENT, INSIDE),
    (("BIND", "/usr", "etc/passwd/x", 0, 0), "REMOUNT_ROOT", errno.ENOTDIR, INSIDE),
    (("BIND_WITHIN", "no/such/source", "x", 0), "REMOUNT_ROOT", errno.ENOENT, INSIDE),
    (("OVERLAY", "x", "lowerdir=/no/such/layer", 0), "REMOUNT_ROOT", errno.ENOENT, INSIDE),
    (("DEVPTS", "x", "mode=much", 0), "REMOUNT_ROOT", errno.EINVAL, INSIDE),
    (("PROC", "x", "hidepid=never", 0), "REMOUNT_ROOT", errno.EINVAL, INSIDE),
    (("MQUEUE", "etc/passwd/x", 0), "REMOUNT_ROOT", errno.ENOTDIR, INSIDE),
    (("MKDIR", "etc/passwd", 0o755, 0, 0), "REMOUNT_ROOT", errno.ENOTDIR, INSIDE),
    (("FILE", "dev", 0o644, b""), "REMOUNT_ROOT", errno.EISDIR, INSIDE),
    (("FILE", "usr/x", 0o644, b""), "REMOUNT_ROOT", errno.EROFS, INSIDE),
    (("SYMLINK", "x", "dev"), "REMOUNT_ROOT", errno.EISDIR, INSIDE),
    (("MASK", "bin"), "REMOUNT_ROOT", errno.ELOOP, INSIDE),
    (("READ_ONLY", "bin/x"), "REMOUNT_ROOT", errno.ELOOP, INSIDE),
    (("SYSCTL", "net/no/such/setting", "1"), "REMOUNT_ROOT", errno.ENOENT, OUTSIDE),
    (("SYSCTL", "net/ipv4/ip_unprivileged_port_start", "much"), "REMOUNT_ROOT", errno.EINVAL, OUTSIDE),
    (("HOSTNAME", "x" * 65), "CAPABILITIES", errno.EINVAL, INSIDE),
    (("RLIMIT", 7, 2, 1), "CAPABILITIES", errno.EINVAL, INSIDE),
    (("SETID", 70_000, 0), "CAPABILITIES", errno.EINVAL, INSIDE),
    (("CAPABILITIES", 1 << 21), "AGENT", errno.EPERM, INSIDE),
    (("LANDLOCK_PATH", "/usr", 1 << 14), "LANDLOCK_APPLY", errno.EINVAL, INSIDE),
    (("LANDLOCK_PATH", "/bin/sh", 1), "LANDLOCK_APPLY", errno.ELOOP, INSIDE),
]


@pytest.mark.parametrize(("failing", "before", "error", "where"), FAILING, ids=[" ".join(map(str, row[0][:3]))[:40] for row in FAILING])
def test_the_failing_step_is_named(guest: Path, place: Path, failing: Step, before: str, error: int, where: int) -> None:
    steps, index = placed(root_steps(place), failing, before=before)
    launch = run(guest, steps)
    launch.close()
    failure = launch.failure
    assert (failure.kind, failure.step, errno.errorcode[failure.error], failure.value) == (FAILED, index, errno.errorcode[error], where)
    assert launch.exit_code == (1 if where == OUTSIDE else 0)


@pytest.mark.parametrize(("listener", "error"), [(PLAN_FD, errno.EBADF), (400, errno.EBADF), (12, errno.ENOTSOCK)])
def test_the_agent_needs_a_listening_socket(guest: Path, listener: int, error: int) -> None:
    launch = run(guest, [("CLONE", 0), ("GO",), ("AGENT", listener)])
    launch.close()
    assert (launch.failure.step, launch.failure.error, launch.failure.value) == (2, error, INSIDE)


def test_an_unknown_right_of_landlock_is_named(guest: Path) -> None:
    launch = run(guest, [("CLONE", 0), ("GO",), ("NO_NEW_PRIVS",), ("LANDLOCK", 1 << 60, 0, 0), ("LANDLOCK_APPLY",), ("AGENT", LISTEN_FD)])
    launch.close()
    assert (launch.failure.step, launch.failure.error, launch.failure.value) == (3, errno.EINVAL, INSIDE)


def test_a_clone_that_is_not_allowed_is_named(guest: Path) -> None:
    with run_as(PLAIN_UID, guest, [("CLONE", NEWUTS), ("GO",), ("AGENT", LISTEN_FD)]) as launch:
        assert launch.records == [launch.failure]
        assert (launch.failure.step, launch.failure.error, launch.failure.value) == (0, errno.EPERM, OUTSIDE)


def test_a_plain_user_cannot_map_other_ids(guest: Path, place: Path) -> None:
    os.chown(place, PLAIN_UID, PLAIN_UID)
    steps = user_steps(place, 0)
    with run_as(PLAIN_UID, guest, steps) as launch:
        assert (launch.failure.step, launch.failure.error, launch.failure.value) == (1, errno.EPERM, OUTSIDE)


def raw_step(op: int, *arguments: bytes) -> bytes:
    return struct.pack("<HH", op, len(arguments)) + b"".join(struct.pack("<I", len(value)) + value for value in arguments)


def raw_plan(*steps: bytes, count: int | None = None) -> bytes:
    return b"AKPLAN1\n" + struct.pack("<I", len(steps) if count is None else count) + b"".join(steps)


CLONE, GO, AGENT = raw_step(1, bytes(8)), raw_step(6), raw_step(60, struct.pack("<Q", LISTEN_FD))
MALFORMED_PLANS = {
    "empty": (b"", 0),
    "another magic": (raw_plan(CLONE, GO, AGENT).replace(b"PLAN1", b"PLAN2"), 0),
    "no steps": (raw_plan(), 0),
    "fewer steps than said": (raw_plan(CLONE, GO, AGENT, count=4), 3),
    "more steps than said": (raw_plan(CLONE, GO, AGENT, count=2), 2),
    "trailing bytes": (raw_plan(CLONE, GO, AGENT) + b"\0", 3),
    "unknown op": (raw_plan(CLONE, GO, raw_step(61), AGENT), 2),
    "wrong argument count": (raw_plan(CLONE, raw_step(6, bytes(8)), AGENT), 1),
    "short integer": (raw_plan(raw_step(1, bytes(4)), GO, AGENT), 0),
    "unknown clone flag": (raw_plan(raw_step(1, struct.pack("<Q", 0x100)), GO, AGENT), 0),
    "string without NUL": (raw_plan(raw_step(5, struct.pack("<Q", 1), b"/x"), CLONE, GO, AGENT), 0),
    "string with NUL inside": (raw_plan(raw_step(5, struct.pack("<Q", 1), b"/x\0y\0"), CLONE, GO, AGENT), 0),
    "no GO": (raw_plan(CLONE, AGENT), 1),
    "GO without CLONE": (raw_plan(GO, AGENT), 0),
    "no AGENT": (raw_plan(CLONE, GO), 2),
    "a step after AGENT": (raw_plan(CLONE, GO, AGENT, raw_step(51)), 3),
    "an inner step outside": (raw_plan(CLONE, raw_step(51), GO, AGENT), 1),
    "mounts in the host's namespace": (raw_plan(CLONE, GO, raw_step(10), AGENT), 2),
    "too long": (raw_plan(CLONE, GO, AGENT) + bytes(1 << 20), 0),
}


@pytest.mark.parametrize("name", MALFORMED_PLANS)
def test_a_malformed_plan_is_refused_before_any_effect(guest: Path, name: str) -> None:
    plan, step = MALFORMED_PLANS[name]
    launch = start(guest, plan).finish()
    launch.close()
    assert [(record.kind, record.step, record.error) for record in launch.records] == [(MALFORMED, step, errno.EINVAL)]
    assert launch.records[0].value <= len(plan)
    assert launch.exit_code == 1


def test_a_plan_cut_anywhere_is_refused(guest: Path, place: Path) -> None:
    plan = encode(root_steps(place))
    for size in random.Random(1).sample(range(len(plan)), 40):
        launch = start(guest, plan[:size]).finish()
        launch.close()
        assert [record.kind for record in launch.records] == [MALFORMED]


@pytest.fixture
def image(place: Path) -> Path:
    """An image whose links lead out of it."""
    image = place / "image"
    (image / "etc").mkdir(parents=True)
    for name, target in (("proc", "/"), ("tmp", "/etc"), ("dev", "../../../.."), ("etc/resolv.conf", f"{place}/outside"), ("sys", "etc")):
        (image / name).symlink_to(target)
    (place / "outside").write_text("untouched")
    (place / "root").mkdir()
    return image


@pytest.mark.parametrize(
    "step",
    [
        ("PROC", "proc", "", HARD),
        ("PROC", "proc/x", "", HARD),
        ("TMPFS", "tmp", "", HARD),
        ("TMPFS", "tmp/x", "", HARD),
        ("BIND", "/dev/null", "dev/null", 0, 0),
        ("BIND", "/etc/passwd", "etc/resolv.conf", 0, 0),
        ("ATTACH", 9, "sys/x"),
        ("FILE", "tmp/x", 0o644, b"x"),
        ("SYMLINK", "x", "tmp/x"),
        ("MKDIR", "tmp/x", 0o755, 0, 0),
        ("MASK", "proc/self"),
        ("READ_ONLY", "tmp/x"),
    ],
    ids=lambda step: f"{step[0]} {step[1]}",
)
def test_links_of_an_image_redirect_nothing(guest: Path, place: Path, image: Path, step: Step) -> None:
    steps, _ = placed(root_steps(place / "root"), ("ROOT_BIND", str(image), str(place / "root"), 0), before="PIVOT")
    steps, _ = placed(steps, ("TREE", 9, "/usr", RDONLY, 0, 1), before="GO")
    steps, index = placed(steps, step, before="REMOUNT_ROOT")
    at = next(index for index, step in enumerate(steps) if step[0] == "ROOT_TMPFS")
    steps[at] = ("ROOT_BIND", str(image), str(place / "root"), 0)
    del steps[at + 1 : index]
    launch = run(guest, steps)
    launch.close()
    assert (launch.failure.step, errno.errorcode[launch.failure.error]) == (at + 1, "ELOOP")


def test_a_read_only_link_is_pinned_itself_and_not_followed(guest: Path, place: Path, image: Path) -> None:
    steps: list[Step] = [
        *user_steps(place / "root", 0)[:5],
        ("ROOT_BIND", str(image), str(place / "root"), 0),
        ("READ_ONLY", "tmp"),
        ("SYMLINK", "elsewhere", "tmp"),
        ("PIVOT",),
        ("AGENT", LISTEN_FD),
    ]
    launch = run(guest, steps)
    launch.close()
    assert (steps[launch.failure.step][0], errno.errorcode[launch.failure.error]) == ("SYMLINK", "EBUSY")
    assert os.readlink(image / "tmp") == "/etc"


def test_a_file_takes_the_place_of_an_image_s_link(guest: Path, place: Path, image: Path) -> None:
    steps: list[Step] = [
        *user_steps(place / "root", 0)[:5],
        ("ROOT_BIND", str(image), str(place / "root"), 0),
        ("FILE", "etc/resolv.conf", 0o644, b"inside"),
        ("SYMLINK", "elsewhere", "tmp"),
        ("PIVOT",),
        ("AGENT", LISTEN_FD),
    ]
    launch = run(guest, steps)
    launch.close()
    assert launch.ready, launch.records
    assert (place / "outside").read_text() == "untouched"
    assert (image / "etc/resolv.conf").read_text() == "inside"
    assert os.readlink(image / "tmp") == "elsewhere"


@pytest.mark.parametrize(("victim", "within_s"), [("enter", 0.001), ("inner", 0.003)])
def test_a_killed_launcher_leaves_nothing(guest: Path, place: Path, victim: str, within_s: float) -> None:
    chance = random.Random(2)
    plan = encode(root_steps(place))
    ready = 0
    for attempt in range(80):
        launch = start(guest, plan)
        if victim == "inner":
            launch.records.append(read_started(launch))
        if attempt:
            wait(chance.uniform(0, within_s))
        os.kill(launch.enter if victim == "enter" else launch.pid, signal.SIGKILL)
        launch.finish()
        ready += launch.ready
        launch.close()
    assert ready < 80


def wait(duration_s: float) -> None:
    """Sleeps shorter than the kernel's timer slack allows."""
    end = time.monotonic() + duration_s
    while time.monotonic() < end:
        pass


def read_started(launch: Launch) -> Record:
    record = Record(*struct.unpack("<IIII", os.read(launch.status, 16)))
    assert record.kind == STARTED
    return record


def settled(guest: Path) -> set[int]:
    """Waits until each process has ended or is the agent of a whole sandbox, which had been reported as ready."""
    deadline = time.monotonic() + 5
    while True:
        alive = processes(guest)
        with contextlib.suppress(OSError):
            if all((status(pid)["NoNewPrivs"], status(pid)["CapBnd"]) == ("1", "0" * 16) for pid in alive):
                return alive
        assert time.monotonic() < deadline, "a launcher without a caller hangs"
        time.sleep(0.002)


def test_a_killed_caller_leaves_a_whole_sandbox_or_nothing(guest: Path, place: Path) -> None:
    chance = random.Random(3)
    plan = encode(root_steps(place))
    survivors = 0
    for _ in range(100):
        caller = os.fork()
        if caller == 0:
            try:
                start(guest, plan)
                time.sleep(60)
            finally:
                os._exit(0)
        time.sleep(chance.uniform(0, 0.006))
        os.kill(caller, signal.SIGKILL)
        os.waitpid(caller, 0)
        for pid in settled(guest):
            os.kill(pid, signal.SIGKILL)
            survivors += 1
    assert 0 < survivors < 100


def test_a_caller_that_dies_while_the_launcher_hangs_leaves_nothing(guest: Path, place: Path) -> None:
    """The outer process is stopped before GO; the inner one waits, and must see that the caller is gone."""
    caller = os.fork()
    if caller == 0:
        try:
            launch = start(guest, encode(root_steps(place)))
            read_started(launch)
            os.kill(launch.enter, signal.SIGSTOP)
            time.sleep(60)
        finally:
            os._exit(0)
    time.sleep(0.2)
    os.kill(caller, signal.SIGKILL)
    os.waitpid(caller, 0)
    time.sleep(0.2)
    for pid in processes(guest):
        os.kill(pid, signal.SIGKILL)  # the stopped one


def test_many_launches_at_once(guest: Path, place: Path) -> None:
    plan = encode(root_steps(place))
    outcomes: list[bool] = []

    def work() -> None:
        for _ in range(10):
            launch = start(guest, plan).finish()
            outcomes.append(launch.ready)
            launch.close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [True] * 80
