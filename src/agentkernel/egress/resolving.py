"""Names to addresses, by the host's own resolver, in threads: each name once for a connection, and within a deadline."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

DEADLINE_S: Final = 10.0
AT_ONCE: Final = 16  # of one sandbox
MAX_THREADS: Final = 64

Address = IPv4Address | IPv6Address
Lookup = Callable[[str], list[str]]  # blocking; raises OSError


class UnresolvedError(Exception):
    """The name has no address, or none in time; the text says which."""


def system_lookup(host: str) -> list[str]:
    """What getaddrinfo(3) says, in its order of preference; raises OSError."""
    found = socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class Resolver:
    """Shared by the sandboxes of the process."""

    def __init__(self, lookup: Lookup = system_lookup) -> None:
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(MAX_THREADS, "resolver")

    async def addresses(self, host: str, slots: asyncio.Semaphore) -> list[Address]:
        """The addresses of a name, at least one; `slots` are the sandbox's. Raises UnresolvedError."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                await slots.acquire()
                asked = asyncio.get_running_loop().run_in_executor(self._threads, self._lookup, host)
                asked.add_done_callback(lambda done: _answered(done, slots))  # a thread that is slow keeps its slot
                texts = await asyncio.shield(asked)
        except TimeoutError:
            raise UnresolvedError(f"{host} could not be looked up within {DEADLINE_S:g} seconds") from None
        except OSError as error:
            raise UnresolvedError(f"{host} cannot be looked up: {error.strerror or error}") from None
        addresses = list(dict.fromkeys(ip_address(text) for text in texts if "%" not in text))
        if not addresses:
            raise UnresolvedError(f"{host} has no address")
        return addresses


def _answered(done: asyncio.Future[list[str]], slots: asyncio.Semaphore) -> None:
    slots.release()
    if not done.cancelled():
        done.exception()  # nobody may wait for it any more
