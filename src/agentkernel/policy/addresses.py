"""Addresses that are not the public internet, by an explicit list, and IPv4 addresses that hide in IPv6 ones.

The list is explicit because `is_global` of the standard library changes with its version, and counts as private what is not (documentation
ranges are used on real networks).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final, NamedTuple

from agentkernel.model.network import Rule

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

METADATA: Final = "metadata address"
OWN: Final = "own address of the host"
NEAR: Final = "address of the host's own network"
LOOPBACK: Final = "loopback address"
PRIVATE: Final = "private address"
SHARED: Final = "shared address of a provider"
LINK_LOCAL: Final = "link-local address"
UNUSABLE: Final = "address that is no host's"

# Link-local ones are repeated here: they are the ones that hand out a machine's credentials.
_METADATA: Final = """
169.254.169.254/32 169.254.170.2/32 169.254.170.23/32 169.254.169.253/32 169.254.169.123/32 169.254.0.23/32
100.100.100.200/32 192.0.0.192/32 168.63.129.16/32
fd00:ec2::254/128 fd00:ec2::23/128 fd00:ec2::253/128 fd00:ec2::123/128 fd20:ce::254/128 fd00:42::42/128 fe80::a9fe:a9fe/128
"""  # EC2, ECS, EKS, the resolver and clock of EC2, Tencent; Alibaba, Oracle, Azure; the same over IPv6 (EC2, Google, Scaleway, OpenStack)

_REFUSED: Final = (
    (METADATA, _METADATA),
    (UNUSABLE, "0.0.0.0/8 ::/128"),  # on Linux connect(2) to these reaches the host itself
    (LOOPBACK, "127.0.0.0/8 ::1/128"),
    (PRIVATE, "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7 fec0::/10"),
    (SHARED, "100.64.0.0/10"),
    (LINK_LOCAL, "169.254.0.0/16 fe80::/10"),
    ("address of a special protocol", "192.0.0.0/24 64:ff9b:1::/48 5f00::/16"),  # RFC 6890; RFC 8215: private translators; RFC 9602
    ("address of test equipment", "198.18.0.0/15"),  # RFC 2544; inside, the resolver's synthetic addresses
    ("multicast address", "224.0.0.0/4 ff00::/8"),
    (UNUSABLE, "240.0.0.0/4"),  # with the broadcast address
    (UNUSABLE, "100::/64"),  # discarded, RFC 6666
)

# What precedes an IPv4 address in its last 32 bits: IPv4-compatible, translated (RFC 2765), NAT64 (RFC 6052).
_CARRIERS: Final = frozenset({0, 0xFFFF0000, 0x0064FF9B << 64})


class Range(NamedTuple):
    """A range that the public internet does not reach, and what it is called in a refusal."""

    kind: str
    network: Network


def _ranges() -> Iterator[Range]:
    for kind, texts in _REFUSED:
        for text in texts.split():
            yield Range(kind, IPv6Network(text) if ":" in text else IPv4Network(text))


_RANGES: Final = tuple(_ranges())


def refused_ranges(address: Address, own: Collection[Address | Network] = ()) -> tuple[Range, ...]:
    """Every range of the list that `address`, or an IPv4 address which it carries, lies in; empty for a public one.

    `own` are the host's addresses: each counts as a range of its own, unless it is a loopback address anyway. The networks among them are
    those that it is connected to: neighbours are refused by them that no other range refuses.
    """
    reached = forms(address)
    found = [each for form in reached for each in _RANGES if form in each.network]
    if own and not any(each.kind == LOOPBACK for each in found):
        mine = {form for each in own if isinstance(each, IPv4Address | IPv6Address) for form in forms(each)}
        found += [Range(OWN, alone(form)) for form in reached if form in mine]
    if not found:
        networks = [each for each in own if isinstance(each, IPv4Network | IPv6Network)]
        found = [Range(NEAR, network) for form in reached for network in networks if form in network]
    return tuple(found)


def forms(address: Address) -> tuple[Address, ...]:
    """The addresses that connecting to `address` may reach: itself, without a zone, and an IPv4 address that it carries.

    A mapped address is only the IPv4 one: the kernel connects by IPv4.
    """
    if isinstance(address, IPv4Address):
        return (address,)
    value = int(address)
    plain = IPv6Address(value)
    if plain.ipv4_mapped is not None:
        return (plain.ipv4_mapped,)
    return (plain, *(IPv4Address(carried & 0xFFFFFFFF) for carried in _carried(value)))


def _carried(value: int) -> Iterator[int]:
    """IPv4 addresses in an IPv6 address, in the lowest 32 bits of what is yielded."""
    if value >> 32 in _CARRIERS and value > 1:
        yield value
    if value >> 96 == 0x20010000:  # Teredo (RFC 4380): its server, and the client's address inverted
        yield value >> 64
        yield ~value
    if value >> 112 == 0x2002:  # 6to4 (RFC 3056)
        yield value >> 80
    if value >> 32 & 0xFDFFFFFF == 0x00005EFE:  # ISATAP (RFC 5214)
        yield value


def alone(address: Address) -> Network:
    """The range that holds one address."""
    return IPv4Network(int(address)) if isinstance(address, IPv4Address) else IPv6Network(int(address))


def within(inner: Network, outer: Network) -> bool:
    """Whether a range is another one or lies in it; never across address families."""
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)


def opened_range(rule: Rule, own: Collection[Address | Network] = ()) -> str:
    """What a rule that allows opens beyond the public internet: a range of loopback, private and such addresses, or nothing.

    `own` are the host's addresses and the networks that it is connected to, as `refused_ranges` takes them.
    """
    if "/" not in rule.host:
        return ""  # a name leads to no such address, whatever it is
    reached = ip_network(rule.host)
    return next((f"{each.kind} {rule.host}" for each in (*_RANGES, *_own_ranges(own)) if within(reached, each.network)), "")


def _own_ranges(own: Collection[Address | Network]) -> Iterator[Range]:
    for each in own:
        if isinstance(each, IPv4Network | IPv6Network):
            yield Range(NEAR, each)
        else:
            yield from (Range(OWN, alone(form)) for form in forms(each))
