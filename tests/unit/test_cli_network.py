"""`network` and `ports`, against a scripted daemon on a real socket."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from unit.door_server import CALL, FAILED, REPLY, Attach, DoorServer

from agentkernel.channel.refusal import encode_refusal
from agentkernel.cli.host import upstream_proxy
from agentkernel.cli.main import main
from agentkernel.errors import AgentKernelError, Conflict, NotFound, Refused

RULES = {"allow": [{"host": "example.com"}, {"host": "fd00::/8", "ports": [22]}], "deny": [{"host": "*.tracker.example"}]}
INFO = {
    "sandbox_id": "0123456789abcdef",
    "name": "box",
    "owner": "ann",
    "status": "running",
    "backend": "memory",
    "isolation": "none",
    "image": "host",
    "profile": "moderate",
    "created_at": 5.0,
    "network": "filtered",
    "ports": [{"port": 80, "host_address": "127.0.0.1", "host_port": 8080}],
}
PORT = {"port": 80, "host_address": "127.0.0.1", "host_port": 8080}
Call = Callable[..., tuple[int, str, str]]


class Door:
    """Answers by the operation's name, and remembers what was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[dict[str, Any]] = []

    def serve(self, attach: Attach) -> None:
        for frame in attach.frames:
            said = json.loads(frame.payload) if frame.kind == CALL else {"op": "hello"}
            if said["op"] == "hello":
                continue
            said.pop("key", None)
            self.asked.append(said)
            answer = self.answers[said["op"]]
            result = answer(said) if callable(answer) else answer
            if isinstance(result, AgentKernelError):
                attach.send(FAILED, encode_refusal(result), ident=frame.ident)
            else:
                attach.send(REPLY, json.dumps(result).encode(), ident=frame.ident)


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    monkeypatch.setenv("AGENTKERNEL_SOCKET", str(tmp_path / "socket"))
    monkeypatch.delenv("AGENTKERNEL_DAEMON", raising=False)
    found = Door()
    with DoorServer(tmp_path / "socket", found.serve):
        yield found


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*words: str) -> tuple[int, str, str]:
        status = main(list(words))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def _event(number: int, verdict: str, **details: str) -> dict[str, Any]:
    return {"event_id": number, "kind": f"network.{verdict}", "at": 5.0, "principal": "ann", "details": sorted(details.items())}


EVENTS = [
    _event(1, "allowed", protocol="connect", host="example.com", port="443", address="192.0.2.1", rule="allow example.com"),
    _event(2, "denied", protocol="dns", host="x\x1b.tracker.example", rule="deny *.tracker.example", reason="A rule denies it."),
]


def _events(said: dict[str, Any]) -> list[dict[str, Any]]:
    wanted = said["wanted"]
    kinds = wanted.get("kinds", ["network.allowed", "network.denied"])
    return [event for event in EVENTS if event["event_id"] > wanted.get("after", 0) and event["kind"] in kinds]


def test_the_rules_are_a_table_with_what_holds_otherwise(door: Door, call: Call) -> None:
    door.answers["network"] = RULES
    status, out, _ = call("network", "show", "box")
    assert (status, out.splitlines()) == (
        0,
        [
            "RULE     HOST                 PORTS",
            "deny     *.tracker.example    all",
            "allow    example.com          80,443",
            "allow    fd00::/8             22",
            "default  the public internet",
        ],
    )
    assert door.asked == [{"op": "network", "name": "box"}]


def test_rules_as_json_are_written_as_they_are_typed(door: Door, call: Call) -> None:
    door.answers["network"] = RULES | {"base": "none"}
    _, out, _ = call("network", "show", "box", "--json")
    assert json.loads(out) == {"default": "none", "allow": ["example.com", "[fd00::/8]:22"], "deny": ["*.tracker.example"], "private": []}


@pytest.mark.parametrize(("verb", "field"), [("allow", "allow"), ("deny", "deny"), ("forget", "remove")])
def test_a_change_says_the_new_rules(verb: str, field: str, door: Door, call: Call) -> None:
    door.answers["change_network"] = RULES
    status, out, _ = call("network", verb, "box", "Example.COM.", "*.b.example:8443")
    assert (status, out.startswith("RULE ")) == (0, True)
    rules = [{"host": "example.com"}, {"host": "*.b.example", "ports": [8443]}]
    assert door.asked == [{"op": "change_network", "name": "box", "change": {field: rules}}]


def test_the_log_is_a_table_without_control_characters(door: Door, call: Call) -> None:
    door.answers |= {"info": INFO, "events": _events}
    status, out, _ = call("network", "log", "box")
    assert status == 0
    assert [line.split("  ")[0] for line in out.splitlines()] == ["TIME", "1970-01-01T00:00:05.000Z", "1970-01-01T00:00:05.000Z"]
    assert out.splitlines()[0].split() == ["TIME", "VERDICT", "PROTOCOL", "HOST", "PORT", "RULE", "REASON"]
    assert "x\\x1b.tracker.example" in out
    assert door.asked[1]["wanted"]["sandbox"] == INFO["sandbox_id"]


def test_the_log_as_json_lines_and_only_what_was_refused(door: Door, call: Call) -> None:
    door.answers |= {"info": INFO, "events": _events}
    _, out, _ = call("network", "log", "box", "--json", "--denied")
    assert [json.loads(line) for line in out.splitlines()] == [
        {
            "at": 5.0,
            "verdict": "denied",
            "protocol": "dns",
            "host": "x\x1b.tracker.example",
            "port": None,
            "address": "",
            "rule": "deny *.tracker.example",
            "reason": "A rule denies it.",
        }
    ]


