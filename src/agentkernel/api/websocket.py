"""The server's end of a WebSocket, with bounds that uvicorn's own does not have: time for the handshake, idle frames, unread answers."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import Event
from websockets.server import ServerProtocol
from websockets.typing import StatusLike

from agentkernel.api import curt
from agentkernel.api.envelope import CLOSE_POLICY, JSON
from agentkernel.api.feed import Feed
from agentkernel.api.limits import Limits
from agentkernel.api.timers import Timers, Wait

_PIECE_BYTES: Final = 8 * 1024
_FRAGMENT_BYTES: Final = 256  # a part of a message that is smaller says hardly anything; of larger ones a message has not many


class _Conversation(ServerProtocol):
    """Says in the envelope what is wrong with a handshake."""

    def reject(self, status: StatusLike, text: str) -> Response:
        """The answer to a handshake that fails."""
        said = super().reject(status, text)
        said.body = curt.envelope(said.status_code, text.strip())
        kept = [(name, value) for name, value in said.headers.raw_items() if not name.lower().startswith("content-")]
        said.headers = Headers([*kept, ("Content-Type", JSON), ("Content-Length", str(len(said.body)))])
        return said


class GuardedWebSocket(WebSocketsSansIOProtocol):
    """A WebSocket with bounds; one class for each server, made by `guarded_websocket`."""

    limits: Limits
    _feed: Feed  # of its connection

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn = _Conversation(max_size=config.ws_max_size, logger=logging.getLogger("uvicorn.error"))
        self._timers = Timers(self.loop)
        self._is_choked = False  # it does not take the answers to its pings: no more are made
        self._idle_left = float(self.limits.idle_frames)
        self._idle_at = 0.0
        self._taken = 0  # frames, of the piece that is being parsed

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the connection over from HTTP."""
        super().connection_made(transport)
        self._feed = Feed(self.transport, self._take, self._is_held, loop=self.loop, most_bytes=_PIECE_BYTES)
        self._timers.arm(Wait.ACCEPT, self.limits.accept_s, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the timers."""
        self._timers.forget()
        self._feed.end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """First the handshake's request, in one go; then frames."""
        if self.handshake_initiated:
            self._feed.put(data)
        elif not self.transport.is_closing():
            super().data_received(data)
            if not self.handshake_initiated:  # it could not be read, which uvicorn knows nothing of
                self._give_up()
            self._feed.go_on()

    def pause_writing(self) -> None:
        """The client does not take what it is sent: from now on its time counts."""
        super().pause_writing()
        if Wait.WRITE not in self._timers:
            self._timers.arm(Wait.WRITE, self.limits.write_idle_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        self._timers.disarm(Wait.WRITE)
        self._is_choked = False
        self._feed.go_on()

    # -- frames

    def handle_events(self) -> None:
        """Passes on what frames say; those that say nothing have a bound."""
        self._taken = len(self.conn.events)
        idle = sum(map(_says_nothing, self.conn.events))
        if idle and not self._may_idle(idle):
            self.conn.fail(CLOSE_POLICY, "too many frames that say nothing")
            self.handle_parser_exception()
            return
        super().handle_events()
        self._is_choked = idle > 0 and not self.writable.is_set()

    def keepalive_timeout(self) -> None:
        """It has answered no ping, and will hardly take the last words."""
        super().keepalive_timeout()
        self._timers.arm(Wait.END, self.limits.unread_s, self.transport.abort)

    # -- the application

    async def run_asgi(self) -> None:
        """Runs it; then the client has so much time to take the rest."""
        await super().run_asgi()
        if not self.disconnected:
            self._timers.arm(Wait.END, self.limits.write_idle_s, self.transport.abort)

    async def receive(self) -> ASGIReceiveEvent:
        """The next message; when there is none left, more is read."""
        message = await self.queue.get()
        if self.queue.empty():
            self.read_paused = False
        self._feed.go_on()
        return message

    async def send(self, message: ASGISendEvent) -> None:
        """Sends a message, the answer to the handshake first."""
        was_closing = self.close_sent
        await super().send(message)
        if message["type"] == "websocket.accept":
            self._timers.disarm(Wait.ACCEPT)
            self._feed.go_on()
        elif self.close_sent and not was_closing:
            self._feed.go_on()  # to the client's answer

    # -- parts of the above

    def _is_held(self) -> bool:
        return self.read_paused or self._is_choked or not self.handshake_complete

    def _take(self, piece: memoryview) -> int:
        self._taken = 0
        super().data_received(piece)  # type: ignore[arg-type]
        return self._taken

    def _give_up(self) -> None:
        self.handshake_complete = self.close_sent = True
        said = b"".join(self.conn.data_to_send())
        self.transport.write(said or curt.answer(400, "this is no request for a WebSocket"))
        self.transport.close()

    def _may_idle(self, frames: int) -> bool:
        now = self.loop.time()
        filled = self._idle_left + (now - self._idle_at) * self.limits.idle_frames_rate
        self._idle_left, self._idle_at = min(filled, float(self.limits.idle_frames)) - frames, now
        return self._idle_left >= 0


def guarded_websocket(bounds: Limits) -> type[GuardedWebSocket]:
    """The WebSockets of one server."""

    class Guarded(GuardedWebSocket):
        limits = bounds

    return Guarded


def _says_nothing(event: Event) -> bool:
    """Whether it is a ping, a pong, or a small part of a message that goes on."""
    if not isinstance(event, Frame):
        return False
    if event.opcode in (Opcode.PING, Opcode.PONG):
        return True
    return not event.fin and len(event.data) < _FRAGMENT_BYTES
