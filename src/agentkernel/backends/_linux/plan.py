"""The launch plan: what `agentkernel-guest enter` does, as data (docs/launch-plan.md).

Pure: computing a plan touches nothing, so it can be tested, printed and compared.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

MAGIC = b"AKPLAN1\n"

# Where the launcher finds what it inherits; the log only where the last step is PROGRAM.
AGENT_SOCKET_FD, PLAN_FD, STATUS_FD, LOG_FD = 10, 11, 12, 13


class Op(IntEnum):
    """The numbers of the plan's steps."""

    CLONE = 1
    IDMAP = 2
    TREE = 3
    IDMAP_TREE = 4
    CGROUP = 5
    GO = 6
    PRIVATE = 10
    SETID = 11
    ROOT_TMPFS = 12
    ROOT_SLOT = 13
    ROOT_OVERLAY = 14
    ROOT_BIND = 15
    TMPFS = 20
    BIND = 21
    ATTACH = 22
    OVERLAY = 23
    PROC = 24
    DEVPTS = 25
    MQUEUE = 26
    BIND_WITHIN = 27
    MKDIR = 30
    FILE = 31
    SYMLINK = 32
    MASK = 33
    READ_ONLY = 34
    REMOUNT_ROOT = 35
    REMOUNT = 36
    PIVOT = 40
    HOSTNAME = 41
    LOOPBACK = 42
    RLIMIT = 43
    SYSCTL = 44
    TRANSPARENT = 45
    CAPABILITIES = 50
    NO_NEW_PRIVS = 51
    LANDLOCK = 52
    LANDLOCK_PATH = 53
    LANDLOCK_APPLY = 54
    AGENT = 60
    PROGRAM = 61


class MountAttr(IntFlag):
    """MOUNT_ATTR_* of mount_setattr(2)."""

    NONE = 0
    RDONLY = 0x01
    NOSUID = 0x02
    NODEV = 0x04
    NOEXEC = 0x08


class CloneFlag(IntFlag):
    """CLONE_NEW* of clone(2)."""

    NONE = 0
    NEWNS = 0x00020000
    NEWCGROUP = 0x02000000
    NEWUTS = 0x04000000
    NEWIPC = 0x08000000
    NEWUSER = 0x10000000
    NEWPID = 0x20000000
    NEWNET = 0x40000000


@dataclass(frozen=True, slots=True)
class Text:
    """A string argument: NUL-terminated on the wire, so it holds no NUL."""

    value: str


Argument = int | Text | bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One act of the kernel, and what a reader is told when it fails."""

    op: Op
    arguments: tuple[Argument, ...] = ()
    description: str = ""
    wire: list[bytes] = field(default_factory=list, init=False, repr=False, compare=False)  # encoded, once it has been

    def describe(self) -> str:
        """One phrase that completes `cannot ...`."""
        if self.description:
            return self.description
        shown = " ".join(argument.value if isinstance(argument, Text) else str(argument) for argument in self.arguments)
        return f"{self.op.name.lower()} {shown}".strip()


def encode(steps: tuple[Step, ...]) -> bytes:
    """Returns the plan's bytes; raises ValueError for a string with NUL."""
    return b"".join((MAGIC, struct.pack("<I", len(steps)), *map(_encode_step, steps)))


def _encode_step(step: Step) -> bytes:
    """Most steps of a plan are those of the one before, so each is encoded once."""
    if step.wire:
        return step.wire[0]
    parts = [struct.pack("<HH", step.op, len(step.arguments))]
    for argument in step.arguments:
        payload = _payload(argument)
        parts.append(struct.pack("<I", len(payload)))
        parts.append(payload)
    step.wire.append(b"".join(parts))
    return step.wire[0]


def _payload(argument: Argument) -> bytes:
    if isinstance(argument, Text):
        encoded = argument.value.encode("utf-8", "surrogateescape")
        if b"\0" in encoded:
            raise ValueError(f"a path or option holds a NUL byte: {argument.value!r}")
        return encoded + b"\0"
    if isinstance(argument, bytes):
        return argument
    return struct.pack("<Q", argument)
