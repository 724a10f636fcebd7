"""The server's end of an HTTP connection, with bounds that uvicorn's own does not have: header bytes, and time for slow clients.

Nothing that a client does before its token has been looked at costs more than the bounds of `Limits`; a slow one costs a descriptor until
its time is over, and nobody else waits for it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from agentkernel.api.envelope import JSON, encoded
from agentkernel.api.limits import Limits

PIPELINED: Final = 16  # requests that a client may send before the answer to the first
_PEER: Final = struct.Struct("3i")  # SO_PEERCRED: pid, uid, gid
_SAID: Final = {
    400: ("Bad Request", "invalid_input", "this is no HTTP/1.1 request"),
    408: ("Request Timeout", "timed_out", "the request did not come in time"),
    431: ("Request Header Fields Too Large", "headers_too_large", "the headers are too large"),
    503: ("Service Unavailable", "busy", "too many connections"),
}


class _Timer(Enum):
    """What a connection may be waited for."""

    HEADER = auto()
    BODY = auto()
    WRITE = auto()


class GuardedProtocol(HttpToolsProtocol):
    """HTTP/1.1 with bounds; one class for each server, made by `guarded`."""

    limits: Limits
    is_local = False  # a unix socket, whose peer is to be the user of this process

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._timers: dict[_Timer, asyncio.TimerHandle] = {}
        self._partial = True  # the headers of the next request are awaited, or have begun
        self._completed = False  # by the bytes that are being fed, the headers of a request were
        self._ended = False  # by the bytes that are being fed, a whole request was: what came before its end is none of the next one's
        self._in_body = False
        self._got_body = False  # by the bytes that are being fed
        self._raw_bytes = 0  # of headers that are not complete, as they came; or, in a body, of what is none: trailers are headers too
        self._header_bytes = 0  # of those that were parsed
        self._too_large = False
        self._heard_at = 0.0

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes a connection, unless there are too many or its peer is somebody else."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(503)
        elif self.is_local and not _is_ours(transport):
            transport.abort()
        else:
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the timers."""
        self._forget_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, and sees to it that what follows follows in time."""
        if self.transport.is_closing():
            return
        self._heard_at = self.loop.time()
        self._completed = self._got_body = self._ended = False
        super().data_received(data)
        if self.transport.is_closing() or self.parser is None or self.transport.get_protocol() is not self:
            return
        if (self._partial or (self._in_body and not self._got_body)) and not (self._completed or self._ended):
            self._raw_bytes += len(data)
            if self._raw_bytes > self.limits.header_bytes:
                self._refuse(431)
                return
        if self._partial or not self._is_busy():
            self._await_headers()
        if self._in_body and _Timer.BODY not in self._timers:
            self._await_body(self.limits.body_idle_s)

    def pause_writing(self) -> None:
        """The client does not take what it is sent: from now on its time counts."""
        super().pause_writing()
        if _Timer.WRITE not in self._timers:
            self._arm(_Timer.WRITE, self.limits.write_idle_s, self._abort)

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        self._disarm(_Timer.WRITE)

    # -- the parser

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._partial = True
        self._header_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Counts the request line."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Counts the headers."""
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)  # ": " and the end of the line

    def on_headers_complete(self) -> None:
        """The headers came in time."""
        self._partial, self._completed, self._in_body = False, True, True
        self._raw_bytes = 0
        self._disarm(_Timer.HEADER)
        if len(self.pipeline) >= PIPELINED:
            raise ValueError("too many requests before an answer")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Some of the body: what comes between its pieces is little."""
        self._got_body = True
        self._raw_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body did as well."""
        self._in_body, self._ended = False, True
        self._raw_bytes = 0
        self._disarm(_Timer.BODY)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """What is left of a body after its answer is read for a moment, so that the client sees the answer, and then no longer."""
        super().on_response_complete()
        if self._in_body and not self._is_busy() and not self.transport.is_closing():
            self._arm(_Timer.BODY, self.limits.unread_s, self._abort)

    def handle_websocket_upgrade(self) -> None:
        """Another protocol takes over."""
        self._forget_timers()
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is answered in the envelope too."""
        self._refuse(431 if self._too_large else 400)

    # -- parts of the above

    def _is_busy(self) -> bool:
        """Whether a request waits for its answer."""
        return self.cycle is not None and not self.cycle.response_complete

    def _await_headers(self) -> None:
        if _Timer.HEADER not in self._timers:
            self._arm(_Timer.HEADER, self.limits.header_s, self._headers_late)

    def _headers_late(self) -> None:
        self._disarm(_Timer.HEADER)
        if self._is_busy():
            self._await_headers()  # of a request that waits for the answer to another
        else:
            self._refuse(408)

    def _await_body(self, wait_s: float) -> None:
        self._arm(_Timer.BODY, wait_s, self._look_at_body)

    def _look_at_body(self) -> None:
        """Ends a request whose body does not come, though somebody waits for it."""
        self._disarm(_Timer.BODY)
        if not self._in_body or self.transport.is_closing():
            return
        left = self.limits.body_idle_s - (self.loop.time() - self._heard_at)
        if self.flow.read_paused or left > 0:
            self._await_body(self.limits.body_idle_s if self.flow.read_paused else left)
        else:
            self._refuse(408)

    def _count(self, more: int) -> None:
        self._header_bytes += more
        if self._header_bytes > self.limits.header_bytes or len(self.headers) > self.limits.headers:
            self._too_large = True
            raise ValueError("headers too large")  # which ends the parser; `send_400_response` says why

    def _refuse(self, status: int) -> None:
        """Says why, unless an answer has begun, and closes."""
        self._forget_timers()
        if self.transport.is_closing():
            return
        if not self._is_busy() or not self.cycle.response_started:
            phrase, code, text = _SAID[status]
            body = encoded({"success": False, "error": text, "code": code})
            head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: {JSON}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode() + body)
        self.transport.close()
        self._arm(_Timer.WRITE, self.limits.unread_s, self._abort)  # of a client that does not take that

    def _abort(self) -> None:
        self._forget_timers()
        self.transport.abort()

    def _arm(self, timer: _Timer, delay_s: float, then: Callable[[], None]) -> None:
        self._disarm(timer)
        self._timers[timer] = self.loop.call_later(delay_s, then)

    def _disarm(self, timer: _Timer) -> None:
        running = self._timers.pop(timer, None)
        if running is not None:
            running.cancel()

    def _forget_timers(self) -> None:
        for timer in _Timer:
            self._disarm(timer)


def guarded(bounds: Limits, *, local: bool) -> type[GuardedProtocol]:
    """The protocol of one server; `local`: its socket is a unix socket."""

    class Guarded(GuardedProtocol):
        limits = bounds
        is_local = local

    return Guarded


def _is_ours(transport: asyncio.Transport) -> bool:
    """Whether the peer of a unix socket is the user of this process, or root."""
    peer = transport.get_extra_info("socket")
    if peer is None or not hasattr(socket, "SO_PEERCRED"):
        return peer is not None  # where the socket's mode must do
    _, uid, _ = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return uid in (0, os.geteuid())
