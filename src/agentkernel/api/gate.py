"""What a request passes before a route sees it, and the last resort when one fails. Pure ASGI: a request costs no task and no copy."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from agentkernel.api.doors import STATE, Doors
from agentkernel.api.parts import Parts


class Gate:
    """ASGI middleware: gives each request its door."""

    def __init__(self, app: ASGIApp, *, parts: Parts, doors: Doors) -> None:
        self._app = app
        self._parts = parts
        self._doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, WebSocket, or the application's life."""
        if scope["type"] in ("http", "websocket"):
            scope[STATE] = self._doors.of(self._parts.caller)
        await self._app(scope, receive, send)
