"""TLS: a connection counts, and has its time, from its beginning on. uvicorn itself hears of one only when its handshake is done."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from agentkernel.api.limits import Limits
from agentkernel.errors import InvalidInput

_ACCEPTS: Final = 64  # connections taken in a row
_ACCEPT_AGAIN_S: Final = 0.1  # after a shortage of descriptors: the socket stays readable, and nothing is won by asking at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Files of a TLS certificate (with its chain) and its key, as PEM."""

    certificate: str
    key: str

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 and newer with it; raises InvalidInput where it cannot be used."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            made.load_cert_chain(self.certificate, self.key)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise InvalidInput(f"the certificate {self.certificate} and its key cannot be used: {error}") from None
        return made


class Handshakes:
    """Takes the connections of a listener, and makes those the server's whose handshake is done within `Limits.header_s`.

    Args:
        make: the protocol that takes such a connection.
        connections: the server's, of which there are `Limits.connections` at most, those with a handshake under way among them.
    """

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        make: Callable[[], asyncio.Protocol],
        connections: Collection[object],
        limits: Limits,
    ) -> None:
        self._listener = listener
        self._context = context
        self._make = make
        self._connections = connections
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._shaking: set[asyncio.Task[None]] = set()
        self._waiting: asyncio.TimerHandle | None = None  # until connections are taken again

    def begin(self) -> None:
        """Takes connections from now on."""
        self._waiting = None
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Takes no more, and ends handshakes: nothing was asked yet."""
        self._loop.remove_reader(self._listener)
        if self._waiting is not None:
            self._waiting.cancel()
        for task in self._shaking:
            task.cancel()

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:  # out of descriptors: they wait in the listener's queue
                self._loop.remove_reader(self._listener)
                self._waiting = self._loop.call_later(_ACCEPT_AGAIN_S, self.begin)
                return
            self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        if len(self._connections) + len(self._shaking) >= self._limits.connections:
            connection.close()
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._shake(connection), name="TLS handshake")
        self._shaking.add(task)
        task.add_done_callback(self._shaking.discard)

    async def _shake(self, connection: socket.socket) -> None:
        try:
            with suppress(OSError):  # it speaks no TLS, or not in time, or has gone
                await self._loop.connect_accepted_socket(
                    self._make,
                    connection,
                    ssl=self._context,
                    ssl_handshake_timeout=self._limits.header_s,
                    ssl_shutdown_timeout=self._limits.unread_s,
                )
                return
        except asyncio.CancelledError:
            connection.close()
            raise
        connection.close()
