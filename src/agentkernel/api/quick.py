"""POST /run and exec without the framework's way to their routes, which costs more than they do.

Only what is plainly such a request is answered here, by the very function of its route. Whatever is unusual about one - another type of
content, an idempotency key, a body that is wrong - leaves it to the framework, which sees the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentkernel.api import budget, idempotency
from agentkernel.api.doors import STATE, Door
from agentkernel.api.envelope import JSON
from agentkernel.api.idempotency import Replays
from agentkernel.api.parts import Parts
from agentkernel.api.routes import exec as exec_routes
from agentkernel.api.routes import run as run_routes
from agentkernel.api.shapes import Body, ExecBody, RunBody
from agentkernel.errors import AgentKernelError

_EXEC: Final = re.compile(r"/sandboxes/([A-Za-z0-9_.-]+)/exec", re.ASCII)
_TYPE: Final = (b"content-type", JSON.encode())
_KEY: Final = idempotency.HEADER.encode()

Answered = Callable[[Any, Request, Door], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class _Plain:
    """A request that is plainly for one of the two."""

    route: APIRoute  # what is counted
    body: type[Body]
    answered: Answered


class Quick:
    """ASGI middleware behind the gate, which answers the errors of both ways alike."""

    def __init__(self, app: ASGIApp, *, parts: Parts, replays: Replays) -> None:
        self._app = app
        self._exec = _route(exec_routes.router, exec_routes.exec_command)
        self._run = _Plain(
            _route(run_routes.router, run_routes.run),
            RunBody,
            lambda body, request, door: run_routes.run(body, request, door, parts, replays, request.scope[budget.STATE]),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or WebSocket, or the application's life."""
        plain = self._plain(scope)
        if plain is None:
            await self._app(scope, receive, send)
            return
        sent = await _whole(receive)
        try:
            body = plain.body.model_validate(json.loads(sent))
        except (AgentKernelError, ValueError, RecursionError):  # the framework says what is wrong
            await self._app(scope, _again(sent, receive), send)
            return
        scope["route"] = plain.route
        response = await plain.answered(body, Request(scope, receive), scope[STATE])
        await response(scope, receive, send)

    def _plain(self, scope: Scope) -> _Plain | None:
        if scope.get("method") != "POST" or scope["query_string"] or not _is_plain(scope["headers"]):
            return None
        path = scope["path"]
        if path == self._run.route.path:
            return self._run
        named = _EXEC.fullmatch(path)
        if named is None:
            return None
        name = named[1]

        def answered(body: Any, request: Request, door: Door) -> Awaitable[Response]:
            return exec_routes.exec_command(name, body, request, door, request.scope[budget.STATE])

        return _Plain(self._exec, ExecBody, answered)


def _is_plain(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the body is said to be JSON, without more words, and may be answered anew."""
    typed = False
    for header in headers:
        if header[0] == _KEY:
            return False
        typed = typed or header == _TYPE
    return typed


async def _whole(receive: Receive) -> bytes:
    """The body, which the gate has bounded; raises ClientDisconnect."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _again(sent: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once more, and then what follows it."""
    messages: list[Message] = [{"type": "http.request", "body": sent, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


def _route(router: APIRouter, endpoint: Callable[..., object]) -> APIRoute:
    return next(route for route in router.routes if isinstance(route, APIRoute) and route.endpoint is endpoint)
