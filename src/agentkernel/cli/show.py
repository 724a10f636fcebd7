"""How sandboxes, commands and times are shown and typed; what verbs print as JSON."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from agentkernel.errors import InvalidInput
from agentkernel.model.image import ImageRecord
from agentkernel.model.network import Base, Decision, EgressRules, PublishedPort
from agentkernel.model.record import Labels, SandboxInfo
from agentkernel.units import parse_duration

_STEPS = (("d", 86400.0), ("h", 3600.0), ("m", 60.0), ("s", 1.0))


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def sandbox_record(info: SandboxInfo) -> dict[str, object]:
    """A sandbox as JSON: every key is always there; times are Unix seconds, as in all JSON of the command line."""
    return {
        "id": info.sandbox_id,
        "name": info.name,
        "owner": info.owner,
        "status": info.status.value,
        "backend": info.backend,
        "isolation": info.isolation.label,
        "image": info.image,
        "profile": info.profile,
        "ephemeral": info.ephemeral,
        "labels": dict(info.labels),
        "created_at": info.created_at,
        "started_at": info.started_at,
        "used_at": info.used_at or None,
        "expires_at": info.expires_at,
        "idle_s": info.idle_s,
        "reason": info.reason,
        "network": info.network.value,
        "ports": [port_record(port) for port in info.ports],
    }


def ports_text(ports: Sequence[PublishedPort]) -> str:
    """Published ports in short: `8080:80`, the host's first, as they are typed."""
    return ",".join(f"{port.host_port}:{port.port}" for port in ports)


def port_record(port: PublishedPort) -> dict[str, object]:
    """A published port as JSON."""
    return {"port": port.port, "host_address": port.host_address, "host_port": port.host_port}


def base_text(base: Base) -> str:
    """What is allowed where no rule says anything, in words."""
    return "the public internet" if base is Base.PUBLIC else "nothing"


def rules_record(rules: EgressRules) -> dict[str, object]:
    """A sandbox's egress rules as JSON: each rule as it is typed."""
    lists = {"allow": rules.allow, "deny": rules.deny, "private": rules.private}
    return {"default": rules.base.value} | {name: [str(rule) for rule in found] for name, found in lists.items()}


def decision_record(decision: Decision) -> dict[str, object]:
    """An attempt to reach something as JSON."""
    return {
        "at": decision.at,
        "verdict": decision.verdict.value,
        "protocol": decision.protocol,
        "host": decision.host,
        "port": decision.port or None,
        "address": decision.address,
        "rule": decision.rule,
        "reason": decision.reason,
    }


def image_record(record: ImageRecord) -> dict[str, object]:
    """An image as JSON."""
    return {
        "reference": record.reference,
        "digest": record.digest,
        "backend": record.backend,
        "platform": record.platform,
        "size_bytes": record.size_bytes,
        "obtained_at": record.obtained_at or None,
        "used_at": record.used_at or None,
    }


def age(since: float) -> str:
    """How long ago a Unix time was, in its largest unit: `3s`, `5m`, `2h`, `4d`."""
    passed_s = max(0.0, time.time() - since)
    unit, step = next((each for each in _STEPS if passed_s >= each[1]), _STEPS[-1])
    return f"{int(passed_s // step)}{unit}"


def moment(at: float) -> str:
    """A Unix time as ISO 8601 in UTC, with milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_since(text: str | None) -> float:
    """The Unix time of `10m` (ago), `2026-01-31T12:00:00` (here, unless it says where) or Unix seconds after `@`; 0 for None."""
    if text is None:
        return 0.0
    if text.startswith("@") and re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text[1:], re.ASCII):
        return float(text[1:])
    if re.match(r"[0-9]{4}-[0-9]{2}", text, re.ASCII):
        try:
            return datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError):
            raise InvalidInput(f"{text!r} is no time", hint="write it like 2026-01-31T12:00:00") from None
    return time.time() - parse_duration(text)


def parse_labels(words: list[str]) -> Labels:
    """`KEY=VALUE` words as labels, sorted; the last of equal keys wins."""
    labels = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise InvalidInput(f"{word!r} is no label", hint="write KEY=VALUE")
        labels[key] = value
    return tuple(sorted(labels.items()))


def exec_text(exec_id: int) -> str:
    """A command's id as users see it."""
    return f"{exec_id:016x}"


def parse_exec(text: str) -> int:
    """A command's id as `ps` shows it."""
    if not re.fullmatch(r"[0-9a-f]{1,16}", text, re.ASCII) or not int(text, 16):
        raise InvalidInput(f"{text!r} is no command's id", hint="`agentkernel ps NAME` shows them")
    return int(text, 16)
