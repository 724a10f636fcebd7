"""Answers that the connection itself gives, to what no application hears of. They are in the envelope as well."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from agentkernel.api.envelope import JSON, encoded

_SAID: Final = {
    400: ("invalid_input", "this is no HTTP/1.1 request"),
    403: ("refused", "this is refused"),
    405: ("method_not_allowed", "this method is not for that"),
    408: ("timed_out", "the request did not come in time"),
    414: ("headers_too_large", "the request line is too large"),
    431: ("headers_too_large", "the headers are too large"),
    503: ("busy", "too many connections"),
}


def envelope(status: int, text: str = "") -> bytes:
    """The body of such an answer; without a `text` it says what the status does."""
    code, usual = _SAID.get(status, ("invalid_input" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "error", "the request failed"))
    return encoded({"success": False, "error": text or usual, "code": code})


def answer(status: int, text: str = "") -> bytes:
    """All of it, as bytes; the connection is to be closed behind it."""
    body = envelope(status, text)
    first = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"
    lines = (first, f"content-type: {JSON}", f"content-length: {len(body)}", "connection: close", "", "")
    return "\r\n".join(lines).encode() + body
