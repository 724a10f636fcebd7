"""`--json` when a verb fails: the same object for every verb that takes it, on stdout, with the exit status and the words of stderr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import pytest

from agentkernel import assembly
from agentkernel.cli.failure import asks_for_json
from agentkernel.cli.main import main
from agentkernel.cli.parsing import build, parse
from agentkernel.cli.verbs import VERBS, load
from agentkernel.config.parsing import flags
from agentkernel.errors import AgentKernelError, DaemonUnavailable, Refused

Captured = pytest.CaptureFixture[str]
WITH_JSON = [name for name in VERBS if "--json" in flags(build(name, load(name)))]
ID = "3f2a91c05b7d8e46"
# Words that are right as far as the verb alone can see: whatever asks a kernel or a daemon is refused then, and the others say what is wrong.
ASKING = {
    "run": ["true"],
    "create": ["box"],
    "start": ["box"],
    "exec": ["box", "true"],
    "cp": ["/etc/passwd", "box:/tmp/x"],
    "stop": ["box"],
    "remove": ["box"],
    "list": [],
    "info": ["box"],
    "ps": ["box"],
    "logs": ["box"],
    "kill": ["box", ID],
    "network": ["show", "box"],
    "ports": ["box"],
    "image": ["list"],
    "rename": ["box", "other"],
    "extend-ttl": ["box", "1h"],
    "gc": [],
    "audit": [],
    "daemon": ["status"],
    "doctor": [],
    "backends": [],
    "benchmark": [],
    "setup": [],
}
ALONE = {
    "serve": (["--tls-cert", "x"], "invalid_input"),
    "token": (["remove", "absent"], "not_found"),
    "config": (["explain", "no.such"], "unknown_key"),
    "trust": (["--remove"], "not_found"),
}


@pytest.fixture(autouse=True)
def _refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine where every kernel and every daemon refuses, and nothing is of the user's."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise Refused("policy says\nno", hint="ask")

    for name in ("build_engine", "build_client", "build_calls"):
        monkeypatch.setattr(assembly, name, refuse)
    for name in ("AGENTKERNEL_DAEMON", "AGENTKERNEL_HOST", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AGENTKERNEL_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def _told(captured: Captured, status: int) -> dict[str, str]:
    """The error of the one object on stdout, which stderr says in words."""
    out, err = captured.readouterr()
    (line,) = out.splitlines()
    record = json.loads(line)
    assert record["exit_code"] == status and record["error"].keys() == {"code", "message", "hint"}
    assert f"error: {' '.join(record['error']['message'].split())}" in err
    return dict(record["error"])


def test_each_verb_that_takes_json_is_tried() -> None:
    assert sorted(WITH_JSON) == sorted([*ASKING, *ALONE])


@pytest.mark.parametrize("verb", ASKING)
def test_a_refusal_is_an_object(verb: str, capsys: Captured) -> None:
    words = ["--json", *ASKING[verb]]
    assert main([verb, *words]) == 125
    assert _told(capsys, 125) == {"code": "refused", "message": "policy says\nno", "hint": "ask"}
    assert main([verb, *ASKING[verb]]) == 125
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("verb", ALONE)
def test_what_a_verb_finds_wrong_itself_is_an_object(verb: str, capsys: Captured) -> None:
    words, code = ALONE[verb]
    status = main([verb, "--json", *words])
    assert _told(capsys, status)["code"] == code
    assert status == next(each.exit_status for each in _tree(AgentKernelError) if each.code == code)
    assert main([verb, *words]) == status
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("verb", WITH_JSON)
def test_wrong_words_are_an_object(verb: str, capsys: Captured) -> None:
    operands = ["--json", *ASKING.get(verb, ALONE.get(verb, ([], ""))[0])]
    at = 1 if verb in ("run", "exec") else len(operands)
    assert main([verb, *operands[:at], "--no-such-flag", *operands[at:]]) == 2
    assert _told(capsys, 2)["code"] == "unknown_key"


def _tree(root: type[AgentKernelError]) -> list[type[AgentKernelError]]:
    return [root, *(each for child in root.__subclasses__() for each in _tree(child))]


@pytest.mark.parametrize(
    ("words", "json_wanted"),
    [
        ("run --json ls", True),
        ("run --memory 1g --json -- ls", True),
        ("run -e NAME --json ls", True),
        ("run -eNAME --json ls", True),
        ("run -q --json ls", True),
        ("run --memory=1g --json ls", True),
        ("run --memory --json ls", True),  # argparse, too, sees a flag there, and no value
        ("run ls --json", False),
        ("run -- --json", False),
        ("run -q ls --json", False),
        ("run --name ls sh --json", False),
        ("exec --json box ls", True),
        ("exec box --json ls", True),
        ("exec -w /tmp box --user 0 --json ls", True),
        ("exec box ls --json", False),
        ("exec box -- --json ls", False),
        ("ls --json", True),
        ("info box --json", True),
        ("network allow box example.com --json", True),
        ("info -- --json", False),
        ("list --label --json", True),
        ("completions --json", False),
        ("nosuch --json", False),
        ("", False),
    ],
)
def test_json_is_wanted_where_it_is_a_word_of_the_verb(words: str, json_wanted: bool) -> None:
    assert asks_for_json(words.split()) is json_wanted


@pytest.mark.parametrize(
    "words", ["run -e A --json ls -l", "run -q -- ls --json", "exec box -w /x --json ls", "info box --json", "info box"]
)
def test_it_is_as_the_parser_has_it(words: str) -> None:
    verb, *rest = words.split()
    args = parse(verb, load(verb), rest)
    again = parse(verb, load(verb), args.command[1:]) if verb == "exec" else args  # options behind the sandbox's name
    assert asks_for_json([verb, *rest]) is (args.json or again.json)


def test_what_nobody_foresaw_is_an_object_too(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def fail(environment: object) -> NoReturn:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(assembly, "build_engine", fail)
    assert main(["backends", "--json"]) == 125
    told = _told(capsys, 125)
    assert (told["code"], told["message"]) == ("error", "agentkernel itself failed: ZeroDivisionError: oops")


class _Calls:
    """A daemon that knows one sandbox, until it is gone."""

    def __init__(self, goes_after: int) -> None:
        self.left = goes_after

    def __enter__(self) -> _Calls:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def remove(self, name: str, *, force: bool) -> None:
        self.left -= 1
        if self.left < 0:
            raise DaemonUnavailable("the daemon is gone")
        if name != "box":
            raise Refused(f"{name} is not yours")


def test_of_several_it_is_told_what_was_done_and_what_failed(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(assembly, "build_calls", lambda environment, starts: _Calls(3))
    assert main(["remove", "--json", "other", "box", "third"]) == 125
    out, err = capsys.readouterr()
    refused = {"code": "refused", "message": "other is not yours", "hint": ""}
    assert json.loads(out) == {
        "exit_code": 125,
        "error": refused,
        "done": [{"name": "box"}],
        "failed": [{"name": "other", "error": refused}, {"name": "third", "error": {**refused, "message": "third is not yours"}}],
    }
    assert err.splitlines() == ["error: other is not yours", "error: third is not yours"]
    assert main(["remove", "other", "box", "third"]) == 125
    assert capsys.readouterr().out == "box\n"


def test_after_the_daemon_is_gone_no_other_is_tried(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(assembly, "build_calls", lambda environment, starts: _Calls(1))
    assert main(["remove", "--json", "box", "second", "third"]) == 125
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert (record["error"]["code"], record["done"], [each["name"] for each in record["failed"]]) == (
        "daemon_unavailable",
        [{"name": "box"}],
        ["second"],
    )
    assert err == "error: the daemon is gone\n"
