"""The transport of a server that listens: streamable HTTP at /mcp, with a token, for the hosts and pages that may ask."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import uvicorn
from mcp.server.auth.middleware.auth_context import AuthContextMiddleware, get_access_token
from mcp.server.auth.middleware.bearer_auth import BearerAuthBackend, RequireAuthMiddleware
from mcp.server.auth.provider import AccessToken
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentkernel.abc import Caller, Kernel
from agentkernel.config.removal import watch
from agentkernel.config.tokens import TokenStore
from agentkernel.errors import InvalidInput, Unauthorized
from agentkernel.mcp.desk import Operator
from agentkernel.mcp.desks import Desks, Lending

PATH: Final = "/mcp"
KEEP_ALIVE_S: Final = 30
SHUTDOWN_S: Final = 2
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_OWN_SITE: Final = ("same-origin", "none")  # Sec-Fetch-Site: a page of the server's own, or no page at all
_LOG: Final = logging.getLogger(__name__)
_ENDS: Final = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Who may ask: under which names (addresses without brackets, no ports), and with which token. `doors` makes the kernel of a caller,
    once for each; `is_shared`: it is one for all."""

    names: Sequence[str]
    tokens: TokenStore
    doors: Callable[[Caller], Kernel]
    principal: str
    operator: Operator
    is_shared: bool = False


class _Verifier:
    """The SDK's question whether a token is good."""

    def __init__(self, tokens: TokenStore) -> None:
        self._tokens = tokens

    async def verify_token(self, token: str) -> AccessToken | None:
        """What is known of it; None for one that is not."""
        try:
            found = self._tokens.find(token)
        except InvalidInput as error:  # of the file: no fault of who asks, and not his to know
            _LOG.error("no token is taken: %s", error.message)
            return None
        return None if found is None else AccessToken(token=token, client_id=found.name, scopes=sorted(found.scopes))


class _Door:
    """ASGI middleware before all else: the SDK's own checks of Host and Origin come after it has looked for the session, and whether a page
    of another site sends the request it does not ask."""

    def __init__(self, app: ASGIApp, security: TransportSecuritySettings) -> None:
        self._app = app
        self._checks = TransportSecurityMiddleware(security)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the application's life."""
        app = self._app
        if scope["type"] == "http":
            request = Request(scope)
            app = await self._checks.validate_request(request) or app
            if request.headers.get("sec-fetch-site", "none") not in _OWN_SITE:
                app = Response("Requests of other sites are refused", status_code=403)
        await app(scope, receive, send)


class _Endpoint:
    """ASGI: what asks with a good token is answered at the token's own place, until the token is removed."""

    def __init__(self, tokens: TokenStore, desks: Desks) -> None:
        self._tokens = tokens
        self._desks = desks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the stream of a session."""
        known = get_access_token()
        token = self._tokens.find(known.token) if known is not None else None
        answer = _Answer(send)
        try:
            if token is None:
                raise Unauthorized("the token was removed")  # just now
            with self._desks.running.entered(token):
                place = await self._desks.of(token)
                await place.sessions.handle_request(scope, receive, answer)
        except Unauthorized as error:
            await answer.refuse(error, scope, receive)
        await answer.end()


class _Answer:
    """The `send` of one request: knows how far its answer is."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._has_begun = self._is_whole = False

    async def __call__(self, message: Message) -> None:
        self._has_begun = True
        self._is_whole = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)

    async def refuse(self, error: Unauthorized, scope: Scope, receive: Receive) -> None:
        """Says why there is none, where none has begun."""
        if not self._has_begun:
            await Response(error.message, status_code=401, headers={"WWW-Authenticate": "Bearer"})(scope, receive, self)

    async def end(self) -> None:
        """A stream that was left where it was has its end: the SDK ends none that is cancelled."""
        if self._has_begun and not self._is_whole:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def application(tokens: TokenStore, desks: Desks, security: TransportSecuritySettings) -> Starlette:
    """The ASGI application."""
    middleware = [
        Middleware(_Door, security=security),
        Middleware(AuthenticationMiddleware, backend=BearerAuthBackend(_Verifier(tokens))),
        Middleware(AuthContextMiddleware),
    ]
    return Starlette(routes=[Route(PATH, endpoint=RequireAuthMiddleware(_Endpoint(tokens, desks), []))], middleware=middleware)


class _Server(uvicorn.Server):
    """Ends in order when it is told to: uvicorn itself would raise the signal again, which ends the process before anything is removed."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes connections."""
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes the signals that end it."""
        loop = asyncio.get_running_loop()
        for number in _ENDS:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in _ENDS:
                loop.remove_signal_handler(number)


async def serve(listening: Listening, listener: socket.socket, protocol: type[asyncio.Protocol], ready: Callable[[], None]) -> None:
    """Serves until SIGTERM or SIGINT. `protocol` is uvicorn's end of a connection, with bounds for slow clients; `ready` is called when
    connections are taken."""
    security = _security(listening.names, listener.getsockname()[1])
    lending = Lending(
        tokens=listening.tokens,
        doors=listening.doors,
        principal=listening.principal,
        operator=listening.operator,
        security=security,
        is_shared=listening.is_shared,
    )
    desks = Desks(lending)
    config = uvicorn.Config(
        application(listening.tokens, desks, security),
        http=protocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    looking = asyncio.create_task(watch(desks.end_removed, _LOG), name="looking for removed tokens")
    try:
        await _Server(config, ready).serve(sockets=[listener])
    finally:
        looking.cancel()
        await asyncio.wait([looking])
        await desks.close()


def _security(names: Sequence[str], port: int) -> TransportSecuritySettings:
    """The SDK's checks of Host and Origin: each name with and without the port."""
    written = [f"[{name}]" if ":" in name else name for name in (*LOOPBACK, *names)]
    hosts = [host for name in written for host in (name, f"{name}:{port}")]
    return TransportSecuritySettings(
        enable_dns_rebinding_protection=True, allowed_hosts=hosts, allowed_origins=[f"http://{host}" for host in hosts]
    )
