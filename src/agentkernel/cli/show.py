"""How sandboxes and times are shown and typed."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from agentkernel.errors import InvalidInput
from agentkernel.model.network import Base, PublishedPort
from agentkernel.model.record import Labels
from agentkernel.units import parse_duration

_STEPS = (("d", 86400.0), ("h", 3600.0), ("m", 60.0), ("s", 1.0))


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def ports_text(ports: Sequence[PublishedPort]) -> str:
    """Published ports in short: `8080:80`, the host's first, as they are typed."""
    return ",".join(f"{port.host_port}:{port.port}" for port in ports)


def base_text(base: Base) -> str:
    """What is allowed where no rule says anything, in words."""
    return "the public internet" if base is Base.PUBLIC else "nothing"


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
