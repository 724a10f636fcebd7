"""Tokens: made, found, removed; what of them is on the disk."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from unit import cli_harness

from agentkernel.config.tokens import MAX_TOKENS, TokenStore
from agentkernel.errors import Conflict, InvalidInput, NotFound, UnknownKey


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore({"AGENTKERNEL_HOME": str(tmp_path)})


def test_a_token_is_found_by_what_was_shown_once(store: TokenStore) -> None:
    secret = store.create("ci", ["run-only"])
    assert re.fullmatch(r"ak_[A-Za-z0-9_-]{43}", secret)
    found = store.find(secret)
    assert found is not None
    assert (found.name, found.scopes) == ("ci", frozenset({"run-only"}))
    assert store.find(secret + "x") is None
    assert store.find("") is None
    assert store.find("\udcff") is None


def test_only_the_digest_is_kept_and_only_its_user_may_read_it(store: TokenStore, place: Path) -> None:
    secret = store.create("ci", [])
    file = place / "tokens.json"
    assert secret not in file.read_text()
    assert json.loads(file.read_text())["tokens"][0]["sha256"] == hashlib.sha256(secret.encode()).hexdigest()
    assert [stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()] == [0o600, 0o600]


def test_the_default_token_is_made_when_it_is_first_needed_and_can_be_shown_again(store: TokenStore, place: Path) -> None:
    secret, is_new = store.default()
    assert is_new
    assert store.default() == (secret, False)
    found = store.find(secret)
    assert found is not None
    assert (found.name, found.scopes) == ("default", frozenset({"full"}))
    assert stat.S_IMODE((place / "token").stat().st_mode) == 0o600


def test_a_default_token_that_was_removed_is_another_one_next_time(store: TokenStore, place: Path) -> None:
    secret, _ = store.default()
    store.remove("default")
    assert not (place / "token").exists()
    assert store.find(secret) is None
    again, is_new = store.default()
    assert is_new
    assert again != secret


@pytest.mark.parametrize("content", ["", "ak_short", "ak_" + "x" * 43, "\xff"])
def test_a_file_that_holds_no_good_token_is_replaced(store: TokenStore, place: Path, content: str) -> None:
    store.default()
    (place / "token").write_text(content)
    secret, is_new = store.default()
    assert is_new
    assert store.find(secret) is not None
    assert [token.name for token in store.entries()] == ["default"]


def test_what_another_process_changes_is_seen_by_the_next_question(store: TokenStore, tmp_path: Path) -> None:
    other = TokenStore({"AGENTKERNEL_HOME": str(tmp_path)})
    secret = store.create("ci", [])
    assert other.find(secret) is not None
    store.remove("ci")
    assert other.find(secret) is None


def test_the_list_is_read_only_when_the_file_has_changed(store: TokenStore) -> None:
    store.create("ci", [])
    assert store.entries() is store.entries()


def test_many_at_once_lose_none(tmp_path: Path) -> None:
    def make(number: int) -> str:
        return TokenStore({"AGENTKERNEL_HOME": str(tmp_path)}).create(f"t{number}", [])

    with ThreadPoolExecutor(8) as pool:
        secrets = list(pool.map(make, range(24)))
    store = TokenStore({"AGENTKERNEL_HOME": str(tmp_path)})
    assert sorted(found.name for secret in secrets if (found := store.find(secret))) == sorted(f"t{number}" for number in range(24))


def test_names_are_unique_and_scopes_known(store: TokenStore) -> None:
    store.create("ci", ["sandbox:web", "host"])
    with pytest.raises(Conflict):
        store.create("ci", [])
    with pytest.raises(NotFound):
        store.remove("other")
    for name in ("", "-x", "a/b", "a b", "x" * 64):
        with pytest.raises(InvalidInput):
            store.create(name, [])
    with pytest.raises(UnknownKey) as raised:
        store.create("x", ["run-onyl"])
    assert "run-only" in raised.value.hint
    for scopes in (["host"], ["sandbox:"], ["sandbox:../x"]):
        with pytest.raises(InvalidInput):
            store.create("x", scopes)
    with pytest.raises(UnknownKey):
        store.create("x", ["admin"])  # which is for the daemon alone


def test_there_are_not_more_than_can_be_compared_quickly(store: TokenStore, place: Path) -> None:
    store.create("t", [])
    said = json.loads((place / "tokens.json").read_text())
    said["tokens"] = [{**said["tokens"][0], "name": f"t{number}"} for number in range(MAX_TOKENS)]
    (place / "tokens.json").write_text(json.dumps(said))
    with pytest.raises(Conflict):
        store.create("more", [])


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"format": 2, "tokens": []}',
        '{"format": 1, "tokens": [{"name": "x"}]}',
        '{"format": 1, "tokens": [{"name": "x", "scopes": [], "sha256": "' + "é" * 64 + '", "created_at": 1}]}',
        '{"format": 1, "tokens": [1]}',
    ],
)
def test_a_damaged_list_has_no_good_token(store: TokenStore, place: Path, content: str) -> None:
    secret = store.create("ci", [])
    (place / "tokens.json").write_text(content)
    with pytest.raises(InvalidInput):
        store.find(secret)


def test_a_list_that_others_can_write_has_no_good_token(store: TokenStore, place: Path) -> None:
    secret = store.create("ci", [])
    (place / "tokens.json").chmod(0o666)
    store = TokenStore({"AGENTKERNEL_HOME": str(place.parent)})
    with pytest.raises(InvalidInput):
        store.find(secret)


def test_a_symbolic_link_in_its_place_is_not_followed(store: TokenStore, place: Path, tmp_path: Path) -> None:
    store.create("ci", [])
    target = tmp_path / "elsewhere"
    os.rename(place / "tokens.json", target)
    os.symlink(target, place / "tokens.json")
    with pytest.raises(InvalidInput):
        TokenStore({"AGENTKERNEL_HOME": str(tmp_path)}).entries()


def test_the_command_line_makes_lists_and_removes_them(tmp_path: Path) -> None:
    def ask(*words: str) -> str:
        ended = cli_harness.run(tmp_path, *words, AGENTKERNEL_HOME=str(tmp_path))
        assert (ended.returncode, ended.stderr) == (0, b"")
        return ended.stdout.decode()

    secret = ask("token", "create", "ci", "--scope", "run-only").strip()
    store = TokenStore({"AGENTKERNEL_HOME": str(tmp_path)})
    found = store.find(secret)
    assert found is not None and found.scopes == frozenset({"run-only"})
    listed = json.loads(ask("token", "list", "--json"))
    assert [(each["name"], each["scopes"]) for each in listed] == [("ci", ["run-only"])]
    assert secret not in ask("token", "list")
    assert json.loads(ask("token", "remove", "ci", "--json")) == {"name": "ci", "removed": True}
    assert store.find(secret) is None
    shown = ask("config", "token").strip()
    assert ask("config", "token").strip() == shown
    assert store.find(shown) is not None


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("token", "create"), 2),
        (("token", "remove", "other"), 125),
        (("token", "create", "x", "--scope", "everything"), 2),
        (("token", "list", "x"), 2),
        (("config", "token", "x"), 2),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, words: tuple[str, ...], status: int) -> None:
    ended = cli_harness.run(tmp_path, *words, AGENTKERNEL_HOME=str(tmp_path))
    assert ended.returncode == status
    assert ended.stderr.startswith(b"error: ")
