"""Which network a request gets, by which rules, and what is inside for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from policy_examples import ROOT, SURROUNDINGS, codes, fingerprint, granted

from agentkernel.errors import InvalidInput, Refused, Unsupported
from agentkernel.model.isolation import Feature, IsolationLevel
from agentkernel.model.network import NOTHING, Base, EgressLimits, PortRule, Rule
from agentkernel.model.spec import Bind, NetworkMode, RootFile, RootFilesystem, RootKind, SandboxSpec
from agentkernel.policy.inside import CERTIFICATES, PROXY_PORT, files
from agentkernel.policy.inside import variables as own_variables
from agentkernel.policy.network import MAX_PORTS, MAX_RULES

ONE, OTHER = Rule(host="example.com"), Rule(host="*.example.org", ports=(22,))
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
PROXY = "http://127.0.0.1:3128"
NONE, FILTERED, HOST = NetworkMode.NONE, NetworkMode.FILTERED, NetworkMode.HOST
UNFILTERED = fingerprint("namespaces", lacks=[Feature.NETWORK_FILTERED, Feature.TRANSPARENT_NETWORK])
OPAQUE = fingerprint("namespaces", lacks=[Feature.TRANSPARENT_NETWORK])
SSH_SETTINGS = b"""\
Host * !localhost !127.0.0.1 !::1
    ProxyCommand /etc/agentkernel/bin/agentkernel-guest connect %h %p
