"""A second, independent encoder of launch plans (docs/launch-plan.md), and a way to run `enter` on one."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
import traceback
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field
from pathlib import Path

NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
ALL_NAMESPACES = NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET
RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
FAILED, MALFORMED, STARTED, READY = 1, 2, 3, 4
LISTEN_FD, PLAN_FD, STATUS_FD = 10, 11, 12

OPS = {
    "CLONE": 1, "IDMAP": 2, "TREE": 3, "IDMAP_TREE": 4, "CGROUP": 5, "GO": 6,
    "PRIVATE": 10, "SETID": 11, "ROOT_TMPFS": 12, "ROOT_SLOT": 13, "ROOT_OVERLAY": 14, "ROOT_BIND": 15,
    "TMPFS": 20, "BIND": 21, "ATTACH": 22, "OVERLAY": 23, "PROC": 24, "DEVPTS": 25, "MQUEUE": 26, "BIND_WITHIN": 27,
    "MKDIR": 30, "FILE": 31, "SYMLINK": 32, "MASK": 33, "READ_ONLY": 34, "REMOUNT_ROOT": 35, "REMOUNT": 36,
    "PIVOT": 40, "HOSTNAME": 41, "LOOPBACK": 42, "RLIMIT": 43, "SYSCTL": 44, "TRANSPARENT": 45,
    "CAPABILITIES": 50, "NO_NEW_PRIVS": 51, "LANDLOCK": 52, "LANDLOCK_PATH": 53, "LANDLOCK_APPLY": 54,
    "AGENT": 60, "PROGRAM": 61,
}  # fmt: skip

Step = tuple[str | int, *tuple[int | str | bytes, ...]]


def argument(value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        value = struct.pack("<Q", value)
    elif isinstance(value, str):
        value = value.encode() + b"\0"
    return struct.pack("<I", len(value)) + value


def encode(steps: list[Step]) -> bytes:
    encoded = [b"AKPLAN1\n", struct.pack("<I", len(steps))]
    for name, *arguments in steps:
        op = OPS[name] if isinstance(name, str) else name
        encoded.append(struct.pack("<HH", op, len(arguments)))
        encoded += map(argument, arguments)
    return b"".join(encoded)


@dataclass(frozen=True)
class Record:
    kind: int
    step: int
    error: int
    value: int


@dataclass
class Outcome:
    """What a launcher has reported."""

    records: list[Record] = field(default_factory=list)
    exit_code: int | None = None

    @property
    def pid(self) -> int:
        """The sandbox's first process."""
        return next(record.value for record in self.records if record.kind == STARTED)

    @property
    def ready(self) -> bool:
        return self.exit_code == 0 and [record.kind for record in self.records] == [STARTED, READY]

    @property
    def failure(self) -> Record:
        (record,) = [record for record in self.records if record.kind in (FAILED, MALFORMED)]
        return record


@dataclass(kw_only=True)
class Launch(Outcome):
    """A started launcher; `finish` waits until it has reported, `close` leaves no process behind."""

    enter: int
    status: int
    listener: socket.socket

    def finish(self, timeout_s: float = 10.0) -> Launch:
        data = b""
        while True:
            if not select.select([self.status], [], [], timeout_s)[0]:
                raise TimeoutError("the launcher hangs")
            chunk = os.read(self.status, 4096)
            if not chunk:
                break
            data += chunk
        self.records += [Record(*fields) for fields in struct.iter_unpack("<IIII", data)]
        self.exit_code = os.waitstatus_to_exitcode(os.waitpid(self.enter, 0)[1])
        return self

    def close(self) -> None:
        self.listener.close()
        os.close(self.status)
        if self.exit_code is None:
            with contextlib.suppress(ChildProcessError):
                os.kill(self.enter, signal.SIGKILL)
                os.waitpid(self.enter, 0)
        for record in self.records:
            if record.kind == STARTED:
                with contextlib.suppress(ProcessLookupError, ChildProcessError):
                    os.kill(record.value, signal.SIGKILL)
                    os.waitpid(record.value, 0)


def start(binary: Path, plan: bytes, *, leaked: tuple[tuple[int, int], ...] = (), wrapper: tuple[str, ...] = ()) -> Launch:
    """Starts `enter` on the plan's bytes, with a listening socket at LISTEN_FD.

    `leaked` are (descriptor, number) pairs that it also inherits; `wrapper` is a command line that runs it.
    """
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")  # an abstract name that the kernel chooses
    listener.listen()
    plan_fd = os.memfd_create("plan")
    os.write(plan_fd, plan)
    os.lseek(plan_fd, 0, os.SEEK_SET)
    read_end, write_end = os.pipe()
    wanted = ((listener.fileno(), LISTEN_FD), (plan_fd, PLAN_FD), (write_end, STATUS_FD), *leaked)
    copies = [(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 500), number) for fd, number in wanted]
    argv = [*wrapper, str(binary), "enter", "--plan-fd", str(PLAN_FD), "--status-fd", str(STATUS_FD)]
    try:
        actions = [(os.POSIX_SPAWN_DUP2, copy, number) for copy, number in copies]
        enter = os.posix_spawn(argv[0], argv, {"SECRET": "of-the-host"}, file_actions=actions)
    finally:
        for fd in (plan_fd, write_end, *(copy for copy, _ in copies)):
            os.close(fd)
    return Launch(enter=enter, status=read_end, listener=listener)


def run(binary: Path, steps: list[Step]) -> Launch:
    """Runs `enter` on these steps until it has reported."""
    launch = start(binary, encode(steps))
    try:
        return launch.finish()
    except BaseException:
        launch.close()
        raise


@contextlib.contextmanager
def run_as(uid: int, binary: Path, steps: list[Step], prepare: Callable[[], None] = lambda: None) -> Iterator[Outcome]:
    """Runs `enter` as the child of a process of its own, which first calls `prepare` and becomes this user, and which lives as long as the context."""
    read_end, write_end = os.pipe()
    stay_read, stay_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(stay_write)
            prepare()
            if uid != os.geteuid():
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            launch = run(binary, steps)
            os.write(write_end, json.dumps([launch.exit_code, [astuple(record) for record in launch.records]]).encode())
            os.read(stay_read, 1)
            launch.close()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(stay_read)
    os.close(write_end)
    try:
        exit_code, records = json.loads(os.read(read_end, 1 << 16) or b"[null, []]")
        yield Outcome([Record(*fields) for fields in records], exit_code)
    finally:
        os.close(read_end)
        os.close(stay_write)
        os.waitpid(pid, 0)
