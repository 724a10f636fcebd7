"""Names that users choose, and what is suggested for wrong ones."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkernel.errors import InvalidInput
from agentkernel.model.names import (
    random_name,
    suggest,
    validate_environment_name,
    validate_environment_value,
    validate_inside_path,
    validate_name,
)


@pytest.mark.parametrize("name", ["a", "A1", "my-project", "my_project", "a-b_c", "0", "x" * 63])
def test_a_good_sandbox_name_is_returned(name: str) -> None:
    assert validate_name(name) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "cannot be empty"),
        ("x" * 64, "too long"),
        ("-a", "must start"),
        ("_a", "must start"),
        ("a-", "must end"),
        ("a_", "must end"),
        ("a--b", "consecutive"),
        ("a__b", "consecutive"),
        ("a-_b", "consecutive"),
        ("a_-b", "consecutive"),
        ("a b", "invalid character ' '"),
        ("../x", "invalid character '.'"),
        ("a/b", "invalid character '/'"),
        ("a\n", r"invalid character '\\n'"),
        ("ä", "invalid character"),
        ("a\0b", "invalid character"),
        ("٣", "invalid character"),
    ],
)
def test_a_bad_sandbox_name_is_refused_with_the_rule_it_breaks(name: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as refused:
        validate_name(name)
    assert "63" in refused.value.hint


@given(st.text(max_size=70))
def test_an_accepted_name_is_a_safe_path_component(name: str) -> None:
    try:
        validate_name(name)
    except InvalidInput:
        return
    assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9]|[-_](?=[A-Za-z0-9])){0,62}", name)


def test_random_names_are_valid_and_differ() -> None:
    names = {random_name() for _ in range(100)}
    assert len(names) == 100
    assert all(re.fullmatch(r"run-[0-9a-f]{8}", validate_name(name)) for name in names)


def test_a_near_miss_is_answered_with_the_nearest_choice() -> None:
    assert suggest("restrctive", ["permissive", "moderate", "restrictive"]) == "did you mean 'restrictive'?"
    assert suggest("MODERATE", ["permissive", "moderate", "restrictive"]) == "did you mean 'moderate'?"


def test_the_last_part_of_a_dotted_name_finds_it() -> None:
    assert suggest("profile", ["files", "security.profile"]) == "did you mean 'security.profile'?"


def test_a_far_miss_is_answered_with_all_choices() -> None:
    assert suggest("zzz", ["b", "a"]) == "choose one of: a, b"
    assert suggest("zzz", []) == ""


@pytest.mark.parametrize("name", ["PATH", "my_setting", "npm_config_//registry.example/:_authToken", "A.B"])
def test_a_name_that_the_environment_can_hold_is_returned(name: str) -> None:
    assert validate_environment_name(name) == name


@pytest.mark.parametrize("name", ["", "A=B", "=", "A B", "A\0", "A\n", "Ä", "\x7f"])
def test_a_name_that_the_environment_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        validate_environment_name(name)


def test_a_value_holds_anything_but_nul() -> None:
    assert validate_environment_value("A", "x=\n\t'\"ä") == "x=\n\t'\"ä"
    with pytest.raises(InvalidInput, match="NUL"):
        validate_environment_value("A", "x\0y")


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("/", "/"),
        ("/a", "/a"),
        ("/a/", "/a"),
        ("//a//b", "/a/b"),
        ("/a/./b", "/a/b"),
        ("/a/..b/c..", "/a/..b/c.."),
        ("/" + "x" * 4094, "/" + "x" * 4094),
    ],
)
def test_an_inside_path_is_normalised(path: str, normal: str) -> None:
    assert validate_inside_path(path) == normal


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "absolute"),
        ("a/b", "absolute"),
        ("~/x", "absolute"),
        ("/a\0b", "NUL"),
        ("/..", "traversal"),
        ("/a/../b", "traversal"),
        ("/a/..", "traversal"),
        ("/" + "ä" * 2048, "longer"),
    ],
)
def test_an_inside_path_that_could_surprise_is_refused(path: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        validate_inside_path(path)


@given(st.text(alphabet="/.ab~\0", max_size=20))
def test_an_accepted_path_is_absolute_and_stays_as_it_is(path: str) -> None:
    try:
        normal = validate_inside_path(path)
    except InvalidInput:
        return
    assert normal.startswith("/") and "//" not in normal and validate_inside_path(normal) == normal
