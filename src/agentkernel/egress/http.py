"""Requests of a sandbox's programs: one head read, judged whether it means one thing only, and written anew for whom it goes to.

Nothing of a head is passed on as it came: the request line, Host, the framing and Connection are written from what was understood.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from agentkernel.egress.http_body import Framing, Kind, declared_framing
from agentkernel.egress.http_fields import BadMessage, Fields, HeadBuffer, edited, end_to_end, parse_fields, render_fields, tokens, values
from agentkernel.model.hosts import normal_host

HTTP_PORT: Final = 80
_LINE = re.compile(rb"([A-Z][A-Z_-]{0,31}) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^\[\]:]*)(?::([0-9]{1,5}))?")
_ABSOLUTE = re.compile(r"http://([^/?]*)(.*)", re.IGNORECASE)
_ANY_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.*")


class Origin(NamedTuple):
    """Whom a connection leads to, where that is known before the request: requests on it come without scheme and host."""

    host: str  # as `normal_host` gives it; empty: Host alone says
    port: int
    scheme_port: int = HTTP_PORT  # the port that Host may leave out


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, understood. `fields` are those that are passed on: without Host, framing, Connection and what belongs to it."""

    method: str
    host: str  # as `normal_host` gives it
    port: int
    target: str = field(repr=False)  # path and query, or "*"; empty for CONNECT
    minor: int  # of the version: 0 or 1
    fields: Fields = field(repr=False)  # credentials are no business of a log
    framing: Framing
    keep_alive: bool  # whether the client will send another one on its connection
    upgrade: bool = False  # it asks for a WebSocket; other upgrades are not passed on
    scheme_port: int = HTTP_PORT

    @property
    def is_connect(self) -> bool:
        """Whether it asks for a tunnel."""
        return self.method == "CONNECT"

    @property
    def awaits_continue(self) -> bool:
        """Whether the client may wait for a 100 (Continue) before it sends the body."""
        return b"100-continue" in (value.lower() for value in values(self.fields, b"expect"))

    def with_values(self, edit: Callable[[bytes, bytes], bytes]) -> Request:
        """The request with each field's value replaced by `edit(lower-case name, value)`; raises ValueError for what is no field value."""
        return replace(self, fields=edited(self.fields, edit))

    def render(self, *, close: bool = False, absolute: bool = False, more: Fields = ()) -> bytes:
        """The head for the origin, or with `absolute` for another proxy, with `more` fields for that one alone.

        `close`: there will be no other request on that connection.
        """
        where = authority(self.host, self.port, self.scheme_port)
        target = self.target
        if absolute:
            target = f"http://{where}{'' if target == '*' else target}"
        return b"".join(
            (
                f"{self.method} {target} HTTP/1.1\r\nHost: {where}\r\n".encode("ascii"),
                render_fields((*self.fields, *more)),
                self.framing.fields,
                b"Connection: Upgrade\r\nUpgrade: websocket\r\n" if self.upgrade else b"Connection: close\r\n" if close else b"",
                b"\r\n",
            )
        )


class RequestReader:
    """Reads the head of one request; the body and what follows are left in `rest`."""

    def __init__(self, origin: Origin | None = None) -> None:
        """Without an origin it is a proxy's client: requests name scheme and host, or are CONNECT."""
        self._origin = origin
        self._head = HeadBuffer(_parse_line)

    @property
    def rest(self) -> bytes:
        """What came after the head, once that is complete."""
        return self._head.rest

    def feed(self, data: bytes | memoryview) -> Request | None:
        """The request, or None while its head is not complete. Not to be called again after either a request or an error.

        Raises:
            BadMessage: it is none that may be passed on; with the status to answer.
        """
        lines = self._head.feed(data)
        if lines is None:
            return None
        method, target, minor = _parse_line(lines[0])
        fields = parse_fields(lines[1:])
        return _understood(method, target, minor, fields, self._origin)


def authority(host: str, port: int, default_port: int = 0) -> str:
    """`host:port` as it stands in a URL, without the port when that is the default."""
    shown = f"[{host}]" if ":" in host else host
    return shown if port == default_port else f"{shown}:{port}"


def render_connect(host: str, port: int, fields: Fields = ()) -> bytes:
    """The head that asks another proxy for a tunnel."""
    where = authority(host, port)
    return f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n".encode("ascii") + render_fields(fields) + b"\r\n"


