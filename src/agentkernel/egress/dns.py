"""DNS queries of a sandbox and the answers to them: one question of class IN and no more; answers are made here, none is passed on."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from agentkernel.model.hosts import is_address, normal_host

MAX_QUERY: Final = 4096  # bytes
MAX_ADDRESSES: Final = 4  # in an answer
A: Final = 1
AAAA: Final = 28

_HEADER: Final = struct.Struct(">6H")  # id, flags, questions, answers, authorities, additional
_IN: Final = 1
_OPT: Final = 41
_ANSWER, _RECURSION_DESIRED, _RECURSION_AVAILABLE, _CHECKING_DISABLED = 0x8000, 0x0100, 0x0080, 0x0010
_OPCODE: Final = 0x7800
_OUR_PAYLOAD: Final = 1232
_EXTENDED_ERROR: Final = 15  # option of RFC 8914
_PROHIBITED: Final = 18
_TEXT_BYTES: Final = 180
_NAME_AT_QUESTION: Final = b"\xc0\x0c"  # a pointer to the question's name, RFC 1035 4.1.4


class Code(IntEnum):
    """What a response says of itself (RFC 1035, RFC 6891)."""

    NO_ERROR = 0
    FORMAT_ERROR = 1
    SERVER_FAILURE = 2
    NO_SUCH_NAME = 3
    NOT_IMPLEMENTED = 4
    REFUSED = 5
    BAD_VERSION = 16


class BadQuery(ValueError):
    """What came is no question that is answered; `answer` is to be sent, if it is not empty."""

    def __init__(self, reason: str, answer: bytes = b"") -> None:
        super().__init__(reason)
        self.reason = reason
        self.answer = answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A question."""

    ident: int
    host: str  # as `normal_host` gives it; never an address
    kind: int  # A, AAAA or any other type
    flags: int  # those that the answer repeats
    question: bytes = field(repr=False)  # as it came: a client may check the letter case
    extended: bool  # it has EDNS, and so may the answer

    def answer(self, addresses: Iterable[IPv4Address | IPv6Address], ttl_s: int) -> bytes:
        """NOERROR with the first of those addresses that are of the type asked for; with none it says that the name has none of that type.

        Every answer fits into the 512 bytes of plain UDP.
        """
        wanted = 4 if self.kind == A else 16 if self.kind == AAAA else 0
        records = [address.packed for address in addresses if len(address.packed) == wanted][:MAX_ADDRESSES]
        lines = [_NAME_AT_QUESTION + struct.pack(">HHIH", self.kind, _IN, ttl_s, len(data)) + data for data in records]
        return self._render(Code.NO_ERROR, lines)

    def refuse(self, code: Code = Code.REFUSED, text: str = "") -> bytes:
        """An answer without addresses; `text` says why to clients that show it (at most 180 bytes of it)."""
        return self._render(code, [], text)

    def _render(self, code: Code, records: list[bytes], text: str = "") -> bytes:
        option = _options(code, text) if self.extended else b""
        head = _HEADER.pack(self.ident, self.flags | code & 15, 1, len(records), 0, 1 if option else 0)
        return b"".join((head, self.question, *records, option))


