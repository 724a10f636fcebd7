"""The host's side of tunnels (docs/guest-protocol.md, section 5) for testing the C agent; shares no code with agentkernel.channel."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field

from unit.guest_wire import (
    ANSWER,
    QUERY,
    TUNNEL_ACCEPTED,
    TUNNEL_CLOSE,
    TUNNEL_CLOSED,
    TUNNEL_CREDIT,
    TUNNEL_DATA,
    TUNNEL_GRANT,
    TUNNEL_OPEN,
    TUNNEL_OPENED,
    TUNNEL_SEND,
    Frame,
    Host,
    encode_field,
    new_id,
)

PROXY, RESOLVER, TRANSPARENT = 1, 2, 3
START_CREDIT = 16_384
MOST_GRANTED = 262_144
AGENTS = 1 << 63


def network(proxy: int = 0, resolver: int = 0, transparent: int = 0) -> bytes:
    """CONFIGURE's field NETWORK."""
    return encode_field(5, struct.pack("<HHH", proxy, resolver, transparent))


@dataclass(slots=True, kw_only=True)
class Tunnel:
    """What a host knows of one tunnel; what the agent must not send is asserted as frames come in."""

    id: int
    kind: int = 0
    port: int = 0
    address: str = ""
    opened: bool = False
    data: bytearray = field(default_factory=bytearray)
    frames: int = 0
    credit: int = START_CREDIT  # what the agent may still send
    allowed: int = START_CREDIT  # what the host may still send
    ended: bool = False
    closed: int | None = None

    def take(self, frame: Frame) -> None:
        assert self.closed is None, "a frame after the end"
        if frame.type == TUNNEL_OPENED:
            assert not frame.payload and not self.opened and not self.id & AGENTS
            self.opened = True
        elif frame.type == TUNNEL_DATA:
            assert not self.ended and frame.flags in (0, 1) and len(frame.payload) <= 65_536
            assert frame.payload or frame.flags
            self.credit -= len(frame.payload)
            assert self.credit >= 0, "sent without credit"
            self.data += frame.payload
            self.frames += 1
            self.ended = bool(frame.flags)
        elif frame.type == TUNNEL_GRANT:
            (more,) = struct.unpack("<I", frame.payload)
            assert 0 < more <= MOST_GRANTED
            self.allowed += more
            assert self.allowed <= MOST_GRANTED
        else:
            assert frame.type == TUNNEL_CLOSED
            (self.closed,) = struct.unpack("<I", frame.payload)


class TunnelHost(Host):
    """An attach that keeps tunnels; with `auto_credit` it gives back what it received."""

    tunnels: dict[int, Tunnel]
    queries: dict[int, bytes]
    accepted: list[Tunnel]
    dropped: set[int]
    auto_credit: bool

    def attach(self, *, padding: bool = False, versions: tuple[int, int] = (1, 1)) -> int:
        self.tunnels, self.queries, self.accepted, self.dropped, self.auto_credit = {}, {}, [], set(), False
        return super().attach(padding=padding, versions=versions)

    def take(self, frame: Frame) -> None:
        if frame.type == TUNNEL_ACCEPTED:
            assert frame.id & AGENTS and frame.id not in self.tunnels
            kind, port, raw = struct.unpack("<HH16s", frame.payload)
            address = ipaddress.IPv6Address(raw)
            assert kind == TRANSPARENT or (port == 0 and raw == bytes(16))
            shown = str(address.ipv4_mapped or address) if kind == TRANSPARENT else ""
            self.tunnels[frame.id] = Tunnel(id=frame.id, kind=kind, port=port, address=shown)
            self.accepted.append(self.tunnels[frame.id])
        elif frame.type == QUERY:
            assert frame.id & AGENTS and frame.id not in self.queries and 12 <= len(frame.payload) <= 4096
            self.queries[frame.id] = frame.payload
        elif frame.id in self.tunnels and frame.type != 129:
            self.tunnels[frame.id].take(frame)
            if self.auto_credit and frame.type == TUNNEL_DATA and frame.payload:
                self.give(self.tunnels[frame.id], len(frame.payload))
        elif frame.id not in self.dropped:
            assert not 135 <= frame.type <= 140, f"a frame of type {frame.type} for nobody"
            super().take(frame)

    def open(self, port: int, ident: int | None = None) -> Tunnel:
        """Asks for a port inside and waits for the answer."""
        tunnel = Tunnel(id=ident or new_id() & ~AGENTS)
        self.tunnels[tunnel.id] = tunnel
        self.send(TUNNEL_OPEN, tunnel.id, struct.pack("<H", port))
        self.until(lambda: tunnel.opened or tunnel.closed is not None)
        return tunnel

    def next_accepted(self) -> Tunnel:
        self.until(lambda: self.accepted)
        return self.accepted.pop(0)

    def give(self, tunnel: Tunnel, credit: int) -> None:
        tunnel.credit += credit
        self.send(TUNNEL_CREDIT, tunnel.id, struct.pack("<I", credit))

    def pour(self, tunnel: Tunnel, data: bytes, *, end: bool = False) -> None:
        """Sends all of `data`, as the agent allows."""
        view = memoryview(data)
        while view and tunnel.closed is None:
            self.until(lambda: tunnel.allowed or tunnel.closed is not None)
            part = view[: min(tunnel.allowed, 65_536)]
            tunnel.allowed -= len(part)
            self.send(TUNNEL_SEND, tunnel.id, bytes(part))
            view = view[len(part) :]
        if end:
            self.send(TUNNEL_SEND, tunnel.id, b"", 1)

    def drop(self, tunnel: Tunnel, error: int = 0) -> None:
        self.send(TUNNEL_CLOSE, tunnel.id, struct.pack("<I", error))
        del self.tunnels[tunnel.id]
        self.dropped.add(tunnel.id)

    def answer(self, ident: int, message: bytes) -> None:
        self.send(ANSWER, ident, message)
        del self.queries[ident]
