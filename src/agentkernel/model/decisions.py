"""Egress decisions in the audit trail: how they are written as events, and read back."""

from __future__ import annotations

from typing import Final

from agentkernel.model.network import Decision, Verdict
from agentkernel.model.record import Event, EventFilter

KINDS: Final = tuple(f"network.{verdict.value}" for verdict in Verdict)
MAX_DENIALS: Final = 1000  # of one command that are counted
_PREFIX: Final = "network."
_TEXTS: Final = ("protocol", "host", "address", "rule", "reason")


def kind_of(decision: Decision) -> str:
    """The kind of its event."""
    return _PREFIX + decision.verdict.value


def details_of(decision: Decision) -> tuple[tuple[str, str], ...]:
    """The details of its event; what is empty is left out."""
    texts = [(name, str(getattr(decision, name))) for name in _TEXTS]
    return tuple((name, text) for name, text in (*texts, ("port", str(decision.port or ""))) if text)


def denials_of(sandbox_id: str) -> EventFilter:
    """Finds what a sandbox was refused; the first `MAX_DENIALS` of it."""
    return EventFilter(sandbox=sandbox_id, kinds=(_PREFIX + Verdict.DENIED.value,), limit=MAX_DENIALS)


def decision_of(event: Event) -> Decision:
    """The decision that an event of one of `KINDS` tells of."""
    told = dict(event.details)
    port = told.get("port", "")
    return Decision(
        at=event.at,
        verdict=Verdict(event.kind.removeprefix(_PREFIX)),
        port=int(port) if port.isascii() and port.isdecimal() else 0,
        protocol=told.get("protocol", ""),
        host=told.get("host", ""),
        address=told.get("address", ""),
        rule=told.get("rule", ""),
        reason=told.get("reason", ""),
    )
