"""Egress decisions as events and back."""

from __future__ import annotations

import pytest

from agentkernel.model.decisions import KINDS, MORE, decisions_of, details_of, kind_of
from agentkernel.model.network import Decision, Verdict
from agentkernel.model.record import Event

DENIED = Decision(
    at=5.0, verdict=Verdict.DENIED, protocol="connect", host="example.com", port=443, rule="deny example.com", reason="A rule denies it."
)
SAMPLES = (
    DENIED,
    Decision(at=1.5, verdict=Verdict.ALLOWED, protocol="socks", host="10.0.0.1", port=5432, address="10.0.0.1", rule="allow 10.0.0.0/8"),
    Decision(at=0.0, verdict=Verdict.FAILED, protocol="dns", host="nowhere.example", port=0),
)


def _event(decision: Decision) -> Event:
    return Event(kind=kind_of(decision), at=decision.at, principal="ann", details=details_of(decision))


@pytest.mark.parametrize("decision", SAMPLES, ids=lambda decision: decision.verdict.value)
def test_a_decision_comes_back_from_its_event(decision: Decision) -> None:
    assert decisions_of(_event(decision)) == [decision]
    assert kind_of(decision) in KINDS


def test_what_is_empty_is_not_recorded() -> None:
    assert dict(details_of(SAMPLES[2])) == {"protocol": "dns", "host": "nowhere.example"}
    assert dict(details_of(DENIED))["port"] == "443"


def test_details_that_are_no_decision_are_read_as_far_as_they_go() -> None:
    (found,) = decisions_of(Event(kind="network.denied", at=2.0, principal="ann", details=(("port", "²"), ("host", "x"))))
    assert found == Decision(at=2.0, verdict=Verdict.DENIED, protocol="", host="x", port=0)


def test_those_of_which_only_the_number_is_known_are_one_of_each_verdict() -> None:
    more = Event(kind=MORE, at=2.0, principal="ann", details=(("allowed", "7"), ("denied", "300"), ("other", "1")))
    assert [(each.verdict, each.host, each.reason.split()[0]) for each in decisions_of(more)] == [
        (Verdict.ALLOWED, "", "7"),
        (Verdict.DENIED, "", "300"),
    ]
    assert [each.verdict for each in decisions_of(more, Verdict.DENIED)] == [Verdict.DENIED]
    assert decisions_of(_event(DENIED), Verdict.FAILED) == []
