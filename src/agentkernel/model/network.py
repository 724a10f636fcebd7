"""Who a sandbox may talk to: rules as data, what was decided, and ports that the host lends it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class Base(StrEnum):
    """What is allowed where no rule says anything."""

    NONE = "none"  # nothing: only what a rule allows
    PUBLIC = "public"  # the public internet, and nothing of the host, its networks or its cloud's metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One destination, as `policy.egress.parse_rule` reads it: a domain, `*.suffix` or an address range, and ports.

    `host` is lower-case ASCII (IDNA A-labels) without a trailing dot, or a CIDR in its canonical form. `*.example.com` is every name below
    example.com, and not example.com itself. No ports means: 80 and 443 for a rule that allows, every port for one that denies.
    """

    host: str
    ports: tuple[int, ...] = ()

    def __str__(self) -> str:
        """As users write it: `host` or `host:port,port`, an IPv6 range in brackets."""
        host = f"[{self.host}]" if ":" in self.host and self.ports else self.host
        return f"{host}:{','.join(map(str, self.ports))}" if self.ports else host


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressRules:
    """A sandbox's egress policy. A denial wins over a permission, and both over `base`; an address that `base` refuses (loopback, private,
    link-local, metadata, multicast, the host's own) is reached only by a rule that names the address range itself, or with `private` by
    a name that leads to it."""

    base: Base = Base.PUBLIC
    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()
    private: tuple[Rule, ...] = ()  # names whose addresses may be private ones: `--allow-host NAME` where the operator allows that


NOTHING: Final = EgressRules(base=Base.NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressLimits:
    """What one sandbox may use of the egress proxy; `policy.network` holds it to what follows."""

    connections: int = 512  # at a time
    lookups_per_s: int = 100  # distinct names, averaged over ten seconds
    bytes_total: int | None = None  # both directions together, since the sandbox started


USUAL: Final = EgressLimits()
MAX_CONNECTIONS: Final = 1024  # an agent has no more tunnels (docs/guest-protocol.md, section 5)
MAX_LOOKUPS_PER_S: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressChange:
    """What `network allow` and `network deny` do to a sandbox's rules: rules to add, and rules to drop wherever they stand."""

    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()
    remove: tuple[Rule, ...] = ()


class Verdict(StrEnum):
    """What became of an attempt."""

    ALLOWED = "allowed"
    DENIED = "denied"
    FAILED = "failed"  # allowed, and could not be reached


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One attempt to reach something, as `network log` and the audit tell it; nothing of what was said is in it."""

    at: float  # unix time in seconds
    verdict: Verdict
    protocol: str  # "http", "connect", "socks", "dns", "transparent", "tls" (a secret's host)
    host: str  # as the sandbox named it, printable ASCII, at most 253 characters
    port: int  # 0 for a lookup
    address: str = ""  # the address that was connected to
    rule: str = ""  # what decided: "allow example.com", "deny *.internal", "public", "private address", "limit connections", ...
    reason: str = ""  # one sentence, for a denial or failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A credential that the sandbox never sees: where it may go. The value itself is in no model that is stored."""

    name: str  # the variable inside, which holds a placeholder
    hosts: tuple[str, ...]  # exact domains, `host` (port 443) or `host:port`, whose TLS the proxy terminates
    path: str = ""  # only this path and what is below it; empty: every path
    method: str = ""  # only with this method; empty: every method
    header: str = ""  # only in this header, in lower case; empty: every header whose value holds the placeholder
    placeholder: str = ""  # what `name` holds inside; empty in a request


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What the egress process needs to put a sandbox's secrets into its requests. Held in memory, sent to that process, written nowhere.

    A host of a secret without a `leaf` cannot be reached: nobody could see what is sent there.
    """

    secrets: tuple[Secret, ...]
    values: dict[str, str] = field(default_factory=dict, repr=False)  # by the secret's name; one that is missing is not had any more
    leaves: dict[str, str] = field(default_factory=dict, repr=False)  # by host: a certificate that the sandbox trusts and its key, PEM
    trust: str = ""  # the file of certificates that this host trusts; empty: what OpenSSL finds by itself


NO_CREDENTIALS: Final = Credentials(secrets=())


@dataclass(frozen=True, slots=True, kw_only=True)
class PortRule:
    """A port inside that is published on the host's loopback."""

    port: int  # inside, on loopback
    host_port: int = 0  # 0: one is chosen
    host_address: str = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPort:
    """A port that is being listened on."""

    port: int
    host_address: str
    host_port: int
