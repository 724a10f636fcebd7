"""Answers of the proxy itself: they say what was refused, by which rule, and what to ask for."""

from __future__ import annotations

import json
import re
from typing import Final

_UNSHOWN = re.compile(r"[^\x20-\x7e]")
_SHOWN_CHARACTERS: Final = 200
CONNECTED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def render_refusal(status: int, code: str, message: str, *, rule: str = "", hint: str = "", method: str = "GET") -> bytes:
    """A whole response: JSON `{"error": {"code", "message", "rule", "hint"}}`, after which the connection is closed.

    Args:
        status: 403 for a denial, 502 for a destination that cannot be reached, 400 and others for requests that are none.
        code: `egress_denied`, `egress_failed`, `egress_invalid`, `egress_limited` or the like.
        message: one sentence; it is the reason phrase too, for that is all that many programs show of a failed CONNECT.
        rule: what decided.
        hint: what to ask for.
        method: of the request; HEAD gets no body.
    """
    error = {"code": code, "message": message, "rule": rule, "hint": hint}
    body = json.dumps({"error": error}).encode("ascii") + b"\n"
    head = [
        f"HTTP/1.1 {status} {_one_line(message)}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    return "\r\n".join((*head, "", "")).encode("ascii") + (b"" if method == "HEAD" else body)


def ask_for(host: str, port: int, sandbox: str = "NAME", *, denied_by: str = "") -> str:
    """The hint of a denial: what somebody outside can type.

    Args:
        host: as the sandbox named it.
        denied_by: the rule; one that denies wins over every permission, so it has to go.
    """
    verb, _, rule = denied_by.partition(" ")
    if verb == "deny":
        return f"ask for: agentkernel network forget {sandbox} '{rule}'"
    shown = f"[{host}]" if ":" in host else host
    return f"ask for: agentkernel network allow {sandbox} {shown}:{port}"


def ask_for_address(sandbox: str = "NAME") -> str:
    """The hint where the address is refused that a name leads to: which it is only the host may see."""
    return f"ask for the address range that it leads to, which `agentkernel network log {sandbox}` shows outside"


def _one_line(text: str) -> str:
    """As a reason phrase."""
    return _UNSHOWN.sub("?", text)[:_SHOWN_CHARACTERS].strip()
