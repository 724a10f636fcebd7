"""What a request passes before a route sees it, and the last resort when one fails. Pure ASGI: it costs no task and no copy."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from agentkernel.api import budget, guards
from agentkernel.api.auth import OPEN_PATHS, Authority
from agentkernel.api.budget import Budget, Share
from agentkernel.api.doors import STATE, Doors
from agentkernel.api.envelope import closing, fault, refusal
from agentkernel.api.limits import Rates, body_limit, bounded, check_coding, check_length
from agentkernel.api.metrics import Metrics
from agentkernel.api.parts import Parts
from agentkernel.api.paths import decoded_path
from agentkernel.config.removal import Running
from agentkernel.errors import AgentKernelError, ServerUnavailable

ENDING: Final = ServerUnavailable("the server is ending", hint="ask again when it is back; a command that was under way has been ended")
_PREFLIGHT: Final = b"access-control-request-method"
_KINDS: Final = ("http", "websocket")


class Gate:
    """ASGI middleware: Host and Origin, token, rate, size; then gives the request its door."""

    def __init__(self, app: ASGIApp, *, parts: Parts, doors: Doors, authority: Authority, running: Running, metrics: Metrics) -> None:
        self._app = app
        self._parts = parts
        self._doors = doors
        self._authority = authority
        self._running = running
        self._metrics = metrics
        self._rates = Rates(parts.limits, time.monotonic)
        self._budget = Budget(parts.limits.held_bytes, parts.limits.token_held_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or WebSocket, or the application's life."""
        if scope["type"] not in _KINDS:
            await self._app(scope, receive, send)
            return
        scope = {**scope, "path": decoded_path(scope)}  # the server goes on with its own
        passage = _Passage(scope, send)
        try:
            await self._pass(scope, receive, passage)
        except AgentKernelError as error:
            await passage.refuse(error, receive)
        except asyncio.CancelledError:  # the server ends, and has waited as long as it would
            if not passage.status:
                await passage.refuse(ENDING, receive)
            raise
        except (ClientDisconnect, WebSocketDisconnect):
            pass  # nobody is there to be answered
        except Exception:  # noqa: BLE001 - the edge of the process: the client gets the envelope, the log the rest
            await passage.refuse(fault(passage.name()), receive)
        finally:
            self._metrics.request(scope, passage.status, time.perf_counter() - passage.began_at)
            if self._parts.log is not None:
                self._parts.log(passage.line())

    async def _pass(self, scope: Scope, receive: Receive, passage: _Passage) -> None:
        headers = guards.wanted_headers(scope["headers"])
        guards.check_host(headers, self._parts.hosts)
        passage.origin = guards.check_origin(headers, self._parts.origins)
        if passage.origin is not None and scope.get("method") == "OPTIONS" and _PREFLIGHT in headers:
            await passage.allow(passage.origin)
            return
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, passage)
            return
        caller = self._authority.caller(headers)
        passage.via = caller.via
        self._rates.enter(caller.via)
        share = scope[budget.STATE] = self._budget.share(caller.via)
        try:
            if scope["type"] == "http":
                receive = self._measured(scope, headers, receive, share)
            scope[STATE] = self._doors.of(caller)
            with self._running.entered(caller):
                await self._app(scope, receive, passage)
        finally:
            share.close()
            self._rates.leave(caller.via)

    def _measured(self, scope: Scope, headers: guards.Headers, receive: Receive, share: Share) -> Receive:
        """Where the body is going to be held, a `receive` that gives no more of it than it may have.

        Raises BodyTooLarge, UnsupportedMedia, and Busy.
        """
        check_coding(headers, scope["path"])
        limit = body_limit(scope["method"], scope["path"], self._parts.limits)
        if limit is None:
            return receive
        length = check_length(headers, limit)
        if length is None:
            return bounded(receive, limit, share.claim)
        share.claim(length)
        return receive


class _Passage:
    """The `send` of one request: notes what was answered, and lets a page that may ask read it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self.began_at = time.perf_counter()
        self.status = 0  # until an answer begins
        self.origin: bytes | None = None
        self.via = ""

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind in ("http.response.start", "websocket.http.response.start"):
            self.status = message["status"]
            if self.origin is not None:
                message = {**message, "headers": [*message.get("headers", ()), *guards.allowance(self.origin)]}
        elif kind == "websocket.accept":
            self.status = 101
        await self._send(message)

    async def allow(self, origin: bytes) -> None:
        """Answers a browser that asks whether a page of that origin may ask."""
        self.status = 204
        await self._send({"type": "http.response.start", "status": 204, "headers": guards.preflight(origin)})
        await self._send({"type": "http.response.body", "body": b""})

    async def refuse(self, error: AgentKernelError, receive: Receive) -> None:
        """Answers with the envelope; of an answer that has begun, only the connection can be ended.

        Raises:
            AgentKernelError: it has begun; the server then closes the connection, so that the client does not take it for complete.
        """
        if not self.status:
            await refusal(error)(self._scope, receive, self)
        elif self._scope["type"] == "websocket":
            await self._send(closing(error))
        else:
            raise error

    def name(self) -> str:
        """Which request it is. Without the query, which may hold anything."""
        path = self._scope["path"].encode("unicode_escape").decode("ascii")
        return f"{self._scope.get('method', 'WEBSOCKET')} {path}"

    def line(self) -> str:
        """One line of a log: when, which token, what, how it ended and how long it took."""
        took_ms = (time.perf_counter() - self.began_at) * 1000
        return f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {self.via or '-'} {self.name()} {self.status or '-'} {took_ms:.1f} ms"
