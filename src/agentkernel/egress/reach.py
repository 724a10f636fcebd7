"""From a name to a connection: judged by name, resolved once, every address judged, and connected to the very address that was judged."""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import resource
import socket
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from agentkernel.egress.attempt import Attempt, RefusedError, failed
from agentkernel.egress.http import render_connect
from agentkernel.egress.http_fields import BadMessage
from agentkernel.egress.http_response import ResponseReader
from agentkernel.egress.names import SYNTHETIC, Lookups, Names
from agentkernel.egress.resolving import Address, Resolver, UnresolvedError
from agentkernel.egress.upstream import Desk, Upstream
from agentkernel.egress.vault import Vault
from agentkernel.model.hosts import is_address, normal_host
from agentkernel.model.network import EgressRules
from agentkernel.policy.egress import LOOKUP, Ruling, rule_address, rule_name

CONNECT_S: Final = 10.0  # for each address
MAX_ADDRESSES: Final = 8
SPARE_FILES: Final = 128  # descriptors that no connection gets: for sandboxes that join, and to see which addresses are this host's


class Proxy(NamedTuple):
    """The company's, through which everything goes."""

    host: str
    port: int
    authorization: bytes  # the value of Proxy-Authorization, empty for none


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


@dataclass(slots=True, kw_only=True)
class Surroundings:
    """What the process has for all of its sandboxes."""

    desk: Desk
    resolver: Resolver
    own: Callable[[], Collection[Address]]
    proxy: Proxy | None = None


@dataclass(slots=True, kw_only=True)
class Site:
    """What one sandbox has: its rules, and what its look-ups have left."""

    rules: EgressRules
    names: Names
    lookups: Lookups
    vault: Vault | None = None  # its secrets, if it has any
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(16))


def named(site: Site, host: str) -> str:
    """The name that a synthetic address stands for, any other host as it is; raises RefusedError for one that stands for none."""
    if not is_address(host):
        return host
    address = ip_address(host)
    if not isinstance(address, IPv4Address) or address not in SYNTHETIC:
        return host
    name = site.names.name_of(address)
    if name is None:
        raise RefusedError(f"{host} stands for no name (any more): look the name up again", rule="unknown name", number=errno.EHOSTUNREACH)
    return name


def judge(site: Site, attempt: Attempt) -> Ruling:
    """By what was named; raises RefusedError for a denial."""
    if attempt.port == LOOKUP:
        raise RefusedError("0 is no port to connect to", rule="port")
    return _allowed(rule_name(site.rules, attempt.host, attempt.port))


async def reach(around: Surroundings, site: Site, attempt: Attempt) -> Upstream:
    """Connects; `attempt` then knows the address and the rule. Raises RefusedError."""
    attempt.rule = judge(site, attempt).rule
    if around.proxy is not None:
        return await _through(around.proxy, around, attempt)
    addresses = await _addresses(around, site, attempt)
    own = _own(around)
    rulings = [(address, rule_address(site.rules, attempt.host, address, attempt.port, own)) for address in addresses[:MAX_ADDRESSES]]
    allowed = [(address, ruling) for address, ruling in rulings if ruling.allowed]
    if not allowed:
        attempt.address = str(rulings[0][0])
        _allowed(rulings[0][1])
    error: OSError | None = None
    for address, ruling in allowed:
        attempt.address, attempt.rule = str(address), ruling.rule
        try:
            return Upstream(await _connect(around.desk, address, attempt.port), around.desk)
        except OSError as problem:
            error = problem
    number = (error.errno if error is not None else None) or errno.ETIMEDOUT
    raise failed(f"{attempt.host} cannot be reached at port {attempt.port}: {os.strerror(number)}", rule=attempt.rule, number=number)


def still_allowed(around: Surroundings, site: Site, attempt: Attempt) -> Ruling:
    """How a connection that is open would be judged now; raises RefusedError where that cannot be said."""
    ruling = rule_name(site.rules, attempt.host, attempt.port)
    if ruling.allowed and attempt.address:
        return rule_address(site.rules, attempt.host, ip_address(attempt.address), attempt.port, _own(around))
    return ruling


def names_port(rules: EgressRules, ruling: str, port: int) -> bool:
    """Whether the rule that a ruling names says this very port: then whoever wrote it meant what is spoken there."""
    return any(port in rule.ports and ruling == f"allow {rule}" for rule in (*rules.allow, *rules.private))


def _own(around: Surroundings) -> Collection[Address]:
    try:
        return around.own()
    except OSError as error:
        raise failed(f"this host's addresses are not to be had: {error.strerror or error}") from None


def _allowed(ruling: Ruling) -> Ruling:
    if not ruling.allowed:
        raise RefusedError(ruling.reason, rule=ruling.rule)
    return ruling


async def _addresses(around: Surroundings, site: Site, attempt: Attempt) -> list[Address]:
    if is_address(attempt.host):
        return [ip_address(attempt.host)]
    if not site.lookups.admit(attempt.host, time.monotonic()):
        raise RefusedError("too many different names are looked up", rule="limit lookups", number=errno.EAGAIN)
    try:
        return await around.resolver.addresses(attempt.host, site.slots)
    except UnresolvedError as error:
        raise failed(str(error), rule=attempt.rule) from None


async def _connect(desk: Desk, address: Address, port: int) -> socket.socket:
    """A connected socket; raises OSError."""
    sock = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        if sock.fileno() >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FILES:  # the lowest that is free is given
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        sock.setblocking(False)
        async with asyncio.timeout(CONNECT_S):
            await desk.loop.sock_connect(sock, (str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock


async def _through(proxy: Proxy, around: Surroundings, attempt: Attempt) -> Upstream:
    """By CONNECT through the company's proxy, which resolves the name: of the address nothing is known."""
    if attempt.host == proxy.host:
        reason = f"{attempt.host} is the proxy that everything goes through: who speaks to it could ask it for anything"
        raise RefusedError(reason, rule="upstream proxy", hint="nothing opens it")
    try:
        addresses = (
            [ip_address(proxy.host)] if is_address(proxy.host) else await around.resolver.addresses(proxy.host, asyncio.Semaphore(1))
        )
        upstream = Upstream(await _connect(around.desk, addresses[0], proxy.port), around.desk)
    except (OSError, UnresolvedError) as error:
        raise failed(f"the upstream proxy cannot be reached: {error}", rule=attempt.rule) from None
    try:
        fields = ((b"Proxy-Authorization", proxy.authorization),) if proxy.authorization else ()
        async with asyncio.timeout(3 * CONNECT_S):
            await upstream.send(render_connect(attempt.host, attempt.port, fields))
            await _connected(upstream)
    except (OSError, BadMessage) as error:
        upstream.close()
        raise failed(f"the upstream proxy does not connect: {error or 'it is silent'}", rule=attempt.rule) from None
    except BaseException:
        upstream.close()
        raise
    return upstream


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
