"""A machine for classic BPF seccomp programs and an oracle for the tables behind them, for tests.

The machine follows linux/filter.h and refuses what the kernel's checker refuses; the oracle reads the tables without compiling them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from agentkernel.policy.syscall_tables import Table

ALLOW = 0x7FFF0000
ERRNO = 0x00050000
ENOSYS = ERRNO | 38
EPERM = ERRNO | 1

X86_64 = 0xC000003E
I386 = 0x40000003
AARCH64 = 0xC00000B7
ARM = 0x40000028


def decode(program: bytes) -> list[tuple[int, int, int, int]]:
    """The instructions, after the checks of the kernel's seccomp_check_filter and bpf_check_classic."""
    assert program and len(program) % 8 == 0
    instructions = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    assert 0 < len(instructions) <= 4096
    for at, (code, yes, no, value) in enumerate(instructions):
        if code == 0x20:  # ld [k]
            assert value % 4 == 0 and value < 64
        elif code == 0x05:  # ja
            assert at + 1 + value < len(instructions)
        elif code in (0x15, 0x25, 0x35):
            assert at + 1 + max(yes, no) < len(instructions)
        else:
            assert code in (0x54, 0x06)
    assert instructions[-1][0] == 0x06
    return instructions


def run(instructions: Sequence[tuple[int, int, int, int]], data: bytes) -> tuple[int, int]:
    """What the program returns for a struct seccomp_data, and how many instructions that took."""
    assert len(data) == 64
    at, accumulator, steps = 0, 0, 0
    while True:
        code, yes, no, value = instructions[at]
        at, steps = at + 1, steps + 1
        if code == 0x06:
            return value, steps
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x54:
            accumulator &= value
        elif code == 0x05:
            at += value
        else:
            holds = {0x15: accumulator == value, 0x25: accumulator > value, 0x35: accumulator >= value}[code]
            at += yes if holds else no


def syscall_data(architecture: int, number: int, arguments: Sequence[int] = ()) -> bytes:
    """A struct seccomp_data; missing arguments are 0."""
    padded = [value & 0xFFFFFFFFFFFFFFFF for value in (*arguments, 0, 0, 0, 0, 0, 0)][:6]
    return struct.pack("<IIQ6Q", number & 0xFFFFFFFF, architecture, 0x7F0012345678, *padded)


def oracle(table: Table, numbers: dict[str, int], number: int, arguments: Sequence[int]) -> int:
    """What the table says about a native syscall."""
    name = {known: name for name, known in numbers.items()}.get(number & 0xFFFFFFFF)
    if name is None or name in table.hidden:
        return ENOSYS
    if name in table.allowed:
        return ALLOW
    if name not in table.rules:
        return EPERM
    rule = table.rules[name]
    errno = rule.otherwise
    for case in rule.cases:
        if all(arguments[check.argument] & 0xFFFFFFFF & check.mask in check.values for check in case.checks):
            errno = case.errno
            break
    return ERRNO | errno if errno else ALLOW
