"""Compiles a syscall table into the filter that the guest's agent installs for every process it starts.

A syscall of a foreign architecture (i386's `int 0x80` on x86_64, 32-bit ARM on aarch64) gets ENOSYS rather than a signal: all of
them do, so nothing can be done through it, and a program that only probes lives on. The x32 ABI is the native architecture with
bit 30 in the number; these numbers are above every table and so unknown: ENOSYS, too.

The number is found by binary search, about nine instructions. Since Linux 5.11 the kernel knows beforehand which numbers a filter
allows whatever their arguments are, and does not run it for them.
"""

from __future__ import annotations

from functools import cache
from itertools import groupby

from agentkernel.errors import UnknownKey, Unsupported
from agentkernel.model.names import suggest
from agentkernel.policy import bpf
from agentkernel.policy.syscall_numbers import AUDIT_ARCHITECTURES, NUMBERS
from agentkernel.policy.syscall_tables import ENOSYS, EPERM, RET_ALLOW, RET_ERRNO, TABLES, Check, Rule, Table


@cache
def compile_filter(table: str, architecture: str) -> bytes:
    """An array of `struct sock_filter`. Architectures: x86_64, aarch64.

    Raises:
        UnknownKey: there is no such table.
        Unsupported: there are no syscall numbers for the architecture.
    """
    if table not in TABLES:
        raise UnknownKey(f"there is no seccomp table {table!r}", hint=suggest(table, TABLES))
    if architecture not in NUMBERS:
        raise Unsupported(f"there is no seccomp filter for {architecture!r}", hint=f"architectures: {', '.join(sorted(NUMBERS))}")
    program = bpf.Assembler()
    by_number = _search(program, _intervals(program, TABLES[table], NUMBERS[architecture]))
    native = program.load(bpf.NUMBER_OFFSET, by_number)
    start = program.branch(bpf.JUMP_EQUAL, AUDIT_ARCHITECTURES[architecture], native, program.ret(_value(ENOSYS)))
    return program.program(program.load(bpf.ARCHITECTURE_OFFSET, start))


def _value(errno: int) -> int:
    return RET_ERRNO | errno if errno else RET_ALLOW


def _intervals(program: bpf.Assembler, table: Table, numbers: dict[str, int]) -> list[tuple[int, int]]:
    """(first number, label) of each run of numbers with one fate, ascending from 0; the last has no end."""
    unknown = program.ret(_value(ENOSYS))
    labels = {number: _label(program, table, name) for name, number in numbers.items()}
    fates = [(number, labels.get(number, unknown)) for number in range(max(labels) + 2)]
    return [next(run) for _, run in groupby(fates, key=lambda fate: fate[1])]


def _label(program: bpf.Assembler, table: Table, name: str) -> int:
    if name in table.rules:
        return _rule(program, table.rules[name])
    if name in table.allowed:
        return program.ret(_value(0))
    return program.ret(_value(ENOSYS if name in table.hidden else EPERM))


def _rule(program: bpf.Assembler, rule: Rule) -> int:
    label = program.ret(_value(rule.otherwise))
    for case in reversed(rule.cases):
        failed, label = label, program.ret(_value(case.errno))
        for check in reversed(case.checks):
            label = _check(program, check, label, failed)
    return label


def _check(program: bpf.Assembler, check: Check, yes: int, no: int) -> int:
    """Loads the argument's low word and compares it with each run of consecutive values."""
    label = no
    for first, last in reversed(_runs(check.values)):
        if first == last:
            label = program.branch(bpf.JUMP_EQUAL, first, yes, label)
        else:
            label = program.branch(bpf.JUMP_GREATER_EQUAL, first, program.branch(bpf.JUMP_GREATER, last, label, yes), label)
    if check.mask != 0xFFFFFFFF:
        label = program.mask(check.mask, label)
    return program.load(bpf.argument_offset(check.argument), label)


def _runs(values: frozenset[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for value in sorted(values):
        if runs and runs[-1][1] == value - 1:
            runs[-1] = (runs[-1][0], value)
        else:
            runs.append((value, value))
    return runs


def _search(program: bpf.Assembler, intervals: list[tuple[int, int]]) -> int:
    if len(intervals) == 1:
        return intervals[0][1]
    middle = len(intervals) // 2
    upper = _search(program, intervals[middle:])
    return program.branch(bpf.JUMP_GREATER_EQUAL, intervals[middle][0], upper, _search(program, intervals[:middle]))
