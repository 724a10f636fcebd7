"""The list of trusted project files, and the verbs that show and change it."""

import io
import json
import os
import stat
import subprocess
import sys
import threading
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest

from agentkernel.cli.context import Context
from agentkernel.cli.verbs import config as config_verb
from agentkernel.cli.verbs import trust as trust_verb
from agentkernel.config.trusted import TrustedFile, TrustStore
from agentkernel.errors import InvalidInput, NotFound, NotTrusted, UnknownKey

LOOSE = '[security]\nprofile = "permissive"\n\n[environment]\nTOKEN = "from the project"\n'


@pytest.fixture
def store(tmp_path: Path) -> TrustStore:
    return TrustStore(str(tmp_path / "data" / "trusted.json"))


def test_what_is_added_is_trusted_and_nothing_else(store: TrustStore) -> None:
    assert store.entries() == ()
    store.add("/p/agentkernel.toml", "aa")
    assert store.is_trusted("/p/agentkernel.toml", "aa")
    assert not store.is_trusted("/p/agentkernel.toml", "bb")
    assert not store.is_trusted("/q/agentkernel.toml", "aa")


def test_a_file_has_one_trusted_content_at_a_time(store: TrustStore) -> None:
    store.add("/p", "aa")
    store.add("/o", "cc")
    store.add("/p", "bb")
    assert store.entries() == (TrustedFile(path="/o", digest="cc"), TrustedFile(path="/p", digest="bb"))


def test_removing_tells_whether_there_was_something(store: TrustStore) -> None:
    store.add("/p", "aa")
    assert store.remove("/p") is True
    assert store.remove("/p") is False
    assert store.entries() == ()


def test_the_list_is_the_user_s_alone(store: TrustStore, tmp_path: Path) -> None:
    store.add("/p", "aa")
    path = tmp_path / "data" / "trusted.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.chmod(0o622)
    with pytest.raises(InvalidInput, match="can be written by others"):
        store.is_trusted("/p", "aa")


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"format": 9, "files": []}', '{"format": 1, "files": [{"path": "/p"}]}', "[" * 100_000]
)
def test_a_damaged_list_trusts_nothing_and_says_so(store: TrustStore, tmp_path: Path, content: str) -> None:
    store.add("/p", "aa")
    (tmp_path / "data" / "trusted.json").write_text(content)
    with pytest.raises(InvalidInput, match="damaged"):
        store.entries()


