"""What is said about a sandbox's network."""

from __future__ import annotations

from agentkernel.model.decisions import MAX_DENIALS
from agentkernel.model.network import Decision, PublishedPort, Verdict
from agentkernel.text.network import denials, listening


def _denied(host: str, port: int = 443, rule: str = "none") -> Decision:
    return Decision(at=1.0, verdict=Verdict.DENIED, protocol="connect", host=host, port=port, rule=rule)


def test_nothing_refused_is_nothing_said() -> None:
    assert denials((), "box") == []


def test_a_rule_that_would_allow_it_is_named_as_it_is_typed() -> None:
    for port, wanted in ((443, "example.com"), (0, "example.com"), (22, "example.com:22")):
        ((_, message, hint),) = denials([_denied("example.com", port)], "box")
        assert message.startswith("an attempt to reach the network was refused, to example.com")
        assert hint == f"--allow-host {wanted} allows it; `agentkernel network log box` tells all"
    assert "--allow-host [fd00::1]:22 " in denials([_denied("fd00::1", 22)], "box")[0].hint


def test_no_rule_is_suggested_where_another_one_or_the_address_is_in_the_way() -> None:
    for rule in ("deny example.com", "private", "metadata", "limit connections", ""):
        assert "--allow-host" not in denials([_denied("example.com", rule=rule)], "box")[0].hint


def test_what_was_not_told_one_by_one_counts_as_more() -> None:
    untold = _denied("", 0, "")
    assert denials([untold], "box")[0].message == "attempts to reach the network were refused"
    assert denials([_denied("a.example"), untold], "box")[0].message.startswith(
        "1 or more attempts to reach the network were refused, the first to a.ex"
    )
    assert denials([_denied("a.example")] * MAX_DENIALS, "box")[0].message.startswith(f"{MAX_DENIALS} or more attempts")
    assert denials([_denied("a.example")] * 2, "box")[0].message.startswith("2 attempts to reach the network were refused, the first to")


def test_where_a_port_is() -> None:
    assert listening(PublishedPort(port=80, host_address="::1", host_port=8080)).message == "port 80 of the sandbox is at [::1]:8080"
