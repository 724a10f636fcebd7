"""What is said about a finished run: one line for a limit that ended it, or the whole of it as one JSON object."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping

from agentkernel.cli.output import say
from agentkernel.cli.session import Outcome
from agentkernel.errors import AgentKernelError
from agentkernel.model.command import Cause, LimitHit
from agentkernel.model.request import Grant
from agentkernel.model.spec import SandboxSpec, StorageKind
from agentkernel.units import format_duration, format_size


class Collector:
    """Keeps the first bytes of each stream, for --json; counts on as the rest passes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.kept = {1: bytearray(), 2: bytearray()}
        self.truncated = {1: False, 2: False}

    async def write(self, descriptor: int, data: bytes) -> None:
        """Takes one chunk."""
        kept = self.kept[descriptor]
        room = self._limit_bytes - len(kept)
        kept += data[:room]
        if len(data) > room:
            self.truncated[descriptor] = True


def say_why(outcome: Outcome, timeout_s: float | None, environment: Mapping[str, str]) -> None:
    """Names the limit that ended the command, on stderr: its exit status alone would look like its own failure. Also what it left."""
    for notice in outcome.aftermath:
        say("warning", notice.message, notice.hint, environment)
    status, grant = outcome.status, outcome.grant
    if status is None or grant is None or outcome.interrupted_by is not None:
        return
    if status.cause is Cause.TIMEOUT and timeout_s is not None:
        message = f"the command ran longer than {format_duration(timeout_s)} and was killed with everything it started"
        say("error", message, "--timeout allows it more time", environment)
    elif status.cause is Cause.SUPERVISOR_LOST:
        say("error", "the command's supervisor died, so the command was killed", "", environment)
    kind = "error" if outcome.exit_status else "note"
    for limit in status.limits_hit:
        message, hint = _limit(limit, grant.spec)
        say(kind, message, hint, environment)


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


def print_outcome(outcome: Outcome, output: Collector) -> None:
    """Prints the one JSON object of `run --json`."""
    record: dict[str, object] = {"exit_code": outcome.exit_status, "interrupted_by": outcome.interrupted_by}
    status = outcome.status
    if status is not None:
        record |= {
            "signal": status.signal,
            "cause": status.cause.value,
            "limits_hit": [limit.value for limit in status.limits_hit],
            "survivors": status.survivors,
        }
    for name, stream in (("stdout", 1), ("stderr", 2)):
        text, encoding = _text(bytes(output.kept[stream]))
        record |= {name: text, f"{name}_encoding": encoding, f"{name}_truncated": output.truncated[stream]}
    if outcome.grant is not None:
        record |= _grant(outcome.grant)
        record["aftermath"] = [{"code": notice.code, "message": notice.message, "hint": notice.hint} for notice in outcome.aftermath]
    record["durations"] = {"create_s": round(outcome.create_s, 6), "total_s": round(outcome.total_s, 6)} | (
        {"command_s": status.wall_s, "user_cpu_s": status.user_cpu_s, "system_cpu_s": status.system_cpu_s} if status else {}
    )
    if status is not None:
        record["max_rss_bytes"] = status.max_rss_bytes
    sys.stdout.write(json.dumps(record) + "\n")


def print_error(error: AgentKernelError) -> None:
    """Prints the JSON object of a run that failed before or beside its command."""
    record = {"exit_code": error.exit_status, "error": {"code": error.code, "message": error.message, "hint": error.hint}}
    sys.stdout.write(json.dumps(record) + "\n")


def _grant(grant: Grant) -> dict[str, object]:
    return {
        "sandbox": grant.spec.name,
        "backend": grant.backend,
        "isolation": grant.spec.level.label,
        "profile": grant.spec.profile,
        "network": grant.spec.network.value,
        "notices": [{"code": notice.code, "message": notice.message, "hint": notice.hint} for notice in grant.notices],
    }


def _text(data: bytes) -> tuple[str, str]:
    """Text where all bytes are UTF-8, else base64: nothing is replaced."""
    try:
        return data.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(data).decode(), "base64"
