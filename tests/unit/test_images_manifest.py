"""What is read of manifests, indexes and configurations: strictly, with limits, and never anything but one of our own errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from registry_world import digest_of, make_image, make_index

from agentkernel.errors import AgentKernelError, ImageFailed, NotFound, Unsupported
from agentkernel.images import challenges, manifest, platforms
from agentkernel.images.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Index,
    Manifest,
    parse_configuration,
    parse_document,
)
from agentkernel.images.pull import choose

DIGEST = digest_of(b"")
DESCRIPTOR = {"mediaType": manifest.OCI_CONFIG, "digest": DIGEST, "size": 0}


def document(**changes: Any) -> bytes:
    fields = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": DESCRIPTOR, "layers": [], **changes}
    return json.dumps({key: value for key, value in fields.items() if value is not ...}).encode()


def configuration(**section: Any) -> bytes:
    return json.dumps({"os": "linux", "architecture": "amd64", "config": section, "rootfs": {"diff_ids": []}}).encode()


@pytest.mark.parametrize("kind", [OCI_MANIFEST, DOCKER_MANIFEST, ...])
def test_a_manifest_of_both_makers_is_read(kind: Any) -> None:
    found = parse_document(document(mediaType=kind), "" if kind is ... else kind)
    assert isinstance(found, Manifest)
    assert found.config.digest == DIGEST


@pytest.mark.parametrize("kind", [OCI_INDEX, DOCKER_LIST, ...])
def test_an_index_of_both_makers_is_read(kind: Any) -> None:
    entry = {**DESCRIPTOR, "platform": {"os": "linux", "architecture": "arm", "variant": "v6"}}
    found = parse_document(document(mediaType=kind, config=..., layers=..., manifests=[entry]))
    assert isinstance(found, Index)
    assert str(found.manifests[0].platform) == "linux/arm/v6"


def test_parameters_of_the_type_it_was_served_as_do_not_matter() -> None:
    assert isinstance(parse_document(document(), f"{OCI_MANIFEST}; charset=utf-8"), Manifest)
    assert isinstance(parse_document(document(), "application/json"), Manifest)


@pytest.mark.parametrize(
    ("changes", "served", "error"),
    [
        ({"manifests": []}, "", ImageFailed),  # CVE-2021-41190
        ({"mediaType": OCI_INDEX}, OCI_MANIFEST, ImageFailed),
        ({}, OCI_INDEX, ImageFailed),
        ({"mediaType": "text/html"}, "", Unsupported),
        ({"mediaType": ...}, "application/vnd.docker.distribution.manifest.v1+prettyjws", Unsupported),
        ({"mediaType": 7}, "", ImageFailed),
        ({"config": ...}, "", ImageFailed),
        ({"config": {**DESCRIPTOR, "digest": "sha256:short"}}, "", ImageFailed),
        ({"config": {**DESCRIPTOR, "digest": f"../../{DIGEST}"}}, "", ImageFailed),
        ({"config": {**DESCRIPTOR, "size": -1}}, "", ImageFailed),
        ({"config": {**DESCRIPTOR, "size": True}}, "", ImageFailed),
        ({"config": {**DESCRIPTOR, "size": "1"}}, "", ImageFailed),
        ({"config": {**DESCRIPTOR, "size": 1 << 60}}, "", ImageFailed),
        ({"config": {**DESCRIPTOR, "size": manifest.MAX_DOCUMENT_BYTES + 1}}, "", ImageFailed),
        ({"layers": {}}, "", ImageFailed),
        ({"layers": [DESCRIPTOR] * (manifest.MAX_LAYERS + 1)}, "", ImageFailed),
        ({"layers": ["x"]}, "", ImageFailed),
        ({"layers": [{**DESCRIPTOR, "platform": "linux"}]}, "", ImageFailed),
    ],
)
def test_a_manifest_that_could_mean_something_else_is_refused(changes: dict[str, Any], served: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_document(document(**changes), served)


def test_what_is_no_image_is_refused() -> None:
    helm = parse_document(document(config={**DESCRIPTOR, "mediaType": "application/vnd.cncf.helm.config.v1+json"}))
    assert isinstance(helm, Manifest)
    with pytest.raises(Unsupported, match="no image but"):
        manifest.require_runnable(helm)


def test_the_image_for_the_platform_is_chosen_and_attestations_are_not() -> None:
    images = {name: make_image(name.encode(), architecture=name) for name in ("amd64", "arm64")}
    attestation = make_image(b"attested")
    index = parse_document(
        make_index((attestation, "unknown/unknown"), (images["arm64"], "linux/arm64/v8"), (images["amd64"], "linux/amd64"))
    )
    assert isinstance(index, Index)
    assert choose(index, platforms.parse("linux/arm64")).digest == images["arm64"].digest
    with pytest.raises(NotFound) as caught:
        choose(index, platforms.parse("linux/s390x"))
    assert caught.value.hint == "it is made for linux/arm64, linux/amd64"


def test_a_configuration_says_how_commands_are_started() -> None:
    found = parse_configuration(
        configuration(
            Env=["PATH=/usr/bin", "A=b=c", "EMPTY=", "PATH=/bin", "NAMELESS", "=x"],
            WorkingDir="srv",
            User="web:44",
            Entrypoint=["/init", "--"],
            Cmd=None,
        )
    ).config
    assert found.environment == (("PATH", "/bin"), ("A", "b=c"), ("EMPTY", ""))
    assert found.working_directory == "/srv"
    assert (found.user, found.entrypoint, found.command) == ("web:44", ("/init", "--"), ())


@pytest.mark.parametrize(
    "section",
    [
        {"Env": "A=1"},
        {"Env": [1]},
        {"Env": ["A=1"] * 5000},
        {"Env": ["A=\0"]},
        {"Env": ["A=" + "x" * 200_000]},
        {"Cmd": "sh"},
        {"Cmd": ["\ud800"]},
        {"User": 0.5},
        {"WorkingDir": ["/"]},
    ],
)
def test_a_configuration_that_no_program_can_be_given_is_refused(section: dict[str, Any]) -> None:
    with pytest.raises(ImageFailed):
        parse_configuration(configuration(**section))


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{", b"\xff", b'{"config": []}', b'{"rootfs": {"diff_ids": ["x"]}}', b"[" * 10_000])
def test_a_configuration_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ImageFailed):
        parse_configuration(data)


_KEYS = [
    *("mediaType", "schemaVersion", "manifests", "layers", "config", "digest", "size", "platform", "os", "architecture", "variant"),
    *("annotations", "rootfs", "diff_ids", "Env", "User", "WorkingDir", "Entrypoint", "Cmd"),
]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20) | st.just(DIGEST) | st.just(OCI_INDEX),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(_KEYS),
            inner,
            max_size=6,
        )
    ),
    max_leaves=25,
)


@given(_JSON)
def test_no_document_raises_anything_but_our_own_errors(item: Any) -> None:
    data = json.dumps(item).encode()
    for read in (parse_document, parse_configuration):
        try:
            read(data)
        except AgentKernelError as error:
            assert error.message


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            'Bearer realm="https://auth.example/token",service="registry",scope="repository:a/b:pull"',
            [("bearer", {"realm": "https://auth.example/token", "service": "registry", "scope": "repository:a/b:pull"})],
        ),
        ('Basic realm="a \\"quoted\\" one"', [("basic", {"realm": 'a "quoted" one'})]),
        ("BASIC", [("basic", {})]),
        ("Negotiate, Basic realm=x", [("negotiate", {}), ("basic", {"realm": "x"})]),
        (
            'Basic realm="one", Bearer realm="two" , service = three',
            [("basic", {"realm": "one"}), ("bearer", {"realm": "two", "service": "three"})],
        ),
        (",, Basic ,, realm=x", [("basic", {"realm": "x"})]),
        ("", []),
        ('"', []),
        ('Bearer realm="open', [("bearer", {}), ("realm", {})]),
    ],
)
def test_challenges_are_read_as_the_specification_has_them(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    found = [(each.scheme, dict(each.parameters)) for each in challenges.parse(header)]
    assert found[: len(expected)] == expected[: len(found)]
    assert header == 'Bearer realm="open' or found == expected


@given(st.text(max_size=200))
def test_no_challenge_is_read_for_ever(header: str) -> None:
    challenges.parse(header)
    challenges.parse(f"Bearer {header * 20}")