def test_a_list_that_is_a_link_is_not_followed(store: TrustStore, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").write_text('{"format": 1, "files": [{"path": "/p", "digest": "aa"}]}')
    (tmp_path / "data" / "trusted.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidInput, match="symbolic link"):
        store.entries()


def test_many_writers_lose_nothing(store: TrustStore) -> None:
    threads = [threading.Thread(target=store.add, args=(f"/p{number}", "aa")) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.entries()) == 16


class Desk:
    """A user in a project directory, with an environment of their own."""

    def __init__(self, directory: Path) -> None:
        self.project = directory / "project"
        self.project.mkdir()
        self.file = self.project / "agentkernel.toml"
        self.environment = {"HOME": str(directory / "home")}

    def run(self, verb: object, *words: str) -> int:
        parser = ArgumentParser(exit_on_error=False)
        verb.configure(parser)
        arguments: Namespace = parser.parse_args(words)
        context = Context(
            environment=self.environment,
            open_kernel=lambda _: pytest.fail("no kernel is needed"),
            open_client=lambda _: pytest.fail("no daemon is needed"),
            open_calls=lambda *_: pytest.fail("no daemon is needed"),
        )
        context.cwd = lambda: str(self.project)
        return verb.main(arguments, context)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_trust_and_check_and_remove(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.file.write_text(LOOSE)
    assert desk.run(config_verb, "check") == NotTrusted.exit_status
    assert desk.run(trust_verb, "--yes") == 0
    assert desk.run(config_verb, "check") == 0
    capsys.readouterr()
    assert desk.run(trust_verb, "--list", "--json") == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed["path"] == str(desk.file)
    assert desk.run(trust_verb, "--remove") == 0
    assert desk.run(config_verb, "check") == NotTrusted.exit_status
    with pytest.raises(NotFound):
        desk.run(trust_verb, "--remove")


def test_without_a_terminal_nothing_is_trusted_unless_told(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.file.write_text(LOOSE)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(InvalidInput, match="no terminal"):
        desk.run(trust_verb)
    shown = capsys.readouterr().err
    assert "security.profile" in shown
    assert "permissive" in shown
    assert "TOKEN=from the project" in shown
    assert desk.run(config_verb, "check") == NotTrusted.exit_status


def test_control_characters_of_a_project_do_not_reach_the_terminal(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.file.write_text('[environment]\nTOKEN = "\\u001b[2Jhidden"\n')
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(InvalidInput):
        desk.run(trust_verb)
    assert "\x1b" not in capsys.readouterr().err


def test_a_file_that_only_tightens_is_not_put_on_the_list(desk: Desk) -> None:
    desk.file.write_text('[security]\nprofile = "restrictive"\n')
    assert desk.run(trust_verb, "--yes") == 0
    assert not (Path(desk.environment["HOME"]) / ".local").exists()


def test_a_file_of_the_user_s_own_needs_no_trust(desk: Desk) -> None:
    own = Path(desk.environment["HOME"]) / ".config" / "agentkernel" / "open.toml"
    own.parent.mkdir(parents=True)
    own.write_text(LOOSE)
    own.chmod(0o600)
    with pytest.raises(InvalidInput, match="your own configuration directory"):
        desk.run(trust_verb, "--yes", str(own))


@pytest.mark.parametrize(("answer", "trusted"), [("y", True), ("yes", True), ("n", False), ("", False), ("yesterday", False)])
def test_a_terminal_is_asked(tmp_path: Path, answer: str, trusted: bool) -> None:
    desk = Desk(tmp_path)
    desk.file.write_text(LOOSE)
    main_side, terminal = os.openpty()
    environment = {**desk.environment, "PYTHONPATH": str(Path(trust_verb.__file__).parents[3]), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "agentkernel", "trust"]
    process = subprocess.Popen(command, cwd=desk.project, env=environment, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    os.write(main_side, f"{answer}\n".encode())
    status = process.wait(timeout=60)
    os.close(main_side)
    assert (status == 0) is trusted
    assert (desk.run(config_verb, "check") == 0) is trusted


def test_config_alone_shows_the_settings(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert desk.run(config_verb) == 0
    alone = capsys.readouterr().out
    assert desk.run(config_verb, "show") == 0
    assert capsys.readouterr().out == alone != ""


def test_show_tells_value_and_origin_of_every_setting(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.file.write_text("[resources]\nmemory_mb = 100\n")
    desk.environment["AGENTKERNEL_PIDS"] = "7"
    assert desk.run(config_verb, "show", "--json") == 0
    shown = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    assert shown["resources.memory"] == {"key": "resources.memory", "value": "100MiB", "origin": "project", "where": f"{desk.file}:2"}
    assert shown["resources.pids"] == {"key": "resources.pids", "value": 7, "origin": "environment", "where": "AGENTKERNEL_PIDS"}
    assert shown["security.network"] == {"key": "security.network", "value": None, "origin": "default", "where": ""}
    assert desk.run(config_verb, "show") == 0
    assert "resources.pids" in capsys.readouterr().out


def test_show_warns_of_a_file_that_would_be_refused_and_hides_values_of_variables(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.file.write_text(LOOSE)
    assert desk.run(config_verb, "show") == 0
    shown = capsys.readouterr()
    assert "needs trust" in shown.err
    assert "TOKEN" in shown.out
    assert "from the project" not in shown.out


def test_explain_lists_the_places_in_their_order(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.file.write_text('[security]\nprofile = "restrictive"\n')
    desk.environment["AGENTKERNEL_PROFILE"] = "moderate"
    assert desk.run(config_verb, "explain", "security.profile", "--json") == 0
    places = json.loads(capsys.readouterr().out)["places"]
    assert [(place["origin"], place["value"]) for place in places] == [
        ("default", "moderate"),
        ("project", "restrictive"),
        ("environment", "moderate"),
    ]
    with pytest.raises(UnknownKey):
        desk.run(config_verb, "explain", "security.profil")
    with pytest.raises(InvalidInput):
        desk.run(config_verb, "explain")
    with pytest.raises(InvalidInput):
        desk.run(config_verb, "show", "security.profile")


def test_check_names_what_is_wrong(desk: Desk) -> None:
    desk.file.write_text("[resources]\npidz = 1\n")
    with pytest.raises(UnknownKey, match=r"agentkernel\.toml:2: "):
        desk.run(config_verb, "check")
    with pytest.raises(InvalidInput, match="there is no file"):
        desk.run(config_verb, "check", "missing.toml")
