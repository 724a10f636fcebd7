"""Published ports as users write them."""

from __future__ import annotations

import pytest

from agentkernel.errors import InvalidInput, Refused
from agentkernel.model.network import PortRule, PublishedPort
from agentkernel.model.ports import address_text, checked_port, parse_port, port_text

WRITTEN = {
    "80": PortRule(port=80),
    "8080:80": PortRule(port=80, host_port=8080),
    ":80": PortRule(port=80),
    "0:80": PortRule(port=80),
    "127.0.0.1:8080:80": PortRule(port=80, host_port=8080),
    "127.0.0.2::80": PortRule(port=80, host_address="127.0.0.2"),
    "[::1]:8080:80": PortRule(port=80, host_port=8080, host_address="::1"),
}


@pytest.mark.parametrize("text", WRITTEN)
def test_a_port_is_read(text: str) -> None:
    assert parse_port(text) == WRITTEN[text]


@pytest.mark.parametrize(
    "text", ["", "x", "0", "70000", "70000:80", "1:2:3:4", "-1", "80/tcp", "::1:80:80", "1.2.3:80:80", "\u0665", "localhost:80:80"]
)
def test_what_is_no_port_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_port(text)
    assert "8080:80" in refused.value.hint


@pytest.mark.parametrize("text", ["0.0.0.0:80:80", "192.0.2.1:80:80", "[::]:80:80"])
def test_nothing_is_published_beyond_this_host(text: str) -> None:
    with pytest.raises(Refused, match="loopback"):
        parse_port(text)


def test_a_rule_of_numbers_is_checked_alike() -> None:
    with pytest.raises(InvalidInput):
        checked_port(PortRule(port=-1))
    with pytest.raises(InvalidInput):
        checked_port(PortRule(port=80, host_address="here"))


def test_ports_are_written_as_they_are_read() -> None:
    assert port_text(parse_port("8080:80")) == "127.0.0.1:8080:80"
    assert port_text(parse_port("[::1]:1:2")) == "[::1]:1:2"
    assert address_text(PublishedPort(port=1, host_address="::1", host_port=2)) == "[::1]:2"
