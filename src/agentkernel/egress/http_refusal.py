"""Answers of the proxy itself: they say what was refused, by which rule, and what to ask for."""

from __future__ import annotations

import errno
import json
import re
from typing import Final

from agentkernel.egress.attempt import Attempt, RefusedError

_UNSHOWN = re.compile(r"[^\x20-\x7e]")
_SHOWN_CHARACTERS: Final = 200
_LIMITED: Final = frozenset({errno.EAGAIN, errno.EDQUOT})
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


def render_refused(refused: RefusedError, attempt: Attempt, method: str) -> bytes:
    """The response that says what a program may hear of a refusal: not what its name leads to, where it is not to know."""
    rule, reason = refused.told
    if refused.number in _LIMITED:
        return render_refusal(429, "egress_limited", reason, rule=rule, method=method)
    if refused.is_denial:
        return render_refusal(403, refused.code or "egress_denied", reason, rule=rule, hint=_hint(refused, attempt), method=method)
    status = 504 if refused.number == errno.ETIMEDOUT else 502
    return render_refusal(status, refused.code or "egress_failed", reason, rule=rule, hint=refused.hint, method=method)


def _hint(refused: RefusedError, attempt: Attempt) -> str:
    if refused.hint or refused.code:  # what is no matter of rules, no rule helps
        return refused.hint
    if refused.is_guarded:
        return ask_for_address(is_denied=refused.rule.startswith("deny "))
    return ask_for(attempt.host, attempt.port, denied_by=refused.rule)


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


def ask_for_address(sandbox: str = "NAME", *, is_denied: bool) -> str:
    """The hint where the address is refused that a name leads to: which it is, and which rule denies it, only the host may see."""
    what = "that the rule be forgotten" if is_denied else "the address range that it leads to"
    return f"ask for {what}, which `agentkernel network log {sandbox}` shows outside"


def _one_line(text: str) -> str:
    """As a reason phrase."""
    return _UNSHOWN.sub("?", text)[:_SHOWN_CHARACTERS].strip()
