"""Sandboxes that live on, each step from a shell of its own; and with the daemon killed between any two."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from e2e.conftest import DEADLINE_S, AgentKernel
from e2e.host import processes_named, wait_until


def _info(agentkernel: AgentKernel, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(agentkernel("info", "--json", name).stdout)
    return found


def _ok(done: subprocess.CompletedProcess[bytes], output: bytes = b"") -> None:
    assert (done.returncode, done.stdout) == (0, output), done.stderr


LIFE: tuple[tuple[tuple[str, ...], bytes], ...] = (
    (("create", "-q", "box"), b"box\n"),
    (("start", "box"), b"box\n"),
    (("exec", "box", "sh", "-c", "echo kept > ~/file; chmod 640 ~/file; echo made"), b"made\n"),
    (("stop", "box"), b"box\n"),
    (("start", "box"), b"box\n"),
    (("exec", "box", "sh", "-c", "cat ~/file; stat -c %a ~/file"), b"kept\n640\n"),
    (("remove", "--force", "box"), b"box\n"),
)


def test_a_sandbox_keeps_its_files_until_it_is_removed(behind_daemon: AgentKernel) -> None:
    for words, output in LIFE:
        _ok(behind_daemon(*words), output)
    assert behind_daemon("info", "box").returncode == 125


def test_the_daemon_may_be_killed_between_any_two_steps(behind_daemon: AgentKernel) -> None:
    for words, output in LIFE:
        _ok(behind_daemon(*words), output)
        behind_daemon.kill_daemon()
    assert behind_daemon("info", "box").returncode == 125


def test_one_whose_first_process_is_killed_is_stopped_and_starts_again_with_its_files(behind_daemon: AgentKernel) -> None:
    _ok(behind_daemon("create", "-q", "--start", "box"), b"box\n")
    _ok(behind_daemon("exec", "box", "sh", "-c", "echo kept > ~/file; sync"))
    sandbox_id = _info(behind_daemon, "box")["id"]
    (record,) = (Path(behind_daemon.environment["AGENTKERNEL_HOME"]) / "run").rglob(f"lasting/{sandbox_id}/pid")
    os.kill(int(record.read_text().split()[0]), signal.SIGKILL)
    wait_until(lambda: _info(behind_daemon, "box")["status"] == "stopped")
    assert "first process was killed by signal 9" in _info(behind_daemon, "box")["reason"]
    refused = behind_daemon("exec", "box", "true")
    assert refused.returncode == 125 and b"agentkernel start box" in refused.stderr, refused
    _ok(behind_daemon("start", "box"), b"box\n")
    _ok(behind_daemon("exec", "box", "sh", "-c", "cat ~/file"), b"kept\n")


def test_the_output_of_a_command_is_complete_though_the_daemon_is_killed_under_it(behind_daemon: AgentKernel) -> None:
    _ok(behind_daemon("create", "-q", "--start", "box"), b"box\n")
    script = "i=0; while [ $i -lt 300 ]; do echo line $i; echo error $i >&2; i=$((i+1)); sleep 0.01; done; exit 7"
    with behind_daemon.start("exec", "box", "sh", "-c", script) as process:
        assert process.stdout is not None
        seen = process.stdout.readline()
        for _ in range(3):
            behind_daemon.kill_daemon()
            seen += process.stdout.readline() + process.stdout.readline()
        seen += process.stdout.read()
        assert process.stderr is not None
        errors = process.stderr.read()
        assert process.wait(DEADLINE_S) == 7
    assert seen == b"".join(b"line %d\n" % at for at in range(300))
    assert errors == b"".join(b"error %d\n" % at for at in range(300))


def test_input_is_complete_though_the_daemon_is_killed_under_it(behind_daemon: AgentKernel) -> None:
    _ok(behind_daemon("create", "-q", "--start", "box"), b"box\n")
    data = os.urandom(3_000_000)
    with behind_daemon.start("exec", "box", "sha256sum", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for at in range(0, len(data), 1_000_000):
            process.stdin.write(data[at : at + 1_000_000])
            process.stdin.flush()
            behind_daemon.kill_daemon()
        out, _ = process.communicate(timeout=DEADLINE_S)
    wanted = subprocess.run(["sha256sum"], input=data, capture_output=True, check=True).stdout
    assert (process.returncode, out) == (0, wanted)


def test_a_run_survives_the_daemon(behind_daemon: AgentKernel) -> None:
    with behind_daemon.start("run", "-q", "sh", "-c", "echo before; sleep 1; echo after; exit 3") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"before\n"
        behind_daemon.kill_daemon()
        assert process.stdout.read() == b"after\n"
        assert process.wait(DEADLINE_S) == 3


def test_signals_reach_the_command_through_the_next_daemon(behind_daemon: AgentKernel) -> None:
    _ok(behind_daemon("create", "-q", "--start", "box"), b"box\n")
    script = 'trap "echo asked; exit 0" TERM; echo ready; while :; do sleep 0.05; done'
    with behind_daemon.start("exec", "box", "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        behind_daemon.kill_daemon()
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == b"asked\n"
        assert process.wait(DEADLINE_S) == 143


def test_background_commands_go_on_and_are_joined_again(behind_daemon: AgentKernel) -> None:
    _ok(behind_daemon("create", "-q", "--start", "box"), b"box\n")
    script = "i=0; while [ $i -lt 20 ]; do echo line $i; i=$((i+1)); sleep 0.1; done; sleep 60"
    started = behind_daemon("exec", "-d", "box", "sh", "-c", script)
    ident = started.stdout.decode().strip()
    behind_daemon.kill_daemon()
    with behind_daemon.start("attach", "box", ident) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(20)] == [b"line %d\n" % at for at in range(20)]
        process.terminate()
        assert process.wait(DEADLINE_S) == 143
    assert [each["exec_id"] for each in json.loads(behind_daemon("ps", "--json", "box").stdout)] == [ident]
    wait_until(lambda: behind_daemon("logs", "box").stdout.count(b"\n") == 20)


def test_the_other_steps_do_not_mind_a_dead_daemon_either(behind_daemon: AgentKernel) -> None:
    _ok(behind_daemon("create", "-q", "box", "--label", "a=1"), b"box\n")
    behind_daemon.kill_daemon()
    _ok(behind_daemon("rename", "box", "case"), b"case\n")
    behind_daemon.kill_daemon()
    assert behind_daemon("extend-ttl", "case", "1h").returncode == 0
    behind_daemon.kill_daemon()
    found = _info(behind_daemon, "case")
    assert (found["labels"], found["status"]) == ({"a": "1"}, "stopped")
    assert abs(found["expires_at"] - time.time() - 3600) < 60


def test_stopping_twice_and_starting_twice_is_fine(behind_daemon: AgentKernel) -> None:
    behind_daemon("create", "-q", "box")
    for verb in ("stop", "start", "start", "stop", "stop"):
        _ok(behind_daemon(verb, "box"), b"box\n")


def test_a_stop_ends_everything_inside(behind_daemon: AgentKernel) -> None:
    behind_daemon("create", "-q", "--start", "box")
    behind_daemon("exec", "-d", "box", "sleep", "987.125")
    wait_until(lambda: processes_named("987.125"))
    _ok(behind_daemon("stop", "box"), b"box\n")
    assert processes_named("987.125") == []


def test_a_running_sandbox_is_removed_by_force_only(behind_daemon: AgentKernel) -> None:
    behind_daemon("create", "-q", "--start", "box")
    refused = behind_daemon("remove", "box")
    assert (refused.returncode, b"--force" in refused.stderr) == (125, True)
    _ok(behind_daemon("rm", "-f", "box"), b"box\n")


def test_what_is_not_there_or_there_already(behind_daemon: AgentKernel) -> None:
    for words in (("start", "none"), ("stop", "none"), ("remove", "none"), ("info", "none"), ("exec", "none", "ls"), ("ps", "none")):
        done = behind_daemon(*words)
        assert (done.returncode, done.stdout, done.stderr.startswith(b"error: there is no sandbox 'none'")) == (125, b"", True), words
    behind_daemon("create", "-q", "box")
    assert behind_daemon("create", "-q", "box").returncode == 125
    assert behind_daemon("create", "-q", "Not/A/Name").returncode == 2


def test_what_fails_for_one_is_done_for_the_others(behind_daemon: AgentKernel) -> None:
    behind_daemon("create", "-q", "box")
    done = behind_daemon("start", "none", "box")
    assert (done.returncode, done.stdout, done.stderr.count(b"error:")) == (125, b"box\n", 1)
    assert _info(behind_daemon, "box")["status"] == "running"


def test_a_sandbox_remembers_its_backend(behind_daemon: AgentKernel) -> None:
    behind_daemon("create", "-q", "--start", "box")
    for words in (("exec", "-B", "docker", "box", "true"), ("start", "-B", "docker", "box")):
        done = behind_daemon(*words)
        assert (done.returncode, b"is of backend 'namespaces', not 'docker'" in done.stderr) == (125, True)
    assert behind_daemon("exec", "--backend", "namespaces", "box", "true").returncode == 0


def test_list_shows_what_there_is(behind_daemon: AgentKernel) -> None:
    empty = behind_daemon("list")
    assert (empty.stdout, empty.stderr.startswith(b"No sandboxes found.")) == (b"", True)
    behind_daemon("create", "-q", "one", "--label", "a=1", "--label", "b=2")
    behind_daemon("create", "-q", "two", "--start")
    lines = behind_daemon("list").stdout.decode().splitlines()
    assert lines[0].split() == ["NAME", "STATUS", "BACKEND", "ISOLATION", "NETWORK", "PORTS", "IMAGE", "AGE"]
    assert [line.split()[:6] for line in lines[1:]] == [
        ["one", "stopped", "namespaces", "container", "filtered", "host"],
        ["two", "running", "namespaces", "container", "filtered", "host"],
    ]
    assert behind_daemon("list", "-q", "--status", "running").stdout == b"two\n"
    assert behind_daemon("ls", "-q", "--label", "a=1").stdout == b"one\n"
    assert behind_daemon("list", "-q", "--label", "a=2").stdout == b""
    records = json.loads(behind_daemon("list", "--json").stdout)
    assert [(each["name"], each["labels"]) for each in records] == [("one", {"a": "1", "b": "2"}), ("two", {})]
    with behind_daemon.start("run", "-q", "sleep", "987.5") as process:
        wait_until(lambda: len(json.loads(behind_daemon("list", "--all", "--json").stdout)) == 3)
        assert len(json.loads(behind_daemon("list", "--json").stdout)) == 2
        process.terminate()


def test_info_describes_one(behind_daemon: AgentKernel) -> None:
    behind_daemon("create", "-q", "box", "--profile", "restrictive", "--ttl", "1h", "--idle", "30m", "--label", "a=1")
    shown = dict(line.split(maxsplit=1) for line in behind_daemon("info", "box").stdout.decode().splitlines())
    assert (shown["status"], shown["profile"], shown["labels"]) == ("stopped", "restrictive", "a=1")
    record = _info(behind_daemon, "box")
    assert (record["idle_s"], record["backend"], record["id"]) == (1800.0, "namespaces", shown["id"])
    assert _info(behind_daemon, record["id"])["name"] == "box"


def test_create_makes_up_a_name_or_takes_the_projects(behind_daemon: AgentKernel) -> None:
    name = behind_daemon("create", "-q").stdout.decode().strip()
    assert _info(behind_daemon, name)["status"] == "stopped"
    (behind_daemon.directory / "agentkernel.toml").write_text('[sandbox]\nname = "of-project"\n')
    assert behind_daemon("create", "-q").stdout == b"of-project\n"


def test_the_time_to_live_is_extended_and_ends(behind_daemon: AgentKernel) -> None:
    behind_daemon("create", "-q", "box", "--ttl", "1h")
    assert behind_daemon("extend-ttl", "box", "--by", "1h").returncode == 0
    assert abs(_info(behind_daemon, "box")["expires_at"] - time.time() - 7200) < 60
    assert behind_daemon("extend-ttl", "box", "never").stdout == b"box never expires\n"
    assert _info(behind_daemon, "box")["expires_at"] is None
    behind_daemon("extend-ttl", "box", "10ms")
    wait_until(lambda: b"box" in behind_daemon("gc").stdout or behind_daemon("info", "box").returncode == 125)
    assert behind_daemon("info", "box").returncode == 125
    assert behind_daemon("extend-ttl", "box").returncode == 2


def test_a_run_can_be_kept(behind_daemon: AgentKernel) -> None:
    done = behind_daemon("run", "--keep", "--name", "box", "sh", "-c", "echo made > ~/file; exit 4")
    assert (done.returncode, b"the sandbox box stays" in done.stderr) == (4, True)
    assert behind_daemon("exec", "box", "sh", "-c", "cat ~/file").stdout == b"made\n"
    off = behind_daemon("run", "--keep", "--no-daemon", "true")
    assert (off.returncode, b"needs the daemon" in off.stderr) == (125, True)


def test_the_audit_trail_tells_it_all(behind_daemon: AgentKernel) -> None:
    for words in (("create", "-q", "box"), ("start", "box"), ("exec", "box", "true"), ("stop", "box"), ("remove", "box"), ("stop", "box")):
        behind_daemon(*words)
    events = [json.loads(line) for line in behind_daemon("audit", "--sandbox", "box").stdout.splitlines()]
    kinds = [event["kind"] for event in events if event["outcome"] == "ok"]
    wanted = ["sandbox.created", "sandbox.started", "exec.started", "exec.ended", "sandbox.stopped", "sandbox.removed"]
    assert kinds[-len(wanted) :] == wanted
    assert len(behind_daemon("audit", "--last", "2").stdout.splitlines()) == 2
    only = [json.loads(line) for line in behind_daemon("audit", "--kind", "exec.", "--last", "2").stdout.splitlines()]
    assert [event["kind"] for event in only] == ["exec.started", "exec.ended"]
    assert only[0]["exec_id"] == only[1]["exec_id"] != ""


def test_the_audit_trail_can_be_followed(behind_daemon: AgentKernel) -> None:
    with behind_daemon.start("audit", "--follow", "--kind", "sandbox.created", "--since", f"@{time.time():.3f}") as process:
        behind_daemon("create", "-q", "box")
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["sandbox"] == "box"
        process.terminate()


def test_verbs_that_need_the_daemon_say_so(behind_daemon: AgentKernel) -> None:
    behind_daemon.environment["AGENTKERNEL_DAEMON"] = "off"
    for words in (("list",), ("create", "x"), ("exec", "x", "ls"), ("cp", "x:/a", "."), ("audit",)):
        done = behind_daemon(*words)
        assert (done.returncode, b"needs the daemon" in done.stderr) == (125, True), words
    assert behind_daemon("daemon", "start").returncode == 0  # who asks for it by name gets it
    behind_daemon.environment["AGENTKERNEL_DAEMON"] = "on"


def test_the_daemon_is_started_looked_at_and_stopped(behind_daemon: AgentKernel) -> None:
    behind_daemon("create", "-q", "--start", "box")
    shown = behind_daemon("daemon", "status").stdout.decode()
    assert "1, 1 running" in shown
    pid = behind_daemon.daemon_pid()
    assert behind_daemon("daemon", "stop").stdout == f"stopped (pid {pid})\n".encode()
    status = behind_daemon("daemon", "status", "--json")
    assert (status.returncode, json.loads(status.stdout)["running"]) == (1, False)
    assert behind_daemon("daemon", "stop").stdout == b"not running\n"
    assert behind_daemon("list", "--quiet", "--if-running").stdout == b""
    assert behind_daemon("daemon", "start").returncode == 0
    assert behind_daemon.daemon_pid() != pid
    assert behind_daemon("exec", "box", "echo", "still here").stdout == b"still here\n"


def test_where_no_daemon_can_be_started_a_run_does_without_and_says_so_once(behind_daemon: AgentKernel, tmp_path: Path) -> None:
    own = AgentKernel(directory=tmp_path, environment=dict(behind_daemon.environment))
    own.environment |= {"AGENTKERNEL_HOME": str(tmp_path / "ak"), "XDG_STATE_HOME": str(tmp_path / "state")}
    own.environment["AGENTKERNEL_SOCKET"] = "/proc/none/socket"
    first, second = own("run", "echo", "hello"), own("run", "echo", "hello")
    assert (first.returncode, first.stdout, second.stdout) == (0, b"hello\n", b"hello\n")
    assert b"this runs without a daemon" in first.stderr
    assert b"without a daemon" not in second.stderr
    assert own("list").returncode == 125


@pytest.mark.parametrize(
    "words",
    [
        ("create", "box", "--frobnicate"),
        ("create", "box", "--label", "nonsense"),
        ("create", "box", "--ttl", "soon"),
        ("start",),
        ("list", "--status", "sleeping"),
        ("logs", "box", "--exec", "zz"),
        ("kill", "box"),
        ("kill", "box", "--signal", "TREM", "--all"),
        ("audit", "--since", "2026-99-99"),
        ("audit", "--last", "x"),
        ("cp", "a", "b"),
        ("cp", "box:/a", "other:/b"),
        ("cp", "box:relative", "."),
        ("cp", "box:/a/../b", "."),
        ("attach", "--detach-keys", "ctrl-", "box"),
        ("daemon", "dance"),
    ],
)
def test_wrong_words_are_two_lines_and_status_2(words: tuple[str, ...], behind_daemon: AgentKernel) -> None:
    done = behind_daemon(*words)
    assert (done.returncode, done.stdout, done.stderr.startswith(b"error: ")) == (2, b"", True)
    assert len(done.stderr.splitlines()) <= 2
