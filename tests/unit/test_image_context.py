"""The key of a build: what of the context counts, what is left out, and which images it begins with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkernel.errors import InvalidInput, NotFound
from agentkernel.images import context
from agentkernel.images.context import digest_of
from agentkernel.images.dockerfile import bases
from agentkernel.images.ignore import Ignored, parse


def left_out(text: str, path: str) -> bool:
    ignored = Ignored(parse(text))
    for name in path.split("/"):
        ignored = ignored.below(name)
    return ignored.is_left_out


@pytest.mark.parametrize(
    ("text", "out", "kept"),
    [
        ("node_modules", ["node_modules", "node_modules/a/b"], ["a/node_modules", "node_modules2"]),
        ("/build/", ["build", "build/x"], ["a/build"]),
        ("*.log", ["a.log", ".log"], ["a/b.log", "a.logs"]),
        ("*/*.log", ["a/b.log"], ["b.log", "a/b/c.log"]),
        ("**/*.log", ["a.log", "a/b/c.log"], ["a.logs"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "b/a/c"]),
        ("a/**/z", ["a/z", "a/b/z", "a/b/c/z", "a/b/z/under"], ["z", "a/b"]),
        ("**", ["a", "a/b"], []),
        ("temp?", ["tempa", "temp1/x"], ["temp", "tempab"]),
        ("*\n!README.md", ["a", "a/README.md"], ["README.md"]),
        ("docs\n!docs/keep\ndocs/keep/not", ["docs/x", "docs/keep/not"], ["docs/keep", "docs/keep/y"]),
        ("# comment\n\n  spaced  \n", ["spaced"], ["# comment", "comment"]),
        ("a//b/../c", ["a/c"], ["a/b"]),
        ("!a\na", ["a"], []),
        ("\ufefffirst", ["first"], []),
        (" #x", ["#x"], []),
        ("a\x0cb\nc\r\nd\u2028e", ["a\x0cb", "c", "d\u2028e"], ["a", "b", "d", "e"]),
        ("a\x1c\n\xa0b\x85", ["a\x1c", "b"], ["a"]),
    ],
)
def test_patterns_leave_out_what_they_do_for_docker(text: str, out: list[str], kept: list[str]) -> None:
    assert [path for path in out if not left_out(text, path)] == []
    assert [path for path in kept if left_out(text, path)] == []


@pytest.mark.parametrize("pattern", ["[a-c]x", "a\\*", "x**y", "a**", "!", ".", ""])
def test_what_is_not_understood_leaves_nothing_out(pattern: str) -> None:
    assert not left_out(pattern, "ax")
    assert not left_out(f"ax\n!{pattern}", "ax") or pattern in ("", "!")


def test_more_patterns_than_anybody_writes_leave_nothing_out() -> None:
    assert parse("a\n" * 2000) == ()
    assert parse("# so much to say\n" * 20_000 + "a") == ()


def test_a_pattern_that_would_have_others_go_back_for_ever_ends() -> None:
    assert not left_out(f"{'*a' * 120}b/**/**/{'*a' * 120}b", f"{'a' * 250}/{'a' * 250}")
    assert not left_out("/".join(["**", "a"] * 100 + ["b"]), "/".join("a" * 100))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    (directory / "src").mkdir(parents=True)
    (directory / "Dockerfile").write_text("FROM scratch\n")
    (directory / "src" / "a.py").write_text("print(1)\n")
    (directory / "link").symlink_to("src/a.py")
    return directory


def key(directory: Path, *more: str) -> str:
    return digest_of(str(directory), (".dockerignore",), more)


def test_whatever_may_matter_changes_the_key(tree: Path) -> None:
    seen = [key(tree)]

    def changed() -> bool:
        seen.append(key(tree))
        return seen[-1] not in seen[:-1]

    (tree / "src" / "a.py").write_text("print(2)\n")
    assert changed()
    (tree / "src" / "a.py").chmod(0o755)
    assert changed()
    (tree / "src" / "a.py").rename(tree / "src" / "b.py")
    assert changed()
    (tree / "link").unlink()
    (tree / "link").symlink_to("src/b.py")
    assert changed()
    (tree / "empty").mkdir()
    assert changed()
    (tree / ".dockerignore").write_text("nothing\n")
    assert changed()
    assert key(tree, "argument") != key(tree) != key(tree, "")
    assert key(tree, "a", "b") != key(tree, "ab") != key(tree, "a", "b", "")


def test_what_cannot_matter_does_not(tree: Path) -> None:
    (tree / ".dockerignore").write_text("cache\n*.log\n")
    before = key(tree)
    (tree / "cache" / "deep").mkdir(parents=True)
    (tree / "cache" / "deep" / "x").write_text("x")
    (tree / "run.log").write_text("x")
    os.utime(tree / "src" / "a.py", (1, 1))
    assert key(tree) == before


def test_nothing_but_files_is_opened(tree: Path) -> None:
    before = key(tree)
    os.mkfifo(tree / "fifo")
    assert key(tree) != before
    (tree / "outside").symlink_to("/proc/self/mem")
    assert key(tree)


def test_limits(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "MAX_ENTRIES", 3)
    with pytest.raises(InvalidInput, match="more than 3 entries"):
        key(tree)
    monkeypatch.setattr(context, "MAX_DEPTH", 0)
    with pytest.raises(InvalidInput, match="deeper"):
        key(tree)
    (tree / ".dockerignore").write_text("x" * (context.MAX_FILE_BYTES + 1))
    with pytest.raises(InvalidInput, match="bytes"):
        key(tree)
    with pytest.raises(NotFound):
        digest_of(str(tree / "absent"), (), ())


DOCKERFILE = """\
# syntax=docker/dockerfile:1
ARG VERSION=3.12
ARG  BASE="python"
FROM --platform=linux/amd64 ${BASE}:${VERSION}-slim AS build
ARG IGNORED=x
RUN echo FROM nowhere
COPY --from=ghcr.io/astral-sh/uv:0.5 /uv /bin/
FROM build as test
FROM scratch
COPY --from=build /a /b
COPY --from=0 /a /b
FROM $UNSET
FROM ${UNSET:-alpine} \\
    as last
FROM last
FROM Not!A!Name
"""


def test_the_images_that_a_dockerfile_begins_with() -> None:
    uv, alpine = "ghcr.io/astral-sh/uv:0.5", "docker.io/library/alpine:latest"
    assert bases(DOCKERFILE, {}) == ("docker.io/library/python:3.12-slim", uv, alpine)
    assert bases(DOCKERFILE, {"VERSION": "3.13", "BASE": "x/y"}) == ("docker.io/x/y:3.13-slim", uv, alpine)
    assert bases("", {}) == bases("FROM", {}) == bases("\\\n\\", {}) == ()


@given(st.text(max_size=300))
def test_any_text_is_read(text: str) -> None:
    bases(text, {})
    parse(text)
