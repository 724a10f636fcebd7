"""SOCKS 4, 4a and 5 as clients speak it: CONNECT by name or address, without authentication; all else is refused in its own words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from agentkernel.model.hosts import normal_host

VERSIONS: Final = (4, 5)  # the first byte of a client that speaks SOCKS
LIMIT: Final = 600  # bytes; no greeting with its request is longer

_NO_AUTHENTICATION: Final = 0
_CHOSEN: Final = b"\x05\x00"
_NO_METHOD: Final = b"\x05\xff"
_CONNECT: Final = 1
_ADDRESS_BYTES: Final = {1: 4, 4: 16}
_DOMAIN: Final = 3
_FIELD_BYTES: Final = 255  # of SOCKS 4's user id and name


class Reply(Enum):
    """What became of a request: the code of SOCKS 5 (RFC 1928, 6) and of SOCKS 4."""

    SUCCEEDED = (0, 90)
    FAILED = (1, 91)
    DENIED = (2, 91)  # by the rules
    NETWORK_UNREACHABLE = (3, 91)
    HOST_UNREACHABLE = (4, 91)
    REFUSED = (5, 91)
    TTL_EXPIRED = (6, 91)
    COMMAND = (7, 91)  # BIND and UDP
    ADDRESS_TYPE = (8, 91)


class BadSocks(ValueError):
    """What came is no request that is served; `answer` is to be sent (it may be empty) before the connection is closed."""

    def __init__(self, reason: str, answer: bytes = b"") -> None:
        super().__init__(reason)
        self.reason = reason
        self.answer = answer


@dataclass(frozen=True, slots=True, kw_only=True)
class SocksRequest:
    """A connection that a program asks for."""

    version: int  # 4 or 5
    host: str  # as `normal_host` gives it
    port: int

    def render(self, reply: Reply) -> bytes:
        """The answer. The address in it is zero: where the host connected from is no business of a sandbox."""
        return render_reply(self.version, reply)


class SocksReader:
    """Reads greeting and request; never holds more than LIMIT bytes and the last piece that it was fed."""

    def __init__(self) -> None:
        self.rest = b""  # what came after the request, once that is complete
        self._buffer = bytearray()
        self._output = b""
        self._greeted = False

    def take_output(self) -> bytes:
        """What is to be sent now: the answer to a greeting; each byte once."""
        output, self._output = self._output, b""
        return output

    def feed(self, data: bytes | memoryview) -> SocksRequest | None:
        """The request, or None while it is not complete. Not to be called again after either a request or an error.

        Raises:
            BadSocks: it is none that is served.
        """
        self._buffer += data
        if not self._buffer or (not self._greeted and self._buffer[0] == 5 and not self._greet()) or not self._buffer:
            return None
        if self._greeted:
            request, used = _read_version_5(bytes(self._buffer[:LIMIT]))
        elif self._buffer[0] == 4:
            request, used = _read_version_4(bytes(self._buffer[:LIMIT]))
        else:
            raise BadSocks("this is no SOCKS client")
        if request is not None:
            self.rest = bytes(self._buffer[used:])
            self._buffer.clear()
        return request

    def _greet(self) -> bool:
        """Answers the greeting of SOCKS 5, once it is complete."""
        end = 2 + self._buffer[1] if len(self._buffer) > 1 else 2
        if len(self._buffer) < end:
            return False
        if _NO_AUTHENTICATION not in self._buffer[2:end]:
            raise BadSocks("the client insists on authentication, and there is none here", _NO_METHOD)
        del self._buffer[:end]
        self._output += _CHOSEN
        self._greeted = True
        return True


def render_reply(version: int, reply: Reply) -> bytes:
    """The whole answer to a request."""
    if version == 4:
        return bytes((0, reply.value[1])) + bytes(6)
    return bytes((5, reply.value[0], 0, 1)) + bytes(6)


def _read_version_5(data: bytes) -> tuple[SocksRequest | None, int]:
    """VER, CMD, RSV, ATYP, address, port; refused only when it is complete, so that nothing unread cuts the answer off."""
    if data[0] != 5:
        raise BadSocks("the request is not SOCKS 5", render_reply(5, Reply.FAILED))
    if len(data) < 5:
        return None, 0
    kind, start = data[3], 5 if data[3] == _DOMAIN else 4
    if kind != _DOMAIN and kind not in _ADDRESS_BYTES:
        raise BadSocks("there is no such type of address", render_reply(5, Reply.ADDRESS_TYPE))
    end = start + (data[4] if kind == _DOMAIN else _ADDRESS_BYTES[kind])
    if len(data) < end + 2:
        return None, 0
    if data[2] != 0:
        raise BadSocks("a reserved byte is used", render_reply(5, Reply.FAILED))
    if data[1] != _CONNECT:
        raise BadSocks("only connections are made: no BIND, no UDP", render_reply(5, Reply.COMMAND))
    address = data[start:end]
    host = str(IPv4Address(address)) if kind == 1 else str(IPv6Address(address)) if kind == 4 else address
    return _request(5, host, int.from_bytes(data[end : end + 2], "big")), end + 2


def _read_version_4(data: bytes) -> tuple[SocksRequest | None, int]:
    """VN, CD, port, address, user id, NUL; in 4a the address is 0.0.0.x and a name follows with its NUL."""
    user_end = _text_end(data, 8)
    if user_end < 0:
        return None, 0
    address, host, end = data[4:8], b"", user_end
    is_named = address[:3] == bytes(3) and address[3] != 0
    if is_named:
        end = _text_end(data, user_end + 1)
        if end < 0:
            return None, 0
        host = data[user_end + 1 : end]
    if data[1] != _CONNECT:
        raise BadSocks("only connections are made: no BIND", render_reply(4, Reply.COMMAND))
    return _request(4, host if is_named else str(IPv4Address(address)), int.from_bytes(data[2:4], "big")), end + 1


def _text_end(data: bytes, start: int) -> int:
    """Where the NUL after a text is, -1 while it has not come."""
    end = data.find(b"\0", start, start + _FIELD_BYTES + 1)
    if end < 0 and len(data) > start + _FIELD_BYTES:
        raise BadSocks("a text is too long", render_reply(4, Reply.FAILED))
    return end


def _request(version: int, host: str | bytes, port: int) -> SocksRequest:
    refusal = render_reply(version, Reply.FAILED)
    if port == 0:
        raise BadSocks("there is no port 0", refusal)
    try:
        name = host if isinstance(host, str) else host.decode("ascii")
        return SocksRequest(version=version, host=normal_host(name), port=port)
    except UnicodeDecodeError:
        raise BadSocks("a host that is not ASCII is written in A-labels (xn--...)", refusal) from None
    except ValueError as error:
        raise BadSocks(f"the host is not usable: {error}", refusal) from None
