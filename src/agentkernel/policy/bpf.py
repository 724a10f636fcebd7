"""An assembler for classic BPF programs that judge syscalls (`struct seccomp_data`, linux/seccomp.h).

A program is built from its end to its start: whatever jumps is emitted after what it jumps to. So every target is known, a
jump that does not fit into 8 bits gets a long one next to it, and equal returns are shared.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS

# linux/bpf_common.h
LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
JUMP = 0x05  # BPF_JMP | BPF_JA
JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JUMP_GREATER = 0x25  # BPF_JMP | BPF_JGT | BPF_K
JUMP_GREATER_EQUAL = 0x35  # BPF_JMP | BPF_JGE | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K

# struct seccomp_data { int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]; }
NUMBER_OFFSET = 0
ARCHITECTURE_OFFSET = 4

_FAR = 255
_INSTRUCTION = struct.Struct("<HBBI")  # struct sock_filter


def argument_offset(index: int) -> int:
    """Where the low word of an argument lies; both architectures are little-endian."""
    return 16 + 8 * index


@dataclass(slots=True)
class Assembler:
    """Collects instructions, last first. A label is the count of instructions from there to the end."""

    _reversed: list[tuple[int, int, int, int]] = field(default_factory=list)
    _returns: dict[int, int] = field(default_factory=dict)

    def ret(self, value: int) -> int:
        """A return; equal ones share an instruction."""
        if value not in self._returns:
            self._returns[value] = self._emit(RETURN, 0, 0, value)
        return self._returns[value]

    def load(self, offset: int, then: int) -> int:
        """Loads a word into the accumulator, then goes on at `then`."""
        self._fall_through(then)
        return self._emit(LOAD_WORD, 0, 0, offset)

    def mask(self, value: int, then: int) -> int:
        """Ands the accumulator, then goes on at `then`."""
        self._fall_through(then)
        return self._emit(AND, 0, 0, value)

    def branch(self, operation: int, value: int, yes: int, no: int) -> int:
        """Compares the accumulator with `value` and goes on at `yes` or `no`."""
        if yes == no:
            return yes
        while True:  # each long jump moves the other target one further away
            here = len(self._reversed)
            if here - yes > _FAR:
                yes = self._emit(JUMP, 0, 0, here - yes)
            elif here - no > _FAR:
                no = self._emit(JUMP, 0, 0, here - no)
            else:
                return self._emit(operation, here - yes, here - no, value)

    def program(self, start: int) -> bytes:
        """The instructions from `start` on, as an array of `struct sock_filter`."""
        self._fall_through(start)
        if len(self._reversed) > MAX_INSTRUCTIONS:
            raise OverflowError(f"{len(self._reversed)} instructions; the kernel takes {MAX_INSTRUCTIONS}")
        return b"".join(_INSTRUCTION.pack(*each) for each in reversed(self._reversed))

    def _fall_through(self, then: int) -> None:
        here = len(self._reversed)
        if then != here:
            self._emit(JUMP, 0, 0, here - then)

    def _emit(self, code: int, yes: int, no: int, value: int) -> int:
        self._reversed.append((code, yes, no, value))
        return len(self._reversed)
