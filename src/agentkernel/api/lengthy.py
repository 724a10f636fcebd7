"""Answers with much in them: held as the bytes that they tell, and written as JSON piece by piece while their client takes them.

As JSON a byte may take six, and it is told twice (`output`, `stdout`): whole answers would be many times what was kept.
"""

from __future__ import annotations

import asyncio
import base64
import codecs
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agentkernel.api.budget import STATE, Share
from agentkernel.api.envelope import JSON, answer, encoded

SMALL: Final = 64 << 10  # what is no longer than this is written whole
_SLICE: Final = 48 << 10  # of what is told; three bytes are four letters of base64


@dataclass(frozen=True, slots=True)
class Text:
    """A string in an answer: these bytes one after the other, each by itself as UTF-8, with U+FFFD for what is none."""

    parts: tuple[bytes, ...]

    def pieces(self) -> Iterator[bytes]:
        """Its JSON, without the quotes."""
        for part in self.parts:
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            for start in range(0, len(part), _SLICE):
                text = decoder.decode(part[start : start + _SLICE], start + _SLICE >= len(part))
                yield encode_basestring_ascii(text)[1:-1].encode()


@dataclass(frozen=True, slots=True)
class Base64:
    """A string in an answer: these bytes as base64."""

    data: bytes

    def pieces(self) -> Iterator[bytes]:
        """Its JSON, without the quotes."""
        for start in range(0, len(self.data), _SLICE):
            yield base64.b64encode(self.data[start : start + _SLICE])


class Lengthy(Response):
    """The answer of a route: `data` in the envelope, whose strings may be `Text` and `Base64`.

    Args:
        size_bytes: how much of the budget it holds until it has been sent.
    """

    def __init__(self, data: Any, size_bytes: int, headers: Mapping[str, str] | None = None) -> None:
        self._data = data
        self.size_bytes = size_bytes
        self.status_code = 200
        self.media_type = JSON
        self.background = None
        self.body = b""
        self.init_headers(headers)
        del self.headers["content-length"]

    def again(self, headers: Mapping[str, str]) -> Lengthy:
        """The same answer, with other headers."""
        return Lengthy(self._data, self.size_bytes, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it; the request is under way until its client has taken it."""
        share: Share = scope[STATE]
        share.cover(self.size_bytes)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in _joined(self._pieces()):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)  # others have their turns, also while the client takes it as fast as it is written
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _pieces(self) -> Iterator[bytes]:
        yield b'{"success":true,"data":'
        yield from _json(self._data)
        yield b"}"


def told(data: Any, size_bytes: int) -> Response:
    """The answer that has `data`, which holds so many bytes of output or of files."""
    return Lengthy(data, size_bytes) if size_bytes > SMALL else answer(data)


def text(*parts: bytes) -> str | Text:
    """Bytes as a string of an answer."""
    return Text(parts) if sum(map(len, parts)) > SMALL else "".join(part.decode("utf-8", "replace") for part in parts)


def in_base64(data: bytes) -> str | Base64:
    """Bytes as a string of an answer, as base64."""
    return Base64(data) if len(data) > SMALL else base64.b64encode(data).decode()


def is_text(data: bytes) -> bool:
    """Whether bytes are UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _json(value: Any) -> Iterator[bytes]:
    if isinstance(value, Text | Base64):
        yield b'"'
        yield from value.pieces()
        yield b'"'
    elif isinstance(value, dict):
        yield b"{"
        for number, (name, each) in enumerate(value.items()):
            yield (b"," if number else b"") + encoded(name) + b":"
            yield from _json(each)
        yield b"}"
    elif isinstance(value, list):
        yield b"["
        for number, each in enumerate(value):
            if number:
                yield b","
            yield from _json(each)
        yield b"]"
    else:
        yield encoded(value)


def _joined(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces that are worth a write each."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        if len(waiting) >= SMALL:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)
