"""A connection to one address."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from typing import Final

from agentkernel.egress.resolving import Address
from agentkernel.egress.upstream import Desk

CONNECT_S: Final = 10.0  # for each address
SPARE_FILES: Final = 128  # descriptors that no connection gets: for sandboxes that join, and to see which addresses are this host's


async def connect(desk: Desk, address: Address, port: int) -> socket.socket:
    """A connected socket; raises OSError."""
    sock = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        if sock.fileno() >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FILES:  # the lowest that is free is given
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        sock.setblocking(False)
        async with asyncio.timeout(CONNECT_S):
            await desk.loop.sock_connect(sock, (str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock
