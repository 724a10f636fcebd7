"""How much and how often: the bounds of a request, of a token and of the server."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from starlette.types import Message, Receive

from agentkernel.api.guards import SHOWN, Headers, one
from agentkernel.api.status import BodyTooLarge, TooManyRequests, UnsupportedMedia
from agentkernel.errors import Busy, InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds. Times in seconds, sizes in bytes; a rate of 0 is no bound."""

    body_bytes: int = 1 << 20  # of JSON
    files_body_bytes: int = 16 << 20  # of JSON with files in it
    header_bytes: int = 64 << 10  # request line and headers together
    headers: int = 100
    header_s: float = 10.0  # from the beginning of a connection, or the first byte of a request, to the end of its headers
    body_idle_s: float = 30.0  # between two pieces of a body that somebody waits for
    unread_s: float = 5.0  # for what is left of a body after its answer
    unread_pieces: int = 1024  # of that, by which it is counted because the smallest of them cost the most
    accept_s: float = 30.0  # from the request for a WebSocket to the end of its handshake
    keep_alive_s: float = 75.0
    write_idle_s: float = 300.0  # for a client that takes nothing of what it is sent
    drain_s: float = 10.0  # for requests under way when the server is to end
    connections: int = 4096
    daemon_connections: int = 640  # to the daemon, which takes 1024, and of these 768 that servers pass on
    message_bytes: int = 1 << 20  # of one WebSocket message
    idle_frames: int = 256  # in a row that carry no message: pings, pongs, parts of messages that are next to nothing
    idle_frames_rate: float = 64.0  # of these a second, sustained
    held_bytes: int = 256 << 20  # of bodies and output, of all requests under way
    token_held_bytes: int = 128 << 20  # of one token's
    requests_at_once: int = 1024  # of all tokens
    token_requests_at_once: int = 512  # of one
    rate: float = 1000.0  # requests of one token a second, sustained
    burst: int = 2000


# (path, methods) of JSON with files in it; and of streams, which may be of any length and are never held whole.
_FILES: Final = (re.compile(r"/sandboxes/[^/]+/files(/.*)?", re.DOTALL), frozenset({"PUT", "POST"}))
_ARCHIVE: Final = re.compile(r"/sandboxes/[^/]+/archive/.*", re.DOTALL)
_STREAMS: Final = (re.compile(r"/sandboxes/[^/]+/(upload|archive)/.*", re.DOTALL), frozenset({"PUT", "POST"}))


def body_limit(method: str, path: str, limits: Limits) -> int | None:
    """How many bytes a request's body may have; None: as many as the client likes, for nobody holds them."""
    if method in _STREAMS[1] and _STREAMS[0].fullmatch(path):
        return None
    if method in _FILES[1] and _FILES[0].fullmatch(path):
        return limits.files_body_bytes
    return limits.body_bytes


def check_length(headers: Headers, limit: int) -> int | None:
    """How long the body says it is, None when it does not say; raises BodyTooLarge when that is longer than `limit` bytes."""
    said = one(headers, b"content-length")
    if said is None:
        return None if b"transfer-encoding" in headers else 0
    if not said.isdigit():
        raise InvalidInput("Content-Length is no number")
    if int(said) > limit:
        raise _too_large(limit)
    return int(said)


def bounded(receive: Receive, limit: int, claim: Callable[[int], None]) -> Receive:
    """A `receive` that raises BodyTooLarge when a body that did not say its length turns out to be longer than `limit` bytes.

    `claim` is told of every piece, and may refuse it.
    """
    left = limit

    async def receive_within() -> Message:
        nonlocal left
        message: Any = await receive()
        if message["type"] == "http.request":
            piece = len(message.get("body", b""))
            left -= piece
            if left < 0:
                raise _too_large(limit)
            claim(piece)
        return message  # type: ignore[no-any-return]

    return receive_within


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the body is larger than {limit} bytes", hint="send files by PUT /sandboxes/{name}/upload/{path}, which has no limit"
    )


def check_coding(headers: Headers, path: str) -> None:
    """Raises UnsupportedMedia for a body that is compressed, but for an archive, of which gzip is seen from its content."""
    coding = (one(headers, b"content-encoding") or b"identity").strip().lower()
    if coding not in (b"", b"identity") and not (coding == b"gzip" and _ARCHIVE.fullmatch(path)):
        shown = coding.decode("latin-1")[:SHOWN]
        raise UnsupportedMedia(f"a body with Content-Encoding {shown!r} is not read here", hint="send it as it is")


class Rates:
    """How often each token asks (a bucket that fills with `rate` tokens a second), and how much it and all have under way at once."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # of a token: how full, at which time
        self._under_way: dict[str, int] = {}
        self._all = 0

    def enter(self, name: str) -> None:
        """Counts a request of the token `name`, which must `leave` again.

        Raises:
            TooManyRequests: the token asks too often.
            Busy: the token, or all together, have too much under way.
        """
        if self._all >= self._limits.requests_at_once:
            raise Busy(f"{self._all} requests are under way, which is the most", hint="try again when some have ended")
        mine = self._under_way.get(name, 0)
        if mine >= self._limits.token_requests_at_once:
            raise Busy(f"{mine} requests of this token are under way, which is the most", hint="try again when some have ended")
        self._take(name)
        self._under_way[name] = mine + 1
        self._all += 1

    def leave(self, name: str) -> None:
        """One request of it has ended."""
        self._all -= 1
        left = self._under_way[name] - 1
        if left:
            self._under_way[name] = left
        else:
            del self._under_way[name]

    def _take(self, name: str) -> None:
        rate, burst = self._limits.rate, self._limits.burst
        if not rate:
            return
        now = self._clock()
        full, at = self._buckets.get(name, (float(burst), now))
        full = min(float(burst), full + (now - at) * rate)
        if full < 1.0:
            self._buckets[name] = (full, now)
            raise TooManyRequests(f"more than {rate:g} requests a second", retry_after_s=(1.0 - full) / rate, hint="ask less often")
        self._buckets[name] = (full - 1.0, now)
