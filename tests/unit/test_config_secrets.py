"""Secrets as users write them, and their values as the client reads them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from agentkernel.config.load import load_settings
from agentkernel.config.places import Places
from agentkernel.config.request import request_from_settings
from agentkernel.config.secrets import SecretReference, read_given, read_references, read_secrets, write_references
from agentkernel.errors import InvalidInput, UnknownKey, Unsupported
from agentkernel.model.network import Secret
from agentkernel.model.request import SandboxRequest

VALUE = "sk-live-4f1b9cQ7"


def one(text: str, base: str = "/") -> SecretReference:
    (found,) = read_references([text], base).values()
    return found


def request_for(directory: Path, *secrets: str, environment: dict[str, str], user_file: str = "") -> SandboxRequest:
    user = directory / "user.toml"
    user.write_text(user_file)
    user.chmod(0o600)
    places = Places(operator=str(directory / "none"), user=str(user), trusted=str(directory / "trusted"))
    flags = {"secrets": list(secrets)} if secrets else {}
    settings = load_settings(cwd=str(directory), config_path=None, environment={}, flags=flags, places=places)
    return request_from_settings(settings, argv=(b"true",), cwd=str(directory), environment=environment)


@pytest.mark.parametrize(
    ("text", "source", "secret"),
    [
        ("KEY@api.example.com", "ENV:KEY", Secret(name="KEY", hosts=("api.example.com",))),
        ("KEY=ENV:OTHER@API.Example.com.", "ENV:OTHER", Secret(name="KEY", hosts=("api.example.com",))),
        ("KEY=FILE:key.txt@a.example:8443,b.example:443", "FILE:/base/key.txt", Secret(name="KEY", hosts=("a.example:8443", "b.example"))),
        (
            "KEY=KEYRING:web/me@corp.example@a.example/v1/#X-Api-Key",
            "KEYRING:web/me@corp.example",
            Secret(name="KEY", hosts=("a.example",), path="/v1", header="x-api-key"),
        ),
        ("KEY@POST:a.example/v1/messages", "ENV:KEY", Secret(name="KEY", hosts=("a.example",), path="/v1/messages", method="POST")),
        ("KEY@bücher.example", "ENV:KEY", Secret(name="KEY", hosts=("xn--bcher-kva.example",))),
    ],
)
def test_a_secret_is_written_as_source_and_binding(text: str, source: str, secret: Secret) -> None:
    found = one(text, "/base")
    assert (str(found.source), found.secret) == (source, secret)
    assert read_references(write_references({"KEY": found}), "/base") == {"KEY": found}


@pytest.mark.parametrize(
    "text",
    [
        "KEY",
        "KEY=ENV:X",
        "KEY@",
        "=ENV:X@a.example",
        "KEY@*.example.com",
        "KEY@10.0.0.1",
        "KEY@[::1]",
        "KEY@a.example:0",
        "KEY@a.example:http",
        "KEY@a.example/v1/../x",
        "KEY@a.example/v1//x",
        "KEY@a.example#host",
        "KEY@a.example#proxy-authorization",
        "KEY@a.example?x=1",
        "KEY@a.example,",
        "KEY=VAULT:x@a.example",
        "KEY=ENV:@a.example",
        "KEY=KEYRING:service@a.example",
    ],
)
def test_what_is_no_binding_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        one(text)


@pytest.mark.parametrize("text", [f"KEY={VALUE}", f"KEY={VALUE}@a.example"])
def test_a_value_in_place_of_its_name_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        one(text)
    assert VALUE not in caught.value.message + caught.value.hint


def test_values_come_from_variables_and_files_and_from_nowhere_else_into_the_request(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(VALUE + "\n")
    (tmp_path / "key").chmod(0o600)
    environment = {"MINE": "value-of-a-variable", "A": "not-used-either", "PATH": "/bin"}
    request = request_for(tmp_path, "A=ENV:MINE@a.example", "B=FILE:key@b.example", environment=environment)
    assert request.secret_values == {"A": "value-of-a-variable", "B": VALUE}
    assert [each.name for each in request.secrets] == ["A", "B"]
    assert request.host_environment == {"PATH": "/bin"}  # neither where the value was nor what would hide the placeholder
    assert request.notices == ()
    assert "value-of-a-variable" not in repr(request)
    assert VALUE not in repr(request)


def test_a_file_that_others_may_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(VALUE)
    (tmp_path / "key").chmod(0o644)
    request = request_for(tmp_path, "B=FILE:key@b.example", environment={})
    assert [(each.code, each.hint) for each in request.notices] == [("secret-readable", f"chmod 600 {tmp_path}/key")]


@pytest.mark.parametrize(
    "value", ["", "short", "two\nlines of it", " begins-with-space", "ümlaut-in-it", "x" * 8193, "tab\tin-it-somewhere"]
)
def test_a_value_that_no_header_can_carry_is_refused_and_not_shown(tmp_path: Path, value: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        request_for(tmp_path, "KEY@a.example", environment={"KEY": value})
    assert not value or value not in caught.value.message


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    for text in ("KEY@a.example", "KEY=FILE:none@a.example"):
        with pytest.raises(InvalidInput, match="secret KEY: there is no"):
            request_for(tmp_path, text, environment={})


def test_a_name_is_a_secret_or_a_variable(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="KEY is a secret, and a variable"):
        request_for(tmp_path, "KEY@a.example", environment={"KEY": VALUE}, user_file='[environment]\nKEY = "x"\n')


def test_tables_of_the_users_file_say_the_same_and_flags_win(tmp_path: Path) -> None:
    table = '[[secrets]]\nname = "KEY"\nsource = "ENV:MINE"\nhosts = ["a.example"]\npath = "/v1"\nheader = "Authorization"\n'
    request = request_for(tmp_path, environment={"MINE": VALUE}, user_file=table)
    assert request.secrets == (Secret(name="KEY", hosts=("a.example",), path="/v1", header="authorization"),)
    request = request_for(tmp_path, "KEY=ENV:MINE@b.example", environment={"MINE": VALUE}, user_file=table)
    assert request.secrets == (Secret(name="KEY", hosts=("b.example",)),)


@pytest.mark.parametrize("table", ['name = "KEY"', 'name = "KEY"\nhosts = "a.example"', 'name = "KEY"\nhosts = ["a.example"]\nvalue = "x"'])
def test_a_table_that_is_wrong_is_refused(tmp_path: Path, table: str) -> None:
    with pytest.raises((InvalidInput, UnknownKey)):
        request_for(tmp_path, environment={"KEY": VALUE}, user_file=f"[[secrets]]\n{table}\n")


def test_the_keyring_is_asked_through_the_optional_library(monkeypatch: pytest.MonkeyPatch) -> None:
    references = read_references(["KEY=KEYRING:web/me@a.example"], "/")
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(Unsupported) as caught:
        read_secrets(references, {})
    assert caught.value.hint == "pip install 'agentkernel[keyring]'"
    known = {("web", "me"): VALUE}
    monkeypatch.setitem(sys.modules, "keyring", SimpleNamespace(get_password=lambda service, user: known.get((service, user))))
    assert read_secrets(references, {}).values == {"KEY": VALUE}
    known.clear()
    with pytest.raises(InvalidInput, match="nothing for web/me"):
        read_secrets(references, {})


def test_too_many_are_refused() -> None:
    references = read_references([f"KEY{number}@a{number}.example" for number in range(17)], "/")
    with pytest.raises(InvalidInput, match="at most 16"):
        read_secrets(references, {f"KEY{number}": VALUE for number in range(17)})


def test_values_are_given_again_without_a_binding() -> None:
    assert {name: str(source) for name, source in read_given(["KEY", "B=FILE:x"], "/base").items()} == {
        "KEY": "ENV:KEY",
        "B": "FILE:/base/x",
    }
