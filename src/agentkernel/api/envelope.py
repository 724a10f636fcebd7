"""Answers and errors as they go over the wire.

{"success": true, "data": ...}
{"success": false, "error": MESSAGE, "code": CODE, "hint": HINT}      hint only where there is one
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketState

from agentkernel.api.status import INTERNAL, MethodNotAllowed, headers_of, status_of
from agentkernel.errors import AgentKernelError, InvalidInput, NotFound, UnknownKey

LOG: Final = logging.getLogger("agentkernel.api")
JSON = "application/json"
CLOSE_POLICY = 1008  # RFC 6455, 7.4.1
CLOSE_INTERNAL = 1011
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_REASON_BYTES = 123  # of a close frame
_TYPE_HINT: Final = "send it with the header `Content-Type: application/json`"


def encoded(value: Any) -> bytes:
    """JSON without spaces, in ASCII: names with bytes that are no UTF-8 (lone surrogates here) do not break it."""
    return _ENCODER.encode(value).encode()


def answer(data: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The answer of a route: `data` in the envelope."""
    return Response(b'{"success":true,"data":' + encoded(data) + b"}", status_code=status, headers=headers, media_type=JSON)


def problem(error: AgentKernelError) -> dict[str, Any]:
    """The envelope of an error, also for the last event of a stream that has begun."""
    said = {"success": False, "error": error.message, "code": error.code}
    return {**said, "hint": error.hint} if error.hint else said


def fault(what: str) -> AgentKernelError:
    """What a client is told of a fault of ours, which is being handled: an id, by which the log has the rest."""
    ident = os.urandom(4).hex()
    LOG.exception("fault %s: %s failed", ident, what)
    return AgentKernelError(f"agentkernel itself failed (fault {ident})", hint="the server's log says more about that fault")


def refusal(error: AgentKernelError) -> Response:
    """The answer that says what went wrong."""
    return Response(encoded(problem(error)), status_code=status_of(error), headers=headers_of(error), media_type=JSON)


def closing(error: AgentKernelError) -> dict[str, Any]:
    """The message that closes a WebSocket with what went wrong, as far as a close frame holds it."""
    code = CLOSE_INTERNAL if status_of(error) >= INTERNAL else CLOSE_POLICY
    return {"type": "websocket.close", "code": code, "reason": error.message.encode()[:_REASON_BYTES].decode(errors="ignore")}


async def said_error(connection: HTTPConnection, error: AgentKernelError) -> Response | None:
    """The handler of every AgentKernelError; a WebSocket that was accepted is closed with the reason instead."""
    if isinstance(connection, WebSocket) and connection.application_state is WebSocketState.CONNECTED:
        if connection.client_state is WebSocketState.CONNECTED:
            await connection.send(closing(error))
        return None
    return refusal(error)


async def said_invalid(connection: HTTPConnection, error: RequestValidationError | WebSocketRequestValidationError) -> Response | None:
    """The handler of what does not have the shape that a route declares."""
    kind = UnknownKey if _names_nothing(error.errors()) else InvalidInput
    return await said_error(connection, kind(_first(error), hint=_TYPE_HINT if _is_untyped(connection, error) else ""))


async def said_http(connection: HTTPConnection, error: HTTPException) -> Response | None:
    """The handler of what the framework itself says: no such route, no such method, a body that is no JSON."""
    if isinstance(error.__cause__, AgentKernelError):  # of a body that could not be read
        return await said_error(connection, error.__cause__)
    known = _OF_FRAMEWORK.get(error.status_code)
    if known is not None:
        response = await said_error(connection, known(connection, error))
        if response is not None and error.headers:
            response.headers.update(error.headers)  # Allow, of a method that is not for the path
        return response
    phrase = HTTPStatus(error.status_code).phrase
    content = encoded({"success": False, "error": error.detail or phrase, "code": phrase.lower().replace(" ", "_")})
    return Response(content, status_code=error.status_code, headers=error.headers, media_type=JSON)


def _first(error: RequestValidationError | WebSocketRequestValidationError) -> str:
    """The first thing that is wrong, in one line."""
    for each in error.errors():
        where = ".".join(str(part) for part in each.get("loc", ()) if part != "body")
        text = str(each.get("msg", "is wrong"))
        if each.get("type") == "json_invalid":
            return f"the body is no JSON: {each.get('ctx', {}).get('error', text)}"
        return f"{where}: {text}" if where else f"the body: {text}"
    return "the request is wrong"


def _is_untyped(connection: HTTPConnection, error: RequestValidationError | WebSocketRequestValidationError) -> bool:
    """Whether the body was not read as JSON because nothing said that it is."""
    is_whole = any(tuple(each.get("loc", ())) == ("body",) for each in error.errors())
    return is_whole and "json" not in connection.headers.get("content-type", "").lower()


def _names_nothing(errors: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the first thing that is wrong is a word in place of one of a few others, which is a name that does not exist."""
    return bool(errors) and errors[0].get("type") == "literal_error" and isinstance(errors[0].get("input"), str)


def _no_route(connection: HTTPConnection, error: HTTPException) -> AgentKernelError:
    return NotFound(f"there is no route {connection.url.path!r}", hint="GET /openapi.json describes the routes")


def _no_method(connection: HTTPConnection, error: HTTPException) -> AgentKernelError:
    allowed = (error.headers or {}).get("Allow", "")
    return MethodNotAllowed(
        f"{connection.scope.get('method')} is not for {connection.url.path!r}", hint=f"allowed: {allowed}" if allowed else ""
    )


def _bad_body(connection: HTTPConnection, error: HTTPException) -> AgentKernelError:
    return InvalidInput(str(error.detail or "the request is wrong"))


_OF_FRAMEWORK = {400: _bad_body, 404: _no_route, 405: _no_method, 422: _bad_body}

HANDLERS: dict[int | type[Exception], Callable[..., Any]] = {
    AgentKernelError: said_error,
    RequestValidationError: said_invalid,
    WebSocketRequestValidationError: said_invalid,
    HTTPException: said_http,
}
