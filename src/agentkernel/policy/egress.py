"""Whether a sandbox may reach a destination: first judged by the name it gives, then by the very address that is connected to.

A denial wins over a permission, and both over the base. A rule by name needs no resolution, so nothing is looked up for a name that no rule
and no base allows; a rule by address range judges the addresses that names lead to, and what is named by address.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final, NamedTuple

from agentkernel.model.hosts import is_address, normal_host
from agentkernel.model.network import Base, EgressRules, Rule, Verdict
from agentkernel.model.rules import parse_rule
from agentkernel.policy.addresses import (
    LINK_LOCAL,
    LOOPBACK,
    NEAR,
    OWN,
    PRIVATE,
    SHARED,
    Address,
    Network,
    Range,
    forms,
    refused_ranges,
    within,
)
from agentkernel.policy.word_list import words

__all__ = ["Ruling", "normal_host", "parse_rule", "rule_address", "rule_name"]

DEFAULT_PORTS: Final = (80, 443)  # of a rule that allows and names none
MAX_PORT: Final = 65535
LOOKUP: Final = 0  # as a port: the name is only looked up

# What a name with `private` may lead to; metadata, multicast and the rest need a rule that names them.
_PRIVATE_KINDS: Final = frozenset({LOOPBACK, PRIVATE, SHARED, LINK_LOCAL, OWN, NEAR})

# Names that hand out the machine's credentials in some cloud; `instance-data` is also every name that begins with that label.
_METADATA_NAMES: Final = frozenset(
    words("""
metadata metadata.google.internal metadata.goog instance-data metadata.azure.internal metadata.azure.com metadata.tencentyun.com
metadata.packet.net metadata.platformequinix.com metadata.oraclecloud.com rancher-metadata metadata.nova metadata.hetzner.cloud
""")
)
# RFC 6761, RFC 6762 appendix G, RFC 8375, RFC 9476, ICANN's `.internal`; `localdomain` and `svc` are what distributions and clusters use.
_INNER_DOMAINS: Final = frozenset(
    words("localhost localdomain local internal intranet private corp home lan svc home.arpa alt onion invalid")
)


class Told(NamedTuple):
    """What the sandbox hears of a decision, where the decision itself would tell it what a name of the host's networks leads to."""

    rule: str
    reason: str


class Ruling(NamedTuple):
    """What was decided; `rule` and `reason` as in `model.network.Decision`, for the host's logs. `told`: other words for the sandbox."""

    verdict: Verdict
    rule: str
    reason: str
    told: Told | None = None

    @property
    def allowed(self) -> bool:
        """Whether it may go on."""
        return self.verdict is Verdict.ALLOWED


def rule_name(rules: EgressRules, host: str, port: int) -> Ruling:
    """Judges a destination before anything is resolved.

    Args:
        rules: the sandbox's.
        host: as `normal_host` gives it; of an address everything but the host's own ones is judged here already.
        port: 1 to 65535, or LOOKUP: whether there is a port at which the name may be reached.
    """
    if not LOOKUP <= port <= MAX_PORT:
        return _no_port(port)
    if is_address(host):
        return _judge_address(rules, host, ip_address(host), port, ())
    return _judge_name(rules, host, port)


def rule_address(rules: EgressRules, host: str, address: Address, port: int, own: Collection[Address | Network]) -> Ruling:
    """Judges the address that is connected to, after the name: nobody who answers for a name decides where it may lead.

    An address that the base refuses is reached only by a rule whose range lies in that refused range (`10.0.0.0/8`; `0.0.0.0/0` opens
    nothing private), and the host's own and metadata addresses by a rule for that one address; a name in `rules.private` may lead to
    loopback, private, link-local and own addresses and to neighbours, not to metadata.

    Args:
        rules: the sandbox's.
        host: what the sandbox named, as `normal_host` gives it.
        address: the one that will be connected to.
        port: 1 to 65535.
        own: every address of this host, and every network that it is connected to.
    """
    if not 1 <= port <= MAX_PORT:
        return _no_port(port)
    if is_address(host):
        if not set(forms(ip_address(host))) & set(forms(address)):
            return Ruling(Verdict.DENIED, "address", f"{address} is not the address {host} that was asked for")
        return _judge_address(rules, host, address, port, own)
    named = _judge_name(rules, host, port)
    return _judge_address(rules, host, address, port, own) if named.allowed else named


def _judge_name(rules: EgressRules, host: str, port: int) -> Ruling:
    denied = _first_name(rules.deny, host, port, denies=True)
    if denied is not None:
        return Ruling(Verdict.DENIED, f"deny {denied}", f"the rule `{denied}` denies {host}")
    allowed = _permission(rules, host, port)
    if allowed is not None:
        return Ruling(Verdict.ALLOWED, f"allow {allowed}", "")
    if rules.base is Base.NONE:
        return _unallowed(host, port)
    inner = _inner(host)
    if inner:
        return Ruling(Verdict.DENIED, inner, f"{host} is a name of the host, its networks or its cloud, not of the public internet")
    return Ruling(Verdict.ALLOWED, "public", "")


