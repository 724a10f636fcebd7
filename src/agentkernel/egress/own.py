"""The addresses of this host and the networks that it is connected to, asked of the kernel (rtnetlink(7)).

A sandbox must not reach its host by a public address of it, nor who is beside it, where nobody may have thought of a firewall.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

_HEADER: Final = struct.Struct("=IHHII")
_ADDRESS: Final = struct.Struct("=BBBBI")
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE: Final = struct.Struct("=HH")
_NUMBER: Final = struct.Struct("=i")
_NO_SUCH_FAMILY: Final = frozenset({errno.EOPNOTSUPP, errno.EAFNOSUPPORT})
_ERROR, _DONE, _NEW_ADDRESS, _GET_ADDRESS, _NEW_ROUTE, _GET_ROUTE = 2, 3, 20, 22, 24, 26
_REQUEST_DUMP: Final = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_ADDRESS_OR_PEER, _LOCAL, _BROADCAST = 1, 2, 4  # linux/if_addr.h
_DESTINATION, _GATEWAY, _MULTIPATH, _VIA = 1, 5, 9, 18  # linux/rtnetlink.h
_UNICAST: Final = 1
_KIND: Final = 0x3FFF  # of an attribute, without its flags
# Who made a route: the kernel for an address, or whoever heard a router (RTPROT_RA, RTPROT_DHCP). Routes that somebody set by hand or that
# a tunnel brought say nothing of who is near: some cover half of the internet.
_MADE_BY: Final = frozenset({2, 9, 16})
# What is wider is no network but a way to everywhere: an address that was given a prefix of 0, say.
_WIDEST: Final = {4: 8, 6: 16}
_READ_BYTES: Final = 65_536
_KEPT_S: Final = 1.0

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class OwnAddresses:
    """Asked again when the last answer is older than a second."""

    def __init__(self) -> None:
        self._known: frozenset[Address | Network] = frozenset()
        self._until = 0.0

    def __call__(self) -> frozenset[Address | Network]:
        """Every address of every interface, with the broadcast ones, and every network that one of them is in; raises OSError."""
        now = time.monotonic()
        if now >= self._until:
            self._known, self._until = frozenset((*_interfaces(), *_routes())), now + _KEPT_S
        return self._known


def _interfaces() -> Iterator[Address | Network]:
    for body in _dump(_GET_ADDRESS, _NEW_ADDRESS, _ADDRESS.pack(0, 0, 0, 0, 0)):
        _, length, *_ = _ADDRESS.unpack_from(body)
        found = _attributes(body[_ADDRESS.size :])
        yield from addresses_of(found)
        yield from network_of(found.get(_ADDRESS_OR_PEER), length)


def _routes() -> Iterator[Network]:
    """IPv6 networks whose addresses come without them: DHCPv6 gives a single one, and a router advertises what is on its link."""
    for body in _dump(_GET_ROUTE, _NEW_ROUTE, _ROUTE.pack(socket.AF_INET6, 0, 0, 0, 0, 0, 0, 0, 0)):
        family, length, _, _, _, protocol, _, kind, _ = _ROUTE.unpack_from(body)
        found = _attributes(body[_ROUTE.size :])  # a kernel without IPv6 lists those of other families
        if family == socket.AF_INET6 and kind == _UNICAST and protocol in _MADE_BY and not found.keys() & {_GATEWAY, _MULTIPATH, _VIA}:
            yield from network_of(found.get(_DESTINATION), length)


def addresses_of(found: dict[int, bytes]) -> Iterator[Address]:
    """Of one interface's address: its own (with a point-to-point link IFA_ADDRESS is the other end's) and the broadcast one."""
    kinds = (_LOCAL, _BROADCAST) if _LOCAL in found else (_ADDRESS_OR_PEER, _BROADCAST)
    yield from (ip_address(found[kind]) for kind in kinds if kind in found)


def network_of(address: bytes | None, length: int) -> Iterator[Network]:
    """The network of an address whose first `length` bits it shares; none where that is more or less than a network."""
    if address is not None:
        network = ip_network((address, length), strict=False)
        if _WIDEST[network.version] <= length < network.max_prefixlen:
            yield network


def _dump(wanted: int, answered: int, body: bytes) -> Iterator[bytes]:
    """The bodies of what the kernel lists; raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asked:
        asked.settimeout(1.0)
        asked.sendto(_HEADER.pack(_HEADER.size + len(body), wanted, _REQUEST_DUMP, 1, 0) + body, (0, 0))
        while True:
            answer = asked.recv(_READ_BYTES)
            position = 0
            while position + _HEADER.size <= len(answer):
                length, kind, *_ = _HEADER.unpack_from(answer, position)
                if kind != answered:
                    if kind == _DONE:
                        return
                    if kind == _ERROR and -_NUMBER.unpack_from(answer, position + _HEADER.size)[0] in _NO_SUCH_FAMILY:
                        return
                    raise OSError(f"the kernel answers with a message of type {kind}")
                yield answer[position + _HEADER.size : position + length]
                position += (length + 3) & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    position = 0
    while position + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        found[kind & _KIND] = data[position + _ATTRIBUTE.size : position + length]
        position += max(_ATTRIBUTE.size, (length + 3) & ~3)
    return found
