"""The server's end of an HTTP connection, with bounds that uvicorn's own does not have: header bytes, and time for slow clients.

Nothing that a client does before its token has been looked at costs more than the bounds of `Limits`; a slow one costs a descriptor until
its time is over, and nobody else waits for it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from agentkernel.api import curt
from agentkernel.api.feed import Feed, Flow
from agentkernel.api.limits import Limits
from agentkernel.api.listening import is_ours
from agentkernel.api.timers import Timers, Wait
from agentkernel.api.upgrade import refused_upgrade

PIPELINED: Final = 16  # requests that a client may send before the answer to the first
_PIECE_BYTES: Final = 64 * 1024


class GuardedProtocol(HttpToolsProtocol):
    """HTTP/1.1 with bounds; one class for each server, made by `guarded`."""

    limits: Limits
    _feed: Feed  # of its connection
    is_local = False  # a unix socket, whose peer is to be the user of this process

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._timers = Timers(self.loop)
        self._taken = 0  # requests and pieces of bodies, of the bytes that are being fed
        self._partial = True  # the headers of the next request are awaited, or have begun
        self._completed = False  # by the bytes that are being fed, the headers of a request were
        self._ended = False  # by the bytes that are being fed, a whole request was: what came before its end is none of the next one's
        self._in_body = False
        self._got_body = False  # by the bytes that are being fed
        self._raw_bytes = 0  # of headers that are not complete, as they came; or, in a body, of what is none: trailers are headers too
        self._header_bytes = 0  # of those that were parsed
        self._unread_pieces = 0
        self._said = (400, "")  # of what the parser refuses
        self._heard_at = 0.0

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes a connection, unless there are too many or its peer is somebody else."""
        super().connection_made(transport)
        feed = Feed(transport, self._take, lambda: self.flow.read_paused, loop=self.loop, most_bytes=_PIECE_BYTES)
        self._feed, self.flow = feed, Flow(transport, feed.go_on)
        if len(self.connections) > self.limits.connections:
            self._refuse(503)
        elif self.is_local and not is_ours(transport):
            transport.abort()
        else:
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the timers."""
        self._timers.forget()
        self._feed.end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, piece by piece."""
        if not self.transport.is_closing():
            self._feed.put(data)

    def pause_writing(self) -> None:
        """The client does not take what it is sent: from now on its time counts."""
        super().pause_writing()
        if Wait.WRITE not in self._timers:
            self._timers.arm(Wait.WRITE, self.limits.write_idle_s, self._abort)

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        self._timers.disarm(Wait.WRITE)

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
        self._partial, self._completed = False, True
        self._raw_bytes = self._unread_pieces = 0
        self._timers.disarm(Wait.HEADER)
        if len(self.pipeline) >= PIPELINED:
            raise ValueError("too many requests before an answer")
        if self.parser.should_upgrade() and self._should_upgrade():
            wrong = refused_upgrade(self.parser, self.headers, is_busy=self._is_busy())
            if wrong:
                self._said = (400, wrong)
                raise ValueError(wrong)
        self._in_body = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Some of the body: what comes between its pieces is little."""
        self._got_body = True
        self._taken += 1
        self._raw_bytes = 0
        if not self._is_busy():
            self._unread_pieces += 1
            if self._unread_pieces > self.limits.unread_pieces:
                raise ValueError("too much of a body after its answer")
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body did as well."""
        self._in_body, self._ended = False, True
        self._taken += 1
        self._raw_bytes = 0
        self._timers.disarm(Wait.BODY)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """What is left of a body after its answer is read for a moment, so that the client sees the answer, and then no longer."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._await_end()
        elif self._in_body and not self._is_busy():
            self._timers.arm(Wait.BODY, self.limits.unread_s, self._abort)

    def timeout_keep_alive_handler(self) -> None:
        """The client asks nothing more."""
        super().timeout_keep_alive_handler()
        self._await_end()

    def handle_websocket_upgrade(self) -> None:
        """Another protocol takes over, with time of its own."""
        self._timers.forget()
        self._feed.end()
        super().handle_websocket_upgrade()
        if self.flow.write_paused:
            self.transport.get_protocol().pause_writing()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is answered in the envelope too."""
        self._refuse(*self._said)

    # -- parts of the above

    def _take(self, piece: memoryview) -> int:
        """Feeds the parser, and sees to it that what follows follows in time."""
        self._heard_at = self.loop.time()
        self._completed = self._got_body = self._ended = False
        self._taken = 0
        super().data_received(piece)  # type: ignore[arg-type]
        if self.transport.is_closing() or self.parser is None or self.transport.get_protocol() is not self:
            return self._taken
        if (self._partial or (self._in_body and not self._got_body)) and not (self._completed or self._ended):
            self._raw_bytes += len(piece)
            if self._raw_bytes > self.limits.header_bytes:
                self._refuse(431)
                return self._taken
        if self._partial or not self._is_busy():
            self._await_headers()
        if self._in_body and Wait.BODY not in self._timers:
            self._await_body(self.limits.body_idle_s)
        return self._taken

    def _is_busy(self) -> bool:
        """Whether a request waits for its answer."""
        return self.cycle is not None and not self.cycle.response_complete

    def _await_headers(self) -> None:
        if Wait.HEADER not in self._timers:
            self._timers.arm(Wait.HEADER, self.limits.header_s, self._headers_late)

    def _headers_late(self) -> None:
        self._timers.disarm(Wait.HEADER)
        if self._is_busy():
            self._await_headers()  # of a request that waits for the answer to another
        else:
            self._refuse(408)

    def _await_body(self, wait_s: float) -> None:
        self._timers.arm(Wait.BODY, wait_s, self._look_at_body)

    def _look_at_body(self) -> None:
        """Ends a request whose body does not come, though somebody waits for it."""
        self._timers.disarm(Wait.BODY)
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
            self._said = (431, "")
            raise ValueError("headers too large")  # which ends the parser; `send_400_response` says why

    def _refuse(self, status: int, text: str = "") -> None:
        """Says why, unless an answer has begun, and closes."""
        self._timers.forget()
        if self.transport.is_closing():
            return
        has_answer = self.cycle is not None and self.cycle.response_started
        if not has_answer or not (self._in_body or self._is_busy()):
            self.transport.write(curt.answer(status, text))
        self.transport.close()
        self._timers.arm(Wait.END, self.limits.unread_s, self._abort)  # of a client that does not take that

    def _await_end(self) -> None:
        """The connection is closing: there is an end to the time in which the client may take the last bytes."""
        self._timers.arm(Wait.END, self.limits.write_idle_s, self._abort)

    def _abort(self) -> None:
        self._timers.forget()
        self.transport.abort()


def guarded(bounds: Limits, *, local: bool) -> type[GuardedProtocol]:
    """The protocol of one server; `local`: its socket is a unix socket."""

    class Guarded(GuardedProtocol):
        limits = bounds
        is_local = local

    return Guarded
