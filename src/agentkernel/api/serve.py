"""The server: uvicorn over one socket, in one process, until it is asked to end."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from uvicorn import Config, Server

from agentkernel.api.app import build
from agentkernel.api.handshake import Certificate as Certificate
from agentkernel.api.handshake import Handshakes
from agentkernel.api.limits import Limits
from agentkernel.api.listening import BACKLOG, is_unix
from agentkernel.api.parts import Parts
from agentkernel.api.protocol import guarded
from agentkernel.api.websocket import guarded_websocket

_PING_S: Final = 30.0
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def serve(parts: Parts, listener: socket.socket, ready: Callable[[], None], certificate: Certificate | None = None) -> None:
    """Serves until SIGTERM or SIGINT; `ready` is called when connections are taken.

    Then it takes no more connections, and requests under way have `Limits.drain_s` seconds to end; a second signal ends it at once.
    What goes wrong inside is logged, as traceback, by the logger `agentkernel.api`.
    """
    server(parts, listener, ready, certificate).run(sockets=[listener])


def server(parts: Parts, listener: socket.socket, ready: Callable[[], None], certificate: Certificate | None = None) -> Server:
    """The server that `serve` runs: `run(sockets=[listener])` serves until its `should_exit` is set."""
    limits = parts.limits
    config = Config(
        build(parts),
        http=guarded(limits, local=is_unix(listener)),
        ws=guarded_websocket(limits),
        loop="uvloop",
        lifespan="on",
        log_config=None,
        log_level=logging.CRITICAL,  # of uvicorn's own: the gate has logged it
        access_log=False,
        proxy_headers=False,  # who asks is the socket's peer, whatever a header says
        server_header=False,
        headers=[("x-content-type-options", "nosniff")],  # what a sandbox has written is no page
        backlog=BACKLOG,
        ws_max_size=limits.message_bytes,
        ws_per_message_deflate=False,  # a small message may hold a large one
        ws_ping_interval=_PING_S,
        ws_ping_timeout=limits.write_idle_s,
        timeout_keep_alive=int(limits.keep_alive_s),
        timeout_graceful_shutdown=int(limits.drain_s),
    )
    return _Server(config, ready, limits, None if certificate is None else certificate.context())


class _Server(Server):
    """uvicorn's, which tells when it is ready, and does not die of the signal that ends it."""

    def __init__(self, config: Config, ready: Callable[[], None], limits: Limits, context: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self._ready = ready
        self._limits = limits
        self._context = context
        self._handshakes: list[Handshakes] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes connections."""
        if self._context is None:
            await super().startup(sockets)
        else:
            await super().startup([])
            for listener in sockets or ():
                self._begin_handshakes(listener, self._context)
        gc.collect()
        gc.freeze()  # what is here now stays: later collections need not look at it
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes no more, and ends."""
        for each in self._handshakes:
            each.close()
        await super().shutdown(sockets)

    def _begin_handshakes(self, listener: socket.socket, context: ssl.SSLContext) -> None:
        def made() -> asyncio.Protocol:
            return self.config.http_protocol_class(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)  # type: ignore[call-arg]

        self._handshakes.append(Handshakes(listener, context, made, self.server_state.connections, self._limits))
        self._handshakes[-1].begin()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The first signal drains, the second ends; only the main thread is told of signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._end)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def _end(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
