"""Egress rules as people write them."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from agentkernel.errors import InvalidInput
from agentkernel.model.hosts import is_address, normal_host
from agentkernel.model.network import Rule

MAX_RULE_CHARACTERS: Final = 1024
MAX_RULE_PORTS: Final = 64
_HINT: Final = (
    "write a domain, *.domain or address range, and ports if needed: example.com, *.example.com:443,8443, 10.0.0.0/8:5432, [fd00::/8]:22"
)


def parse_rule(text: str) -> Rule:
    """Reads `HOST`, `HOST:PORT` or `HOST:PORT,PORT`, where HOST is a domain, `*.domain`, an address or an address range (CIDR).

    Names that are not ASCII become A-labels, one trailing dot is dropped, an address becomes the range that holds it alone, ports are
    sorted. Addresses have to be written plainly (no octal, hexadecimal or short forms).

    Raises:
        InvalidInput: it is none of these; the hint shows what would be right.
    """
    if len(text) > MAX_RULE_CHARACTERS:
        raise InvalidInput("a network rule is too long", hint=_HINT)
    if "://" in text or "@" in text:
        raise _invalid(text, "a rule names a host, not a URL", "write the host alone, as in example.com or example.com:8443")
    host, ports = _split(text)
    if "*" in host:
        return Rule(host=_wildcard(text, host), ports=_ports(text, ports))
    if "/" in host or ":" in host:
        return Rule(host=_range(text, host), ports=_ports(text, ports))
    try:
        normal = normal_host(host)
    except ValueError as error:
        raise _invalid(text, str(error)) from None
    if is_address(normal):
        normal = _range(text, host)
    return Rule(host=normal, ports=_ports(text, ports))


def _split(text: str) -> tuple[str, str | None]:
    """The host (without brackets) and what comes after its colon."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or ":" not in host or (rest and not rest.startswith(":")):
            raise _invalid(text, "brackets go round an IPv6 address or range", "write [fd00::/8]:22")
        return host, rest[1:] if rest else None
    if text.count(":") > 1:
        return text, None  # an IPv6 address without a port
    host, colon, ports = text.partition(":")
    return host, ports if colon else None


def _wildcard(text: str, host: str) -> str:
    if not host.startswith("*.") or "*" in host[2:]:
        raise _invalid(text, "a star stands only before a whole domain", "write *.example.com for every name below example.com")
    try:
        suffix = normal_host(host[2:])
    except ValueError as error:
        raise _invalid(text, str(error)) from None
    if is_address(suffix):
        raise _invalid(text, "a star cannot stand in an address", "write a range, as in 10.0.0.0/8")
    return "*." + suffix


def _range(text: str, host: str) -> str:
    """The canonical form of an address or a range that is written in its canonical form, but for the letter case and zeros of IPv6."""
    base, slash, length = host.partition("/")
    if slash and not re.fullmatch(r"0|[1-9][0-9]{0,2}", length):
        raise _invalid(text, "the part after the slash is the number of leading bits", "write 10.0.0.0/8")
    if not re.fullmatch(r"[0-9A-Fa-f:.]+", base):
        raise _invalid(text, "it is neither a domain nor an address range")
    try:
        network = ipaddress.ip_network(host, strict=False)
    except ValueError:
        raise _invalid(text, "it is no plain address or address range") from None
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None:
        plain = ipaddress.IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
        raise _invalid(text, "IPv4 addresses in IPv6 are judged as IPv4", f"write {plain}")
    if ipaddress.ip_address(base) != network.network_address:
        raise _invalid(text, "the address has bits beyond the length of its range", f"write {network}, or the address alone")
    return str(network)


def _ports(text: str, ports: str | None) -> tuple[int, ...]:
    if ports is None:
        return ()
    numbers = ports.split(",")
    if len(numbers) > MAX_RULE_PORTS:
        raise _invalid(text, f"a rule has at most {MAX_RULE_PORTS} ports")
    if not all(re.fullmatch(r"[1-9][0-9]{0,4}", number) and int(number) <= 65535 for number in numbers):
        raise _invalid(text, "ports are numbers from 1 to 65535, with commas between them", "write example.com:443 or example.com:443,8443")
    return tuple(sorted({int(number) for number in numbers}))


def _invalid(text: str, why: str, hint: str = _HINT) -> InvalidInput:
    shown = text if len(text) <= 100 else text[:97] + "..."
    return InvalidInput(f"{shown!r} is no network rule: {why}", hint=hint)
