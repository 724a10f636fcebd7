"""POST /run and /batch/run, against a real server over a daemon and over an engine in process."""

from __future__ import annotations

import base64
import json

import pytest
from api.stream_world import Served, served, until

__all__ = ["served"]


def test_the_line_of_the_readme_is_answered_as_it_says(served: Served) -> None:
    response = served.http.post("/run", json={"command": ["python3", "-c", "print(1+1)"], "profile": "restrictive"})
    assert response.status_code == 200 and response.headers["content-type"] == "application/json"
    said = response.json()
    assert said["success"] is True
    data = said["data"]
    assert (data["output"], data["stdout"], data["stderr"], data["exit_code"], data["timed_out"]) == ("2\n", "2\n", "", 0, False)
    assert (data["backend"], data["isolation"]) == ("namespaces", "container")
    assert data["durations"].keys() == {"create_ms", "exec_ms", "total_ms"}


def test_a_command_that_fails_is_an_answer_with_its_exit_code(served: Served) -> None:
    data = served.data("POST", "/run", json={"command": ["sh", "-c", "echo out; echo err >&2; exit 3"]})
    assert (data["exit_code"], data["output"], data["stderr"]) == (3, "out\nerr\n", "err\n")
    assert "signal" not in data


def test_a_command_that_a_signal_ended_says_which(served: Served) -> None:
    data = served.data("POST", "/run", json={"command": ["sh", "-c", "kill -9 $$"]})
    assert (data["exit_code"], data["signal"]) == (137, 9)


@pytest.mark.parametrize(
    ("body", "exit_code", "code"),
    [
        ({"command": ["no-such-program"]}, 127, "command_not_found"),
        ({"command": ["/etc/hostname/x"]}, 126, "command_not_executable"),
        ({"command": ["true"], "workdir": "/no/such/place"}, 125, "command_not_started"),
    ],
)
def test_a_command_that_does_not_start_is_one_too(served: Served, body: object, exit_code: int, code: str) -> None:
    data = served.data("POST", "/run", json=body)
    assert (data["exit_code"], data["code"], data["output"]) == (exit_code, code, "")
    assert data["error"]


def test_a_command_whose_time_is_up_tells_what_it_had_printed(served: Served) -> None:
    data = served.data("POST", "/run", json={"command": ["sh", "-c", "echo so far; sleep 1000"], "timeout_s": 2})
    assert (data["exit_code"], data["timed_out"], data["stdout"]) == (124, True, "so far\n")


def test_input_variables_and_the_working_directory_reach_it(served: Served) -> None:
    body = {"command": ["sh", "-c", 'pwd; echo "$A$B"; cat'], "env": ["A=1", "B=é=2"], "workdir": "/tmp", "stdin": "given"}
    assert served.data("POST", "/run", json=body)["stdout"] == "/tmp\n1é=2\ngiven"
    body = {"command": ["od", "-An", "-tx1"], "env": {"A": "1"}, "stdin_base64": base64.b64encode(b"\x00\xff").decode()}
    assert served.data("POST", "/run", json=body)["stdout"].split() == ["00", "ff"]


def test_output_that_is_no_utf8_comes_as_bytes_beside_its_text(served: Served) -> None:
    data = served.data("POST", "/run", json={"command": ["printf", r"a\377"]})
    assert (data["stdout"], base64.b64decode(data["stdout_base64"])) == ("a�", b"a\xff")
    assert "stderr_base64" not in data


def test_output_beyond_the_limit_is_dropped_and_said_to_be(served: Served) -> None:
    data = served.data("POST", "/run", json={"command": ["sh", "-c", "printf 12345678; printf 1 >&2"], "output_limit_bytes": 4})
    assert (data["stdout"], data["stdout_truncated"], data["stderr_truncated"]) == ("1234", True, False)


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ({"comand": ["true"]}, "unknown_key", "comand"),
        ({}, "invalid_input", "command"),
        ({"command": []}, "invalid_input", "command"),
        ({"command": [""]}, "invalid_input", "command"),
        ({"command": "true"}, "invalid_input", "command"),
        ({"command": ["a\0b"]}, "invalid_input", "NUL"),
        ({"command": ["true"], "timeout_s": "5"}, "invalid_input", "timeout_s"),
        ({"command": ["true"], "profile": "none"}, "unknown_key", "profile"),
        ({"command": ["true"], "profile": 5}, "invalid_input", "profile"),
        ({"command": ["true"], "backend": "hyperspace"}, "unknown_key", "hyperspace"),
        ({"command": ["true"], "allow_hosts": ["http://x/"]}, "invalid_input", "allow_hosts"),
        ({"command": ["true"], "env": ["A"]}, "invalid_input", "'A'"),
        ({"command": ["true"], "env": {"A=B": "1"}}, "invalid_input", "A=B"),
        ({"command": ["true"], "stdin": "a", "stdin_base64": "YQ=="}, "invalid_input", "stdin"),
        ({"command": ["true"], "stdin_base64": "*"}, "invalid_input", "stdin_base64"),
        ({"command": ["true"], "secrets": [{"name": "KEY", "value": "a value\n", "hosts": ["a.example"]}]}, "invalid_input", "KEY"),
        ({"command": ["true"], "image": "no such image"}, "invalid_input", "image"),
    ],
)
def test_a_body_that_cannot_be_is_refused_and_says_why(served: Served, body: object, code: str, told: str) -> None:
    response = served.http.post("/run", json=body)
    said = response.json()
    assert (response.status_code, said["success"], said["code"]) == (400, False, code)
    assert told in said["error"]


