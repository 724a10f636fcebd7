"""One connection of a published port: bytes both ways, each direction with an end of its own, as slow as its reader."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from agentkernel.abc_network import Tunnel
from agentkernel.errors import AgentKernelError

_PIECE_BYTES: Final = 65_536
_RESET: Final = struct.pack("ii", 1, 0)  # struct linger: closing sends a reset, and drops what was not sent


async def carry(sock: socket.socket, open_tunnel: Callable[[], Awaitable[Tunnel]]) -> None:
    """Carries an accepted, non-blocking connection until both directions have ended; the caller closes the socket afterwards.

    What cannot be connected to inside, or breaks there, is a reset for the client, and the other way round.
    """
    is_whole = False
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tunnel = await open_tunnel()
        try:
            is_whole = await _carried(sock, tunnel)
        finally:
            tunnel.close()
    except (OSError, AgentKernelError):
        return  # it could not be opened
    finally:
        if not is_whole:
            with suppress(OSError):  # macOS refuses it once the client has gone
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


async def _carried(sock: socket.socket, tunnel: Tunnel) -> bool:
    """Whether both directions were carried to their ends."""
    is_whole = False
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(_inwards(sock, tunnel))
            both.create_task(_outwards(tunnel, sock))
        is_whole = True
    except* (OSError, AgentKernelError):
        is_whole = False
    return is_whole


async def _inwards(sock: socket.socket, tunnel: Tunnel) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(sock, _PIECE_BYTES):
        await tunnel.write(data)
    await tunnel.end()


async def _outwards(tunnel: Tunnel, sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await tunnel.read():
        await loop.sock_sendall(sock, data)
    sock.shutdown(socket.SHUT_WR)
