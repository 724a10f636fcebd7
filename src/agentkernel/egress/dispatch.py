"""Who serves a tunnel: by the listener that it came from, and at the proxy's by its first byte."""

from __future__ import annotations

import asyncio
import errno
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Final

from agentkernel.egress.attempt import Attempt, RefusedError
from agentkernel.egress.forwarding import LINGER_S, serve_http
from agentkernel.egress.opening import pass_through
from agentkernel.egress.reach import named
from agentkernel.egress.resolver import serve_resolver
from agentkernel.egress.socks import VERSIONS, BadSocks, Reply, SocksReader, SocksRequest
from agentkernel.egress.tunnel import Accepted, Tunnel
from agentkernel.egress.upstream import Upstream

if TYPE_CHECKING:
    from agentkernel.egress.sandbox import Sandbox

FIRST_BYTE_S: Final = 60.0
REQUEST_S: Final = 30.0
_PROXY, _RESOLVER = 1, 2
_REPLIES: Final = {
    errno.ECONNREFUSED: Reply.REFUSED,
    errno.ENETUNREACH: Reply.NETWORK_UNREACHABLE,
    errno.EHOSTUNREACH: Reply.HOST_UNREACHABLE,
    errno.ETIMEDOUT: Reply.TTL_EXPIRED,
}


async def serve(sandbox: Sandbox, tunnel: Tunnel, accepted: Accepted) -> None:
    """Serves one tunnel to its end."""
    if accepted.kind == _RESOLVER:
        await serve_resolver(sandbox, tunnel)
    elif accepted.kind == _PROXY:
        await _serve_proxy(sandbox, tunnel)
    else:
        await _serve_transparent(sandbox, tunnel, accepted)


async def _serve_proxy(sandbox: Sandbox, tunnel: Tunnel) -> None:
    try:
        async with asyncio.timeout(FIRST_BYTE_S):
            if not await tunnel.some():
                return
    except TimeoutError:
        return
    if tunnel.buffer[0] in VERSIONS:
        await _serve_socks(sandbox, tunnel)
    else:
        await serve_http(sandbox, tunnel)


async def _serve_socks(sandbox: Sandbox, tunnel: Tunnel) -> None:
    try:
        async with asyncio.timeout(REQUEST_S):
            request = await _socks_request(tunnel)
    except BadSocks as error:
        sandbox.attempt("socks", "", 0).refuse(RefusedError(error.reason, rule="protocol"))
        await _say_last(tunnel, error.answer)
        return
    except TimeoutError:
        return
    if request is None:
        return
    attempt = sandbox.attempt("socks", request.host, request.port)
    try:
        upstream = await _reach(sandbox, tunnel, attempt)
    except RefusedError as refused:
        reply = Reply.DENIED if refused.is_denial else _REPLIES.get(refused.number, Reply.FAILED)
        await _say_last(tunnel, request.render(reply))
        return
    tunnel.send(request.render(Reply.SUCCEEDED))
    await pass_through(sandbox, tunnel, attempt, upstream)


async def _socks_request(tunnel: Tunnel) -> SocksRequest | None:
    """None: the program has ended. Raises BadSocks."""
    reader = SocksReader()
    while True:
        request = reader.feed(tunnel.take(len(tunnel.buffer)))
        tunnel.send(reader.take_output())
        if request is not None:
            tunnel.put_back(reader.rest)
            return request
        if not await tunnel.more():
            return None


async def _serve_transparent(sandbox: Sandbox, tunnel: Tunnel, accepted: Accepted) -> None:
    address = IPv6Address(accepted.address)
    attempt = sandbox.attempt("transparent", str(address.ipv4_mapped or address), accepted.port)
    try:
        upstream = await _reach(sandbox, tunnel, attempt)
    except RefusedError as refused:
        tunnel.close(refused.number)
        return
    await pass_through(sandbox, tunnel, attempt, upstream)


async def _reach(sandbox: Sandbox, tunnel: Tunnel, attempt: Attempt) -> Upstream:
    """Connects, for a synthetic address to the name that it stands for; raises RefusedError, which has been told."""
    try:
        attempt.host = named(sandbox.site, attempt.host)
    except RefusedError as refused:
        attempt.refuse(refused)
        raise
    return await sandbox.reach(tunnel, attempt)


async def _say_last(tunnel: Tunnel, answer: bytes) -> None:
    tunnel.send(answer)
    tunnel.end()
    try:
        async with asyncio.timeout(LINGER_S):
            await tunnel.finished()
    except TimeoutError:
        tunnel.close(0)