class DnsStream:
    """Splits DNS over TCP into messages; never holds more than one message and the last piece that it was fed."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """The messages that are complete now; to be iterated to its end.

        Raises:
            BadQuery: one is longer than MAX_QUERY or shorter than its header; those before it have been given.
        """
        self._buffer += data
        while len(self._buffer) >= 2:
            length = int.from_bytes(self._buffer[:2], "big")
            if not _HEADER.size <= length <= MAX_QUERY:
                raise BadQuery("a message has an impossible length")
            if len(self._buffer) < 2 + length:
                return
            message = bytes(self._buffer[2 : 2 + length])
            del self._buffer[: 2 + length]
            yield message


def over_tcp(message: bytes) -> bytes:
    """A message as it stands in a TCP stream."""
    return len(message).to_bytes(2, "big") + message


def parse_query(message: bytes) -> Query:
    """Reads one query.

    Raises:
        BadQuery: it is no query, not exactly one question, of another class than IN, or holds what no query needs (records, signatures,
            compressed names, more bytes than it says).
    """
    if not _HEADER.size <= len(message) <= MAX_QUERY:
        raise BadQuery("a message has an impossible length")
    ident, flags, questions, answers, authorities, additional = _HEADER.unpack_from(message)
    if flags & _ANSWER:
        raise BadQuery("it is an answer, not a query")  # answering it could go on for ever
    ours = _ANSWER | _RECURSION_AVAILABLE | flags & (_OPCODE | _RECURSION_DESIRED | _CHECKING_DISABLED)
    if flags & _OPCODE:
        raise BadQuery("it is no standard query", _bare(ident, ours, Code.NOT_IMPLEMENTED))
    malformed = _bare(ident, ours, Code.FORMAT_ERROR)
    if (questions, answers, authorities) != (1, 0, 0) or additional > 1:
        raise BadQuery("a query has one question and no records", malformed)
    labels, end = _labels(message, malformed)
    kind, network_class = struct.unpack_from(">HH", message, end)
    question = message[_HEADER.size : end + 4]
    version = _opt_version(message, end + 4, malformed) if additional else None
    if not additional and len(message) != end + 4:
        raise BadQuery("something follows the question", malformed)
    if network_class != _IN:
        raise BadQuery("only the class IN is answered", _bare(ident, ours, Code.REFUSED, question))
    if version:
        raise BadQuery("only version 0 of EDNS is spoken", _bare(ident, ours, Code.BAD_VERSION, question))
    host = _host(labels, _bare(ident, ours, Code.NO_SUCH_NAME, question))
    return Query(ident=ident, host=host, kind=kind, flags=ours, question=question, extended=version is not None)


def _labels(message: bytes, malformed: bytes) -> tuple[list[bytes], int]:
    """The labels of the question's name, and where its type begins."""
    labels: list[bytes] = []
    at = _HEADER.size
    while True:
        length = message[at] if at < len(message) else 64
        if length > 63:  # a pointer too: there is nothing before the question that it could point to
            raise BadQuery("the name is malformed", malformed)
        at += 1 + length
        if at - _HEADER.size > 255 or at + 4 > len(message):
            raise BadQuery("the name is malformed", malformed)
        if not length:
            return labels, at
        labels.append(message[at - length : at])


def _opt_version(message: bytes, at: int, malformed: bytes) -> int:
    """The EDNS version of the only additional record, which ends the message."""
    if len(message) < at + 11:
        raise BadQuery("a record is cut off", malformed)
    name, kind, _payload, _extended, version, _flags, length = struct.unpack_from(">BHHBBHH", message, at)
    if name != 0 or kind != _OPT or len(message) != at + 11 + length:
        raise BadQuery("there is a record that no query needs", malformed)
    end = at + 11
    while end < len(message):
        if len(message) < end + 4:
            raise BadQuery("an option is cut off", malformed)
        end += 4 + int.from_bytes(message[end + 2 : end + 4], "big")
    if end != len(message):
        raise BadQuery("an option is cut off", malformed)
    return int(version)


def _host(labels: list[bytes], unknown: bytes) -> str:
    """The name of a question as text; what is no host name (a label with a dot or a zero in it) does not exist."""
    try:
        if any(b"." in label for label in labels):
            raise BadQuery("a label holds a dot", unknown)
        host = normal_host(b".".join(labels).decode("ascii"))
    except UnicodeDecodeError:
        raise BadQuery("the name is not ASCII", unknown) from None
    except BadQuery:
        raise
    except ValueError as error:
        raise BadQuery(f"the name is no host's: {error}", unknown) from None
    if is_address(host):
        raise BadQuery("an address is asked for as a name", unknown)
    return host


def _bare(ident: int, flags: int, code: Code, question: bytes = b"") -> bytes:
    """An answer that says no more than its code."""
    option = _options(code, "") if code > 15 else b""
    return _HEADER.pack(ident, flags | code & 15, 1 if question else 0, 0, 0, 1 if option else 0) + question + option


def _options(code: Code, text: str) -> bytes:
    """The EDNS record of an answer, with the reason of a refusal."""
    said = text.encode("utf-8", "replace")[:_TEXT_BYTES].decode("utf-8", "ignore").encode()
    data = struct.pack(">HHH", _EXTENDED_ERROR, 2 + len(said), _PROHIBITED) + said if said else b""
    return struct.pack(">BHHBBHH", 0, _OPT, _OUR_PAYLOAD, code >> 4, 0, 0, len(data)) + data
