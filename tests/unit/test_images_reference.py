"""Names of images and of platforms: one form for each, and nothing that could be read differently."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkernel.errors import InvalidInput
from agentkernel.images import platforms
from agentkernel.images.reference import Reference, canonical, parse

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/library/alpine", "docker.io/library/alpine:latest"),
        ("registry-1.docker.io/a/b", "docker.io/a/b:latest"),
        ("nickblah/lua:5.4-alpine", "docker.io/nickblah/lua:5.4-alpine"),
        ("ghcr.io/owner/name", "ghcr.io/owner/name:latest"),
        ("GHCR.io/owner/name", "ghcr.io/owner/name:latest"),
        ("localhost/name", "localhost/name:latest"),
        ("localhost:5000/name:tag", "localhost:5000/name:tag"),
        ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest"),
        ("[::1]:5000/name", "[::1]:5000/name:latest"),
        ("mcr.microsoft.com/dotnet/sdk:8.0", "mcr.microsoft.com/dotnet/sdk:8.0"),
        (f"alpine@sha256:{HEX}", f"docker.io/library/alpine@sha256:{HEX}"),
        (f"alpine:3.20@sha256:{HEX}", f"docker.io/library/alpine:3.20@sha256:{HEX}"),
        ("a.b/c__d/e--f.g:_T.a-g", "a.b/c__d/e--f.g:_T.a-g"),
    ],
)
def test_a_name_has_one_whole_form(text: str, whole: str) -> None:
    assert canonical(text) == whole
    assert canonical(whole) == whole


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Alpine",
        "alpine:",
        "alpine:.x",
        "alpine:" + "t" * 129,
        ":tag",
        "a//b",
        "/a",
        "a/",
        "a b",
        "a/../b",
        "../a",
        "a.-b",
        "-a",
        "a___b",
        "al\npine",
        "alpine\n",
        "ålpine",
        "http://ghcr.io/a",
        "user@host/a",
        "alpine@sha256:abc",
        f"alpine@sha256:{HEX.upper()}",
        f"alpine@sha512:{HEX}{HEX}",
        f"alpine@sha256:{HEX}@sha256:{HEX}",
        HEX,
        "localhost:/a",
        "localhost:99999/a",
        "-x.io/a",
        "x..io/a",
        "[::1/a",
        "a" * 300,
        "x.io/" + "a/" * 200 + "a",
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(text)
    assert caught.value.hint


def test_people_are_shown_the_short_form() -> None:
    assert parse("docker.io/library/alpine:3.20").short == "alpine:3.20"
    assert parse("docker.io/library/a/b").short == "library/a/b:latest"
    assert parse("nickblah/lua").short == "nickblah/lua:latest"
    assert parse("ghcr.io/a/b:1").short == "ghcr.io/a/b:1"


def test_a_registry_is_asked_for_the_digest_if_there_is_one() -> None:
    assert parse("alpine:3.20").asked == "3.20"
    assert parse(f"alpine:3.20@sha256:{HEX}").asked == f"sha256:{HEX}"


_COMPONENT = st.from_regex(r"[a-z0-9]+(?:[._-][a-z0-9]+)*", fullmatch=True).filter(lambda text: len(text) < 30)
_REGISTRIES = st.sampled_from(["docker.io", "ghcr.io", "localhost", "localhost:5000", "registry.example:443", "[::1]:5000"])


@given(
    registry=_REGISTRIES,
    components=st.lists(_COMPONENT, min_size=1, max_size=4),
    tag=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    digest=st.sampled_from(["", f"sha256:{HEX}"]),
)
def test_what_a_name_says_is_what_was_written(registry: str, components: list[str], tag: str, digest: str) -> None:
    repository = "/".join(components)
    if registry == "docker.io" and len(components) == 1:
        repository = f"library/{repository}"
    written = Reference(registry=registry, repository=repository, tag=tag, digest=digest)
    assert parse(str(written)) == written
    assert parse(written.short) == written


@given(st.text(max_size=60))
def test_any_text_is_a_name_with_one_form_or_is_refused(text: str) -> None:
    try:
        found = parse(text)
    except InvalidInput:
        return
    assert parse(str(found)) == found
    assert ".." not in str(found).split("/")


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("linux/amd64", "linux/amd64"),
        ("amd64", "linux/amd64"),
        ("x86_64", "linux/amd64"),
        ("linux/x86-64/v1", "linux/amd64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("LINUX/386", "linux/386"),
        ("windows/amd64", "windows/amd64"),
    ],
)
def test_a_platform_has_one_form(text: str, whole: str) -> None:
    assert str(platforms.parse(text)) == whole


@pytest.mark.parametrize("text", ["linux/", "/", "a/b/c/d", "linux/amd 64", "linux/" + "x" * 40])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a platform"):
        platforms.parse(text)


def test_without_a_name_the_platform_is_this_hosts() -> None:
    assert platforms.parse("") == platforms.of_host()
    assert platforms.of_host().system == "linux"
    assert platforms.parse(os.uname().machine) == platforms.of_host()


@pytest.mark.parametrize(
    ("offered", "wanted", "index"),
    [
        (["linux/arm64", "linux/amd64"], "linux/amd64", 1),
        (["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v7", 1),
        (["linux/arm/v5", "linux/arm/v6"], "linux/arm/v7", 1),
        (["linux/arm/v7"], "linux/arm/v6", None),
        (["linux/amd64/v3", "linux/amd64"], "linux/amd64", 1),
        (["linux/amd64/v3"], "linux/amd64", None),
        (["linux/amd64", "linux/amd64/v3"], "linux/amd64/v3", 1),
        (["linux/amd64"], "linux/amd64/v3", 0),
        (["windows/amd64"], "linux/amd64", None),
        ([], "linux/amd64", None),
    ],
)
def test_the_best_platform_that_runs_is_chosen(offered: list[str], wanted: str, index: int | None) -> None:
    assert platforms.best([platforms.parse(each) for each in offered], platforms.parse(wanted)) == index
