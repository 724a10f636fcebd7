"""What network a request comes to: none, the host's own, or the filtered one, and by which rules."""

from __future__ import annotations

from dataclasses import dataclass

from agentkernel import policy as late  # what only requests with ports or secrets need
from agentkernel.errors import InvalidInput
from agentkernel.model.network import MAX_CONNECTIONS, MAX_LOOKUPS_PER_S, NOTHING, USUAL, Base, EgressLimits, EgressRules, PortRule
from agentkernel.model.request import Notice, SandboxRequest
from agentkernel.model.spec import NetworkMode
from agentkernel.policy.profiles import Profile, Reach

MAX_RULES = 1000  # allowed and denied ones together: each is compared with each connection
MAX_CHARACTERS = 32_768  # of all of them: they go to the egress process in one message
MAX_PORTS = 100
MAX_BYTES = 2**60


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A mode; of the filtered one also the rules and limits."""

    mode: NetworkMode = NetworkMode.NONE
    rules: EgressRules = NOTHING
    limits: EgressLimits = USUAL


NO_NETWORK = Network()
UNAVAILABLE = Notice(
    code="network-filtered-unavailable",
    message="the sandbox has no network: its backend cannot filter it here; `agentkernel doctor` says why",
    hint="--no-network silences this",
)


def network(request: SandboxRequest, row: Profile) -> Network:
    """The network that a request gets.

    A profile without network gives the named hosts to who names some, and nothing else. HOST is permissive's alone, and only as long as no
    rule or limit narrows it and the request may have it. The hosts of secrets are named hosts. An empty list of allowed hosts, and nothing
    beside it, is no network.

    Raises InvalidInput for more than `MAX_RULES` rules, or `MAX_CHARACTERS` of them, and for limits that are none.
    """
    limits = _checked(request.egress_limits)
    every = (*request.allow_hosts, *request.deny_hosts)
    if len(every) > MAX_RULES or sum(len(str(rule)) for rule in every) > MAX_CHARACTERS:
        what = f"more than {MAX_RULES} hosts, or {MAX_CHARACTERS} letters of them, are allowed and denied"
        raise InvalidInput(what, hint="name address ranges, or *.SUFFIX")
    allow = (*request.allow_hosts, *late.reached(request)) if request.secrets else request.allow_hosts
    named_only = request.network is None and not row.network
    if request.network is False or (named_only and not allow):
        return NO_NETWORK
    if row.reach is Reach.HOST and request.host_network and not (allow or request.deny_hosts or request.only_hosts or limits != USUAL):
        return Network(mode=NetworkMode.HOST)
    if not (named_only or request.only_hosts):
        return Network(mode=NetworkMode.FILTERED, rules=EgressRules(base=Base.PUBLIC, allow=allow, deny=request.deny_hosts), limits=limits)
    if not allow:
        return NO_NETWORK
    return Network(mode=NetworkMode.FILTERED, rules=EgressRules(base=Base.NONE, allow=allow, deny=request.deny_hosts), limits=limits)


def _checked(limits: EgressLimits) -> EgressLimits:
    for what, value, most in (
        ("connections at a time", limits.connections, MAX_CONNECTIONS),
        ("lookups in a second", limits.lookups_per_s, MAX_LOOKUPS_PER_S),
        ("bytes to transfer", 1 if limits.bytes_total is None else limits.bytes_total, MAX_BYTES),
    ):
        if not 1 <= value <= most:
            raise InvalidInput(f"the limit of {value} {what} is out of range", hint=f"choose between 1 and {most}")
    return limits


def asks_for_network(request: SandboxRequest) -> bool:
    """Whether the request itself wants a network, and not only its profile; then none is no answer."""
    return bool(request.network or request.allow_hosts or request.transparent_network or request.secrets)


def ports(request: SandboxRequest) -> tuple[PortRule, ...]:
    """The ports to publish; raises InvalidInput for what is no port or there twice, Refused for an address that others reach."""
    if len(request.ports) > MAX_PORTS:
        raise InvalidInput(f"more than {MAX_PORTS} ports are to be published")
    taken = set()
    for rule in request.ports:
        late.checked_port(rule)
        if rule.host_port and (rule.host_address, rule.host_port) in taken:
            raise InvalidInput(f"the host's port {rule.host_port} is published twice", hint="choose another one, or 0 for any")
        taken.add((rule.host_address, rule.host_port))
    if len({rule.port for rule in request.ports}) < len(request.ports):
        raise InvalidInput("a port inside is published twice", hint="publish each port once")
    return request.ports
