"""Landlock for this very process (linux/landlock.h): nothing written, executed or listened on, and little read. Linux 5.13 and newer."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from typing import Final

from agentkernel.policy.landlock import NET_ABI, NET_BIND_TCP, READ_DIR, READ_FILE, SCOPE_ABI, handled, scoped

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION: Final = 1  # flag of landlock_create_ruleset
_PATH_BENEATH: Final = 1
_PATH_RULE: Final = struct.Struct("=Qi")


def restrict(readable: Iterable[str]) -> int:
    """Leaves this thread, and those it starts, only the reading of files beneath these directories (those that exist).

    Descriptors that are open keep working. Returns the kernel's Landlock ABI; 0: it has none, and nothing was done. Raises OSError.
    Needs no_new_privs.
    """
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    abi: int = call(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    if abi < 1:
        return 0
    attributes = _attributes(abi)
    ruleset = call(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        raise _error("landlock_create_ruleset")
    try:
        for path in readable:
            _allow_reading(call, ruleset, path)
        if call(_RESTRICT_SELF, ruleset, 0) < 0:
            raise _error("landlock_restrict_self")
    finally:
        os.close(ruleset)
    return abi


def _attributes(abi: int) -> bytes:
    attributes = struct.pack("=Q", handled(abi))
    if abi >= NET_ABI:
        attributes += struct.pack("=Q", NET_BIND_TCP)
    if abi >= SCOPE_ABI:
        attributes += struct.pack("=Q", scoped(abi))
    return attributes


def _allow_reading(call: ctypes._NamedFuncPointer, ruleset: int, path: str) -> None:
    try:
        directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        if call(_ADD_RULE, ruleset, _PATH_BENEATH, _PATH_RULE.pack(READ_FILE | READ_DIR, directory), 0) < 0:
            raise _error("landlock_add_rule")
    finally:
        os.close(directory)


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
