"""What a sandbox with secrets is granted: placeholders, the way to the bound hosts, and whom it trusts."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from policy_examples import ROOT, SURROUNDINGS, fingerprint, granted

from agentkernel.engine.standing import is_poolable
from agentkernel.errors import InvalidInput, Unsupported
from agentkernel.model.isolation import Feature
from agentkernel.model.network import Base, Rule, Secret
from agentkernel.model.request import Notice
from agentkernel.model.secrets import is_below, safe_segments
from agentkernel.model.spec import NetworkMode, RootFilesystem, RootKind, SandboxSpec
from agentkernel.policy.inside import CERTIFICATES

SECRET = Secret(name="API_KEY", hosts=("api.example.com", "eu.example.com:8443"), path="/v1")
RULES = (Rule(host="api.example.com", ports=(443,)), Rule(host="eu.example.com", ports=(8443,)))
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


def spec_of(**changes: Any) -> SandboxSpec:
    return granted(replace(SURROUNDINGS, certificates=BUNDLE), secrets=(SECRET,), **changes).spec


def test_each_sandbox_has_placeholders_of_its_own_and_no_value() -> None:
    one, two = spec_of(secret_values={"API_KEY": "the-value"}), spec_of()
    assert replace(one.secrets[0], placeholder="") == SECRET
    assert re.fullmatch(r"agentkernel-secret-[0-9a-f]{32}", one.secrets[0].placeholder)
    assert one.secrets[0].placeholder != two.secrets[0].placeholder
    assert dict(one.environment)["API_KEY"] == one.secrets[0].placeholder
    assert "the-value" not in repr(one)


def test_the_callers_own_variable_of_that_name_is_not_what_is_inside() -> None:
    spec = spec_of(profile="permissive", host_environment={"API_KEY": "of the host"})
    assert dict(spec.environment)["API_KEY"] == spec.secrets[0].placeholder


@pytest.mark.parametrize(
    ("asked", "base"),
    [
        ({"profile": "moderate"}, Base.PUBLIC),
        ({"profile": "restrictive"}, Base.NONE),
        ({"profile": "permissive"}, Base.PUBLIC),
        ({"profile": "moderate", "only_hosts": True}, Base.NONE),
    ],
)
def test_the_bound_hosts_can_be_reached_through_the_filter(asked: dict[str, Any], base: Base) -> None:
    spec = spec_of(**asked)
    assert (spec.network, spec.egress.base, spec.egress.allow) == (NetworkMode.FILTERED, base, RULES)


def test_a_secret_without_network_or_given_twice_is_refused() -> None:
    with pytest.raises(InvalidInput, match="without network"):
        spec_of(network=False)
    with pytest.raises(InvalidInput, match="given twice"):
        spec_of(environment={"API_KEY": "x"})
    with pytest.raises(InvalidInput):
        granted(secrets=(replace(SECRET, hosts=("10.0.0.1",)),))


def test_a_backend_that_cannot_filter_is_no_place_for_secrets() -> None:
    with pytest.raises(Unsupported):
        granted(fingerprints=[fingerprint("namespaces", lacks=[Feature.NETWORK_FILTERED])], secrets=(SECRET,))


@pytest.mark.parametrize("kind", list(RootKind))
def test_programs_are_told_of_the_one_file_that_vouches_for_the_hosts(kind: RootKind) -> None:
    root = RootFilesystem(kind=kind, directory="/images/one", environment=(("SSL_CERT_FILE", "/home/ada/own.pem"),))
    spec = granted(replace(SURROUNDINGS, root=root, certificates=BUNDLE), secrets=(SECRET,)).spec
    seen = dict(spec.environment)
    names = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "PIP_CERT", "GIT_SSL_CAINFO", "AWS_CA_BUNDLE")
    assert {seen[name] for name in names} == {CERTIFICATES}
    assert CERTIFICATES not in {bind.target for bind in spec.mounts}
    assert spec.trust == BUNDLE


def test_what_the_caller_trusts_does_not_come_in_its_place_with_the_callers_environment() -> None:
    given = {"GIT_SSL_CAINFO": "/etc/ssl/mine.pem", "SSL_CERT_FILE": "/etc/ssl/mine.pem", "MY_SETTING": "vi"}
    spec = granted(SURROUNDINGS, secrets=(SECRET,), profile="permissive", host_environment=given).spec
    seen = dict(spec.environment)
    assert (seen["MY_SETTING"], seen["GIT_SSL_CAINFO"], seen["SSL_CERT_FILE"]) == ("vi", CERTIFICATES, CERTIFICATES)


def test_none_comes_from_a_pool_and_without_secrets_nothing_changes() -> None:
    assert ROOT.kind is RootKind.HOST
    assert not is_poolable(spec_of())
    spec = granted(replace(SURROUNDINGS, certificates=BUNDLE)).spec
    assert is_poolable(spec)
    assert (spec.secrets, spec.trust) == ((), "")


def test_what_reading_the_settings_brought_to_light_is_told() -> None:
    notice = Notice(code="secret-readable", message="others may read it")
    assert granted(notices=(notice,)).notices[0] == notice


@pytest.mark.parametrize(
    "path", ["/a//b", "/a/./b", "/a/..", "/a/..;x/b", "/a%2fb", "/a%5cb", "/%2e%2e/a", "/a%252e", "/a b", "/a\\b", "a", "", "/%00"]
)
def test_a_path_that_can_be_read_in_two_ways_is_below_nothing(path: str) -> None:
    assert safe_segments(path.encode()) is None
    assert not is_below(path.encode(), "/a")
    assert is_below(path.encode(), "")


@pytest.mark.parametrize(
    ("path", "below"), [("/v1", True), ("/v1/", True), ("/v1/x;y=1", True), ("/%761/x", True), ("/v10", False), ("/", False)]
)
def test_a_path_is_compared_by_segments(path: str, below: bool) -> None:
    assert is_below(path.encode(), "/v1") is below
