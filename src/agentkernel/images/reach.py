"""Where a registry may send its clients, decided on the address that is connected to, before a byte goes there.

Names lie: `127.1`, `0x7f.1`, `2130706433`, `[::ffff:127.0.0.1]` and any name in the DNS may be this host itself, or a neighbour. Whoever
sends clients away (redirects, servers of tokens) may send them no nearer to this host than it is itself.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import httpx

from agentkernel.errors import ImageFailed
from agentkernel.policy.addresses import LINK_LOCAL, LOOPBACK, METADATA, OWN, UNUSABLE, refused_ranges

Trace = Callable[[str, dict[str, Any]], Awaitable[None]]

_CONNECTED = "connection.connect_tcp.complete"  # httpcore's event between the connection and what is first sent over it, TLS included
_HERE = frozenset({LOOPBACK, OWN})
_NOWHERE = frozenset({METADATA, LINK_LOCAL, UNUSABLE})
_HINT = "if that server is one of your own network, NO_PROXY may name it"


class Nearness(IntEnum):
    """How near to this host an address is."""

    PUBLIC = 0
    PRIVATE = 1  # with the synthetic ones of tunnels and translators
    HERE = 2  # this host itself
    NOWHERE = 3  # what serves no images: metadata services, link-local addresses, and what is no host's


def nearness(peer: str, local: str = "") -> tuple[Nearness, str]:
    """Of an address, and what it is called; `local` is this end's of a connection to it, the same for every address of this host."""
    address = ip_address(peer)
    own = {ip_address(local)} if local and local == peer else set[IPv4Address | IPv6Address]()
    kinds = [each.kind for each in refused_ranges(address, own)]
    for level, those in ((Nearness.NOWHERE, _NOWHERE), (Nearness.HERE, _HERE)):
        if worst := next((kind for kind in kinds if kind in those), ""):
            return level, worst
    return (Nearness.PRIVATE, kinds[0]) if kinds else (Nearness.PUBLIC, "public address")


def spelled(host: str) -> str:
    """The address that a host is as connect(2) has it, however it is spelled; empty for a name."""
    plain = host.strip("[]").partition("%")[0]
    try:
        return str(ip_address(plain))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(plain.rstrip(".")))  # getaddrinfo(3) reads numbers as this does
    except (OSError, UnicodeError):
        return ""


def judge(url: httpx.URL, address: str, local: str, limit: Nearness) -> Nearness:
    """How near it is; raises ImageFailed beyond `limit`, and for anything but this host itself without TLS."""
    found, kind = nearness(address, local)
    if found > limit:
        hint = _HINT if found is Nearness.PRIVATE else ""
        where = f"{url.host[:100]}, {kind} {address}"
        raise ImageFailed(f"a registry elsewhere sends its clients to {where}, where they must not go", hint=hint)
    if url.scheme == "http" and found is not Nearness.HERE:
        raise ImageFailed(f"{url.host[:100]} is not this host but {address}, which is not spoken to without TLS")
    return found


def judging(url: httpx.URL, limit: Nearness, found: Callable[[Nearness], None]) -> Trace:
    """For httpx's extension "trace": judges each connection as it is made, and ends it where it leads too near. `found` hears of others."""

    async def trace(event: str, info: dict[str, Any]) -> None:
        if event != _CONNECTED:
            return
        stream = info["return_value"]
        try:
            peer, local = (str(stream.get_extra_info(end)[0]).partition("%")[0] for end in ("server_addr", "client_addr"))
            found(judge(url, peer, local, limit))
        except BaseException:
            await stream.aclose()
            raise

    return trace
