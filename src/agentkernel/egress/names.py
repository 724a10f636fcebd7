"""Addresses that stand for names inside one sandbox: 198.18.0.0/15, which no network routes (RFC 2544)."""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv4Address, IPv4Network
from typing import Final

SYNTHETIC: Final = IPv4Network("198.18.0.0/15")
TTL_S: Final = 60
MAX_NAMES: Final = 4096  # of a sandbox; beyond it the one that was asked for longest ago loses its address
_FIRST, _COUNT = int(SYNTHETIC[1]), SYNTHETIC.num_addresses - 2


class Names:
    """Gives each name an address, the same as long as it is used, and an address to another name as late as there are addresses."""

    def __init__(self) -> None:
        self._addresses: OrderedDict[str, IPv4Address] = OrderedDict()
        self._names: dict[IPv4Address, str] = {}
        self._next = 0

    def address_of(self, name: str) -> IPv4Address:
        """The name's address, a new one where it has none."""
        address = self._addresses.get(name)
        if address is None:
            if len(self._addresses) >= MAX_NAMES:
                _, oldest = self._addresses.popitem(last=False)
                del self._names[oldest]
            address = self._unused()
            self._addresses[name], self._names[address] = address, name
        else:
            self._addresses.move_to_end(name)
        return address

    def name_of(self, address: IPv4Address) -> str | None:
        """The name that an address stands for."""
        name = self._names.get(address)
        if name is not None:
            self._addresses.move_to_end(name)
        return name

    def _unused(self) -> IPv4Address:
        while (address := IPv4Address(_FIRST + self._next % _COUNT)) in self._names:
            self._next += 1
        self._next += 1
        return address


class Lookups:
    """Counts distinct names over ten seconds."""

    WINDOW_S: Final = 10.0

    def __init__(self, per_s: int) -> None:
        self._limit = int(per_s * self.WINDOW_S)
        self._last: OrderedDict[str, float] = OrderedDict()

    def admit(self, name: str, now: float) -> bool:
        """Whether that name may be looked up; `now` in seconds."""
        while self._last and next(iter(self._last.values())) <= now - self.WINDOW_S:
            self._last.popitem(last=False)
        if name not in self._last and len(self._last) >= self._limit:
            return False
        self._last[name] = now
        self._last.move_to_end(name)
        return True
