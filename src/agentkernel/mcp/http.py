"""The transport of a server that listens: streamable HTTP at /mcp, with a token, for the hosts and pages that may ask."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import uvicorn
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.lowlevel import Server
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from pydantic import AnyHttpUrl
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from agentkernel.abc import Caller, Kernel
from agentkernel.config.tokens import Token
from agentkernel.mcp.desk import Desk, Operator
from agentkernel.mcp.server import build

PATH: Final = "/mcp"
MAX_BODY: Final = 32 * 1024 * 1024
MAX_SESSIONS: Final = 256
KEEP_ALIVE_S: Final = 30
SHUTDOWN_S: Final = 2
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_OWN_SITE: Final = ("same-origin", "none")  # Sec-Fetch-Site: a page of the server's own, or no page at all
_ENDS: Final = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Who may ask: under which names (addresses without brackets, no ports), and with which token. `doors` makes the kernel of a caller,
    once for each."""

    names: Sequence[str]
    find: Callable[[str], Token | None]
    doors: Callable[[Caller], Kernel]
    principal: str
    operator: Operator


class Desks:
    """One desk for each token. What the model may name of this host is nothing, so its caller is none from elsewhere (`Caller.remote`)."""

    def __init__(self, listening: Listening) -> None:
        self._listening = listening
        self._desks: dict[Caller, Desk] = {}

    def current(self) -> Desk:
        """The desk of the request that is being answered."""
        token = get_access_token()
        assert token is not None  # noqa: S101 - no request without one comes so far
        caller = Caller(principal=self._listening.principal, scopes=frozenset(token.scopes), via=token.client_id)
        if caller not in self._desks:
            kernel = self._listening.doors(caller)
            self._desks[caller] = Desk(kernel=kernel, caller=caller, operator=self._listening.operator)
        return self._desks[caller]

    async def close(self) -> None:
        """Removes temporary sandboxes and closes every kernel."""
        for desk in self._desks.values():
            await desk.clear()
        for kernel in {id(desk.kernel): desk.kernel for desk in self._desks.values()}.values():
            await kernel.close()


class _Verifier:
    """The SDK's question whether a token is good."""

    def __init__(self, find: Callable[[str], Token | None]) -> None:
        self._find = find

    async def verify_token(self, token: str) -> AccessToken | None:
        """What is known of it; None for one that is not."""
        found = self._find(token)
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


def application(listening: Listening, desks: Desks, port: int) -> Starlette:
    """The ASGI application."""
    server: Server[Any] = build(desks.current)
    security = _security(listening.names, port)
    app = server.streamable_http_app(
        streamable_http_path=PATH,
        max_request_body_size=MAX_BODY,
        max_sessions=MAX_SESSIONS,
        transport_security=security,
        auth=AuthSettings(issuer_url=AnyHttpUrl(f"http://127.0.0.1:{port}"), resource_server_url=None),
        token_verifier=_Verifier(listening.find),
    )
    app.add_middleware(_Door, security=security)
    return app


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
    desks = Desks(listening)
    config = uvicorn.Config(
        application(listening, desks, listener.getsockname()[1]),
        http=protocol,
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    try:
        await _Server(config, ready).serve(sockets=[listener])
    finally:
        await desks.close()


def _security(names: Sequence[str], port: int) -> TransportSecuritySettings:
    """The SDK's checks of Host and Origin: each name with and without the port."""
    written = [f"[{name}]" if ":" in name else name for name in (*LOOPBACK, *names)]
    hosts = [host for name in written for host in (name, f"{name}:{port}")]
    return TransportSecuritySettings(
        enable_dns_rebinding_protection=True, allowed_hosts=hosts, allowed_origins=[f"http://{host}" for host in hosts]
    )
