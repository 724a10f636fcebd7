"""`run` on the scripted kernel, in this process: arguments, exit statuses, reports, notices."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from unit.scripted_kernel import ScriptedKernel

from agentkernel import assembly
from agentkernel.cli.main import main
from agentkernel.model.network import Decision, Verdict
from agentkernel.model.request import Notice

NOTICE = Notice(code="no-network", message="the sandbox has no network", hint="--network")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ScriptedKernel:
    found = ScriptedKernel()
    monkeypatch.setattr(assembly, "build_engine", lambda environment: found)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AGENTKERNEL_DAEMON", "off")
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return found


@pytest.fixture
def run(kernel: ScriptedKernel, capfd: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(["run", *arguments])
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return call


def test_the_command_gets_its_arguments_as_they_are(run: Run) -> None:
    words = ["--memory", "-x", "--", "a b", "", "*"]
    _, out, _ = run("describe", *words)
    assert json.loads(out)["argv"] == ["describe", *words]


def test_options_end_at_the_first_word_that_is_none(run: Run, kernel: ScriptedKernel) -> None:
    _, out, _ = run("--memory", "1GiB", "describe", "--memory", "2GiB")
    assert json.loads(out)["argv"] == ["describe", "--memory", "2GiB"]
    assert kernel.requests[0].memory_bytes == 2**30


def test_two_dashes_end_the_options(run: Run) -> None:
    assert run("--", "echo", "--", "x") == (0, "-- x\n", "")


def test_no_command_is_an_error_with_an_example(run: Run) -> None:
    for arguments in ([], ["--"], ["--memory", "1GiB"]):
        status, _, err = run(*arguments)
        assert status == 2
        assert err.startswith("error: there is no command to run\nhint: for example: agentkernel run python3")


def test_an_empty_command_name_is_an_error(run: Run) -> None:
    assert run("")[0] == 2


def test_an_unknown_option_is_suggested(run: Run) -> None:
    status, _, err = run("--no-netwrok", "echo")
    assert (status, "did you mean --no-network?" in err) == (2, True)


def test_an_unknown_profile_is_an_error_and_nothing_is_built(run: Run, kernel: ScriptedKernel) -> None:
    status, _, err = run("--profile", "moderat", "echo")
    assert status == 2
    assert "moderate" in err
    assert kernel.happened == []


@pytest.mark.parametrize("bad", [["--memory", "much"], ["--timeout", "soon"], ["--cpus", "-1"], ["-e", "=x"], ["--dir", "/does/not/exist"]])
def test_a_bad_value_is_an_error_and_nothing_is_built(bad: list[str], run: Run, kernel: ScriptedKernel) -> None:
    status, _, err = run(*bad, "echo")
    assert status == 2
    assert err.startswith("error: ")
    assert kernel.happened == []


def test_the_exit_code_is_the_commands(run: Run) -> None:
    status, _, err = run("both", "42")
    assert (status, err.count("error:")) == (42, 0)


@pytest.mark.parametrize(("command", "status"), [("missing", 127), ("plain-file", 126), ("lost", 125)])
def test_a_command_that_does_not_run_has_a_status_of_its_own(command: str, status: int, run: Run, kernel: ScriptedKernel) -> None:
    found, _, err = run(command)
    assert found == status
    assert err.startswith("error: ")
    assert kernel.happened[-1] == "destroyed"


def test_a_backend_that_is_not_there_is_an_error_with_a_remedy(run: Run, kernel: ScriptedKernel) -> None:
    status, _, err = run("--backend", "docker", "echo")
    assert (status, err) == (125, "error: backend 'docker' cannot run here\nhint: start dockerd\n")


def test_a_timeout_says_so_and_exits_124(run: Run) -> None:
    status, _, err = run("--timeout", "1m30s", "ended", "timeout", "137")
    assert status == 124
    assert (
        err == "error: the command ran longer than 1m30s and was killed with everything it started\nhint: --timeout allows it more time\n"
    )


def test_the_timeout_is_the_commands(run: Run) -> None:
    assert json.loads(run("--timeout", "250ms", "describe")[1])["timeout_s"] == 0.25
    assert json.loads(run("describe")[1])["timeout_s"] is None
    assert json.loads(run("--timeout", "0", "describe")[1])["timeout_s"] is None


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("memory", ("ran out of memory (limit: 128MiB)", "--memory 256MiB")),
        ("pids", ("512 processes", "--pids 1024")),
        ("disk", ("kept in memory", "the limit of 128MiB", "--memory 256MiB")),
    ],
)
def test_the_limit_that_killed_the_command_is_named(limit: str, words: tuple[str, ...], run: Run) -> None:
    status, _, err = run("--memory", "128MiB", "ended", "itself", "137", limit)
    assert status == 137
    assert err.startswith("error: ")
    assert all(word in err for word in words)


def test_a_limit_that_the_command_survived_is_only_noted(run: Run) -> None:
    status, _, err = run("ended", "itself", "0", "memory")
    assert (status, err[:5]) == (0, "note:")


def test_a_notice_is_said_once_per_user(run: Run, kernel: ScriptedKernel) -> None:
    kernel.notices = (NOTICE,)
    assert run("echo")[2] == "note: the sandbox has no network\nhint: --network\n"
    assert run("echo")[2] == ""
    kernel.notices = (NOTICE, Notice(code="other", message="something else"))
    assert run("echo")[2] == "note: something else\n"


def test_a_notice_is_said_again_where_nothing_can_be_remembered(run: Run, kernel: ScriptedKernel, tmp_path: Path) -> None:
    (tmp_path / ".local").write_text("a file, not a directory")
    kernel.notices = (NOTICE,)
    assert run("echo")[2] == run("echo")[2] != ""


def test_quiet_says_no_notices_and_does_not_remember_them(run: Run, kernel: ScriptedKernel) -> None:
    kernel.notices = (NOTICE,)
    assert run("--quiet", "echo")[2] == ""
    assert run("echo")[2] != ""


def test_json_is_one_object_with_everything(run: Run, kernel: ScriptedKernel) -> None:
    kernel.notices = (NOTICE,)
    status, out, err = run("--json", "both", "3")
    record = json.loads(out)
    assert (status, err, out.count("\n")) == (3, "", 1)
    assert record["exit_code"] == 3
    assert (record["backend"], record["isolation"], record["profile"]) == ("namespaces", "container", "moderate")
    assert base64.b64decode(record["stdout"]) == b"out\x00\xff\n"
    assert record["stdout_encoding"] == "base64"
    assert record["notices"] == [{"code": "no-network", "message": "the sandbox has no network", "hint": "--network"}]
    assert record["durations"]["total_s"] >= record["durations"]["create_s"] >= 0


def test_json_shows_text_as_text(run: Run) -> None:
    record = json.loads(run("--json", "echo", "grüße")[1])
    assert (record["stdout"], record["stdout_encoding"], record["stdout_truncated"]) == ("grüße\n", "utf-8", False)


def test_json_bounds_the_output_and_says_so(run: Run) -> None:
    record = json.loads(run("--json", "flood", str(20 * 2**20))[1])
    assert (len(record["stdout"]), record["stdout_truncated"], record["stderr_truncated"]) == (16 * 2**20, True, False)


def test_json_says_what_failed(run: Run) -> None:
    status, out, err = run("--json", "missing")
    assert (status, json.loads(out)["error"]["code"], json.loads(out)["exit_code"]) == (127, "command_not_found", 127)
    assert err.startswith("error: ")


def test_json_says_that_it_timed_out(run: Run) -> None:
    record = json.loads(run("--json", "--timeout", "1s", "ended", "timeout", "137")[1])
    assert (record["exit_code"], record["cause"]) == (124, "timeout")


def test_a_terminal_can_be_asked_for_where_there_is_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "vt100")
    record = json.loads(run("-t", "describe")[1])
    assert record["terminal"] == [24, 80]
    assert record["environment"]["TERM"] == "vt100"
    plain = json.loads(run("describe")[1])
    assert (plain["terminal"], plain["environment"]) == (None, {})


def test_stdin_from_dev_null_is_not_forwarded(run: Run) -> None:
    assert json.loads(run("describe")[1])["stdin"] is False


def test_a_removed_working_directory_is_an_error(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    status, _, err = run("echo")
    assert (status, "no longer exists" in err) == (2, True)
    monkeypatch.chdir(tmp_path)


def _denied(host: str, port: int, rule: str) -> Decision:
    return Decision(at=5.0, verdict=Verdict.DENIED, protocol="connect", host=host, port=port, rule=rule)


def test_a_command_that_failed_after_refusals_says_how_many_and_what_would_help(run: Run, kernel: ScriptedKernel) -> None:
    kernel.denied = (_denied("db.example.com", 5432, "none"), _denied("other.example", 443, "none"))
    status, _, err = run("ended", "itself", "3")
    assert (status, err) == (
        3,
        "note: 2 attempts to reach the network were refused, the first to db.example.com:5432 (rule: none)\n"
        "hint: --allow-host db.example.com:5432 allows it; `agentkernel network log run-1` tells all\n",
    )
    kernel.denied = (_denied("fd00::1", 0, "deny fd00::/8"),)
    assert run("ended", "itself", "3")[2] == (
        "note: an attempt to reach the network was refused, to fd00::1 (rule: deny fd00::/8)\n"
        "hint: `agentkernel network log run-1` tells all\n"
    )


def test_refusals_are_not_mentioned_when_the_command_succeeded_or_when_nothing_is_to_be_said(run: Run, kernel: ScriptedKernel) -> None:
    kernel.denied = (_denied("example.com", 443, "none"),)
    assert run("echo", "x") == (0, "x\n", "")
    assert run("--quiet", "ended", "itself", "3") == (3, "", "")
    assert run("--no-network", "ended", "itself", "3") == (3, "", "")


def test_refusals_are_in_the_json_report(run: Run, kernel: ScriptedKernel) -> None:
    kernel.denied = (_denied("example.com", 443, "none"),)
    out = run("--json", "ended", "itself", "3")[1]
    record = json.loads(out)
    assert (record["ports"], [each["host"] for each in record["denied"]]) == ([], ["example.com"])
    assert json.loads(run("--json", "echo")[1])["denied"] == []


def test_published_ports_are_told_before_the_command_runs_each_time(run: Run, kernel: ScriptedKernel) -> None:
    told = "note: port 80 of the sandbox is at 127.0.0.1:8080\nnote: port 81 of the sandbox is at 127.0.0.1:40000\n"
    for _ in range(2):
        assert run("-p", "8080:80", "--publish", "81", "echo", "x") == (0, "x\n", told)
    assert run("--quiet", "-p", "80", "echo", "x") == (0, "x\n", "")
    record = json.loads(run("--json", "-p", "8080:80", "echo", "x")[1])
    assert record["ports"] == [{"port": 80, "host_address": "127.0.0.1", "host_port": 8080}]


def test_network_flags_reach_the_request(run: Run, kernel: ScriptedKernel) -> None:
    run("--allow-host", "Example.com:8443", "--allow-host", "*.a.example", "--deny-host", "10.0.0.0/8", "--only-hosts", "echo")
    request = kernel.requests[-1]
    assert [str(rule) for rule in (*request.allow_hosts, *request.deny_hosts)] == ["example.com:8443", "*.a.example", "10.0.0.0/8"]
    assert request.only_hosts
    for words in (["--allow-host", "http://a/"], ["-p", "0"], ["-p", "8080:80:90"]):
        status, _, err = run(*words, "echo")
        assert (status, "hint: " in err) == (2, True)
    assert run("-p", "0.0.0.0:80:80", "echo")[0] == 125
