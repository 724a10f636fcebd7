"""What registries and their helpers answer, read with limits: it is text of whoever runs them, and perhaps of somebody in between."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx

from agentkernel.errors import ImageFailed
from agentkernel.images.transfers import BrokenTransfer
from agentkernel.images.transport import is_loopback

_ANEW = "a daemon knows of it when it is started anew: `agentkernel daemon stop`"
MAX_SAID_BYTES = 16 * 1024


class Unreachable(ImageFailed):
    """There was no answer, or it ended early."""


def unreachable(url: httpx.URL, error: Exception) -> Unreachable:
    """The error for a request that failed below HTTP."""
    why = str(error) or type(error).__name__
    hint = "is it running?" if is_loopback(url.host) else f"are you offline, or behind a proxy (HTTPS_PROXY)? {_ANEW}"
    if "CERTIFICATE_VERIFY_FAILED" in why:
        hint = f"if your network has an authority of its own, SSL_CERT_FILE names its certificate; {_ANEW}"
    return Unreachable(f"{url.netloc.decode('ascii', 'replace')} cannot be reached: {ascii(why[:200])[1:-1]}", hint=hint)


def offset_of(response: httpx.Response, asked: int) -> int:
    """Where the bytes of an answer begin: what was asked for, or 0; raises ImageFailed."""
    if response.status_code == 200:
        return 0
    unit, _, span = response.headers.get("content-range", "").partition(" ")
    start = span.partition("-")[0]
    if unit.strip().lower() != "bytes" or not start.isdecimal() or int(start) not in {0, asked}:
        raise ImageFailed(f"{response.url.host} sends a part of a layer that nobody asked for")
    return int(start)


async def stream(response: httpx.Response) -> AsyncIterator[bytes]:
    """A blob's bytes as they come; raises BrokenTransfer."""
    try:
        async for chunk in response.aiter_raw():
            yield chunk
    except httpx.TransportError as error:
        raise BrokenTransfer(str(error) or type(error).__name__) from error


async def nothing() -> AsyncIterator[bytes]:
    """No bytes."""
    for chunk in tuple[bytes]():
        yield chunk


async def body(response: httpx.Response, limit_bytes: int) -> bytes:
    """A document's bytes; raises ImageFailed beyond the limit, Unreachable where they do not come."""
    data = bytearray()
    try:
        async for chunk in response.aiter_raw():
            data += chunk
            if len(data) > limit_bytes:
                raise ImageFailed(f"{response.url.host} sends a document of more than {limit_bytes} bytes")
    except httpx.TransportError as error:
        raise unreachable(response.url, error) from error
    return bytes(data)


async def reason(response: httpx.Response) -> str:
    """What an answer says of its reason, as text to show; empty if it says nothing that can be read."""
    try:
        errors = json.loads(await body(response, MAX_SAID_BYTES))["errors"]
        return f" ({ascii(str(errors[0]['message'])[:200])[1:-1]})"
    except (ImageFailed, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return ""


def token_of(data: bytes, host: str) -> str:
    """The token in what a token server answers; raises ImageFailed."""
    try:
        answer: Any = json.loads(data)
        token = answer.get("token") or answer.get("access_token")
    except (ValueError, AttributeError, RecursionError):
        token = None
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token:
        raise ImageFailed(f"{host} answers something that is no token")
    return token
