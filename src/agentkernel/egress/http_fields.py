"""Heads of HTTP/1 messages, collected within a bound and split into fields so strictly that every recipient reads them alike (RFC 9112).

What smuggling lives on is refused, not repaired: bare CR or LF, folded lines, space before a colon, repeated or contradictory framing,
names that a server may take for framing ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

Fields = tuple[tuple[bytes, bytes], ...]  # in order, names as they came, values without white space round them

HEAD_LIMIT: Final = 32768  # bytes, with the empty line
MAX_FIELDS: Final = 256

_LONE_LF = re.compile(rb"(?<!\r)\n")
_FIRST_BYTE = re.compile(rb"[A-Z]")  # of a method and of "HTTP/"
# Possessive: a long run of spaces before a byte that is wrong must not be divided in every way there is.
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]++):[ \t]*+([\t\x20-\x7e\x80-\xff]*+)")
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

FRAMING: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection"})
# Of this connection alone, never passed on (RFC 9110, 7.6.1); the framing is written anew.
_HOP_BY_HOP: Final = FRAMING | {
    b"proxy-connection", b"keep-alive", b"te", b"trailer", b"upgrade", b"http2-settings", b"proxy-authorization", b"proxy-authenticate",
    b"proxy-authentication-info",
}  # fmt: skip


class BadMessage(ValueError):
    """What came is no message that may be passed on; `status` is what to answer, the text one sentence."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


class HeadBuffer:
    """Collects the head of one message; never holds more than HEAD_LIMIT and the last piece that it was fed."""

    def __init__(self, check_first: Callable[[bytes], object]) -> None:
        """`check_first` raises BadMessage for a first line (without its end) that is wrong, before the rest has come."""
        self.rest = b""  # what came after the head, once it is complete
        self._check_first = check_first
        self._first_checked = False
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> list[bytes] | None:
        """The lines of the head without the empty one, or None while it is not complete.

        Raises:
            BadMessage: it cannot become a head, or is longer than HEAD_LIMIT.
        """
        known = len(self._buffer)
        self._buffer += data
        if not self._buffer:
            return None
        if not _FIRST_BYTE.match(self._buffer):
            raise BadMessage("this is no HTTP message")
        end = self._buffer.find(b"\r\n\r\n", max(0, known - 3), HEAD_LIMIT)
        visible = end + 4 if end >= 0 else min(len(self._buffer), HEAD_LIMIT)
        self._inspect(known, visible)
        if end < 0:
            if len(self._buffer) >= HEAD_LIMIT:
                raise BadMessage(f"the head is longer than {HEAD_LIMIT} bytes", 431)
            return None
        head, self.rest = bytes(self._buffer[:end]), bytes(self._buffer[end + 4 :])
        self._buffer.clear()
        return head.split(b"\r\n")

    def _inspect(self, known: int, visible: int) -> None:
        """Refuses early what will never be right, so that nobody waits for the rest of it."""
        if not self._first_checked:
            line_end = self._buffer.find(b"\n", known, visible)
            if line_end >= 0:
                line = bytes(self._buffer[: line_end + 1])
                if not line.endswith(b"\r\n"):
                    raise BadMessage("a line ends without CR")
                self._check_first(line[:-2])
                self._first_checked = True
        if _LONE_LF.search(self._buffer, known, visible):  # it looks back one byte before `known`
            raise BadMessage("a line ends without CR")


def parse_fields(lines: list[bytes]) -> Fields:
    """The fields of a head or trailer, one a line.

    Raises:
        BadMessage: a line is no field, or one that some server would take for another.
    """
    if len(lines) > MAX_FIELDS:
        raise BadMessage(f"there are more than {MAX_FIELDS} fields", 431)
    return tuple(_parse_field(line) for line in lines)


def _parse_field(line: bytes) -> tuple[bytes, bytes]:
    found = _FIELD.fullmatch(line)
    if found is None:
        if line.startswith((b" ", b"\t")):
            raise BadMessage("a field is folded over several lines")
        raise BadMessage("a line of the head is no field (a name, a colon without space before it, a value without control characters)")
    name, value = found.groups()
    plain = name.lower()
    if plain not in FRAMING and plain.replace(b"_", b"-").strip(b"-") in FRAMING:  # CGI makes them equal
        raise BadMessage(f"a server may take the field {name.decode('ascii')} for another one")
    return name, value.rstrip(b" \t")


def values(fields: Fields, name: bytes) -> list[bytes]:
    """Every value of the field `name` (lower-case)."""
    return [value for each, value in fields if each.lower() == name]


def tokens(fields: Fields, name: bytes) -> set[bytes]:
    """The lower-case tokens of a comma-separated field; raises BadMessage where something else is among them."""
    found = {part.strip(b" \t").lower() for value in values(fields, name) for part in value.split(b",")} - {b""}
    if not all(_TOKEN.fullmatch(token) for token in found):
        raise BadMessage(f"the field {name.decode('ascii')} holds more than tokens")
    return found


def end_to_end(fields: Fields) -> Fields:
    """What is passed on: without the fields of this connection, those that Connection names, and the framing, which is written anew.

    Raises:
        BadMessage: Connection names a field without which the message would be another one.
    """
    named = tokens(fields, b"connection")
    if named & FRAMING:
        raise BadMessage("Connection names a field that frames the message")
    dropped = _HOP_BY_HOP | named
    return tuple((name, value) for name, value in fields if name.lower() not in dropped)


def edited(fields: Fields, edit: Callable[[bytes, bytes], bytes]) -> Fields:
    """The fields with the values that `edit(lower-case name, value)` gives.

    Raises:
        ValueError: a new value would not be one value of one field.
    """
    changed = tuple((name, edit(name.lower(), value)) for name, value in fields)
    for name, value in changed:
        if not _VALUE.fullmatch(value):
            raise ValueError(f"what is put into the field {name.decode('ascii')} is no field value")
    return changed


def render_fields(fields: Fields) -> bytes:
    """Lines, each with its end."""
    return b"".join(b"%b: %b\r\n" % field for field in fields)
