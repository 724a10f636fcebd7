"""Commands in sandboxes that live on: exec, attach, ps, logs, kill."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest
from e2e.conftest import DEADLINE_S, AgentKernel
from e2e.host import processes_named, wait_until
from unit.cli_harness import OnTerminal


@pytest.fixture
def box(behind_daemon: AgentKernel) -> Iterator[AgentKernel]:
    """With a running sandbox `box`."""
    assert behind_daemon("create", "-q", "--start", "box").returncode == 0
    yield behind_daemon


def _terminal(box: AgentKernel, *words: str) -> OnTerminal:
    return OnTerminal(box.directory, words, argv=box.argv, environment=box.environment | {"TERM": "xterm"})


def _running(box: AgentKernel) -> list[str]:
    return [each["exec_id"] for each in json.loads(box("ps", "--json", "box").stdout)]


@pytest.mark.parametrize("code", [0, 3, 124, 125, 127, 255])
def test_the_exit_code_is_the_commands(code: int, box: AgentKernel) -> None:
    done = box("exec", "box", "sh", "-c", f"echo out; echo err >&2; exit {code}")
    assert (done.returncode, done.stdout, done.stderr) == (code, b"out\n", b"err\n")


def test_what_does_not_start_has_a_status_of_its_own(box: AgentKernel) -> None:
    assert box("exec", "box", "no-such-command").returncode == 127
    assert box("exec", "box", "/etc/passwd").returncode == 126
    assert box("exec", "-w", "/no/such/directory", "box", "ls").returncode == 125
    box("stop", "box")
    stopped = box("exec", "box", "ls")
    assert (stopped.returncode, b"agentkernel start box" in stopped.stderr) == (125, True)


def test_every_option_does_what_it_says(box: AgentKernel) -> None:
    box.environment["GIVEN"] = "by name"
    done = box("exec", "-e", "A=1", "-e", "GIVEN", "-w", "/usr", "--user", "0", "box", "sh", "-c", 'id -u; pwd; echo "$A $GIVEN"')
    assert done.stdout == b"0\n/usr\n1 by name\n"
    timed = box("exec", "--timeout", "300ms", "box", "sleep", "60")
    assert (timed.returncode, b"longer than 300ms" in timed.stderr) == (124, True)
    assert box("exec", "box", "-e", "A=2", "--", "sh", "-c", "echo $A").stdout == b"2\n"


def test_bytes_pass_both_ways(box: AgentKernel) -> None:
    data = bytes(range(256)) * 8192
    assert box("exec", "box", "cat", stdin=data).stdout == data


def test_the_result_as_json(box: AgentKernel) -> None:
    record = json.loads(box("exec", "--json", "box", "sh", "-c", "echo out; exit 3").stdout)
    assert (record["exit_code"], record["stdout"], record["sandbox"], record["backend"]) == (3, "out\n", "box", "namespaces")
    failed = box("exec", "--json", "none", "ls")
    assert (failed.returncode, json.loads(failed.stdout)["error"]["code"]) == (125, "not_found")


def test_a_terminal_inside(box: AgentKernel) -> None:
    with _terminal(
        box, "exec", "box", "sh", "-c", "stty size; trap 'stty size; exit 9' WINCH; echo ready; while :; do sleep 0.05; done"
    ) as child:
        child.expect(b"30 100\r\n")
        child.expect(b"ready")
        assert child.is_raw()
        child.set_size(50, 132)
        child.expect(b"50 132")
        assert child.wait() == 9
        assert not child.is_raw()


def test_a_signal_ends_the_commands_tree_and_not_the_sandbox(box: AgentKernel) -> None:
    with box.start("exec", "box", "sh", "-c", "sleep 987.25 & echo ready; wait") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 143
    wait_until(lambda: not processes_named("987.25"))
    assert box("exec", "box", "echo", "on").stdout == b"on\n"


def test_a_client_that_is_killed_takes_its_command_along(box: AgentKernel) -> None:
    with box.start("exec", "box", "sleep", "987.375") as process:
        wait_until(lambda: len(processes_named("987.375")) == 2)
        process.kill()
    wait_until(lambda: not processes_named("987.375"))


def test_a_detached_command_goes_on_and_is_recorded(box: AgentKernel) -> None:
    started = box("exec", "-d", "box", "sh", "-c", "echo out; echo err >&2; sleep 987.75")
    ident = started.stdout.decode().strip()
    assert (started.returncode, len(ident)) == (0, 16)
    (record,) = json.loads(box("ps", "--json", "box").stdout)
    assert (record["exec_id"], record["detached"], record["running"], record["terminal"]) == (ident, True, True, False)
    wait_until(lambda: box("logs", "box").stderr == b"err\n")
    done = box("logs", "--exec", ident, "box")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")
    lines = [json.loads(line) for line in box("logs", "--json", "box").stdout.splitlines()]
    assert sorted((line["stream"], line["data"]) for line in lines) == [("stderr", "err\n"), ("stdout", "out\n")]
    assert box("logs", "--since", "@9999999999", "box").stdout == b""
    assert box("kill", "box", ident).stdout.decode() == f"{ident}\n"
    wait_until(lambda: not processes_named("987.75"))
    assert json.loads(box("exec", "-d", "--json", "box", "true").stdout)["sandbox"] == "box"


def test_logs_can_be_followed(box: AgentKernel) -> None:
    box("exec", "-d", "box", "sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done")
    with box.start("logs", "--follow", "box") as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(5)] == [b"%d\n" % at for at in range(5)]
        process.terminate()
    box("kill", "--all", "--signal", "KILL", "box")


def test_ps_and_kill(box: AgentKernel) -> None:
    first = box("exec", "-d", "box", "sleep", "987.5").stdout.decode().strip()
    second = box("exec", "-d", "box", "sh", "-c", "trap '' TERM; sleep 987.625; sleep 987.625").stdout.decode().strip()
    assert sorted(_running(box)) == sorted([first, second])
    assert b"sleep 987.5" in box("ps", "box").stdout
    wait_until(lambda: processes_named("987.625"))
    box("kill", "box", first)
    wait_until(lambda: _running(box) == [second])
    box("kill", "-s", "9", "--all", "box")
    wait_until(lambda: _running(box) == [])
    assert box("kill", "box", "0000000000000001").returncode == 125


def test_a_terminal_is_left_and_joined_again(box: AgentKernel) -> None:
    with _terminal(box, "attach", "box") as child:
        child.type(b"X=from-before; echo $((6 * 7))-inside\n")
        child.expect(b"42-inside")
        child.type(b"\x10\x11")
        child.expect(b"goes on")
        assert child.wait() == 0
        assert not child.is_raw()
    (ident,) = _running(box)
    with _terminal(box, "attach", "box", ident) as child:
        child.type(b"echo $X\n")
        child.expect(b"from-before\r\n")
        child.type(b"stty size; exit 5\n")
        child.expect(b"30 100")
        assert child.wait() == 5


def test_a_single_detach_key_is_the_commands(box: AgentKernel) -> None:
    with _terminal(box, "attach", "--shell", "-e", "GREETING=well", "box") as child:
        child.type(b"echo $GREETING; stty raw -echo; od -An -tx1 -N2\n")
        child.expect(b"well")
        child.type(b"\x10x")
        child.expect(b"10 78")
        child.type(b"\x10\x11")
        assert child.wait() == 0
    box("kill", "--all", "-s", "KILL", "box")


def test_attach_without_a_terminal_passes_streams(box: AgentKernel) -> None:
    box("exec", "-d", "box", "sh", "-c", "sleep 0.3; echo out; echo err >&2; exit 6")
    done = box("attach", "--no-stdin", "box")
    assert (done.returncode, done.stdout, done.stderr) == (6, b"out\n", b"err\n")
    assert box("attach", "box", "0000000000000001").returncode == 125
