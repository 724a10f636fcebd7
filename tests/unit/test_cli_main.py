"""The process: verbs, versions, help, and what every kind of end looks like."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from unit.cli_harness import environment_in, run

from agentkernel import __version__, assembly
from agentkernel.cli.main import main
from agentkernel.cli.verbs import VERBS
from agentkernel.errors import Refused
from agentkernel.text.nearest import nearest

Captured = pytest.CaptureFixture[str]


def test_version_is_one_line(capsys: Captured) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"agentkernel {__version__}\n"


def test_help_names_every_verb(capsys: Captured) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb} " in shown for verb in VERBS)
    assert "agentkernel run python3" in shown


def test_without_a_verb_the_help_is_shown_and_the_status_says_that_nothing_was_done(capsys: Captured) -> None:
    assert main([]) == 2
    assert "Verbs:" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["run", "doctor", "backends", "setup", "completions"])
def test_every_verb_explains_itself_with_an_example(verb: str, capsys: Captured) -> None:
    assert main([verb, "--help"]) == 0
    assert f"agentkernel {verb} " in capsys.readouterr().out


def test_help_of_a_verb_can_be_asked_for_the_other_way_round(capsys: Captured) -> None:
    assert main(["help", "backends"]) == 0
    assert "usage: agentkernel backends" in capsys.readouterr().out


def test_an_unknown_verb_is_two_lines_with_a_suggestion(capsys: Captured) -> None:
    assert main(["docter"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: there is no verb 'docter'"
    assert lines[1].startswith("hint: did you mean `agentkernel doctor`?")
    assert len(lines) == 2


def test_a_program_given_as_verb_is_told_how_to_run_it(capsys: Captured) -> None:
    assert main(["python3", "-c", "pass"]) == 2
    assert "agentkernel run python3" in capsys.readouterr().err


def test_a_flag_before_the_verb_is_told_where_flags_go(capsys: Captured) -> None:
    assert main(["--no-network", "run", "ls"]) == 2
    assert "flags come after the verb" in capsys.readouterr().err


def test_an_unknown_flag_gets_the_nearest_one_suggested(capsys: Captured) -> None:
    assert main(["doctor", "--jsno"]) == 2
    assert "did you mean --json?" in capsys.readouterr().err


def test_flags_cannot_be_abbreviated(capsys: Captured) -> None:
    assert main(["doctor", "--js"]) == 2
    assert "has no flag --js" in capsys.readouterr().err


def test_a_surplus_argument_is_refused(capsys: Captured) -> None:
    assert main(["doctor", "now"]) == 2
    assert "takes no argument 'now'" in capsys.readouterr().err


def test_a_refusal_exits_with_its_own_status(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def refuse(environment: object) -> None:
        raise Refused("policy says no\x1b[2J", hint="ask\nnicely")

    monkeypatch.setattr(assembly, "build_engine", refuse)
    assert main(["backends"]) == 125
    assert capsys.readouterr().err == "error: policy says no\\x1b[2J\nhint: ask nicely\n"


def test_an_unforeseen_failure_is_one_line_unless_debugging(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def fail(environment: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(assembly, "build_engine", fail)
    assert main(["backends"]) == 125
    assert capsys.readouterr().err.startswith("error: agentkernel itself failed: ZeroDivisionError: oops\nhint: AGENTKERNEL_DEBUG=1")
    monkeypatch.setenv("AGENTKERNEL_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["backends"])


def test_an_interrupt_outside_a_run_exits_130_without_a_traceback(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def interrupt(environment: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(assembly, "build_engine", interrupt)
    assert main(["backends"]) == 130
    assert capsys.readouterr().err == ""


def test_a_reader_that_goes_away_ends_it_as_sigpipe_would(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [sys.executable, "-m", "agentkernel", "--help"], stdout=writing, stderr=subprocess.PIPE, env=environment_in(tmp_path)
    )
    os.close(writing)
    assert (process.returncode, process.stderr) == (141, b"")


def test_a_full_disk_behind_stdout_is_an_error(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [sys.executable, "-m", "agentkernel", "--help"], stdout=full, stderr=subprocess.PIPE, env=environment_in(tmp_path)
        )
    assert process.returncode == 125
    assert process.stderr == b"error: cannot write the output: No space left on device\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_no_harm(closed: str, tmp_path: Path) -> None:
    script = f'exec "$0" -m agentkernel --version {closed}'
    process = subprocess.run(["sh", "-c", script, sys.executable], capture_output=True, env=environment_in(tmp_path))
    assert process.returncode == 0
    assert process.stderr == b""


def test_colours_are_for_terminals_only(tmp_path: Path) -> None:
    assert b"\x1b[" not in run(tmp_path, "doctor", TERM="xterm").stdout


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("rnu", "run"), ("runn", "run"), ("docter", "doctor"), ("--memroy", "--memory"), ("comp", "completions"), ("zebra", "")],
)
def test_the_nearest_word_is_found(typed: str, meant: str) -> None:
    assert nearest(typed, ["run", "doctor", "completions", "--memory", "setup"]) == meant