Host *
"""


@pytest.mark.parametrize(
    ("asked", "mode", "base"),
    [
        ({"profile": "moderate"}, FILTERED, Base.PUBLIC),
        ({"profile": "moderate", "network": True}, FILTERED, Base.PUBLIC),
        ({"profile": "moderate", "network": False}, NONE, Base.NONE),
        ({"profile": "moderate", "allow_hosts": (ONE,)}, FILTERED, Base.PUBLIC),
        ({"profile": "moderate", "deny_hosts": (ONE,)}, FILTERED, Base.PUBLIC),
        ({"profile": "moderate", "allow_hosts": (ONE,), "only_hosts": True}, FILTERED, Base.NONE),
        ({"profile": "moderate", "only_hosts": True}, NONE, Base.NONE),
        ({"profile": "moderate", "only_hosts": True, "deny_hosts": (ONE,)}, NONE, Base.NONE),
        ({"profile": "moderate", "network": False, "allow_hosts": (ONE,)}, NONE, Base.NONE),
        ({"profile": "restrictive"}, NONE, Base.NONE),
        ({"profile": "restrictive", "network": True}, FILTERED, Base.PUBLIC),
        ({"profile": "restrictive", "allow_hosts": (ONE,)}, FILTERED, Base.NONE),
        ({"profile": "restrictive", "deny_hosts": (ONE,)}, NONE, Base.NONE),
        ({"profile": "restrictive", "network": True, "allow_hosts": (ONE,)}, FILTERED, Base.PUBLIC),
        ({"profile": "permissive"}, HOST, Base.NONE),
        ({"profile": "permissive", "network": False}, NONE, Base.NONE),
        ({"profile": "permissive", "allow_hosts": (ONE,)}, FILTERED, Base.PUBLIC),
        ({"profile": "permissive", "deny_hosts": (ONE,)}, FILTERED, Base.PUBLIC),
        ({"profile": "permissive", "only_hosts": True}, NONE, Base.NONE),
        ({"profile": "permissive", "only_hosts": True, "allow_hosts": (ONE,)}, FILTERED, Base.NONE),
    ],
)
def test_profile_switch_and_rules_come_to_one_network(asked: dict[str, Any], mode: NetworkMode, base: Base) -> None:
    spec = granted(**asked).spec
    assert (spec.network, spec.egress.base) == (mode, base)
    if mode is FILTERED:
        assert (spec.egress.allow, spec.egress.deny) == (asked.get("allow_hosts", ()), asked.get("deny_hosts", ()))
    else:
        assert spec.egress == NOTHING and not spec.transparent_network


def test_a_backend_that_cannot_filter_gives_none_to_who_did_not_ask_and_says_so() -> None:
    grant = granted(fingerprints=[UNFILTERED])
    assert (grant.spec.network, grant.spec.egress, codes(grant)) == (NONE, NOTHING, ["network-filtered-unavailable"])
    assert "HTTP_PROXY" not in dict(grant.spec.environment)
    for silent in ({"network": False}, {"profile": "permissive"}, {"profile": "restrictive"}):
        assert codes(granted(fingerprints=[UNFILTERED], **silent)) == []
    assert codes(granted(deny_hosts=(ONE,), fingerprints=[UNFILTERED])) == ["network-filtered-unavailable"]


@pytest.mark.parametrize("asked", [{"network": True}, {"allow_hosts": (ONE,)}, {"profile": "permissive", "allow_hosts": (ONE,)}])
def test_who_asks_for_a_network_that_cannot_be_filtered_is_refused_with_the_reason(asked: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match="network-filtered: no network-filtered here") as refused:
        granted(fingerprints=[UNFILTERED], **asked)
    assert refused.value.hint == "buy one"


def test_a_stronger_backend_without_the_network_is_passed_over_for_one_that_has_it() -> None:
    strong = fingerprint("gvisor", IsolationLevel.USER_KERNEL, lacks=[Feature.NETWORK_FILTERED])
    assert granted(fingerprints=[strong, fingerprint("namespaces")]).backend == "namespaces"
    assert granted(fingerprints=[strong, fingerprint("namespaces")], network=False).backend == "gvisor"


def test_programs_without_proxies_are_redirected_where_that_can_be_had() -> None:
    assert granted().spec.transparent_network
    assert not granted(fingerprints=[OPAQUE]).spec.transparent_network
    assert not granted(transparent_network=False).spec.transparent_network
    assert not granted(network=False).spec.transparent_network
    emulated = fingerprint("namespaces", emulates=[Feature.TRANSPARENT_NETWORK])
    assert not granted(fingerprints=[emulated]).spec.transparent_network
    assert granted(fingerprints=[emulated], transparent_network=True).spec.transparent_network
    with pytest.raises(Unsupported, match="transparent-network"):
        granted(fingerprints=[OPAQUE], transparent_network=True)


def test_more_rules_than_can_be_compared_with_each_connection_are_refused() -> None:
    with pytest.raises(InvalidInput, match=f"more than {MAX_RULES}"):
        granted(allow_hosts=(ONE,) * MAX_RULES, deny_hosts=(ONE,))
    long = Rule(host=f"{'a' * 60}.{'b' * 60}.example.com", ports=(8080,))
    assert granted(allow_hosts=(long,) * 200).spec.egress.allow == (long,) * 200
    with pytest.raises(InvalidInput, match="more than"):
        granted(allow_hosts=(long,) * 300)


def test_ports_are_published_with_any_network_where_the_backend_can() -> None:
    rules = (PortRule(port=80, host_port=8080), PortRule(port=443))
    for network in (True, False):
        assert granted(ports=rules, network=network).spec.ports == rules
    with pytest.raises(Unsupported, match="published-ports"):
        granted(ports=rules, fingerprints=[fingerprint("namespaces", lacks=[Feature.PUBLISHED_PORTS])])


@pytest.mark.parametrize(
    ("rules", "error", "said"),
    [
        ((PortRule(port=0),), InvalidInput, "ports are 1 to 65535"),
        ((PortRule(port=80, host_port=65536),), InvalidInput, "ports are 1 to 65535"),
        ((PortRule(port=80, host_address="0.0.0.0"),), Refused, "loopback"),
        ((PortRule(port=80, host_port=8080), PortRule(port=81, host_port=8080)), InvalidInput, "8080 is published twice"),
        ((PortRule(port=80), PortRule(port=80)), InvalidInput, "inside is published twice"),
        (tuple(PortRule(port=port) for port in range(1, MAX_PORTS + 2)), InvalidInput, f"more than {MAX_PORTS}"),
    ],
)
def test_ports_that_cannot_be_published_are_refused_before_anything_is_built(
    rules: tuple[PortRule, ...], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        granted(ports=rules)


def variables(**asked: Any) -> dict[str, str]:
    return dict(granted(**asked).spec.environment)


def test_the_proxy_stands_in_every_variable_that_programs_look_at() -> None:
    seen = variables()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        assert seen[name] == seen[name.lower()] == PROXY  # no SOCKS: httpx would not start
    assert seen["NO_PROXY"] == seen["no_proxy"] == "localhost,127.0.0.1,::1"
    assert (seen["NODE_USE_ENV_PROXY"], seen["CARGO_HTTP_PROXY"]) == ("1", PROXY)
    assert not {name for name in variables(network=False) if "proxy" in name.lower()}
    assert not {name for name in variables(profile="permissive") if "proxy" in name.lower()}


def test_java_is_told_by_its_noisy_variable_only_where_it_is_not_redirected() -> None:
    assert "JAVA_TOOL_OPTIONS" not in variables()
    assert "-Dhttps.proxyPort=3128" in variables(fingerprints=[OPAQUE])["JAVA_TOOL_OPTIONS"]


def test_what_the_user_sets_wins_in_either_spelling_and_the_hosts_own_proxy_does_not() -> None:
    seen = variables(environment={"http_proxy": "http://mine:1", "NO_PROXY": ""})
    assert (seen["http_proxy"], seen["NO_PROXY"]) == ("http://mine:1", "")
    assert "HTTP_PROXY" not in seen and "no_proxy" not in seen
    passed = {"HTTPS_PROXY": "http://company:8080", "TZ": "UTC"}
    seen = variables(pass_environment=True, host_environment=passed)
    assert (seen["HTTPS_PROXY"], seen["TZ"]) == (PROXY, "UTC")


def shown(root: RootFilesystem = ROOT) -> dict[str, str]:
    surroundings = replace(SURROUNDINGS, root=root, certificates=BUNDLE)
    return dict(granted(surroundings).spec.environment)


def test_programs_with_certificates_of_their_own_trust_what_the_host_trusts() -> None:
    root = replace(ROOT, binds=(Bind(source="/etc/ssl/certs", target="/etc/ssl/certs"),))
    assert shown(root)["NODE_EXTRA_CA_CERTS"] == shown(root)["PIP_CERT"] == shown(root)["REQUESTS_CA_BUNDLE"] == BUNDLE
    assert "PIP_CERT" not in shown()  # out of sight
    kept = shown(replace(root, environment=(("PIP_CERT", "/pip.pem"),)))
    assert (kept["PIP_CERT"], kept["REQUESTS_CA_BUNDLE"]) == ("/pip.pem", BUNDLE)
    company = shown(replace(root, environment=(("CURL_CA_BUNDLE", "/company.pem"),)))
    assert company["REQUESTS_CA_BUNDLE"] == company["PIP_CERT"] == "/company.pem"  # requests takes the other where it is alone


def test_an_image_is_shown_the_hosts_certificates_and_told_where_they_are() -> None:
    surroundings = replace(SURROUNDINGS, image_directory="/srv/alpine", certificates=BUNDLE)
    spec = granted(surroundings, image="/srv/alpine").spec
    assert Bind(source=BUNDLE, target=CERTIFICATES, executable=False) in spec.mounts
    seen = dict(spec.environment)
    assert {seen[name] for name in ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS")} == {CERTIFICATES}
    assert granted(surroundings, image="/srv/alpine", network=False).spec.mounts == ()
    assert granted(replace(surroundings, certificates=""), image="/srv/alpine").spec.mounts == ()


def test_names_are_looked_up_at_the_agents_resolver_in_either_root() -> None:
    host = SandboxSpec(
        name="x",
        profile="moderate",
        root=replace(ROOT, files=(RootFile(path="/etc/resolv.conf", content=b"nameserver 10.0.0.1\n"), RootFile(path="/a", content=b""))),
    )
    assert files(host) == host.root.files
    filtered = {file.path: file.content for file in files(replace(host, network=FILTERED))}
    assert filtered == {"/a": b"", "/etc/resolv.conf": b"nameserver 127.0.0.1\n", "/etc/ssh/ssh_config": SSH_SETTINGS}
    image = replace(host, network=FILTERED, root=RootFilesystem(kind=RootKind.DIRECTORY, directory="/srv/debian"))
    found = {file.path: file.content for file in files(image)}
    assert found == {
        "/etc/resolv.conf": b"nameserver 127.0.0.1\n",
        "/etc/hosts": b"127.0.0.1 localhost sandbox\n::1 localhost\n",
        "/etc/ssh/ssh_config.d/agentkernel.conf": SSH_SETTINGS,
    }


def test_the_guest_asks_at_the_port_that_the_agent_listens_on() -> None:
    header = (Path(__file__).parents[2] / "guest" / "proxy.h").read_text()
    assert f"#define PROXY_PORT {PROXY_PORT}u" in header


def test_limits_go_with_a_filtered_network_and_narrow_an_open_one() -> None:
    limits = EgressLimits(connections=3, lookups_per_s=4, bytes_total=5)
    for profile in ("moderate", "permissive"):
        spec = granted(profile=profile, egress_limits=limits).spec
        assert (spec.network, spec.egress_limits) == (FILTERED, limits)
    assert granted(network=False, egress_limits=limits).spec.egress_limits == EgressLimits()


@pytest.mark.parametrize(
    "wrong", [{"connections": 0}, {"connections": 1025}, {"lookups_per_s": 0}, {"lookups_per_s": 10**9}, {"bytes_total": 0}]
)
def test_limits_that_are_none_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match="out of range"):
        granted(egress_limits=EgressLimits(**wrong))


def test_ssh_is_told_of_the_tunnel_only_where_nothing_is_redirected() -> None:
    surroundings = replace(SURROUNDINGS, image_directory="/srv/debian")
    through = "ProxyCommand /etc/agentkernel/bin/agentkernel-guest connect %h %p"
    for redirected in (False, True):
        spec = replace(granted(surroundings, image="/srv/debian").spec, transparent_network=redirected)
        assert any(through.encode() in file.content for file in files(spec)) is not redirected
        assert (own_variables(spec, certificates="").get("GIT_SSH_COMMAND") == f"ssh -o '{through}'") is not redirected
    on_host = replace(granted(SURROUNDINGS).spec, transparent_network=False)
    assert "GIT_SSH_COMMAND" not in own_variables(
        on_host, certificates=""
    )  # its ssh reads the file, and what git's own settings say counts


def test_apt_as_root_of_an_image_is_told_of_the_proxy_and_fetches_as_root() -> None:
    surroundings = replace(SURROUNDINGS, image_directory="/srv/debian")
    spec = granted(surroundings, image="/srv/debian", user="root").spec
    found = {file.path: file.content.decode() for file in files(spec)}[dict(spec.environment)["APT_CONFIG"]]
    assert f'Acquire::http::Proxy "{PROXY}";' in found and 'APT::Sandbox::User "root";' in found
    assert "APT_CONFIG" not in dict(granted(surroundings, image="/srv/debian").spec.environment)
