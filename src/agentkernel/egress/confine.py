"""What the egress process gives up before it reads the first byte from a sandbox."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
from typing import Final

from agentkernel.egress.landlock import restrict

UID: Final = 65_532  # of nobody else: below the agents' 65531 and 65534 there are accounts, above sandboxes' ranges
MAX_FILES: Final = 8192  # 4,000 connections, a stream a sandbox, look-ups
_ERROR_BYTES: Final = 65_536  # all that it may ever write, to its standard error
_SET_DUMPABLE, _SET_NO_NEW_PRIVS = 4, 38  # linux/prctl.h
_CAPABILITY_VERSION: Final = 0x20080522  # linux/capability.h, _LINUX_CAPABILITY_VERSION_3
# What the resolver reads: its configuration, the modules that nsswitch.conf names, and what those read.
_READABLE: Final = (
    "/etc",
    "/run/systemd/resolve",
    "/run/nscd",
    "/var/run/nscd",
    "/var/lib/sss/pipes",
    "/run/resolvconf",
    "/run/NetworkManager",
)


def confine(control_fd: int) -> None:
    """Keeps of this process the descriptors 0-2 and `control_fd`, and no privilege; raises OSError where that is not to be had.

    Everything that is to be imported must have been: Python's own files may be out of reach afterwards.
    """
    _close_others(control_fd)
    _limit()
    readable = (*_READABLE, os.path.dirname(os.path.realpath("/etc/resolv.conf")), *_library_directories())
    os.chdir("/")
    os.umask(0o077)
    if os.geteuid() == 0:
        _become_nobody()
    library = ctypes.CDLL(None, use_errno=True)
    _drop_capabilities(library)
    _prctl(library, _SET_NO_NEW_PRIVS, 1)
    restrict(readable)
    _prctl(library, _SET_DUMPABLE, 0)


def _close_others(control_fd: int) -> None:
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2 and descriptor != control_fd:
            try:
                os.close(descriptor)
            except OSError as error:
                if error.errno != errno.EBADF:  # the one that the list was read from
                    raise


def _limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, MAX_FILES))
    except (ValueError, PermissionError):  # the limit is lower, and not ours to raise
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_ERROR_BYTES, _ERROR_BYTES))


def _become_nobody() -> None:
    try:
        os.setgroups([])
        os.setresgid(UID, UID, UID)
        os.setresuid(UID, UID, UID)
    except OSError as error:
        # A user namespace without that id, or a root that may not change it: what it is root of is small, and its capabilities go.
        if error.errno not in (errno.EINVAL, errno.EPERM):
            raise


def _library_directories() -> set[str]:
    """Where the libraries of this process lie; the resolver's modules are beside libc."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        paths = [line.split(maxsplit=5)[-1].rstrip("\n") for line in maps]
    return {os.path.dirname(path) for path in paths if path.startswith("/") and ".so" in os.path.basename(path)}


def _drop_capabilities(library: ctypes.CDLL) -> None:
    header, nothing = struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24)
    if library.capset(header, nothing) < 0:
        raise OSError(ctypes.get_errno(), "capset")


def _prctl(library: ctypes.CDLL, option: int, value: int) -> None:
    if library.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) < 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")
