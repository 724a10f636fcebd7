"""What the host refuses (a descriptor, room on the disk, ...), as callers of the door see it: as an `AgentKernelError`, like all else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from agentkernel.errors import SandboxFailed


@contextmanager
def host_errors() -> Iterator[None]:
    """An OSError of the block is SandboxFailed to whoever called; what it broke off is settled by the next request, or the timer."""
    try:
        yield
    except OSError as error:
        hint = "when the host is in order again, try again; `agentkernel gc` removes what may be left"
        raise SandboxFailed(f"the host refused it: {error or type(error).__name__}", hint=hint) from error