def test_the_log_of_a_sandbox_that_is_gone_is_there_and_of_none_is_an_error(door: Door, call: Call) -> None:
    door.answers |= {"info": NotFound("there is no sandbox 'box'", hint="list"), "events": _events}
    assert len(call("network", "log", "box")[1].splitlines()) == 3
    door.answers["events"] = []
    assert call("network", "log", "box") == (125, "", "error: there is no sandbox 'box'\nhint: list\n")


def test_an_empty_log_says_so(door: Door, call: Call) -> None:
    door.answers |= {"info": INFO, "events": []}
    assert call("network", "log", "box") == (0, "", "It has not tried to reach anything.\n")
    assert call("network", "log", "box", "--denied") == (0, "", "Nothing was refused.\n")
    assert call("network", "log", "box", "--json") == (0, "", "")


def test_following_prints_row_by_row_until_the_daemon_fails(door: Door, call: Call) -> None:
    asked: Iterator[Any] = iter([_events, lambda _: Conflict("enough", hint="")])
    door.answers |= {"info": INFO, "events": lambda said: next(asked)(said)}
    status, out, err = call("network", "log", "box", "--follow")
    assert (status, err) == (125, "error: enough\n")
    assert [line.split()[1] for line in out.splitlines()] == ["VERDICT", "allowed", "denied"]


@pytest.mark.parametrize(
    "words",
    [
        ("allow", "box"),
        ("show", "box", "example.com"),
        ("log", "box", "a.example"),
        ("show", "box", "--follow"),
        ("allow", "box", "http://a/"),
    ],
)
def test_words_that_do_not_go_together_are_refused_with_a_hint(words: tuple[str, ...], call: Call) -> None:
    status, _, err = call("network", *words)
    assert (status, "hint: " in err) == (2, True)


def test_a_port_is_published_and_its_address_printed(door: Door, call: Call) -> None:
    door.answers["publish"] = PORT
    assert call("ports", "box", "8080:80") == (0, "127.0.0.1:8080\n", "")
    assert json.loads(call("ports", "box", "80", "--json")[1]) == PORT
    assert [said["rule"] for said in door.asked] == [{"port": 80, "host_port": 8080}, {"port": 80}]


def test_ports_are_listed_and_removed(door: Door, call: Call) -> None:
    door.answers |= {"ports": [PORT], "unpublish": None}
    assert call("ports", "box")[1].splitlines() == ["PORT  ADDRESS", "80    127.0.0.1:8080"]
    assert json.loads(call("ports", "box", "--json")[1]) == [PORT]
    assert call("ports", "box", "--remove", "80") == (0, "80\n", "")
    assert door.asked[2] == {"op": "unpublish", "name": "box", "port": 80}
    door.answers["ports"] = []
    assert call("ports", "box")[2] == "No ports are published.\nPublish one with: agentkernel ports box PORT\n"


def test_what_is_no_port_is_refused(call: Call) -> None:
    for words in (["0"], ["x:80"], ["0.0.0.0:80:80"], ["80", "--remove", "80"], ["--remove", "8080:80"], ["--remove", "0"]):
        status, _, err = call("ports", "box", *words)
        assert (status in (2, 125), "hint: " in err) == (True, True), words


def test_list_and_info_show_ports_and_the_network(door: Door, call: Call) -> None:
    door.answers |= {"list": [INFO], "info": INFO, "network": RULES}
    header, row = call("list")[1].splitlines()
    assert header.split()[4:6] == ["NETWORK", "PORTS"]
    assert row.split()[4:6] == ["filtered", "8080:80"]
    lines = dict(line.split("  ", 1) for line in call("info", "box")[1].splitlines())
    assert {name: lines[name].strip() for name in ("network", "allowed", "denied", "ports")} == {
        "network": "filtered, by default the public internet",
        "allowed": "example.com [fd00::/8]:22",
        "denied": "*.tracker.example",
        "ports": "80 at 127.0.0.1:8080",
    }
    record = json.loads(call("info", "box", "--json")[1])
    assert (record["network"], record["ports"], record["rules"]["deny"]) == ("filtered", [PORT], ["*.tracker.example"])
    door.answers["info"] = INFO | {"network": "none", "ports": []}
    assert json.loads(call("info", "box", "--json")[1])["rules"] is None


def test_what_starts_a_sandbox_says_where_its_ports_are(door: Door, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    door.answers |= {"grant": Refused("whoever creates it is told"), "create": INFO, "start": INFO}
    told = (0, "box\n", "note: port 80 of the sandbox is at 127.0.0.1:8080\n")
    assert call("create", "box", "--start", "-p", "8080:80") == call("start", "box") == told
    assert door.asked[0]["request"]["ports"] == [{"port": 80, "host_port": 8080}]
    assert call("create", "box", "--start", "--quiet")[2] == call("start", "box", "--json")[2] == ""


def test_a_proxy_in_between_is_told_of_without_its_password(
    door: Door, call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configuration = tmp_path / ".config" / "agentkernel"
    configuration.mkdir(parents=True)
    file = configuration / "config.toml"
    file.touch(mode=0o600)
    file.write_text('[network]\nupstream_proxy = "http://me:s3cret@proxy.example:3128"\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    door.answers |= {"info": INFO, "network": RULES}
    shown = call("info", "box")[1]
    assert "upstream proxy  http://proxy.example:3128; rules by address hold only for what programs name by address" in shown
    assert "s3cret" not in shown
    assert [fact.value for fact in upstream_proxy()] == [
        "http://proxy.example:3128; rules by address hold only for what programs name by address"
    ]
