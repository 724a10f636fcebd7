"""Landlock for this very process (linux/landlock.h): nothing written, executed or listened on, and little read. Linux 5.13 and newer."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from typing import Final

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION: Final = 1  # flag of landlock_create_ruleset
_PATH_BENEATH: Final = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FILE_RIGHTS: Final = ((1, 13), (2, 14), (3, 15), (5, 16))  # ABI, and how many file rights it knows
_NET_ABI, _BIND_TCP = 4, 1
_SCOPE_ABI, _SCOPES = 6, 3  # abstract unix sockets and signals
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
    rights = max(count for least, count in _FILE_RIGHTS if abi >= least)
    attributes = struct.pack("=Q", (1 << rights) - 1)
    if abi >= _NET_ABI:
        attributes += struct.pack("=Q", _BIND_TCP)
    if abi >= _SCOPE_ABI:
        attributes += struct.pack("=Q", _SCOPES)
    return attributes


def _allow_reading(call: ctypes._NamedFuncPointer, ruleset: int, path: str) -> None:
    try:
        directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        if call(_ADD_RULE, ruleset, _PATH_BENEATH, _PATH_RULE.pack(_READ_FILE | _READ_DIR, directory), 0) < 0:
            raise _error("landlock_add_rule")
    finally:
        os.close(directory)


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