def parse_authority(text: str, default_port: int = 0) -> tuple[str, int]:
    """Host (as `normal_host` gives it) and port of `host`, `host:port` or `[address]:port`.

    Args:
        text: without user and password, which nothing that is asked for by a sandbox has.
        default_port: where there is none; 0: it must be there.

    Raises:
        BadMessage: it is no authority, or one that programs would read differently.
    """
    if not text.isascii():
        raise BadMessage("a host that is not ASCII is written in A-labels (xn--...)")
    found = _AUTHORITY.fullmatch(text)
    if found is None or (found[2] is None and not default_port):
        raise BadMessage("a destination is written host:port")
    if found[2] is not None and (found[2].startswith("0") or int(found[2]) > 65535):
        raise BadMessage("a port is a number from 1 to 65535")
    try:
        host = normal_host(found[1])
    except ValueError as error:
        raise BadMessage(f"the host is not usable: {error}") from None
    return host, int(found[2] or default_port)


def _parse_line(line: bytes) -> tuple[str, str, int]:
    """Method, target and minor version."""
    found = _LINE.fullmatch(line)
    if found is None:
        raise BadMessage("the request line is not `METHOD target HTTP/1.1` in printable ASCII with single spaces")
    method, target, major, minor = (part.decode("ascii") for part in found.groups())
    if major != "1" or minor not in "01":
        raise BadMessage("only HTTP/1.1 and HTTP/1.0 are spoken here", 505)
    if method == "TRACE":
        raise BadMessage("TRACE is not passed on: it would show fields that others added", 405)
    return method, target, int(minor)


def _understood(method: str, target: str, minor: int, fields: Fields, origin: Origin | None) -> Request:
    hosts = values(fields, b"host")
    if len(hosts) > 1 or (not hosts and minor == 1):
        raise BadMessage("there must be one Host field")
    named = hosts[0].decode("latin-1") if hosts else None
    framing = declared_framing(fields, minor)
    scheme_port = origin.scheme_port if origin else HTTP_PORT
    if method == "CONNECT":
        host, port, path = *_connected(target, named, framing, origin), ""
    elif origin is not None:
        host, port, path = *_known(origin, named), _path(method, target)
    else:
        host, port, path = _absolute(method, target, named)
    options = tokens(fields, b"connection") | tokens(fields, b"proxy-connection")
    asked = [value.lower() for value in values(fields, b"upgrade")]
    return Request(
        method=method,
        host=host,
        port=port,
        target=path,
        minor=minor,
        fields=end_to_end(fields),
        framing=framing,
        keep_alive=minor == 1 and b"close" not in options,
        upgrade=method == "GET" and minor == 1 and framing.kind is Kind.NONE and asked == [b"websocket"] and b"upgrade" in options,
        scheme_port=scheme_port,
    )


def _connected(target: str, named: str | None, framing: Framing, origin: Origin | None) -> tuple[str, int]:
    """Where a CONNECT wants to go."""
    if origin is not None:
        raise BadMessage("CONNECT is for proxies", 405)
    if framing.kind is not Kind.NONE and framing != (Kind.LENGTH, 0):
        raise BadMessage("CONNECT has no body")
    host, port = parse_authority(target)
    if named is not None and parse_authority(named, port) != (host, port):
        raise BadMessage("Host and the destination of CONNECT differ")
    return host, port


def _absolute(method: str, target: str, named: str | None) -> tuple[str, int, str]:
    """Host, port and path of a proxy's client."""
    if "#" in target:  # some would end the host there, others go on
        raise BadMessage("a URL is sent without its fragment")
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        if _ANY_SCHEME.fullmatch(target):
            raise BadMessage("only http:// URLs are fetched for others; use CONNECT for https and every other protocol")
        raise BadMessage("this is a proxy: it takes `GET http://host/path` and `CONNECT host:port`")
    host, port = parse_authority(found[1], HTTP_PORT)
    if named is not None and parse_authority(named, HTTP_PORT) != (host, port):
        raise BadMessage("Host and the URL name different hosts")
    path = found[2]
    if path.startswith("/"):
        return host, port, path
    return host, port, "*" if method == "OPTIONS" and not path else "/" + path


def _known(origin: Origin, named: str | None) -> tuple[str, int]:
    """The host of a request on a connection whose end is known."""
    if named is None:
        if not origin.host:
            raise BadMessage("there must be one Host field")
        return origin.host, origin.port
    host, port = parse_authority(named, origin.scheme_port)
    if port != origin.port or host != (origin.host or host):
        raise BadMessage("Host is not the host of this connection", 421)
    return host, port


def _path(method: str, target: str) -> str:
    if target == "*" and method == "OPTIONS":
        return target
    if not target.startswith("/") or "#" in target:
        raise BadMessage("a request to a server names a path")
    return target
