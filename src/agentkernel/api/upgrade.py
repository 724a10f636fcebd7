"""Requests for a WebSocket: what takes over from HTTP is told of the headers alone, and takes all that follows for frames."""

from __future__ import annotations

from collections.abc import Iterable

import httptools
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

_BODIES = frozenset({b"content-length", b"transfer-encoding"})


def refused_upgrade(parser: httptools.HttpRequestParser, headers: Iterable[tuple[bytes, bytes]], *, is_busy: bool) -> str:
    """Why such a request is refused whose headers have come, or an empty string; `is_busy`: an earlier one waits for its answer."""
    if parser.get_method() != b"GET" or parser.get_http_version() != "1.1":
        return "a WebSocket is asked for by GET, with HTTP/1.1"
    if any(name in _BODIES and (name, value) != (b"content-length", b"0") for name, value in headers):
        return "a request for a WebSocket has no body"
    if is_busy:
        return "a WebSocket is asked for when the answers to earlier requests are there"
    return ""


async def no_route(scope: Scope, receive: Receive, send: Send) -> None:
    """Where no route is: also a WebSocket is told so in the envelope, which would be refused without a word otherwise."""
    raise HTTPException(status_code=404)
