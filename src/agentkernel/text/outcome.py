"""What is said about a command's end (its exit status alone would look like its own failure), and what the command line exits with."""

from __future__ import annotations

from typing import NamedTuple

from agentkernel.model.command import Cause, ExitStatus, LimitHit
from agentkernel.model.spec import SandboxSpec, StorageKind
from agentkernel.units import format_duration, format_size

EXIT_TIMEOUT = 124


class Line(NamedTuple):
    """One line for the user's stderr, as `style.line` takes it."""

    kind: str  # error, warning, note
    message: str
    hint: str = ""


def exit_status(status: ExitStatus) -> int:
    """What the command line exits with for a command that ended so."""
    return EXIT_TIMEOUT if status.cause is Cause.TIMEOUT else status.exit_code


def why(status: ExitStatus, spec: SandboxSpec, timeout_s: float | None) -> list[Line]:
    """Names the limits that ended or hindered the command; empty for most."""
    lines = []
    if status.cause is Cause.TIMEOUT and timeout_s is not None:
        message = f"the command ran longer than {format_duration(timeout_s)} and was killed with everything it started"
        lines.append(Line("error", message, "--timeout allows it more time"))
    elif status.cause is Cause.SUPERVISOR_LOST:
        lines.append(Line("error", "the command's supervisor died, so the command was killed"))
    kind = "error" if exit_status(status) else "note"
    return [*lines, *(Line(kind, *_limit(limit, spec)) for limit in status.limits_hit)]


def _limit(limit: LimitHit, spec: SandboxSpec) -> tuple[str, str]:
    """The message and the flag that doubles the limit. A sandbox without a limit of its own met the host's."""
    memory, pids, disk = spec.resources.memory_bytes, spec.resources.pids, spec.resources.disk_bytes
    match limit:
        case LimitHit.MEMORY if memory is not None:
            said = f"the sandbox ran out of memory (limit: {format_size(memory)}) and processes in it were killed"
            return said, f"--memory {format_size(2 * memory)} allows more"
        case LimitHit.PIDS if pids is not None:
            return f"the sandbox reached its limit of {pids} processes and threads", f"--pids {2 * pids} allows more"
        case LimitHit.DISK if memory is not None and memory < disk and spec.storage is StorageKind.MEMORY:
            said = f"the sandbox's own files, which are kept in memory, reached the limit of {format_size(memory)}"
            return said, f"--memory {format_size(2 * memory)} allows more; --storage disk keeps them on disk"
        case LimitHit.DISK:
            return f"the sandbox's own files reached their limit of {format_size(disk)}", f"--disk {format_size(2 * disk)} allows more"
        case _:
            return f"the host ran out of {limit.value}", "the sandbox has no limit of its own; give it one"