def test_half_a_surrogate_pair_is_no_byte(served: Served) -> None:
    for body in ('{"command":["echo","\\ud800"]}', '{"command":["true"],"stdin":"\\ud800"}', '{"command":["true"],"env":{"A":"\\ud800"}}'):
        response = served.http.post("/run", content=body, headers={"content-type": "application/json"})
        assert response.status_code == 400, body


@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        "[]",
        "{",
        '{"command":' + "[" * 200_000,
        '{"command":["true"],"pids":' + "9" * 5000 + "}",
        '{"command":["true"],"timeout_s":NaN}',
        '{"command":["true"],"timeout_s":1e999}',
        '{"' + "a" * 500_000 + '":1}',
        b'{"command":["\xff"]}',
    ],
    ids=["empty", "null", "list", "cut", "deep", "huge number", "NaN", "infinity", "long name", "no UTF-8"],
)
def test_a_body_that_is_no_such_object_is_refused_in_few_words(served: Served, content: str | bytes) -> None:
    response = served.http.post("/run", content=content, headers={"content-type": "application/json"})
    said = response.json()
    assert (response.status_code, said["success"]) == (400, False)
    assert len(said["error"]) < 300


def test_an_unknown_field_suggests_the_nearest(served: Served) -> None:
    said = served.http.post("/run", json={"command": ["true"], "timout_s": 1}).json()
    assert said["hint"] == "did you mean 'timeout_s'?"


def test_a_name_is_never_a_file_of_the_host(served: Served) -> None:
    """`etc` is a directory below /, where the server is."""
    said = served.http.post("/run", json={"command": ["true"], "image": "etc", "pull": "never"}).json()
    assert (said["success"], said["code"]) == (False, "not_found")


def test_a_request_with_a_key_is_done_once(served: Served) -> None:
    body = {"command": ["sh", "-c", "cat /proc/sys/kernel/random/uuid"]}
    first = served.http.post("/run", json=body, headers={"Idempotency-Key": "one"})
    again = served.http.post("/run", json=body, headers={"Idempotency-Key": "one"})
    other = served.http.post("/run", json={"command": ["true"]}, headers={"Idempotency-Key": "one"})
    assert first.json()["data"]["output"] == again.json()["data"]["output"]
    assert (again.headers["idempotency-replayed"], other.status_code) == ("true", 409)
    assert served.data("POST", "/run", json=body)["output"] != first.json()["data"]["output"]


def test_the_command_of_a_client_that_goes_is_killed(served: Served) -> None:
    marker = "12345.678"
    with served.raw("POST", "/run", {"command": ["sleep", marker]}):
        started = until(lambda: _events(served, "exec.started", marker))
    until(lambda: [each for each in _events(served, "exec.ended") if each["exec_id"] == started[0]["exec_id"]])
    until(lambda: [each for each in _events(served, "sandbox.removed") if each["sandbox_id"] == started[0]["sandbox_id"]])


def _events(served: Served, kind: str, text: str = "") -> list[dict[str, object]]:
    found = served.data("GET", "/audit", params={"kind": kind, "limit": 1000})["events"]
    return [each for each in found if text in json.dumps(each)]


def test_a_batch_answers_in_order_and_one_failure_is_no_other_s(served: Served) -> None:
    commands = [["echo", str(number)] for number in range(9)] + [["false"], ["no-such-program"]]
    results = served.data("POST", "/batch/run", json={"commands": [{"command": each} for each in commands]})["results"]
    assert [each["output"] for each in results[:9]] == [f"{number}\n" for number in range(9)]
    assert [each["error"] for each in results[:10]] == [None] * 10
    assert (results[9]["exit_code"], results[10]["exit_code"], results[10]["code"]) == (1, 127, "command_not_found")


def test_what_is_wrong_with_the_sandboxes_of_a_batch_is_told_for_each(served: Served) -> None:
    body = {"commands": [{"command": ["true"]}] * 2, "image": "127.0.0.1:1/nothing:1", "pull": "never"}
    results = served.data("POST", "/batch/run", json=body)["results"]
    assert [(each["output"], each["code"]) for each in results] == [(None, "not_found")] * 2
    assert served.http.post("/batch/run", json={"commands": []}).status_code == 400
