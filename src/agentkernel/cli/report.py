"""What is said about a finished run: one line for a limit that ended it, or the whole of it as one JSON object."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping

from agentkernel.cli.output import say
from agentkernel.cli.session import Outcome
from agentkernel.model.request import Grant
from agentkernel.text.outcome import why
from agentkernel.text.records import decision_record, notice_record, port_record

_DENIALS = 100  # that are shown in full; `network log` has all


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
    """Says on stderr what the command left on the host, and which limit ended it."""
    for notice in outcome.aftermath:
        say("warning", notice.message, notice.hint, environment)
    if outcome.status is None or outcome.grant is None or outcome.interrupted_by is not None:
        return
    for kind, message, hint in why(outcome.status, outcome.grant.spec, timeout_s):
        say(kind, message, hint, environment)


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
        record["ports"] = [port_record(port) for port in outcome.ports]
        record["denied"] = [decision_record(decision) for decision in outcome.denied[:_DENIALS]]
        record["aftermath"] = [notice_record(notice) for notice in outcome.aftermath]
    record["durations"] = {"create_s": round(outcome.create_s, 6), "total_s": round(outcome.total_s, 6)} | (
        {"command_s": status.wall_s, "user_cpu_s": status.user_cpu_s, "system_cpu_s": status.system_cpu_s} if status else {}
    )
    if status is not None:
        record["max_rss_bytes"] = status.max_rss_bytes
    sys.stdout.write(json.dumps(record) + "\n")


def _grant(grant: Grant) -> dict[str, object]:
    return {
        "sandbox": grant.spec.name,
        "backend": grant.backend,
        "isolation": grant.spec.level.label,
        "profile": grant.spec.profile,
        "network": grant.spec.network.value,
        "notices": [notice_record(notice) for notice in grant.notices],
    }


def _text(data: bytes) -> tuple[str, str]:
    """Text where all bytes are UTF-8, else base64: nothing is replaced."""
    try:
        return data.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(data).decode(), "base64"
