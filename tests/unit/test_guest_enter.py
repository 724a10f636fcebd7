"""The launcher builds the sandbox that its plan says, for root and for a plain user, and leaves nothing of the host in it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.agent_wire import Attach
from unit.launch_samples import (
    HARD,
    ID_BASE,
    ID_COUNT,
    PLAIN_UID,
    WANTED_CAPABILITIES,
    inside,
    mounts,
    process_steps,
    processes,
    root_steps,
    status,
    user_steps,
)
from unit.plan_wire import (
    ALL_NAMESPACES,
    LISTEN_FD,
    NEWNET,
    NEWNS,
    NEWUSER,
    NOEXEC,
    RDONLY,
    Launch,
    Step,
    encode,
    run,
    run_as,
    start,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: id ranges, cgroups, and other users to become")

LIBC = ctypes.CDLL(None, use_errno=True)
MS_REC, MS_SHARED = 1 << 14, 1 << 20
NS_GET_USERNS = 0xB701
MOUNT_POINTS = {"/", "/usr", "/proc", "/proc/kallsyms", "/proc/acpi", "/proc/sys", "/dev", "/dev/null", "/dev/pts", "/dev/mqueue", "/tmp"}


@pytest.fixture
def launched() -> Iterator[list[Launch]]:
    """Launches to be closed after the test."""
    launches: list[Launch] = []
    yield launches
    for launch in launches:
        launch.close()


@needs_root
def test_root_gets_a_sandbox_with_an_id_range_and_a_mapped_tree(guest: Path, place: Path, launched: list[Launch]) -> None:
    launch = run(guest, root_steps(place))
    launched.append(launch)
    assert launch.ready, launch.records
    seen = mounts(launch.pid)
    assert set(seen) >= MOUNT_POINTS
    assert not any(point.startswith(str(place)) for point in seen)
    assert seen["/"] == ("ro,nosuid,nodev,relatime", "tmpfs")
    assert seen["/usr"][0] == "ro,nosuid,nodev,relatime,idmapped"
    assert Path(f"/proc/{launch.pid}/uid_map").read_text().split() == ["0", str(ID_BASE), str(ID_COUNT)]
    root = Path(f"/proc/{launch.pid}/root")
    assert (root / "usr/bin").stat().st_uid == ID_BASE
    user_home = (root / "home/user").stat()
    assert (user_home.st_uid, user_home.st_gid, user_home.st_mode & 0o7777) == (ID_BASE + 1000, ID_BASE + 1000, 0o750)
    assert (root / "etc/passwd").read_bytes() == b"root:x:0:0::/:/bin/sh\n"
    assert os.readlink(root / "bin") == "usr/bin"


@needs_root
def test_the_agent_of_root_is_confined(guest: Path, place: Path, launched: list[Launch]) -> None:
    launch = run(guest, root_steps(place))
    launched.append(launch)
    facts = status(launch.pid)
    assert facts["Uid"].split() == facts["Gid"].split() == [str(ID_BASE)] * 4
    assert facts["Groups"].strip() == ""
    assert {facts[name] for name in ("CapPrm", "CapEff")} == {f"{WANTED_CAPABILITIES:016x}"}
    assert {facts[name] for name in ("CapInh", "CapBnd", "CapAmb")} == {"0" * 16}
    assert facts["NoNewPrivs"] == "1"
    assert facts["NSpid"].split()[1:] == facts["NSsid"].split()[1:] == ["1"]
    assert facts["Umask"] == "0022"
    assert Path(f"/proc/{launch.pid}/environ").read_bytes().strip(b"\0") == b""
    assert os.stat(f"/proc/{launch.pid}/environ").st_uid == 0  # root's, not the process's: it is not dumpable
    limits = Path(f"/proc/{launch.pid}/limits").read_text()
    assert (
        next(line for line in limits.splitlines() if line.startswith("Max open files")).split()[4] == "256"
    )  # the hard limit: the agent raises its soft one


@needs_root
def test_the_sandbox_looks_as_planned_from_inside(guest: Path, place: Path, launched: list[Launch]) -> None:
    launch = run(guest, root_steps(place))
    launched.append(launch)
    assert inside(launch.pid, "hostname") == "box"
    assert "LOOPBACK,UP" in inside(launch.pid, "ip link")
    assert inside(launch.pid, "cat /proc/kallsyms /proc/timer_list; ls /proc/acpi /proc/tty /proc/scsi 2>/dev/null | grep -v :") == ""
    assert inside(launch.pid, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start") == "80"
    assert (
        inside(launch.pid, "for f in /proc/sys/kernel/shmmax /x /usr/x /proc/tty/x; do (echo 1 > $f) 2>/dev/null && echo $f; done; true")
        == ""
    )
    assert inside(launch.pid, "ls -d /work /home/* /root /etc/* 2>/dev/null; echo end") == "/etc/passwd\n/home/user\nend"


@needs_root
def test_nothing_is_inherited(guest: Path, place: Path, launched: list[Launch]) -> None:
    directory = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        launch = start(guest, encode(root_steps(place)), leaked=((directory, 3), (directory, 9), (directory, 11 + 2), (directory, 499)))
        launched.append(launch.finish())
    finally:
        os.close(directory)
    assert launch.ready
    descriptors = {int(path.name): os.readlink(path) for path in Path(f"/proc/{launch.pid}/fd").iterdir()}
    assert set(descriptors) >= {0, 1, 2, LISTEN_FD}
    assert descriptors[0].startswith("pipe:") and descriptors[0] == descriptors[1] == descriptors[2]
    others = {target for number, target in descriptors.items() if number > 2 and not target.startswith(("socket:", "anon_inode:", "pipe:"))}
    assert others <= {"/proc", "/dev/null"}  # which the agent has opened itself: those of the sandbox
    assert all(os.stat(f"/proc/{launch.pid}/fd/{number}").st_dev != os.stat("/").st_dev for number in descriptors)
    assert descriptors[0] not in {os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.exists()}
    assert os.readlink(f"/proc/{launch.pid}/cwd") == "/"


@needs_root
def test_a_plain_user_gets_a_sandbox(guest: Path, place: Path) -> None:
    os.chown(place, PLAIN_UID, PLAIN_UID)
    with run_as(PLAIN_UID, guest, user_steps(place, PLAIN_UID)) as launch:
        assert launch.ready, launch.records
        facts = status(launch.pid)
        assert facts["Uid"].split() == facts["Gid"].split() == [str(PLAIN_UID)] * 4
        assert {facts[name] for name in ("CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb")} == {"0" * 16}
        assert facts["NoNewPrivs"] == "1"
        assert Path(f"/proc/{launch.pid}/uid_map").read_text().split() == ["1000", str(PLAIN_UID), "1"]
        assert Path(f"/proc/{launch.pid}/setgroups").read_text() == "deny\n"
        assert os.stat(f"/proc/{launch.pid}/environ").st_uid == 0
        seen = mounts(launch.pid)
        assert set(seen) >= MOUNT_POINTS
        assert seen["/usr"][0].startswith("ro,nosuid,nodev")
        assert inside(launch.pid, "ls -d /work /home/* 2>/dev/null; hostname", uid=None) == "/home/user\nbox"


@needs_root
@pytest.mark.parametrize("uid", [0, PLAIN_UID])
def test_the_process_level_needs_no_namespace(guest: Path, place: Path, uid: int) -> None:
    with run_as(uid, guest, process_steps(place)) as launch:
        assert launch.ready, launch.records
        assert status(launch.pid)["NoNewPrivs"] == "1"
        assert status(launch.pid)["Uid"].split() == [str(uid)] * 4
        for name in ("mnt", "pid", "net", "user"):
            assert os.readlink(f"/proc/{launch.pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}")


@needs_root
def test_an_owner_mapped_tree_shows_the_owner_as_the_user(guest: Path, place: Path, launched: list[Launch]) -> None:
    source = place / "source"
    source.mkdir(mode=0o700)
    (source / "file").write_text("text")
    os.chown(source, PLAIN_UID, PLAIN_UID)
    os.chown(source / "file", PLAIN_UID, PLAIN_UID)
    (place / "root").mkdir()
    steps = root_steps(place / "root")
    at = steps.index(("GO",))
    mapping = f"{PLAIN_UID} {ID_BASE + 1000} 1\n"
    steps[at:at] = [("IDMAP_TREE", slot, str(source), HARD, 1, mapping) for slot in (5, 6)]
    at = steps.index(("TMPFS", "tmp", "size=1m,mode=1777", HARD))
    steps[at:at] = [("ATTACH", 5, "work/five"), ("ATTACH", 6, "work/six")]
    launch = run(guest, steps)
    launched.append(launch)
    assert launch.ready, launch.records
    assert inside(launch.pid, "cat /work/five/file; echo more > /work/six/new; stat -c %u /work/five", uid=1000) == "text1000"
    assert (source / "new").stat().st_uid == PLAIN_UID


@needs_root
def test_a_tree_is_mapped_if_its_file_system_allows_it(guest: Path, place: Path, launched: list[Launch]) -> None:
    """/proc cannot be id-mapped, as an overlay cannot: with 1 that is an error, with 2 the tree comes as it is."""
    failures = []
    for idmap in (1, 2):
        steps = root_steps(place)
        at = steps.index(("GO",))
        steps[at:at] = [("TREE", 8, "/proc/bus", RDONLY | HARD, 0, idmap), ("TREE", 9, "/usr", RDONLY | HARD, 1, idmap)]
        at = steps.index(("MQUEUE", "dev/mqueue", HARD | NOEXEC))
        steps[at:at] = [("ATTACH", 8, "bus"), ("ATTACH", 9, "usr9")]
        launch = run(guest, steps)
        launched.append(launch)
        if not launch.ready:
            failures.append((idmap, launch.failure.step, launch.failure.error))
    assert failures == [(1, 3, errno.EINVAL)]
    seen = mounts(launch.pid)
    assert "ro,nosuid,nodev" in seen["/bus"][0] and "idmapped" not in seen["/bus"][0]
    assert seen["/usr9"][0] == "ro,nosuid,nodev,relatime,idmapped"


@needs_root
def test_an_overlay_of_a_mapped_image_becomes_the_root(guest: Path, place: Path, launched: list[Launch]) -> None:
    image, staging = place / "image", place / "staging"
    for directory in (image / "bin", staging):
        directory.mkdir(parents=True)
    (image / "bin/tool").write_text("from the image")
    id_map = f"0 {ID_BASE} {ID_COUNT}\n"
    options = f"lowerdir={staging}/lower,upperdir={staging}/upper,workdir={staging}/work,userxattr"
    steps: list[Step] = [
        ("CLONE", ALL_NAMESPACES),
        ("IDMAP", id_map, id_map, 0),
        ("TREE", 0, str(image), RDONLY, 1, 1),
        ("GO",),
        ("PRIVATE",),
        ("SETID", 0, 0),
        ("ROOT_TMPFS", str(staging), "size=4m,mode=755"),
        *(("MKDIR", name, 0o755, 0, 0) for name in ("upper", "work", "merged")),
        ("ATTACH", 0, "lower"),
        ("ROOT_OVERLAY", f"{staging}/merged", options),
        ("FILE", "bin/new", 0o755, b"x"),
        ("PROC", "proc", "", HARD),
        ("PIVOT",),
        ("AGENT", LISTEN_FD),
    ]
    launch = run(guest, steps)
    launched.append(launch)
    assert launch.ready, launch.records
    assert set(mounts(launch.pid)) == {"/", "/proc"}
    root = Path(f"/proc/{launch.pid}/root")
    assert (root / "bin/tool").read_text() == "from the image"
    assert (root / "bin/tool").stat().st_uid == ID_BASE
    assert not (image / "bin/new").exists()


@needs_root
def test_mounts_do_not_propagate(guest: Path, place: Path, launched: list[Launch]) -> None:
    """Where the host's mounts are shared (systemd's default), a clone would stay in their peer group."""

    def share() -> None:
        assert LIBC.unshare(NEWNS) == 0
        assert LIBC.mount(None, b"/", None, MS_REC | MS_SHARED, None) == 0

    with run_as(0, guest, root_steps(place), prepare=share) as launch:
        assert launch.ready, launch.records
        assert not any("shared:" in options or "master:" in options for options, _ in mounts(launch.pid).values())


@needs_root
def test_bind_within_and_nested_read_only(guest: Path, place: Path, launched: list[Launch]) -> None:
    source = place / "source"
    (source / "git/hooks").mkdir(parents=True)
    (place / "root").mkdir()
    steps = user_steps(place / "root", 0)
    at = steps.index(("TMPFS", "tmp", "size=1m,mode=1777", HARD))
    steps[at:at] = [
        ("BIND", str(source), "work", HARD, 0),
        ("BIND_WITHIN", "work/git", "work/git", HARD),
        ("READ_ONLY", "work/git/hooks"),
        ("BIND_WITHIN", "work/git", "also/git", RDONLY),
    ]
    launch = run(guest, steps)
    launched.append(launch)
    assert launch.ready, launch.records
    attempts = "for d in work work/git work/git/hooks also/git; do touch /$d/x 2>/dev/null && echo $d; done; mv /work/git /work/away 2>/dev/null || echo pinned"
    assert inside(launch.pid, attempts, uid=1000) == "work\nwork/git\npinned"


@needs_root
def test_cgroup_files_are_kept_for_the_agent(guest: Path, place: Path, cgroups: dict[int, Path], launched: list[Launch]) -> None:
    steps: list[Step] = [*(("CGROUP", kind, str(path)) for kind, path in cgroups.items()), *root_steps(place)]
    launch = run(guest, steps)
    launched.append(launch)
    assert launch.ready, launch.records
    kept = [path for path in Path(f"/proc/{launch.pid}/fd").iterdir() if "agentkernel-test-" in os.readlink(path)]
    assert sorted(os.readlink(path).rpartition("/")[2] for path in kept) == sorted([cgroups[2].name, "cgroup.procs", "tasks"])
    for path in kept:
        flags = Path(f"/proc/{launch.pid}/fdinfo/{path.name}").read_text().split("flags:")[1].split()[0]
        assert int(flags, 8) & os.O_CLOEXEC
    for path in cgroups.values():
        assert str(launch.pid) not in (path / "cgroup.procs").read_text().split()  # the agent itself stays outside


@needs_root
@pytest.mark.parametrize("kinds", [(1,), (2,), (1, 2)])
def test_started_processes_join_the_cgroups(
    guest: Path, place: Path, cgroups: dict[int, Path], launched: list[Launch], kinds: tuple[int, ...]
) -> None:
    launch = run(guest, [*(("CGROUP", kind, str(cgroups[kind])) for kind in kinds), *root_steps(place)])
    launched.append(launch)
    attach = Attach(launch.listener.getsockname())
    assert attach.start("sleep", "60") > 1
    attach.close()
    for kind, path in cgroups.items():
        members = [int(pid) for pid in (path / "cgroup.procs").read_text().split()]
        assert [status(pid)["Name"] for pid in members] == ["sleep"] * (kind in kinds)


def test_bad_arguments_are_refused(guest: Path) -> None:
    for arguments in ("", "--plan-fd 10", "--plan-fd 0 --status-fd 11", "--plan-fd 10 --status-fd 10", "--plan-fd x --status-fd 11"):
        assert subprocess.run([guest, "enter", *arguments.split()], check=False).returncode == 2


def test_a_closed_standard_stream_is_refused(guest: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        argv = [guest, "enter", "--plan-fd", str(theirs.fileno()), "--status-fd", str(ours.fileno())]
        done = subprocess.run(argv, check=False, pass_fds=(ours.fileno(), theirs.fileno()), preexec_fn=lambda: os.close(1))
    assert done.returncode == 2


def test_a_network_namespace_that_is_not_allowed_is_named(guest: Path) -> None:
    """It is not made by clone(2) but beside the building of the root: its failure is CLONE's all the same."""
    with run_as(PLAIN_UID if os.geteuid() == 0 else os.geteuid(), guest, [("CLONE", NEWNET), ("GO",), ("AGENT", LISTEN_FD)]) as launch:
        assert (launch.failure.step, launch.failure.error, launch.failure.value) == (0, 1, 0)
    assert not processes(guest)


@needs_root
@pytest.mark.parametrize("namespaces", [NEWNET, NEWNET | NEWUSER])
def test_the_network_namespace_is_the_sandbox_s_own(guest: Path, launched: list[Launch], namespaces: int) -> None:
    launch = run(
        guest, [("CLONE", namespaces), *([("IDMAP", "0 0 1\n", "0 0 1\n", 0)] * bool(namespaces & NEWUSER)), ("GO",), ("AGENT", LISTEN_FD)]
    )
    launched.append(launch)
    assert launch.ready, launch.records
    for name in ("net", "user"):
        same = os.readlink(f"/proc/{launch.pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}")
        assert same == (name == "user" and not namespaces & NEWUSER)
    with open(f"/proc/{launch.pid}/ns/net") as network:
        owner = fcntl.ioctl(network, NS_GET_USERNS)
    try:
        assert os.readlink(f"/proc/self/fd/{owner}") == os.readlink(f"/proc/{launch.pid}/ns/user")
    finally:
        os.close(owner)
