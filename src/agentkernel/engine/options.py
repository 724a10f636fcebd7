"""What callers give a sandbox beyond its request, checked."""

from __future__ import annotations

from agentkernel.errors import InvalidInput
from agentkernel.model.record import Labels

MAX_LABELS = 64
MAX_LABEL_CHARACTERS = 256
MAX_SECONDS = 1e10


def checked_labels(labels: Labels) -> Labels:
    """The labels sorted by key; raises InvalidInput for an empty or doubled key, and for what is too much or not printable."""
    if len(labels) > MAX_LABELS:
        raise InvalidInput(f"a sandbox has at most {MAX_LABELS} labels, not {len(labels)}")
    for key, value in labels:
        if not key or not (key + value).isprintable() or max(len(key), len(value)) > MAX_LABEL_CHARACTERS:
            hint = f"use printable text of up to {MAX_LABEL_CHARACTERS} characters"
            raise InvalidInput(f"{key!r}={value!r} cannot be a label", hint=hint)
    if len({key for key, _ in labels}) < len(labels):
        raise InvalidInput("a label is given twice", hint="give each key once")
    return tuple(sorted(labels))


def checked_seconds(name: str, seconds: float) -> float:
    """The seconds, if a sandbox can live so long; raises InvalidInput."""
    if not 0 < seconds < MAX_SECONDS:
        raise InvalidInput(f"{name} of {seconds:g} seconds is impossible", hint="give a number of seconds above 0")
    return seconds
