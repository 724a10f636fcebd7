"""Landlock access bits by ABI version (linux/landlock.h): the second wall behind the mount namespace, and the egress process's own."""

from __future__ import annotations

EXECUTE = 1 << 0
WRITE_FILE = 1 << 1
READ_FILE = 1 << 2
READ_DIR = 1 << 3
REMOVE_DIR = 1 << 4
REMOVE_FILE = 1 << 5
MAKE_CHAR = 1 << 6
MAKE_DIR = 1 << 7
MAKE_REG = 1 << 8
MAKE_SOCK = 1 << 9
MAKE_FIFO = 1 << 10
MAKE_BLOCK = 1 << 11
MAKE_SYM = 1 << 12
REFER = 1 << 13  # ABI 2
TRUNCATE = 1 << 14  # ABI 3
IOCTL_DEV = 1 << 15  # ABI 5

NET_BIND_TCP = 1 << 0  # ABI 4
NET_CONNECT_TCP = 1 << 1

SCOPE_ABSTRACT_UNIX_SOCKET = 1 << 0  # ABI 6
SCOPE_SIGNAL = 1 << 1

MINIMUM_ABI = 2  # without REFER (ABI 1) a ruleset forbids every rename and link across directories
NET_ABI = 4
SCOPE_ABI = 6

READ = EXECUTE | READ_FILE | READ_DIR
NODES = MAKE_CHAR | MAKE_BLOCK  # never granted


def handled(abi: int) -> int:
    """Every file access right that this ABI can restrict."""
    rights = (1 << 13) - 1
    if abi >= 2:
        rights |= REFER
    if abi >= 3:
        rights |= TRUNCATE
    if abi >= 5:
        rights |= IOCTL_DEV
    return rights


def write(abi: int) -> int:
    """Everything but device nodes and device ioctls."""
    return handled(abi) & ~NODES & ~IOCTL_DEV


def scoped(abi: int) -> int:
    """Abstract unix sockets and signals stay within the sandbox."""
    return SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL if abi >= SCOPE_ABI else 0
