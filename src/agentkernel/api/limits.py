"""How much and how often: the bounds of a request, of a token and of the server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds. Times in seconds, sizes in bytes; a rate of 0 is no bound."""

    body_bytes: int = 1 << 20  # of JSON
    files_body_bytes: int = 16 << 20  # of JSON with files in it
    header_bytes: int = 64 << 10  # request line and headers together
    header_s: float = 10.0  # from the first byte of a request, or of the connection, to the end of its headers
    body_idle_s: float = 30.0  # between two pieces of a body that somebody waits for
    keep_alive_s: float = 75.0
    write_idle_s: float = 120.0  # for a client that takes nothing of what it is sent
    drain_s: float = 10.0  # for requests under way when the server is to end
    connections: int = 4096
    requests_at_once: int = 1024  # of all
    token_requests_at_once: int = 512  # of one token
    token_rate: float = 0.0  # requests a second, sustained
    token_burst: int = 200
    refused_rate: float = 20.0  # of requests with a wrong token, a second, from one address
    refused_burst: int = 60
