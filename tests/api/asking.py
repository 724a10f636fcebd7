"""Requests and WebSockets put to the application without a server: what the gate says to each."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from agentkernel.abc import Caller, Kernel
from agentkernel.api.app import ROUTERS, build
from agentkernel.api.limits import Limits
from agentkernel.api.parts import Parts
from agentkernel.config.tokens import TokenStore

ME = Caller(principal="somebody", remote=True)
HOST = (b"host", b"127.0.0.1:18888")
JSON = (b"content-type", b"application/json")
FILLED = {"name": "box", "path": "tmp/x", "reference": "alpine", "port": "80", "exec_id": "1", "job_id": "1"}
Header = tuple[bytes, bytes]


class NoDoor(Exception):
    """A request came as far as its kernel."""


@dataclass(kw_only=True)
class Doors:
    """Hands out no kernel, and remembers who asked for one."""

    callers: list[Caller] = field(default_factory=list)

    def __call__(self, caller: Caller) -> Kernel:
        self.callers.append(caller)
        raise NoDoor


class Silent:
    """A kernel that nobody asks anything."""

    async def close(self) -> None:
        """Nothing is open."""


def silent(caller: Caller) -> Any:
    """Hands it out."""
    return Silent()


@dataclass(frozen=True, kw_only=True)
class Said:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code in the envelope; empty of a success."""
        return str(json.loads(self.body).get("code", ""))


def parts_with(doors: Any, **more: Any) -> Parts:
    """Parts that listen at loopback names."""
    given: dict[str, Any] = {"hosts": frozenset({"localhost", "127.0.0.1", "::1"}), "limits": Limits(), "environment": {}, **more}
    return Parts(doors=doors, caller=ME, version="1.2.3", **given)


def every_route() -> list[tuple[str, str]]:
    """Method (or WEBSOCKET) and path of each route, parameters filled in."""
    found = []
    for router in ROUTERS:
        for route in router.routes:
            path = str(getattr(route, "path", ""))
            path = re.sub(r"\{(\w+)(?::\w+)?\}", lambda match: FILLED[match[1]], path)
            found += [(method, path) for method in sorted(getattr(route, "methods", None) or {"WEBSOCKET"})]
    return found


async def ask(app: Any, method: str, path: str, headers: Iterable[Header] = (), body: Sequence[bytes] = (b"",), **more: Any) -> Said:
    """Puts one request, and for the method WEBSOCKET a handshake, to the application; `body` is what comes, piece by piece.

    `send` is given what is answered too, and waited for; `query` is what stands behind the question mark. Who `stays` does not go
    when everything was sent.
    """
    is_socket = method == "WEBSOCKET"
    pieces = list(body)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if is_socket:
            return {"type": "websocket.connect"}
        if not pieces and more.get("stays"):
            await asyncio.Event().wait()
        if not pieces:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def note(message: dict[str, Any]) -> None:
        sent.append(message)
        if "send" in more:
            await more["send"](message)

    scope: dict[str, Any] = {
        "type": "websocket" if is_socket else "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "http",
        "path": unquote(path),  # as servers give it
        "raw_path": path.encode(),
        "query_string": more.get("query", b""),
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 18888),
        "state": {},
        "extensions": {"websocket.http.response": {}},
        "subprotocols": [],
    }
    if not is_socket:
        scope["method"] = method
    await app(scope, receive, note)
    start = next(message for message in sent if message["type"].endswith("response.start"))
    content = b"".join(message.get("body", b"") for message in sent if message["type"].endswith("response.body"))
    return Said(status=start["status"], headers={name.decode(): value.decode() for name, value in start["headers"]}, body=content)


def bearer(secret: str) -> Header:
    """The header of a token."""
    return (b"authorization", b"Bearer " + secret.encode())


def app_with(tokens: TokenStore | None, **more: Any) -> tuple[Any, Doors]:
    """An application whose requests reach no kernel, and who came as far."""
    doors = Doors()
    return build(parts_with(doors, tokens=tokens, **more)), doors
