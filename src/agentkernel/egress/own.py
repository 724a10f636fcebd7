"""The addresses of this host, asked of the kernel (rtnetlink(7)): a sandbox must not reach its host by a public address of it."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

_HEADER: Final = struct.Struct("=IHHII")
_ADDRESS: Final = struct.Struct("=BBBBI")
_ATTRIBUTE: Final = struct.Struct("=HH")
_DONE, _NEW_ADDRESS, _GET_ADDRESS = 3, 20, 22
_REQUEST_DUMP: Final = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_ADDRESS_OR_PEER, _LOCAL, _BROADCAST = 1, 2, 4  # linux/if_addr.h
_READ_BYTES: Final = 65_536
_KEPT_S: Final = 1.0

Address = IPv4Address | IPv6Address


class OwnAddresses:
    """Asked again when the last answer is older than a second."""

    def __init__(self) -> None:
        self._known: frozenset[Address] = frozenset()
        self._until = 0.0

    def __call__(self) -> frozenset[Address]:
        """Every address of every interface, with the broadcast ones; raises OSError."""
        now = time.monotonic()
        if now >= self._until:
            self._known, self._until = frozenset(_ask()), now + _KEPT_S
        return self._known


def _ask() -> Iterator[Address]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asked:
        asked.settimeout(1.0)
        asked.sendto(_HEADER.pack(_HEADER.size + _ADDRESS.size, _GET_ADDRESS, _REQUEST_DUMP, 1, 0) + _ADDRESS.pack(0, 0, 0, 0, 0), (0, 0))
        while True:
            answer = asked.recv(_READ_BYTES)
            position = 0
            while position + _HEADER.size <= len(answer):
                length, kind, *_ = _HEADER.unpack_from(answer, position)
                if kind != _NEW_ADDRESS:
                    if kind == _DONE:
                        return
                    raise OSError(f"the kernel answers with a message of type {kind}")
                yield from _addresses(answer[position + _HEADER.size + _ADDRESS.size : position + length])
                position += (length + 3) & ~3


def _addresses(attributes: bytes) -> Iterator[Address]:
    """Of one interface's address: its own (with a point-to-point link IFA_ADDRESS is the other end's) and the broadcast one."""
    found: dict[int, Address] = {}
    position = 0
    while position + _ATTRIBUTE.size <= len(attributes):
        length, kind = _ATTRIBUTE.unpack_from(attributes, position)
        if kind in (_ADDRESS_OR_PEER, _LOCAL, _BROADCAST):
            found[kind] = ip_address(attributes[position + _ATTRIBUTE.size : position + length])
        position += max(_ATTRIBUTE.size, (length + 3) & ~3)
    if _LOCAL in found:
        found.pop(_ADDRESS_OR_PEER, None)
    yield from found.values()
