"""`run` on a terminal of its own: raw mode, keys, window size; on the scripted kernel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from unit.cli_harness import DEADLINE_S, OnTerminal, command_line, environment_in, log_of, wait_for_log


def test_a_terminal_outside_makes_one_of_its_size_inside(tmp_path: Path) -> None:
    with OnTerminal(tmp_path, ("run", "describe")) as child:
        record = json.loads(child.expect(b"}\n"))
        assert child.wait() == 0
    assert record["terminal"] == [30, 100]
    assert record["environment"]["TERM"] == "xterm-256color"


def test_no_terminal_inside_when_it_is_not_wanted(tmp_path: Path) -> None:
    with OnTerminal(tmp_path, ("run", "--no-tty", "describe")) as child:
        assert json.loads(child.expect(b"}\r\n"))["terminal"] is None


def test_no_terminal_inside_when_stdout_is_a_pipe(tmp_path: Path) -> None:
    with OnTerminal(tmp_path, ("-c", '"$@" | cat', "sh", *command_line("run", "describe")), argv=["/bin/sh"]) as child:
        assert json.loads(child.expect(b"}\r\n"))["terminal"] is None


def test_every_key_goes_to_the_command_also_interrupt_and_suspend(tmp_path: Path) -> None:
    with OnTerminal(tmp_path, ("run", "keys")) as child:
        child.expect(b"ready\r\n")
        assert child.is_raw()
        for key, shown in ((b"\x03", b"[03]"), (b"\x1a", b"[1a]"), (b"\x1b[A", b"[1b5b41]"), (b"\x04", b"[04]")):
            child.type(key)
            child.expect(shown)
        child.type(b"q")
        assert child.wait() == 0
        assert not child.is_raw()
    assert not any(event.startswith("signal") for event in log_of(tmp_path))


def test_a_changed_window_is_changed_inside(tmp_path: Path) -> None:
    with OnTerminal(tmp_path, ("run", "sizes")) as child:
        child.expect(b"ready")
        child.set_size(50, 132)
        child.expect(b"50x132")
        assert child.wait() == 0


@pytest.mark.parametrize(("command", "status"), [("lost", 125), ("missing", 127)])
def test_the_terminal_is_restored_when_it_fails(command: str, status: int, tmp_path: Path) -> None:
    with OnTerminal(tmp_path, ("run", command)) as child:
        child.expect(b"error:")
        assert child.wait() == status
        assert not child.is_raw()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_terminal_is_restored_when_it_is_ended_by_a_signal(number: signal.Signals, status: int, tmp_path: Path) -> None:
    with OnTerminal(tmp_path, ("run", "polite")) as child:
        child.expect(b"ready")
        assert child.is_raw()
        child.process.send_signal(number)
        assert child.wait() == status
        assert not child.is_raw()


def test_the_terminal_is_the_shells_while_it_is_stopped(tmp_path: Path) -> None:
    with OnTerminal(tmp_path, ("run", "keys")) as child:
        child.expect(b"ready")
        child.process.send_signal(signal.SIGTSTP)
        deadline = time.monotonic() + DEADLINE_S
        while child.is_raw():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.process.send_signal(signal.SIGCONT)
        while not child.is_raw():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.type(b"x")
        child.expect(b"[78]")
        child.type(b"q")
        assert child.wait() == 0


def test_interrupt_at_the_keyboard_ends_a_run_without_a_terminal_inside(tmp_path: Path) -> None:
    with OnTerminal(tmp_path, ("run", "--no-tty", "polite")) as child:
        child.expect(b"ready")
        child.type(b"\x03")
        child.expect(b"asked by 2")
        assert child.wait() == 130
    assert "signal 2 tree=True" in log_of(tmp_path)


def test_a_terminal_that_hangs_up_ends_the_run(tmp_path: Path) -> None:
    master, slave = os.openpty()
    code = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"
    argv = [command_line()[0], "-c", code, *command_line("run", "keys")]
    process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, cwd=tmp_path, env=environment_in(tmp_path))
    os.close(slave)
    wait_for_log(tmp_path, "start keys")
    os.close(master)
    assert process.wait(DEADLINE_S) in (129, 141)
    wait_for_log(tmp_path, "destroyed")


def test_colours_are_used_on_a_terminal_unless_no_color_is_set(tmp_path: Path) -> None:
    with OnTerminal(tmp_path, ("run", "missing")) as child:
        assert b"\x1b[31merror:\x1b[0m" in child.expect(b"hint:")
    with OnTerminal(tmp_path, ("run", "missing"), environment={"NO_COLOR": "1"}) as child:
        assert b"\x1b[" not in child.expect(b"hint:")