def _judge_address(rules: EgressRules, host: str, address: Address, port: int, own: Collection[Address | Network]) -> Ruling:
    """Judges an address; a name that leads to it has been allowed."""
    reached = forms(address)
    denied = next((rule for rule in rules.deny if "/" in rule.host and _covers(rule, reached, port, denies=True)), None)
    if denied is not None:
        return _denied_address(host, address, denied)
    refused = refused_ranges(address, own)
    for rule in rules.allow + rules.private:
        if "/" in rule.host and _covers(rule, reached, port, denies=False) and _names(rule, refused):
            return Ruling(Verdict.ALLOWED, f"allow {rule}", "")
    if refused:
        return _judge_refused(rules, host, address, port, refused)
    permission = None if is_address(host) else _permission(rules, host, port)
    if permission is not None:
        return Ruling(Verdict.ALLOWED, f"allow {permission}", "")
    if rules.base is Base.PUBLIC:
        return Ruling(Verdict.ALLOWED, "public", "")
    return _unallowed(host, port)


def _judge_refused(rules: EgressRules, host: str, address: Address, port: int, refused: tuple[Range, ...]) -> Ruling:
    """Of an address that is not public, and that no rule names."""
    private = None if is_address(host) else _first_name(rules.private, host, port, denies=False)
    if private is not None and all(each.kind in _PRIVATE_KINDS for each in refused):
        return Ruling(Verdict.ALLOWED, f"allow {private}", "")
    kind = refused[0].kind
    what = f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
    if is_address(host):
        return Ruling(Verdict.DENIED, kind, f"{host} is {what}, and no rule opens that address range")
    told = Told(kind, f"{host} leads to {what}, and no rule opens its address range")
    return Ruling(Verdict.DENIED, kind, f"{host} leads to {address}, {what}, and no rule opens that address range", told)


def _denied_address(host: str, address: Address, rule: Rule) -> Ruling:
    if is_address(host):
        return Ruling(Verdict.DENIED, f"deny {rule}", f"the rule `{rule}` denies {address}")
    told = Told("denied address", f"{host} leads to an address that a rule denies")
    return Ruling(Verdict.DENIED, f"deny {rule}", f"{host} leads to {address}, which the rule `{rule}` denies", told)


def _no_port(port: int) -> Ruling:
    return Ruling(Verdict.DENIED, "port", f"{port} is no port to connect to")


def _unallowed(host: str, port: int) -> Ruling:
    return Ruling(Verdict.DENIED, "none", f"no rule allows {_destination(host, port)}, and this sandbox reaches only what a rule allows")


def _permission(rules: EgressRules, host: str, port: int) -> Rule | None:
    """The first rule that allows a name."""
    return _first_name(rules.allow, host, port, denies=False) or _first_name(rules.private, host, port, denies=False)


def _first_name(rules: tuple[Rule, ...], host: str, port: int, *, denies: bool) -> Rule | None:
    """The first rule whose name is the host, or whose star stands for one label or more of it. A plain loop: there may be a thousand."""
    for rule in rules:
        pattern = rule.host
        if (pattern == host or (pattern[:1] == "*" and host.endswith(pattern[1:]))) and _at_port(rule, port, denies=denies):
            return rule
    return None


def _at_port(rule: Rule, port: int, *, denies: bool) -> bool:
    """Whether a rule speaks of a port. A lookup is denied by what denies every port, and allowed by what allows any."""
    if port == LOOKUP:
        return not (denies and rule.ports)
    return port in rule.ports if rule.ports else denies or port in DEFAULT_PORTS


def _covers(rule: Rule, reached: tuple[Address, ...], port: int, *, denies: bool) -> bool:
    """Whether a rule by address speaks of one of these addresses at that port."""
    network = _network(rule.host)
    return _at_port(rule, port, denies=denies) and any(form in network for form in reached)


def _names(rule: Rule, refused: tuple[Range, ...]) -> bool:
    """Whether the range of a rule by address lies in each of the refused ones."""
    network = _network(rule.host)
    return all(within(network, each.network) for each in refused)


@lru_cache(maxsize=4096)
def _network(host: str) -> Network:
    """The range of a rule by address."""
    return IPv6Network(host) if ":" in host else IPv4Network(host)


def _inner(host: str) -> str:
    """What a name is that the public internet does not have; empty for a public one."""
    if host in _METADATA_NAMES or host.startswith("instance-data."):
        return "metadata name"
    labels = host.split(".")
    if len(labels) == 1 or labels[-1] in _INNER_DOMAINS or ".".join(labels[-2:]) in _INNER_DOMAINS:
        return "not a public name"
    return ""


def _destination(host: str, port: int) -> str:
    if port == LOOKUP:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
