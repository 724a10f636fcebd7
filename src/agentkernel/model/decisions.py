"""Egress decisions in the audit trail: how they are written as events, and read back."""

from __future__ import annotations

from typing import Final

from agentkernel.model.network import Decision, Verdict
from agentkernel.model.record import Event, EventFilter

MORE: Final = "network.more"  # decisions that came too fast to be told one by one: how many, by verdict
KINDS: Final = (*(f"network.{verdict.value}" for verdict in Verdict), MORE)
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
    return EventFilter(sandbox=sandbox_id, kinds=(_PREFIX + Verdict.DENIED.value, MORE), limit=MAX_DENIALS)


def decisions_of(event: Event, only: Verdict | None = None) -> list[Decision]:
    """The decisions that an event of one of `KINDS` tells of; those of which only the number is known are one, without a host."""
    if event.kind == MORE:
        found = [_of_number(event, Verdict(name), count) for name, count in event.details if name in tuple(Verdict)]
    else:
        found = [_decision_of(event)]
    return [decision for decision in found if only in (None, decision.verdict)]


def _of_number(event: Event, verdict: Verdict, count: str) -> Decision:
    reason = f"{count} more at about that time, of which only the number is kept"
    return Decision(at=event.at, verdict=verdict, protocol="", host="", port=0, reason=reason)


def _decision_of(event: Event) -> Decision:
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
