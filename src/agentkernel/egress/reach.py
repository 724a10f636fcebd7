"""From a name to a connection: judged by name, resolved once, every address judged, and connected to the very address that was judged."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address
from typing import Final

from agentkernel.egress.attempt import Attempt, RefusedError, failed
from agentkernel.egress.connecting import connect
from agentkernel.egress.names import SYNTHETIC, Lookups, Names
from agentkernel.egress.proxied import Proxy, through
from agentkernel.egress.resolving import Address, Resolver, UnresolvedError
from agentkernel.egress.upstream import Desk, Upstream
from agentkernel.egress.vault import Vault
from agentkernel.model.hosts import is_address
from agentkernel.model.network import EgressRules
from agentkernel.policy.addresses import Network
from agentkernel.policy.egress import LOOKUP, Ruling, rule_address, rule_name

MAX_ADDRESSES: Final = 8


@dataclass(slots=True, kw_only=True)
class Surroundings:
    """What the process has for all of its sandboxes."""

    desk: Desk
    resolver: Resolver
    own: Callable[[], Collection[Address | Network]]
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


async def reach(around: Surroundings, site: Site, attempt: Attempt, *, by_url: bool = False) -> Upstream:
    """Connects; `attempt` then knows the address and the rule. Raises RefusedError.

    Args:
        by_url: for plain HTTP, which an upstream proxy is asked for by URL. Without one it changes nothing.
    """
    attempt.rule = judge(site, attempt).rule
    if around.proxy is not None:
        return await through(around.proxy, around.desk, around.resolver, attempt, by_url=by_url)
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
            return Upstream(await connect(around.desk, address, attempt.port), around.desk)
        except OSError as problem:
            error = problem
    number = (error.errno if error is not None else None) or errno.ETIMEDOUT
    reason = f"{attempt.host} cannot be reached at port {attempt.port}: {os.strerror(number)}"
    # A rule by address that allowed a name tells where it leads.
    told = "allowed address" if "/" in attempt.rule and not is_address(attempt.host) else None
    raise failed(reason, rule=attempt.rule, number=number, told_rule=told)


def still_allowed(around: Surroundings, site: Site, attempt: Attempt) -> Ruling:
    """How a connection that is open would be judged now; raises RefusedError where that cannot be said."""
    ruling = rule_name(site.rules, attempt.host, attempt.port)
    if ruling.allowed and attempt.address:
        return rule_address(site.rules, attempt.host, ip_address(attempt.address), attempt.port, _own(around))
    return ruling


def names_port(rules: EgressRules, ruling: str, port: int) -> bool:
    """Whether the rule that a ruling names says this very port: then whoever wrote it meant what is spoken there."""
    return any(port in rule.ports and ruling == f"allow {rule}" for rule in (*rules.allow, *rules.private))


def _own(around: Surroundings) -> Collection[Address | Network]:
    try:
        return around.own()
    except OSError as error:
        raise failed(f"this host's addresses are not to be had: {error.strerror or error}") from None


def _allowed(ruling: Ruling) -> Ruling:
    if not ruling.allowed:
        raise RefusedError(ruling.reason, rule=ruling.rule).guarded(ruling.told)
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
