"""The container's own system call filter, in the engines' JSON: the outer wall around agent and workload. Pure.

The agent gives every process that it starts the exact filter of `policy.seccomp`; this one is made of the same table, without judging
arguments, which engines cannot express in that order. So whatever would come into the container past the agent has no more than that.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from agentkernel.errors import Unsupported
from agentkernel.policy.syscall_numbers import NUMBERS
from agentkernel.policy.syscall_tables import ENOSYS, EPERM, TABLES

# With the foreign architectures of the same machine: their numbers would be killed else, and the workload's own filter answers ENOSYS.
ARCHITECTURES: Final = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}


@cache
def profile(table: str, architecture: str) -> dict[str, Any]:
    """The profile of a table; the same object each time, not to be changed. Raises Unsupported for an architecture without numbers."""
    if architecture not in NUMBERS:
        raise Unsupported(f"there is no seccomp filter for {architecture!r}", hint=f"architectures: {', '.join(sorted(NUMBERS))}")
    rules = TABLES[table]
    known = set(NUMBERS[architecture])
    allowed = known & (rules.allowed | set(rules.rules))
    hidden = known & rules.hidden - allowed
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": ENOSYS,
        "architectures": list(ARCHITECTURES[architecture]),
        "syscalls": [
            {"names": sorted(allowed), "action": "SCMP_ACT_ALLOW"},
            {"names": sorted(known - allowed - hidden), "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM},
            {"names": sorted(hidden), "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS},
        ],
    }
