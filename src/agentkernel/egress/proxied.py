"""The company's proxy, through which everything goes: what it is asked, and what of its own answers nobody inside may take for a server's.

Plain HTTP it is asked for by URL, as programs do, for many let nobody CONNECT to port 80; all else by CONNECT.
"""

from __future__ import annotations

import asyncio
import base64
import errno
from dataclasses import replace
from ipaddress import ip_address
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from agentkernel.egress.attempt import Attempt, RefusedError, failed
from agentkernel.egress.connecting import CONNECT_S, connect
from agentkernel.egress.http import Request, render_connect
from agentkernel.egress.http_fields import BadMessage, Fields
from agentkernel.egress.http_response import Response, ResponseReader
from agentkernel.egress.resolving import Resolver, UnresolvedError
from agentkernel.egress.upstream import Desk, Upstream
from agentkernel.model.hosts import is_address, normal_host
from agentkernel.policy.egress import Told

_UNAUTHORIZED: Final = 407


class Proxy(NamedTuple):
    """The company's, through which everything goes."""

    host: str
    port: int
    authorization: bytes  # the value of Proxy-Authorization, empty for none

    @property
    def fields(self) -> Fields:
        """What it is told of who asks."""
        return ((b"Proxy-Authorization", self.authorization),) if self.authorization else ()


def parse_proxy(url: str) -> Proxy | None:
    """Reads `http://[user:password@]host:port`, None for an empty text; raises ValueError (which does not show the password)."""
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError("an upstream proxy is written http://[user:password@]host:port")
    who = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}" if parts.username else ""
    authorization = b"Basic " + base64.b64encode(who.encode()) if who else b""
    return Proxy(normal_host(parts.hostname), parts.port or 3128, authorization)


async def through(proxy: Proxy, desk: Desk, resolver: Resolver, attempt: Attempt, *, by_url: bool) -> Upstream:
    """A connection to the attempt's host by CONNECT, or with `by_url` one to the proxy itself. The proxy resolves the name: of the address
    nothing is known. Raises RefusedError.
    """
    if attempt.host == proxy.host:
        reason = f"{attempt.host} is the proxy that everything goes through: who speaks to it could ask it for anything"
        raise RefusedError(reason, rule="upstream proxy", hint="nothing opens it")
    try:
        addresses = [ip_address(proxy.host)] if is_address(proxy.host) else await resolver.addresses(proxy.host, asyncio.Semaphore(1))
        upstream = Upstream(await connect(desk, addresses[0], proxy.port), desk)
    except (OSError, UnresolvedError) as error:
        told = Told(attempt.rule, "the upstream proxy cannot be reached")  # the error's text names its address
        raise failed(f"{told.reason}: {error}", rule=attempt.rule).guarded(told) from None
    if by_url:
        return upstream
    try:
        async with asyncio.timeout(3 * CONNECT_S):
            await upstream.send(render_connect(attempt.host, attempt.port, proxy.fields))
            await _connected(upstream)
    except (OSError, BadMessage) as error:
        upstream.close()
        raise failed(f"the upstream proxy does not connect: {error or 'it is silent'}", rule=attempt.rule) from None
    except BaseException:
        upstream.close()
        raise
    return upstream


def asks_by_url(proxy: Proxy | None, request: Request) -> bool:
    """Whether a request by URL goes to the proxy as one. A WebSocket's does not: few proxies pass on what becomes of it."""
    return proxy is not None and not request.upgrade


def render_by_url(proxy: Proxy, request: Request, host: str) -> bytes:
    """The request's head for the proxy, with who asks. `host`: the one that was judged; it may have been named by what stands for it."""
    return replace(request, host=host).render(absolute=True, more=proxy.fields)


def check_answer(response: Response) -> None:
    """Raises BadMessage for a 407: it is about this host's password, and who is asked inside would send one of his own."""
    if response.status == _UNAUTHORIZED:
        raise BadMessage("the upstream proxy does not accept the user and password that this host has for it", 502)


async def _connected(upstream: Upstream) -> None:
    """Reads the answer to CONNECT; raises OSError and BadMessage."""
    reader = ResponseReader("HEAD")  # a refusal's text is not read
    while True:
        if not await upstream.receive():
            raise ConnectionResetError(errno.ECONNRESET, "it closed the connection")
        data, upstream.buffer = upstream.buffer, b""
        response = reader.feed(data)
        if response is None:
            continue
        upstream.buffer = reader.rest
        if not response.is_interim:
            break
        reader = ResponseReader("HEAD")
    if not 200 <= response.status < 300:
        raise ConnectionRefusedError(errno.ECONNREFUSED, f"it answers {response.status} {response.reason.decode('latin-1')[:100]}")
