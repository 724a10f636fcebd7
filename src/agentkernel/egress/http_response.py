"""Responses of servers on their way into a sandbox: where they end has to be known exactly, or the next one would be taken for its part."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from agentkernel.egress.http_body import Framing, Kind, declared_framing
from agentkernel.egress.http_fields import BadMessage, Fields, HeadBuffer, end_to_end, parse_fields, render_fields, tokens

_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?")
_BODILESS = frozenset({204, 304})


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A response's head. `fields` are those that are passed on."""

    status: int
    reason: bytes
    minor: int  # of the version
    fields: Fields = field(repr=False)  # cookies are no business of a log
    framing: Framing  # as it comes from the server
    declared: Framing  # what the head says of a body that does not come (HEAD, 304)
    keep_alive: bool  # whether the server will take another request on its connection

    @property
    def is_interim(self) -> bool:
        """Whether the real one is still to come."""
        return self.status < 200 and self.status != 101

    @property
    def is_switch(self) -> bool:
        """Whether what follows is another protocol, in both directions."""
        return self.status == 101

    def framing_for(self, minor: int) -> Kind:
        """How the body is written to a client of HTTP/1.`minor`: in the server's framing, if the client knows that, or to the end."""
        return Kind.CLOSE if self.framing.kind is Kind.CHUNKED and minor == 0 else self.framing.kind

    def render(self, minor: int, *, close: bool) -> bytes:
        """The head for a client of HTTP/1.`minor`; `close`: the connection ends after this response (always where its body ends so).

        Empty for an interim response to HTTP/1.0, which knows none.
        """
        if self.status < 200:
            if minor == 0:
                return b""
            own = b"Connection: Upgrade\r\nUpgrade: websocket\r\n" if self.is_switch else b""
        else:
            # A length without body is what HEAD asks for; of a coding without body some clients wait for the first chunk.
            says = (self.declared.kind is Kind.LENGTH and self.status != 204) or self.framing_for(minor) is Kind.CHUNKED
            own = self.declared.fields if says else b""
            own += b"Connection: close\r\n" if close or self.framing_for(minor) is Kind.CLOSE else b""
        return b"".join((b"HTTP/1.1 %d %b\r\n" % (self.status, self.reason), render_fields(self.fields), own, b"\r\n"))


class ResponseReader:
    """Reads the head of one response; the body and what follows are left in `rest`. After an interim one comes another: a new reader."""

    def __init__(self, method: str, *, upgrade: bool = False) -> None:
        """`method` of the request (CONNECT: asked of another proxy), and whether it asked for a WebSocket."""
        self._method = method
        self._upgrade = upgrade
        self._head = HeadBuffer(_parse_line)

    @property
    def rest(self) -> bytes:
        """What came after the head, once that is complete."""
        return self._head.rest

    def feed(self, data: bytes | memoryview) -> Response | None:
        """The response, or None while its head is not complete. Not to be called again after either a response or an error.

        Raises:
            BadMessage: it means different things to different readers, or answers what was not asked.
        """
        try:
            lines = self._head.feed(data)
            return None if lines is None else self._understood(lines)
        except BadMessage as error:
            raise BadMessage(f"the server's answer cannot be passed on: {error.reason}", 502) from None

    def _understood(self, lines: list[bytes]) -> Response:
        minor, status, reason = _parse_line(lines[0])
        fields = parse_fields(lines[1:])
        declared = declared_framing(fields, minor)
        if status == 101 and not self._upgrade:
            raise BadMessage("it switches to a protocol that nobody asked for")
        framing = declared
        if status < 200 or status in _BODILESS or self._method == "HEAD" or (self._method == "CONNECT" and status < 300):
            framing = Framing(Kind.NONE)
        elif declared.kind is Kind.NONE:
            framing = Framing(Kind.CLOSE)
        options = tokens(fields, b"connection")
        return Response(
            status=status,
            reason=reason,
            minor=minor,
            fields=end_to_end(fields),
            framing=framing,
            declared=declared,
            keep_alive=minor == 1 and b"close" not in options and framing.kind is not Kind.CLOSE,
        )


def _parse_line(line: bytes) -> tuple[int, int, bytes]:
    """Minor version, status and reason."""
    found = _LINE.fullmatch(line)
    if found is None:
        raise BadMessage("it does not begin with `HTTP/1.1 status`")
    return int(found[1]), int(found[2]), (found[3] or b"").strip(b" \t")
