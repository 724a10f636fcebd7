"""Published ports as users write them."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final

from agentkernel.errors import InvalidInput, Refused
from agentkernel.model.network import PortRule, PublishedPort

MAX_PORT: Final = 65535
LOOPBACK: Final = "127.0.0.1"
_SHAPE = re.compile(r"(?:(?:(\[[0-9A-Fa-f:.]+\]|[0-9.]+):)?([0-9]{1,5})?:)?([0-9]{1,5})", re.ASCII)
_HINT: Final = "write PORT, HOST-PORT:PORT or ADDRESS:HOST-PORT:PORT, for example 8080:80"


def parse_port(text: str) -> PortRule:
    """`80` (the host's port is chosen), `8080:80` or `127.0.0.1:8080:80`; an IPv6 address stands in brackets, a host port may be 0 or left
    out.

    Raises:
        InvalidInput: it is none of these, or no port.
        Refused: an address that others could reach.
    """
    found = _SHAPE.fullmatch(text.strip())
    if found is None:
        raise InvalidInput(f"{text!r} is no port to publish", hint=_HINT)
    address, host_port, port = found.groups()
    rule = PortRule(port=int(port), host_port=int(host_port or 0), host_address=(address or LOOPBACK).strip("[]"))
    return checked_port(rule)


def checked_port(rule: PortRule) -> PortRule:
    """The rule, when there are such ports and only this host can reach them; raises InvalidInput, Refused."""
    if not 1 <= rule.port <= MAX_PORT or not 0 <= rule.host_port <= MAX_PORT:
        raise InvalidInput(f"ports are 1 to {MAX_PORT}, not {port_text(rule)}", hint=_HINT)
    try:
        address = ip_address(rule.host_address)
    except ValueError:
        raise InvalidInput(f"{rule.host_address!r} is no address of this host", hint=_HINT) from None
    if not address.is_loopback:
        raise Refused(f"a port is published on this host's loopback only, not on {address}", hint="leave the address out")
    return rule


def port_text(port: PortRule | PublishedPort) -> str:
    """`127.0.0.1:8080:80`, as it is typed."""
    return f"{address_text(port)}:{port.port}"


def address_text(port: PortRule | PublishedPort) -> str:
    """Where it is reached on the host: `127.0.0.1:8080`, an IPv6 address in brackets."""
    host = f"[{port.host_address}]" if ":" in port.host_address else port.host_address
    return f"{host}:{port.host_port}"
