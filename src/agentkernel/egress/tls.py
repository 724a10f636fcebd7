"""The name in a TLS ClientHello, read without taking part: the bytes go on as they came, once the name has been judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agentkernel.model.hosts import is_address, normal_host

HELLO_LIMIT: Final = 16384  # bytes of the handshake message
RECORD_LIMIT: Final = 16384  # RFC 8446, 5.1
STREAM_LIMIT: Final = HELLO_LIMIT + 4096  # with the headers of its records
FIRST_BYTE: Final = 0x16  # of a stream that begins with a handshake

_CLIENT_HELLO: Final = 1
_SERVER_NAME, _ALPN, _ECH = 0, 16, 0xFE0D
_HOST_NAME: Final = 0


class BadHello(ValueError):
    """What came is no ClientHello that servers read alike; says why. The connection is closed without an answer, or with ALERT."""


ALERT: Final = b"\x15\x03\x01\x00\x02\x02\x31"  # fatal, access_denied: what a client is told whose name is refused


def begins_hello(start: bytes | bytearray) -> bool:
    """Whether a TLS server could take this beginning of a stream for a ClientHello, whatever else is wrong with it."""
    return len(start) > 5 and start[0] == FIRST_BYTE and start[1] == 3 and start[5] == _CLIENT_HELLO


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientHello:
    """What the beginning of a TLS connection says of its destination."""

    host: str  # as `normal_host` gives it; empty where no name is sent
    alpn: tuple[bytes, ...]  # protocols that the client speaks
    encrypted: bool  # it has an encrypted one beside it (ECH, or what looks like it), whose name only the server of `host` can read


class ClientHelloReader:
    """Reads a ClientHello, in whatever pieces and records it comes; never holds more than twice STREAM_LIMIT and the last piece."""

    def __init__(self) -> None:
        self._stream = bytearray()  # all that came, to be passed on
        self._message = bytearray()  # the handshake message without its records
        self._at = 0  # of the first record that has not been taken

    @property
    def received(self) -> bytes:
        """Everything that was fed, which is what the server has to get."""
        return bytes(self._stream)

    def feed(self, data: bytes | memoryview) -> ClientHello | None:
        """The ClientHello, or None while it is not complete. Not to be called again after either a hello or an error.

        Raises:
            BadHello: it is none, is longer than HELLO_LIMIT, or names several hosts or none that is one.
        """
        self._stream += data
        while self._take_record():
            hello = self._complete()
            if hello is not None:
                return parse_client_hello(hello)
        return None

    def _take_record(self) -> bool:
        """Adds the next record to the message, as soon as it is complete."""
        head = self._stream[self._at : self._at + 5]
        if head and (head[0] != FIRST_BYTE or (len(head) > 1 and head[1] != 3)):
            raise BadHello("this is no TLS handshake")
        if len(head) < 5:
            return False
        length = int.from_bytes(head[3:5], "big")
        if not 0 < length <= RECORD_LIMIT:
            raise BadHello("a TLS record has an impossible length")
        end = self._at + 5 + length
        if end > STREAM_LIMIT:
            raise BadHello("the ClientHello is too long")
        if len(self._stream) < end:
            return False
        self._message += self._stream[self._at + 5 : end]
        self._at = end
        return True

    def _complete(self) -> bytes | None:
        """The body of the message, once all of it has come."""
        if self._message[0] != _CLIENT_HELLO:
            raise BadHello("the handshake does not begin with a ClientHello")
        if len(self._message) < 4:
            return None
        length = int.from_bytes(self._message[1:4], "big")
        if length > HELLO_LIMIT:
            raise BadHello("the ClientHello is too long")
        if len(self._message) < 4 + length:
            return None
        if len(self._message) > 4 + length:
            raise BadHello("something follows the ClientHello in its record")
        return bytes(self._message[4:])


class _Bytes:
    """Reads a structure from its beginning to its end, and nothing beyond."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._data):
            raise BadHello("the ClientHello is cut off")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number(self, length: int) -> int:
        return int.from_bytes(self.take(length), "big")

    def vector(self, length: int) -> _Bytes:
        """What follows its own length, which takes `length` bytes."""
        return _Bytes(self.take(self.number(length)))

    def left(self) -> int:
        return len(self._data) - self._at

    def rest(self) -> bytes:
        return self.take(self.left())


def parse_client_hello(body: bytes) -> ClientHello:
    """Reads the body of a ClientHello (RFC 8446, 4.1.2); raises BadHello."""
    hello = _Bytes(body)
    version = hello.number(2)
    if version >> 8 != 3:
        raise BadHello("there is no such version of TLS")
    hello.take(32)
    if hello.vector(1).left() > 32:
        raise BadHello("a session id has at most 32 bytes")
    suites = hello.vector(2).left()
    if not suites or suites % 2 or not hello.vector(1).left():
        raise BadHello("there are no ciphers or compression methods")
    extensions = _extensions(hello) if hello.left() else {}
    return ClientHello(
        host=_server_name(extensions[_SERVER_NAME]) if _SERVER_NAME in extensions else "",
        alpn=_protocols(extensions[_ALPN]) if _ALPN in extensions else (),
        encrypted=_ECH in extensions,
    )


def _extensions(hello: _Bytes) -> dict[int, _Bytes]:
    found: dict[int, _Bytes] = {}
    listed = hello.vector(2)
    if hello.left():
        raise BadHello("something follows the extensions")
    while listed.left():
        kind = listed.number(2)
        if kind in found:  # servers differ in which of the two they take
            raise BadHello("an extension is there twice")
        found[kind] = listed.vector(2)
    return found


def _server_name(extension: _Bytes) -> str:
    """The one name of RFC 6066, 3."""
    names = extension.vector(2)
    if extension.left() or not names.left():
        raise BadHello("the list of server names is malformed")
    kind, name = names.number(1), names.vector(2).rest()
    if kind != _HOST_NAME or names.left():
        raise BadHello("there is more than one server name")
    if name.endswith(b"."):
        raise BadHello("the server name ends in a dot")
    try:
        host = normal_host(name.decode("ascii"))
    except ValueError as error:
        reason = "it is not ASCII" if isinstance(error, UnicodeDecodeError) else str(error)
        raise BadHello(f"the server name is not usable: {reason}") from None
    if is_address(host):
        raise BadHello("the server name is an address")
    return host


def _protocols(extension: _Bytes) -> tuple[bytes, ...]:
    """The protocol names of RFC 7301."""
    listed = extension.vector(2)
    found = []
    while listed.left():
        found.append(listed.vector(1).rest())
    if extension.left() or not found or b"" in found:
        raise BadHello("the list of protocols is malformed")
    return tuple(found)
