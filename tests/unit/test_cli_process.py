"""`run` as a process of its own: pipes, signals, memory; on the scripted kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from unit.cli_harness import DEADLINE_S, command_line, environment_in, log_of, run, start, wait_for_log

ALL_BYTES = bytes(range(256)) * 1000


def test_stdout_and_stderr_are_separate_and_unchanged(tmp_path: Path) -> None:
    done = run(tmp_path, "run", "both", "3")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\x00\xff\n", b"err\xfe\n")


def test_input_reaches_the_command_unchanged(tmp_path: Path) -> None:
    done = run(tmp_path, "run", "cat", stdin=ALL_BYTES)
    assert (done.returncode, done.stdout, done.stderr) == (0, ALL_BYTES, b"")


def test_a_file_as_input_reaches_the_command(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(ALL_BYTES)
    with open(tmp_path / "input", "rb") as file:
        done = subprocess.run(command_line("run", "cat"), stdin=file, capture_output=True, env=environment_in(tmp_path), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ALL_BYTES)


def test_input_that_never_ends_does_not_hold_up_a_command_that_does(tmp_path: Path) -> None:
    process = start(tmp_path, "run", "echo", "done")
    assert process.stdout is not None
    assert process.stdout.read() == b"done\n"
    assert process.wait(DEADLINE_S) == 0
    process.communicate()


def test_input_waits_for_a_command_that_does_not_read(tmp_path: Path) -> None:
    """Back-pressure: of an endless input only what fits into the pipes is taken."""
    process = start(tmp_path, "run", "polite")
    assert process.stdin is not None
    os.set_blocking(process.stdin.fileno(), False)
    wait_for_log(tmp_path, "start polite")
    taken, deadline, stalled_since = 0, time.monotonic() + DEADLINE_S, time.monotonic()
    while time.monotonic() - stalled_since < 0.5:
        assert time.monotonic() < deadline
        try:
            taken += os.write(process.stdin.fileno(), b"x" * 65536)
            stalled_since = time.monotonic()
        except BlockingIOError:
            time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE_S)
    assert taken <= 2**20


def test_output_waits_for_a_reader_that_does_not_read(tmp_path: Path) -> None:
    process = start(tmp_path, "run", "flood", str(2**26))
    assert process.stdout is not None
    wait_for_log(tmp_path, "start flood")
    time.sleep(0.3)
    assert "flooded" not in log_of(tmp_path)
    assert len(process.stdout.read()) == 2**26
    process.communicate()
    assert "flooded" in log_of(tmp_path)


def test_a_gibibyte_of_output_takes_no_memory(tmp_path: Path) -> None:
    process = start(tmp_path, "run", "flood", str(2**30))
    assert process.stdout is not None
    seen, peak_kib, first_kib = 0, 0, 0
    while chunk := os.read(process.stdout.fileno(), 2**20):
        seen += len(chunk)
        if seen % 2**24 < len(chunk):
            resident = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
            peak_kib = max(peak_kib, int(resident.split()[1]))
            first_kib = first_kib or peak_kib
    process.communicate()
    assert (process.returncode, seen) == (0, 2**30)
    assert peak_kib - first_kib < 8 * 1024


def test_a_reader_that_goes_away_kills_the_command(tmp_path: Path) -> None:
    with start(tmp_path, "run", "flood", str(2**40)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10) == b"x" * 10
        process.stdout.close()
        assert process.wait(DEADLINE_S) == 141
        assert process.stderr.read() == b""
    assert log_of(tmp_path)[-2:] == ["kill", "destroyed"]


def test_output_to_a_full_disk_is_an_error_that_kills_the_command(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command_line("run", "flood", str(2**40)), stdout=full, stderr=subprocess.PIPE, env=environment_in(tmp_path), cwd=tmp_path
        )
    assert done.returncode == 125
    assert done.stderr == b"error: cannot write the command's output: No space left on device\n"
    assert log_of(tmp_path)[-1] == "destroyed"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGQUIT, 131)])
def test_a_signal_is_passed_to_the_whole_tree(number: signal.Signals, status: int, tmp_path: Path) -> None:
    process = start(tmp_path, "run", "polite")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, err) == (status, b"")
    assert out == f"asked by {number:d}\n".encode()
    assert f"signal {number:d} tree=True" in log_of(tmp_path)
    assert log_of(tmp_path)[-1] == "destroyed"
    assert "kill" not in log_of(tmp_path)


def test_a_second_signal_kills(tmp_path: Path) -> None:
    process = start(tmp_path, "run", "stubborn")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    wait_for_log(tmp_path, "signal 2 tree=True")
    assert "kill" not in log_of(tmp_path)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, log_of(tmp_path)[-2:]) == (130, ["kill", "destroyed"])
    assert time.monotonic() - begun < 1.5


def test_a_command_that_ignores_a_signal_is_killed_after_two_seconds(tmp_path: Path) -> None:
    process = start(tmp_path, "run", "stubborn")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 143
    assert 1.8 < time.monotonic() - begun < 10
    assert log_of(tmp_path)[-2:] == ["kill", "destroyed"]


def test_a_signal_while_the_sandbox_is_built_cancels_that(tmp_path: Path) -> None:
    process = start(tmp_path, "run", "echo", SCRIPTED_SLOW="1")
    wait_for_log(tmp_path, "building")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out, err) == (130, b"", b"")
    assert "start echo" not in log_of(tmp_path)


def test_a_signal_ends_it_though_nobody_reads_its_output(tmp_path: Path) -> None:
    """As with a paused pager."""
    process = start(tmp_path, "run", "flood", str(2**40))
    wait_for_log(tmp_path, "start flood")
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    wait_for_log(tmp_path, "signal 2 tree=True")
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE_S) == 130
    assert log_of(tmp_path)[-1] == "destroyed"
    process.communicate()


def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """As nohup sets it up."""
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command_line("run", "polite")],
        stdout=subprocess.PIPE,
        env=environment_in(tmp_path),
        cwd=tmp_path,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 143


def test_an_interrupted_run_says_so_in_json(tmp_path: Path) -> None:
    process = start(tmp_path, "run", "--json", "polite")
    wait_for_log(tmp_path, "start polite")
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert b'"exit_code": 130, "interrupted_by": 2' in out


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_no_harm(closed: str, tmp_path: Path) -> None:
    script = f'exec "$@" {closed}'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *command_line("run", "both", "5")], capture_output=True, env=environment_in(tmp_path), cwd=tmp_path
    )
    assert done.returncode == 5
    assert b"Traceback" not in done.stderr
