"""Who may ask from where: Host, Origin and Sec-Fetch-Site, which hold also for requests with a token.

A page that a user of this machine visits can send requests to any address (cross-site requests), and can make a name of its own resolve to
127.0.0.1 (DNS rebinding). Browsers say truly in these headers where a request comes from; programs send no Origin at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Final

from agentkernel.errors import InvalidInput, Refused

WANTED: Final = frozenset(
    {b"host", b"origin", b"sec-fetch-site", b"authorization", b"content-length", b"access-control-request-method", b"transfer-encoding"}
    | {b"content-encoding"}
)
ANY_ADDRESS: Final = "ANY"  # among hosts, whose names are in small letters: any address, which unlike a name nobody can make his own
SHOWN: Final = 64  # letters of what a client has made up, in what it is told of that
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_FROM_HERE: Final = frozenset({b"none", b"same-origin"})  # typed by the user, or by a page of this very server
_CORS_METHODS: Final = b"GET, POST, PUT, PATCH, DELETE"
_CORS_HEADERS: Final = b"authorization, content-type, idempotency-key, last-event-id"

_EXPOSED: Final = b"retry-after, x-next-after, idempotency-replayed"

Headers = Mapping[bytes, list[bytes]]


def wanted_headers(raw: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers that the gate decides by, with every value of each."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in raw:
        if name in WANTED:
            found.setdefault(name, []).append(value)
    return found


def one(headers: Headers, name: bytes) -> bytes | None:
    """The value of a header; raises InvalidInput when it is there twice, for then two readers may see different ones."""
    values = headers.get(name)
    if values is None:
        return None
    if len(values) > 1:
        raise InvalidInput(f"the header {name.decode()} is there {len(values)} times")
    return values[0]


def check_host(headers: Headers, hosts: frozenset[str] | None) -> None:
    """Raises InvalidInput without exactly one Host, Refused when it names another server. `hosts` None: any name will do."""
    host = one(headers, b"host")
    if hosts is None:
        return
    if host is None:
        raise InvalidInput("the request has no Host header")
    name = name_of(host.decode("latin-1"))
    if name not in hosts and not (ANY_ADDRESS in hosts and _is_address(name)):
        raise Refused(
            f"this server is not {host.decode('latin-1')[:200]!r}", hint="`agentkernel serve --hostname NAME` makes it answer to NAME"
        )


def name_of(host: str) -> str:
    """The name or address in a Host header, without port, brackets and the dot of a full name; empty when it is none."""
    host = host.strip().lower()
    if host.startswith("["):
        name, closed, rest = host[1:].partition("]")
        return name if closed and _is_port(rest) else ""
    name, colon, port = host.partition(":")
    return name.removesuffix(".") if _is_port(colon + port) else ""


def check_origin(headers: Headers, origins: frozenset[str]) -> bytes | None:
    """Returns the origin of a page that may ask, None for a program that has none; raises Refused for any other page."""
    origin, site = one(headers, b"origin"), one(headers, b"sec-fetch-site")
    if origin is not None:
        if origin.decode("latin-1").lower() not in origins:
            raise Refused(
                f"pages of {origin.decode('latin-1')[:200]!r} may not use this server",
                hint="`agentkernel serve --origin ORIGIN` lets the pages of ORIGIN use it",
            )
        return origin
    if site is not None and site not in _FROM_HERE:
        raise Refused(
            "pages of other sites may not use this server", hint="`agentkernel serve --origin ORIGIN` lets the pages of ORIGIN use it"
        )
    return None


def allowance(origin: bytes) -> list[tuple[bytes, bytes]]:
    """The headers that let a page of that origin read an answer."""
    return [(b"access-control-allow-origin", origin), (b"vary", b"origin"), (b"access-control-expose-headers", _EXPOSED)]


def preflight(origin: bytes) -> list[tuple[bytes, bytes]]:
    """The headers that let a page of that origin send what no plain form can."""
    more = [(b"access-control-allow-methods", _CORS_METHODS), (b"access-control-allow-headers", _CORS_HEADERS)]
    return [*allowance(origin), *more, (b"access-control-max-age", b"600")]


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_port(text: str) -> bool:
    return not text or (text.startswith(":") and (len(text) == 1 or (text[1:].isascii() and text[1:].isdigit())))
