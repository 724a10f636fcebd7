"""The whole guest agent as a process, spoken to by an independent codec; also built with sanitizers. It runs unsandboxed: harmless commands only."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import random
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from unit.guest_agent import Agent
from unit.guest_wire import (
    CHMOD,
    CONFIGURE,
    CONNECT,
    CONSUMED,
    DETACHED,
    FORGET,
    KILL,
    LIST,
    LIST_DIRECTORY,
    MAX_FRAME,
    MAX_PAYLOAD,
    MKDIR,
    MOVE,
    PING,
    READ,
    REMOVE,
    RESIZE,
    RESUME,
    SHUTDOWN,
    SIGNAL,
    START,
    STAT,
    STATS,
    STDIN,
    STDIN_FOLLOWS,
    STDOUT,
    SYMLINK,
    WATCH,
    WRITE,
    Failure,
    Frame,
    Gone,
    Host,
    decode_entries,
    decode_events,
    decode_fields,
    decode_frame,
    encode_field,
    encode_frame,
    new_id,
    start_payload,
)

ROOT = Path(__file__).resolve().parents[2]
VECTORS = json.loads((ROOT / "tests" / "vectors" / "protocol.json").read_text())
ITSELF, TIMEOUT, KILLED, CLIENT_LOST, SUPERVISOR_LOST = range(5)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: other users to become")


@pytest.fixture
def agent(binary: Path, home: Path) -> Iterator[Agent]:
    running = Agent([str(binary)], home)
    yield running
    running.stop()


@pytest.fixture
def host(agent: Agent) -> Iterator[Host]:
    attached = agent.host()
    yield attached
    attached.close()


@pytest.fixture
def sandboxed(guest_binary: Path, home: Path) -> Iterator[Agent]:
    """The agent as PID 1 of a pid namespace, with /proc and the host's programs."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        pytest.skip("needs bwrap")
    shutil.copy(guest_binary, home / "guest")
    root = ["--ro-bind", "/", "/", "--bind", str(home), str(home), "--proc", "/proc", "--dev", "/dev"]
    argv = [bwrap, "--unshare-pid", "--unshare-net", *root, "--as-pid-1", "--cap-add", "ALL", "--die-with-parent", str(home / "guest")]
    agent = Agent(argv, home, listen_path=str(home / "agent.sock"))
    yield agent
    agent.process.kill()
    agent.stop()


def alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(") ")[2][0] not in "ZX"


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def eventually(condition: Callable[[], object], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def pids_in(output: bytes) -> list[int]:
    return [int(word) for word in output.split()]


# --- Attach ------------------------------------------------------------------------------------------------------------------------------


def test_hello_is_answered_with_the_epoch_and_the_state(agent: Agent) -> None:
    first = agent.host(configure=None)
    assert first.state & 1 == 0
    assert bool(first.state & 2) == (os.geteuid() == 0)
    assert first.state & 4 == 0
    first.configure()
    second = agent.host(configure=None)
    assert second.state & 1 == 1
    assert first.boot_id == second.boot_id != bytes(16)


def test_the_newest_attach_wins_and_the_older_connection_is_closed(agent: Agent) -> None:
    first = agent.host()
    second = agent.host()
    with pytest.raises((Gone, OSError)):
        first.request(PING, b"x")
    assert second.request(PING, b"x")


def test_a_connection_that_says_nothing_does_not_disturb_the_attached_one(agent: Agent) -> None:
    host = agent.host()
    silent = [agent.connect() for _ in range(10)]
    assert host.request(PING, b"x")
    for sock in silent:
        sock.close()
    assert host.request(PING, b"y")


def test_a_host_of_another_version_is_told_so_and_may_try_again(agent: Agent) -> None:
    host = Host(agent.connect())
    assert host.attach(versions=(2, 7)) == 0
    assert host.attach(versions=(1, 7)) == 1
    assert host.request(PING, b"x")


def test_hello_is_found_behind_rubbish(agent: Agent) -> None:
    sock = agent.connect()
    sock.sendall(b"AKCHAN1" + bytes(100) + b"AKCHAN1\n" + bytes(24) + b"AKAKCHAN1")
    assert Host(sock).attach(padding=True) == 1


def test_a_hello_in_place_of_a_frame_is_a_new_attach(host: Host) -> None:
    run = host.started("sleep", "100")
    assert host.attach() == 1
    assert run.id in host.processes()
    host.send(KILL, run.id, struct.pack("<I", 2))


def test_the_codec_of_these_tests_agrees_with_the_vectors() -> None:
    for vector in VECTORS["frames"]:
        data = bytes.fromhex(vector["hex"])
        frame, size = decode_frame(data, vector["tag"])
        assert size == len(data)
        assert (frame.type, frame.flags, frame.id, frame.payload.hex()) == (
            vector["type"],
            vector["flags"],
            vector["id"],
            vector["payload_hex"],
        )
        assert encode_frame(frame, vector["tag"]) == data


def test_an_agent_that_nobody_attends_ends_after_its_time(agent: Agent) -> None:
    host = agent.host(configure=encode_field(4, struct.pack("<I", 400)))
    run = host.started("sleep", "1000", flags=DETACHED)
    time.sleep(0.6)
    assert host.request(PING, b"x")
    host.close()
    assert agent.process.wait(10) == 0
    assert not alive(run.pid)


# --- Frames ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["bad_frames"], ids=lambda v: v["name"])
def test_a_protocol_error_ends_the_attach_but_not_the_processes(agent: Agent, vector: dict[str, str]) -> None:
    host = agent.host()
    run = host.started("sleep", "100")
    frame = bytearray.fromhex(vector["hex"])
    if vector["name"] not in ("wrong_tag", "all_zero"):
        frame[-4:] = struct.pack("<I", host.tag)
    host.sock.sendall(frame)
    with pytest.raises((Gone, OSError)):
        host.request(PING, b"x")
    again = agent.host()
    assert again.processes()[run.id][1] == 0
    again.resume(run)
    again.send(KILL, run.id, struct.pack("<I", 2))
    assert again.finish(run).exit.cause == KILLED


@pytest.mark.parametrize("vector", VECTORS["bad_payloads"], ids=lambda v: v["name"])
def test_a_bad_payload_is_refused_and_does_nothing(host: Host, vector: dict[str, object]) -> None:
    with pytest.raises(Failure) as failure:
        host.request(int(vector["type"]), bytes.fromhex(str(vector["payload_hex"])), flags=int(vector["flags"]))
    assert (failure.value.errno, failure.value.stage) == (vector["errno"], 0)
    assert host.processes() == {}


def test_the_id_zero_is_refused(host: Host) -> None:
    host.send(PING, 0, b"x")
    host.until(lambda: 0 in host.answers)
    assert host.answers[0].type == 129


def test_random_frames_never_end_the_agent(agent: Agent) -> None:
    source = random.Random(7)
    for _ in range(60):
        host = agent.host(configure=None)
        for _ in range(source.randrange(1, 30)):
            payload = source.randbytes(source.choice((0, 4, 8, 16, source.randrange(200))))
            if source.random() < 0.5:
                payload = encode_field(source.randrange(14), payload, source.randrange(2))
            kind = source.choice((CONFIGURE, START, STDIN, CONSUMED, SIGNAL, RESIZE, KILL, RESUME, FORGET, LIST, STATS, PING))
            try:
                host.send(kind, source.choice((1, 2, 3, source.randrange(1 << 64))), payload, source.randrange(4))
            except OSError:
                break
        host.close()
    for _ in range(60):
        sock = agent.connect()
        try:
            sock.sendall(b"AKCHAN1\n\1\0\0\0" + bytes(12) + b"\1\0\1\0" + bytes(4) + source.randbytes(source.randrange(3000)))
        except OSError:
            pass
        sock.close()
    assert agent.host(configure=None).request(PING, b"x")


# --- Configure ---------------------------------------------------------------------------------------------------------------------------


def test_start_before_configure_is_refused(agent: Agent) -> None:
    host = agent.host(configure=None)
    with pytest.raises(Failure) as failure:
        host.run("true")
    assert failure.value.errno == errno.EPERM


def test_configure_counts_once(agent: Agent) -> None:
    limits = encode_field(3, struct.pack("<IQQ", resource.RLIMIT_NOFILE, 77, 99))
    host = agent.host(configure=limits)
    host.configure(limits)
    with pytest.raises(Failure) as failure:
        host.configure(encode_field(2, struct.pack("<I", 1)))
    assert failure.value.errno == errno.EEXIST
    assert host.run("sh", "-c", "ulimit -Sn; ulimit -Hn").stdout == b"77\n99\n"


def test_how_long_it_stays_alone_may_be_configured_anew(agent: Agent) -> None:
    limits = encode_field(3, struct.pack("<IQQ", resource.RLIMIT_NOFILE, 77, 99))
    host = agent.host(configure=limits)
    host.configure(limits + encode_field(4, struct.pack("<I", 100)))
    assert host.run("sh", "-c", "ulimit -Sn; ulimit -Hn").stdout == b"77\n99\n"
    host.close()
    assert agent.process.wait(10) == 0


def test_an_agent_that_was_to_end_alone_may_be_told_to_stay(agent: Agent) -> None:
    host = agent.host(configure=encode_field(4, struct.pack("<I", 1)))
    host.configure(b"")
    host.close()
    for _ in range(20):  # each time it is alone for longer than it was to be
        again = agent.host(configure=None)
        assert again.run("true").exit.value == 0
        again.close()


def test_the_filter_holds_for_programs_and_builtins(agent: Agent, home: Path) -> None:
    # mkdirat -> EPERM, mkdir -> EPERM (x86_64), all else allowed
    numbers = (258, 83) if os.uname().machine == "x86_64" else (34, 34)
    program = [(0x20, 0, 0, 0)]
    program += [(0x15, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    program += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050000 | errno.EPERM)]
    host = agent.host(configure=encode_field(1, b"".join(struct.pack("<HBBI", *i) for i in program)))
    assert host.run("mkdir", str(home / "a")).exit.value == 1
    assert host.run(str(home / "b"), "755", "-", builtin=MKDIR).exit.value == errno.EPERM
    assert host.run("grep", "^Seccomp:", "/proc/self/status").stdout == b"Seccomp:\t2\n"


# --- Processes ---------------------------------------------------------------------------------------------------------------------------


def test_streams_are_kept_apart_and_the_exit_code_is_the_commands(host: Host) -> None:
    run = host.run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (run.stdout, run.stderr) == (b"out\n", b"err\n")
    assert (run.exit.kind, run.exit.value, run.exit.cause, run.exit.flags) == (0, 3, ITSELF, 0)
    assert (run.exit.stdout_end, run.exit.stderr_end) == (4, 4)
    assert run.exit.max_rss_bytes > 0


def test_a_signal_is_not_an_exit_code(host: Host) -> None:
    run = host.run("sh", "-c", "kill -SEGV $$")
    assert (run.exit.kind, run.exit.value, run.exit.cause) == (1, signal.SIGSEGV, ITSELF)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("no-such-command",), errno.ENOENT),
        (("/no/such/command",), errno.ENOENT),
        (("",), errno.ENOENT),
        (("/etc",), errno.EACCES),
        (("/etc/passwd",), errno.EACCES),
        (("/etc/passwd/x",), errno.ENOTDIR),
    ],
)
def test_what_cannot_be_executed_fails_at_the_exec(host: Host, argv: tuple[str, ...], expected: int) -> None:
    with pytest.raises(Failure) as failure:
        host.run(*argv)
    assert (failure.value.errno, failure.value.stage) == (expected, 8)


def test_a_missing_directory_fails_at_its_stage(host: Host) -> None:
    with pytest.raises(Failure) as failure:
        host.run("true", cwd="/no/such/directory")
    assert (failure.value.errno, failure.value.stage) == (errno.ENOENT, 5)


def test_failures_are_remembered_until_forgotten(host: Host) -> None:
    first = host.start("no-such-command")
    host.until(lambda: first.failure)
    first.failure = None
    host.send(START, first.id, start_payload("true"))
    host.until(lambda: first.failure)
    assert host.processes()[first.id][:2] == (0, 1)
    first.failure = None
    with pytest.raises(Failure) as failure:
        host.resume(first)
    assert failure.value.stage == 8
    host.send(FORGET, first.id)
    assert host.processes() == {}


def test_a_command_runs_clean(host: Host, home: Path) -> None:
    host.run("sh", "-c", "true")
    script = (
        "pwd; umask; ls -l /proc/self/fd | grep -c /; grep -E '^(SigBlk|SigIgn|CapInh|CapPrm|CapEff|CapAmb|NoNewPrivs)' /proc/self/status"
    )
    run = host.run("sh", "-c", script, cwd=str(home), env=("PATH=/usr/bin:/bin", "A=b=c"))
    lines = run.stdout.decode().split("\n")
    assert lines[:2] == [str(home), "0022"]
    status = dict(line.split(":\t") for line in lines[3:] if line)
    assert status.pop("NoNewPrivs") == "1"
    assert set(status.values()) == {"0" * 16}


def test_a_command_has_only_its_three_descriptors(host: Host) -> None:
    run = host.run("sh", "-c", "echo /proc/$$/fd/*", flags=STDIN_FOLLOWS, stdin=b"")
    assert {int(p.rpartition("/")[2]) for p in run.stdout.decode().split()} <= {0, 1, 2, 10, 255, 3}
    run = host.run("/bin/readlink", "/proc/self/fd/0", "/proc/self/fd/3", "/proc/self/fd/4")
    assert run.stdout == b"/dev/null\n"


def test_a_command_leads_a_session_of_its_own(host: Host) -> None:
    run = host.run("sh", "-c", "cut -d' ' -f1,5,6 /proc/$$/stat")
    pid, group, session = pids_in(run.stdout)
    assert pid == group == session == run.pid


def test_the_environment_is_only_what_was_given(host: Host) -> None:
    assert host.run("/usr/bin/env", env=("ONLY=this",)).stdout == b"ONLY=this\n"


def test_a_command_is_looked_up_in_its_own_path(host: Host, home: Path) -> None:
    (home / "first").mkdir()
    (home / "second").mkdir()
    (home / "first" / "tool").write_text("not executable")
    (home / "second" / "tool").write_text("#!/bin/sh\necho second\n")
    (home / "second" / "tool").chmod(0o755)
    assert host.run("tool", env=(f"PATH=/nowhere:{home}/first:{home}/second",)).stdout == b"second\n"
    with pytest.raises(Failure) as failure:
        host.run("tool", env=(f"PATH={home}/first",))
    assert failure.value.errno == errno.EACCES


@needs_root
def test_a_command_runs_as_its_user(host: Host) -> None:
    run = host.run("sh", "-c", "id -u; id -g; id -G; grep CapBnd /proc/self/status", user=(1234, 2345), groups=(2345, 77))
    assert run.stdout == b"1234\n2345\n2345 77\nCapBnd:\t0000000000000000\n"


@needs_root
def test_the_agent_cannot_be_read_by_the_workload_of_another_user(host: Host, agent: Agent) -> None:
    run = host.run(
        "sh", "-c", f"cat /proc/{agent.process.pid}/environ; ls /proc/{agent.process.pid}/fd; kill {agent.process.pid}", user=(1234, 1234)
    )
    assert run.stdout == b""
    assert host.request(PING, b"x")


def test_a_known_exec_is_not_run_twice(host: Host, home: Path) -> None:
    run = host.started("sh", "-c", f"echo x >> {home}/count; echo said; sleep 0.2")
    first = run.pid
    for starts in (2, 3, 4):
        run.offsets = {1: 0, 2: 0}
        host.send(START, run.id, start_payload("false"))
        host.until(lambda starts=starts: run.starts == starts)
        assert run.pid == first
    host.finish(run)
    assert (home / "count").read_text() == "x\n"
    assert run.stdout.count(b"said") >= 1


def test_output_that_is_consumed_after_a_new_subscription_is_not_sent_as_nothing(host: Host) -> None:
    run = host.started("sh", "-c", "echo said; read line", flags=STDIN_FOLLOWS)
    host.until(lambda: run.stdout == b"said\n")
    frames = (Frame(START, 0, run.id, start_payload("false")), Frame(CONSUMED, STDOUT, run.id, struct.pack("<Q", 5)))
    host.sock.sendall(b"".join(encode_frame(frame, host.tag) for frame in frames))  # at once, so that nothing is sent between the two
    host.until(lambda: run.starts == 2)
    host.type(run, b"\n", end=True)
    assert host.finish(run).exit is not None


def test_many_processes_at_once(host: Host) -> None:
    runs = [host.start("sh", "-c", f"echo {i}; cat", flags=STDIN_FOLLOWS) for i in range(150)]
    host.until(lambda: all(r.stdin_limit for r in runs), 60)
    assert len(host.processes()) == 150
    for run in runs:
        host.type(run, b"in", end=True)
    for i, run in enumerate(runs):
        assert host.finish(run, 60).stdout == b"%d\nin" % i
        host.send(FORGET, run.id)
    assert host.processes() == {}


def test_more_than_a_thousand_processes_are_refused_and_none_is_lost(guest_binary: Path, home: Path) -> None:
    agent = Agent([str(guest_binary)], home)
    host = agent.host()
    runs = [host.start("/bin/sleep", "1000", flags=DETACHED) for _ in range(1030)]
    host.until(lambda: all(r.pid or r.failure for r in runs), 120)
    refused = [r for r in runs if r.failure]
    assert {r.failure.errno for r in refused} <= {errno.EAGAIN, errno.EMFILE}
    assert len(refused) >= 6
    assert len(host.processes()) == 1030 - len(refused)
    host.request(SHUTDOWN)
    assert agent.process.wait(60) == 0
    agent.stop()
    assert not any(alive(r.pid) for r in runs if r.pid)


# --- Output ------------------------------------------------------------------------------------------------------------------------------


def test_large_output_arrives_whole(host: Host) -> None:
    run = host.run("sh", "-c", "seq 1 300000; seq 1 1000 >&2")
    assert run.stdout == b"".join(b"%d\n" % i for i in range(1, 300001))
    assert run.stderr == b"".join(b"%d\n" % i for i in range(1, 1001))
    assert run.gaps == 0


def test_a_host_that_does_not_consume_slows_the_process_down(host: Host, home: Path) -> None:
    host.auto_consume = False
    run = host.start("sh", "-c", f"head -c 3000000 /dev/zero; echo done > {home}/done", ring=65_536)
    host.quiet(0.5)
    assert len(run.stdout) == 65_536
    assert not (home / "done").exists()
    host.auto_consume = True
    host.send(CONSUMED, run.id, struct.pack("<Q", 65_536), 1)
    assert host.finish(run).exit.stdout_end == 3_000_000
    assert len(run.stdout) == 3_000_000


def test_a_slow_host_loses_nothing_of_a_command_that_has_ended(host: Host) -> None:
    host.auto_consume = False
    run = host.start("sh", "-c", "head -c 150000 /dev/zero", ring=4096)
    host.quiet(0.6)
    assert run.exit is None and len(run.stdout) == 4096
    host.auto_consume = True
    host.send(CONSUMED, run.id, struct.pack("<Q", 4096), 1)
    assert host.finish(run).exit.stdout_end == 150_000
    assert len(run.stdout) == 150_000


def test_survivors_go_on_and_their_output_is_kept_past_the_end(host: Host) -> None:
    run = host.run("sh", "-c", "(sleep 0.5; echo later; sleep 100) & echo now; echo $! ")
    now, pid = run.stdout.split()
    assert now == b"now"
    assert (run.exit.flags & 1, run.exit.cause) == (1, ITSELF)
    assert alive(int(pid))
    time.sleep(0.6)
    host.resume(run)
    host.finish(run)
    assert run.stdout.endswith(b"later\n")
    assert run.exit.stdout_end == len(run.stdout) - len(b"later\n")
    os.kill(int(pid), signal.SIGKILL)


def test_survivors_live_on_when_their_record_is_forgotten(host: Host, home: Path) -> None:
    run = host.run("sh", "-c", f"(sleep 0.3; head -c 1000000 /dev/zero; echo alive > {home}/proof) & exit 0")
    host.send(FORGET, run.id)
    assert host.processes() == {}
    eventually((home / "proof").exists)


def test_quiet_survivors_do_not_delay_the_end(host: Host) -> None:
    before = time.monotonic()
    run = host.run("sh", "-c", "sleep 100 > /dev/null 2>&1 & echo $!")
    assert time.monotonic() - before < 5
    assert run.exit.flags & 1
    os.kill(int(run.stdout), signal.SIGKILL)


def test_a_detached_process_writes_on_without_a_host_and_keeps_the_newest(agent: Agent) -> None:
    host = agent.host()
    run = host.started("sh", "-c", "sleep 0.3; seq 1 100000", flags=DETACHED, ring=4096)
    host.close()
    time.sleep(1)
    again = agent.host()
    again.resume(run)
    again.finish(run)
    whole = b"".join(b"%d\n" % i for i in range(1, 100001))
    assert run.stdout == whole[-4096:]
    assert run.exit.stdout_end == len(whole)
    assert run.exit.flags & 2
    assert run.resumed[2] == len(whole) - 4096


def test_a_detached_process_that_outruns_its_host_waits_for_it(host: Host) -> None:
    run = host.started("seq", "1", "300000", flags=DETACHED, ring=4096)
    host.finish(run)
    assert run.stdout == b"".join(b"%d\n" % i for i in range(1, 300001))
    assert not run.exit.flags & 2


def test_a_detached_process_waits_no_more_for_a_host_that_has_gone(agent: Agent) -> None:
    host = agent.host()
    run = host.started("seq", "1", "2000000", flags=DETACHED, ring=4096)
    host.close()
    again = agent.host()
    again.resume(run)
    again.finish(run)
    assert run.stdout.endswith(b"1999999\n2000000\n")
    assert run.exit.value == 0


# --- Input -------------------------------------------------------------------------------------------------------------------------------


def test_input_is_passed_on_and_ends(host: Host) -> None:
    data = random.Random(1).randbytes(3_000_000)
    assert host.run("cat", stdin=data).stdout == data


def test_without_input_a_command_reads_nothing(host: Host) -> None:
    assert host.run("cat").stdout == b""


def test_input_stops_at_the_limit_of_a_process_that_does_not_read(host: Host) -> None:
    run = host.started("sleep", "100", flags=STDIN_FOLLOWS)
    host.until(lambda: run.stdin_limit)
    data = bytes(run.stdin_limit)
    host.type(run, data[:200_000])
    host.quiet(0.2)
    assert run.stdin_consumed < 200_000
    host.send(STDIN, run.id, struct.pack("<Q", run.stdin_limit) + b"x")
    host.until(lambda: run.failure)
    assert run.failure.errno == errno.EINVAL
    host.send(KILL, run.id, struct.pack("<I", 2))


def test_a_process_that_closes_its_input_is_reported(host: Host) -> None:
    run = host.started("sh", "-c", "exec 0<&-; echo closed; sleep 1", flags=STDIN_FOLLOWS)
    host.until(lambda: run.stdin_closed)
    host.type(run, b"more", end=True)
    assert host.finish(run).exit.value == 0


def test_repeated_input_is_cut_off_and_gaps_are_refused(host: Host) -> None:
    run = host.started("cat", flags=STDIN_FOLLOWS)
    host.until(lambda: run.stdin_limit)
    for offset, data in ((0, b"abc"), (0, b"abcdef"), (2, b"cd"), (5, b"fgh")):
        host.send(STDIN, run.id, struct.pack("<Q", offset) + data)
    host.send(STDIN, run.id, struct.pack("<Q", 9) + b"gap")
    host.until(lambda: run.failure)
    assert run.failure.errno == errno.EINVAL
    run.failure = None
    host.send(STDIN, run.id, struct.pack("<Q", 8), 1)
    assert host.finish(run).stdout == b"abcdefgh"


# --- Resume ------------------------------------------------------------------------------------------------------------------------------


def test_output_and_input_go_on_after_the_stream_was_cut(agent: Agent) -> None:
    source = random.Random(3)
    data = source.randbytes(600_000)
    host = agent.host()
    run = host.started("sh", "-c", "cat; echo end >&2", flags=STDIN_FOLLOWS, ring=8192)
    sent = 0
    for _ in range(20):
        host.auto_consume = source.random() < 0.7
        try:
            host.until(lambda: False, source.random() * 0.02)
        except TimeoutError:
            pass
        while sent < min(run.stdin_limit, len(data)) and source.random() < 0.9:
            size = min(source.randrange(1, 30_000), run.stdin_limit - sent, len(data) - sent)
            frame = struct.pack("<Q", sent) + data[sent : sent + size]
            host.send(STDIN, run.id, frame)
            sent += size
        host.close()
        host = agent.host()
        host.resume(run)
        sent = run.stdin_consumed
    host.auto_consume = True
    host.send(CONSUMED, run.id, struct.pack("<Q", run.offsets[STDOUT]), STDOUT)
    host.type(run, data[sent:], offset=sent, end=True)
    host.finish(run)
    assert run.stdout == data
    assert run.stderr == b"end\n"
    assert run.gaps == 0


def test_a_result_waits_for_the_host_that_comes_back(agent: Agent) -> None:
    host = agent.host()
    run = host.started("sh", "-c", "sleep 0.2; echo done; exit 7")
    host.close()
    time.sleep(0.5)
    again = agent.host()
    assert again.processes()[run.id][1] == 1
    again.resume(run)
    assert again.finish(run).exit.value == 7
    assert run.stdout == b"done\n"
    again.send(FORGET, run.id)
    with pytest.raises(Failure) as failure:
        again.resume(run)
    assert failure.value.errno == errno.ENOENT


def test_a_new_attach_hears_nothing_until_it_resumes(agent: Agent) -> None:
    host = agent.host()
    run = host.started("sh", "-c", "while :; do echo x; sleep 0.01; done")
    again = agent.host()
    again.quiet(0.2)
    assert again.answers == {}
    again.resume(run)
    before = len(run.stdout)
    again.until(lambda: len(run.stdout) > before + 4)
    again.send(KILL, run.id, struct.pack("<I", 2))
    again.finish(run)


def test_resuming_beyond_the_end_is_refused(host: Host) -> None:
    run = host.run("echo", "x")
    with pytest.raises(Failure) as failure:
        host.request(RESUME, struct.pack("<QQ", 3, 0), ident=run.id) if host.runs.pop(run.id) else None
    assert failure.value.errno == errno.EINVAL


def test_an_orphaned_command_ends_after_its_time_a_detached_one_does_not(agent: Agent) -> None:
    host = agent.host(configure=encode_field(2, struct.pack("<I", 300)))
    run = host.started("sh", "-c", "setsid sleep 100 & echo $!; sleep 100")
    host.until(lambda: run.stdout)
    detached = host.started("sleep", "100", flags=DETACHED)
    kept = host.started("sleep", "100")
    host.close()
    again = agent.host(configure=None)
    again.resume(kept)
    eventually(lambda: not alive(run.pid) and not alive(int(run.stdout)))
    assert alive(detached.pid) and alive(kept.pid)
    again.resume(run)
    assert again.finish(run).exit.cause == CLIENT_LOST
    for other in (detached, kept):
        again.send(KILL, other.id, struct.pack("<I", 2))


# --- Ends --------------------------------------------------------------------------------------------------------------------------------

HIDING = """
sleep 1000 & echo $!
setsid sleep 1000 & echo $!
(setsid sh -c 'sleep 1000 & echo $!; sleep 1000' & echo $! ) &
(trap '' TERM HUP INT; exec sleep 1000) & echo $!
sleep 0.2
echo ready >&2
wait
"""


def test_a_timeout_ends_the_whole_tree(host: Host) -> None:
    run = host.run("sh", "-c", HIDING, timeout_ms=700)
    assert (run.exit.kind, run.exit.value, run.exit.cause, run.exit.flags) == (1, signal.SIGKILL, TIMEOUT, 0)
    assert 600_000 < run.exit.wall_us < 5_000_000
    pids = pids_in(run.stdout)
    assert len(pids) >= 5
    assert not any(alive(pid) for pid in pids)


def test_a_kill_ends_the_whole_tree(host: Host) -> None:
    run = host.start("sh", "-c", HIDING)
    host.until(lambda: run.stderr)
    host.send(KILL, run.id, struct.pack("<I", 3))
    assert host.finish(run).exit.cause == CLIENT_LOST
    assert not any(alive(pid) for pid in pids_in(run.stdout))


def test_a_stopped_tree_can_be_killed(host: Host) -> None:
    run = host.start("sh", "-c", "sleep 1000 & echo $!; kill -STOP $!; kill -STOP $$")
    host.until(lambda: run.stdout)
    host.send(KILL, run.id, struct.pack("<I", 2))
    host.finish(run)
    assert not alive(int(run.stdout))


@needs_root
@pytest.mark.parametrize(
    "script",
    [
        "f() { (sleep 0.001; f) & }; f; f; f; f; f; f; f; f; while :; do sleep 1; done",
        "f() { f & }; f; f; f; f; while :; do sleep 1; done",
        "b() { b | b & }; b; while :; do sleep 1; done",
        "while :; do setsid sh -c 'setsid sleep 1000 & sleep 1000' & done",
    ],
    ids=["hopping", "hopping fast", "bomb", "sessions"],
)
def test_a_fork_bomb_is_ended(sandboxed: Agent, script: str) -> None:
    """In a pid namespace of its own, as a user with a limit."""
    host = sandboxed.host(configure=encode_field(3, struct.pack("<IQQ", resource.RLIMIT_NPROC, 300, 300)))
    run = host.run("bash", "-c", script, user=(54_321, 54_321), timeout_ms=700)
    assert run.exit.cause == TIMEOUT
    assert run.exit.wall_us < 5_000_000
    eventually(lambda: struct.unpack("<QIIQQQ", next(decode_fields(host.request(STATS)))[2])[3] == 1)


def test_the_end_of_the_main_process_leaves_the_others_to_the_agent(host: Host, agent: Agent) -> None:
    run = host.run("sh", "-c", "setsid sleep 1000 > /dev/null 2>&1 & echo $!")
    pid = int(run.stdout)
    eventually(lambda: parent_of(pid) == agent.process.pid)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_a_workload_that_kills_its_supervisor_is_ended(host: Host) -> None:
    other = host.started("sleep", "1000")
    run = host.started("sh", "-c", "setsid sleep 1000 & echo $!; sleep 1000")
    host.until(lambda: run.stdout)
    os.kill(parent_of(run.pid), signal.SIGKILL)
    assert host.finish(run).exit.cause == SUPERVISOR_LOST
    assert not alive(run.pid) and not alive(int(run.stdout))
    assert alive(other.pid)
    host.send(KILL, other.id, struct.pack("<I", 2))


def test_a_supervisor_that_is_killed_as_it_starts_leaves_a_whole_account(agent: Agent, host: Host) -> None:
    children = Path(f"/proc/{agent.process.pid}/task/{agent.process.pid}/children")
    over = threading.Event()

    def kill_supervisors() -> None:
        while not over.is_set():
            for pid in children.read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)

    killer = threading.Thread(target=kill_supervisors)
    killer.start()
    try:
        runs = [host.start("true") for _ in range(100)]
        for run in runs:
            assert host.finish(run, 60).pid, "STARTED without a pid"
    finally:
        over.set()
        killer.join()
    assert {run.exit.cause for run in runs if run.exit} <= {ITSELF, SUPERVISOR_LOST}


def test_a_stopped_supervisor_still_obeys(host: Host) -> None:
    run = host.started("sleep", "1000")
    os.kill(parent_of(run.pid), signal.SIGSTOP)
    host.send(KILL, run.id, struct.pack("<I", 2))
    assert host.finish(run).exit.cause == KILLED
    assert not alive(run.pid)


def test_without_the_agent_the_supervisors_end_their_trees(agent: Agent, host: Host) -> None:
    run = host.start("sh", "-c", HIDING)
    host.until(lambda: run.stderr)
    agent.process.kill()
    eventually(lambda: not any(alive(pid) for pid in [*pids_in(run.stdout), run.pid]))


def test_shutdown_is_answered_and_leaves_nothing(agent: Agent, host: Host) -> None:
    run = host.start("sh", "-c", HIDING)
    host.until(lambda: run.stderr)
    survivor = int(host.run("sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!").stdout)
    assert host.request(SHUTDOWN) == b""
    assert agent.process.wait(20) == 0
    assert not any(alive(pid) for pid in [*pids_in(run.stdout), run.pid, survivor])


def test_sigterm_ends_an_agent_that_is_not_init(agent: Agent, host: Host) -> None:
    run = host.started("sleep", "1000")
    agent.process.terminate()
    assert agent.process.wait(20) == 0
    assert not alive(run.pid)


# --- Signals and terminals ---------------------------------------------------------------------------------------------------------------


def test_signals_go_to_the_main_process_or_to_the_tree(host: Host) -> None:
    script = (
        "trap 'echo main' USR1; sh -c \"trap 'echo child' USR1; echo ready; while :; do sleep 0.05; done\" & while :; do sleep 0.05; done"
    )
    run = host.start("sh", "-c", script)
    host.until(lambda: run.stdout == b"ready\n")
    host.request(SIGNAL, struct.pack("<QII", run.id, signal.SIGUSR1, 0))
    host.until(lambda: b"main" in run.stdout)
    host.quiet(0.3)
    assert b"child" not in run.stdout
    # To the tree: also to the two sleeps, which die of it.
    host.request(SIGNAL, struct.pack("<QII", run.id, signal.SIGUSR1, 1))
    host.until(lambda: run.stdout.count(b"main") == 2 and b"child" in run.stdout)
    host.send(KILL, run.id, struct.pack("<I", 2))
    host.finish(run)


def test_a_repeated_signal_request_is_not_sent_again(host: Host) -> None:
    run = host.start("sh", "-c", "trap 'echo got' USR1; echo ready; while :; do sleep 0.02; done")
    host.until(lambda: run.stdout == b"ready\n")
    ident = new_id()
    for _ in range(3):
        host.request(SIGNAL, struct.pack("<QII", run.id, signal.SIGUSR1, 0), ident=ident)
    host.quiet(0.3)
    assert run.stdout == b"ready\ngot\n"
    host.send(KILL, run.id, struct.pack("<I", 2))


def test_a_signal_to_what_is_not_there_fails(host: Host) -> None:
    with pytest.raises(Failure) as failure:
        host.request(SIGNAL, struct.pack("<QII", 4711, 15, 0))
    assert failure.value.errno == errno.ENOENT
    run = host.run("true")
    with pytest.raises(Failure) as failure:
        host.request(SIGNAL, struct.pack("<QII", run.id, 15, 0))
    assert failure.value.errno == errno.ESRCH


def test_a_terminal_has_its_size_echoes_and_ends(host: Host) -> None:
    run = host.start("sh", "-c", "stty size; tty; cat; echo end", terminal=(33, 77), flags=STDIN_FOLLOWS)
    host.until(lambda: b"/dev/pts/" in run.stdout and run.stdin_limit)
    host.type(run, b"hello\n")
    host.until(lambda: run.stdout.count(b"hello") == 2)
    host.send(STDIN, run.id, struct.pack("<Q", 6) + b"partial", 1)
    host.finish(run)
    assert run.stdout.startswith(b"33 77\r\n")
    assert run.stdout.endswith(b"partialpartialend\r\n")
    assert run.stderr == b""


def test_a_resize_reaches_the_terminal(host: Host) -> None:
    run = host.start("bash", "-c", "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.02; done", terminal=(24, 80))
    host.until(lambda: b"ready" in run.stdout)
    host.send(RESIZE, run.id, struct.pack("<HH", 50, 132))
    assert host.finish(run).stdout == b"ready\r\n50 132\r\n"


def test_control_c_interrupts_the_foreground(host: Host) -> None:
    run = host.started("sleep", "1000", terminal=(24, 80), flags=STDIN_FOLLOWS)
    host.until(lambda: run.stdin_limit)
    host.type(run, b"\x03")
    host.finish(run)
    assert run.exit.kind == 1 and run.exit.value == signal.SIGINT


# --- Questions ---------------------------------------------------------------------------------------------------------------------------


def test_ping_is_echoed(host: Host) -> None:
    for data in (b"", b"x" * 64):
        assert list(decode_fields(host.request(PING, data))) == [(3, 0, data)]


def test_list_shows_what_runs_and_what_ended(host: Host) -> None:
    running = host.started("sleep", "1000", flags=DETACHED)
    ended = host.run("true")
    listed = host.processes()
    assert listed[running.id] == (running.pid, 0, DETACHED, ["sleep", "1000"])
    assert listed[ended.id][1] == 1
    host.send(KILL, running.id, struct.pack("<I", 2))


def test_a_list_of_very_many_records_fits_into_one_frame(guest_binary: Path, home: Path) -> None:
    agent = Agent([str(guest_binary)], home)
    host = agent.host()
    for _ in range(1100):
        host.run("x" * 600, builtin=STAT)
    listed = host.processes()
    assert len(listed) == 1024
    assert {len(argv[0]) for _, _, _, argv in listed.values()} <= set(range(50, 513))
    agent.stop()


def test_statistics_count(host: Host) -> None:
    run = host.started("sleep", "1000")
    host.run("sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")
    time.sleep(0.2)  # the times of a command are counted when its supervisor has gone
    ((key, _, data),) = decode_fields(host.request(STATS))
    uptime_ms, running, records, pids, rss, cpu_us = struct.unpack("<QIIQQQ", data)
    assert (key, running, records) == (2, 1, 2)
    assert uptime_ms > 0 and pids > 2 and rss > 1 << 20 and cpu_us > 0
    host.send(KILL, run.id, struct.pack("<I", 2))


# --- Builtins ----------------------------------------------------------------------------------------------------------------------------


def test_files_are_written_and_read(host: Host, home: Path) -> None:
    data = random.Random(5).randbytes(700_000)
    path = str(home / "a" / "b" / "file")
    assert host.run(path, "640", "c", builtin=WRITE, stdin=b"").exit.value == errno.ENOENT
    assert host.run(path, "640", "cp", builtin=WRITE, stdin=data).exit.value == 0
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
    assert host.run(path, "0", "0", builtin=READ).stdout == data
    assert host.run(path, "5", "10", builtin=READ).stdout == data[5:15]
    assert host.run(path, "9999999", "0", builtin=READ).stdout == b""
    assert host.run(path, "640", "x", builtin=WRITE, stdin=b"").exit.value == errno.EEXIST
    assert host.run(path, "640", "a", builtin=WRITE, stdin=b"more").exit.value == 0
    assert host.run(path, "700000", "0", builtin=READ).stdout == b"more"
    assert host.run(path, "640", "t", builtin=WRITE, stdin=b"new").exit.value == 0
    assert Path(path).read_bytes() == b"new"


@pytest.mark.parametrize("kind", ["directory", "fifo", "device", "socket"])
def test_only_regular_files_are_read(host: Host, home: Path, kind: str) -> None:
    paths = {"directory": "/etc", "device": "/dev/zero", "fifo": str(home / "fifo"), "socket": str(home / "agent.sock")}
    os.mkfifo(home / "fifo")
    assert host.run(paths[kind], "0", "0", builtin=READ).exit.value == errno.EINVAL
    assert host.run(paths[kind], "600", "c", builtin=WRITE, stdin=b"").exit.value == errno.EINVAL


def test_builtins_check_their_arguments(host: Host) -> None:
    for number, arguments in (
        (READ, ("/etc/passwd",)),
        (READ, ("/etc/passwd", "x", "0")),
        (WRITE, ("/tmp/x", "99999", "c")),
        (MKDIR, ("/tmp/x", "8", "-")),
    ):
        assert host.run(*arguments, builtin=number).exit.value == errno.EINVAL


def test_stat_and_list_tell_what_is_there(host: Host, home: Path) -> None:
    place = home / "place"
    place.mkdir()
    (place / "file").write_bytes(b"12345")
    (place / "link").symlink_to("file")
    (place / "directory").mkdir()
    entries = {e.name: e for e in decode_entries(host.run(str(place), builtin=LIST_DIRECTORY).stdout)}
    assert set(entries) == {"file", "link", "directory"}
    real = os.stat(place / "file")
    found = entries["file"]
    assert (found.mode, found.size, found.mtime_ns, found.uid, found.inode, found.links) == (
        real.st_mode,
        5,
        real.st_mtime_ns,
        real.st_uid,
        real.st_ino,
        1,
    )
    assert stat.S_ISLNK(entries["link"].mode) and entries["link"].target == "file"
    (followed,) = decode_entries(host.run(str(place / "link"), "f", builtin=STAT).stdout)
    assert stat.S_ISREG(followed.mode) and followed.name == "link"
    (itself,) = decode_entries(host.run(str(place / "link"), "l", builtin=STAT).stdout)
    assert stat.S_ISLNK(itself.mode) and itself.target == "file"
    (top,) = decode_entries(host.run("/", "f", builtin=STAT).stdout)
    assert top.name == "/"
    assert host.run(str(place / "no"), "f", builtin=STAT).exit.value == errno.ENOENT


def test_a_large_directory_is_listed_whole(host: Host, home: Path) -> None:
    place = home / "many"
    place.mkdir()
    names = {f"{i:04}-{'n' * (i % 200)}" for i in range(3000)}
    for name in names:
        (place / name).touch()
    assert {e.name for e in decode_entries(host.run(str(place), builtin=LIST_DIRECTORY).stdout)} == names


def test_directories_are_made_moved_and_removed(host: Host, home: Path) -> None:
    deep = str(home / "x" / "y" / "z")
    assert host.run(deep, "750", "-", builtin=MKDIR).exit.value == errno.ENOENT
    assert host.run(deep, "750", "p", builtin=MKDIR).exit.value == 0
    assert host.run(deep, "750", "p", builtin=MKDIR).exit.value == 0
    assert host.run(deep, "750", "-", builtin=MKDIR).exit.value == errno.EEXIST
    assert stat.S_IMODE(os.stat(deep).st_mode) == 0o750
    assert host.run(str(home / "x" / "y"), "-", builtin=REMOVE).exit.value == errno.ENOTEMPTY
    assert host.run(deep, str(home / "w"), builtin=MOVE).exit.value == 0
    assert host.run("target", str(home / "x" / "link"), builtin=SYMLINK).exit.value == 0
    assert os.readlink(home / "x" / "link") == "target"
    assert host.run(str(home / "w"), "700", builtin=CHMOD).exit.value == 0
    assert stat.S_IMODE(os.stat(home / "w").st_mode) == 0o700
    assert host.run(str(home / "w"), "-", builtin=REMOVE).exit.value == 0
    assert host.run(str(home / "x"), "r", builtin=REMOVE).exit.value == 0
    assert host.run(str(home / "x"), "r", builtin=REMOVE).exit.value == errno.ENOENT


def test_a_very_deep_tree_is_removed_and_links_are_not_followed(host: Host, home: Path) -> None:
    outside = home / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    top = home / "deep"
    top.mkdir()
    directory = os.open(top, os.O_DIRECTORY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=directory)
        os.symlink(str(outside), "s", dir_fd=directory)
        below = os.open("d", os.O_DIRECTORY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(directory)
    for i in range(50):
        (top / f"e{i}").mkdir()
        (top / f"e{i}" / "f").touch()
    assert host.run(str(top), "r", builtin=REMOVE).exit.value == 0
    assert not top.exists()
    assert (outside / "kept").exists()


def test_watch_reports_changes(host: Host, home: Path) -> None:
    place = home / "watched"
    place.mkdir()
    run = host.started(str(place), builtin=WATCH)
    host.until(lambda: run.stdout)
    assert decode_events(run.stdout) == [(0, 0, "")]
    (place / "new").write_text("x")
    host.until(lambda: len(decode_events(run.stdout)) >= 3)
    names = {name for mask, _, name in decode_events(run.stdout)[1:]}
    assert names == {"new"}
    shutil.rmtree(place)
    assert host.finish(run).exit.value == 0
    assert host.run(str(home / "no"), builtin=WATCH).exit.value == errno.ENOENT


def echo_server(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        while data := connection.recv(65_536):
            connection.sendall(data)
        connection.sendall(b"!")


@pytest.mark.parametrize("family", ["tcp4", "tcp6", "unix"])
def test_connect_carries_bytes_both_ways_until_both_ends_are_done(host: Host, home: Path, family: str) -> None:
    if family == "unix":
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(home / "server"))
        arguments = ("unix", str(home / "server"))
    else:
        try:
            server = socket.socket(socket.AF_INET if family == "tcp4" else socket.AF_INET6)
            server.bind(("127.0.0.1" if family == "tcp4" else "::1", 0))
        except OSError:
            pytest.skip("needs an IPv6 loopback")
        arguments = ("tcp", str(server.getsockname()[1]))
    server.listen()
    thread = threading.Thread(target=echo_server, args=(server,))
    thread.start()
    data = random.Random(9).randbytes(2_000_000)
    run = host.run(*arguments, builtin=CONNECT, stdin=data)
    thread.join()
    server.close()
    assert run.stdout == data + b"!"
    assert run.exit.value == 0


def test_connect_to_nobody_is_refused(host: Host) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    assert host.run("tcp", str(port), builtin=CONNECT).exit.value == errno.ECONNREFUSED
    assert host.run("tcp", "0", builtin=CONNECT).exit.value == errno.EINVAL


# --- A stream without connection boundaries ----------------------------------------------------------------------------------------------


@pytest.fixture
def stream(binary: Path) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    process = subprocess.Popen([str(binary), "agent", "--stream", "0"], stdin=theirs, stdout=theirs)
    theirs.close()
    yield ours
    ours.close()
    process.terminate()
    assert process.wait(10) == 0


def test_a_stream_is_attached_again_in_the_middle_of_a_frame(stream: socket.socket) -> None:
    first = Host(stream)
    assert first.attach(padding=True) == 1
    first.configure()
    run = first.started("sh", "-c", "while :; do echo x; sleep 0.005; done")
    stream.sendall(
        struct.pack("<IBBHQ", MAX_PAYLOAD, STDIN, 0, 0, run.id) + b"AKCHAN1\n\1\0\0\0" + bytes(12) + b"\1\0\1\0" + bytes(4) + b"cut"
    )
    second = Host(stream)
    second.received = first.received
    assert second.attach(padding=True) == 1
    assert second.boot_id == first.boot_id
    second.resume(run)
    second.until(lambda: len(run.stdout) > 100)
    second.send(KILL, run.id, struct.pack("<I", 2))
    second.finish(run)


def test_a_stream_survives_rubbish(stream: socket.socket) -> None:
    first = Host(stream)
    first.attach(padding=True)
    first.configure()
    for rubbish in (b"\xff" * 1000, bytes(3 * MAX_FRAME + 17), b"AKCHAN1\n" + bytes(50)):
        stream.sendall(rubbish)
        assert first.attach(padding=True) == 1
        assert first.request(PING, b"x")
    assert first.run("echo", "still here").stdout == b"still here\n"


def test_the_workload_does_not_get_the_stream(stream: socket.socket) -> None:
    host = Host(stream)
    host.attach()
    host.configure()
    assert host.run("readlink", "/proc/self/fd/0").stdout == b"/dev/null\n"


def test_a_stream_through_a_terminal_is_transparent(binary: Path) -> None:
    master, slave = os.openpty()
    process = subprocess.Popen([str(binary), "agent", "--stream", os.ttyname(slave)])
    eventually(lambda: not termios.tcgetattr(slave)[3] & termios.ICANON)
    ours, theirs = socket.socketpair()
    pumps = [threading.Thread(target=pump, args=pair, daemon=True) for pair in ((master, theirs.fileno()), (theirs.fileno(), master))]
    for thread in pumps:
        thread.start()
    host = Host(ours)
    assert host.attach(padding=True) == 1
    host.configure()
    data = bytes(range(256)) * 20
    assert host.run("cat", stdin=data).stdout == data
    host.request(SHUTDOWN)
    assert process.wait(10) == 0
    ours.close()
    os.close(slave)
    for thread in pumps:
        thread.join(5)
    os.close(master)
    theirs.close()


def pump(source: int, target: int) -> None:
    try:
        while data := os.read(source, 4096):
            while data:
                data = data[os.write(target, data) :]
    except OSError:
        pass


# --- Without /proc, /dev and /tmp ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def bare(guest_binary: Path, home: Path) -> Iterator[Agent]:
    """The agent as PID 1 of a sandbox that holds nothing but busybox."""
    bwrap, busybox = shutil.which("bwrap"), shutil.which("busybox")
    if bwrap is None or busybox is None:
        pytest.skip("needs bwrap and a static busybox")
    root = home / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy(busybox, root / "bin" / "sh")
    for name in ("sleep", "setsid", "echo", "cat"):
        (root / "bin" / name).symlink_to("sh")
    shutil.copy(guest_binary, root / "guest")
    (root / "run").mkdir()
    argv = [bwrap, "--unshare-all", "--bind", str(root), "/", "--as-pid-1", "--cap-add", "ALL", "--die-with-parent", "/guest"]
    agent = Agent(argv, root / "run", listen_path="/run/agent.sock")
    yield agent
    agent.process.kill()
    agent.stop()


def test_the_agent_works_as_init_without_proc_dev_and_tmp(bare: Agent) -> None:
    host = bare.host()
    assert host.state & 4
    assert host.run("echo", "hi").stdout == b"hi\n"
    assert host.run("cat").stdout == b""
    with pytest.raises(Failure) as failure:
        host.run("sh", terminal=(24, 80))
    assert failure.value.stage == 6
    ((_, _, data),) = decode_fields(host.request(STATS))
    assert struct.unpack("<QIIQQQ", data)[3:5] == (0, 0)
    assert decode_entries(host.run("/bin", builtin=LIST_DIRECTORY).stdout)


def test_a_tree_is_ended_without_proc(bare: Agent) -> None:
    host = bare.host()
    run = host.start("sh", "-c", "sleep 1000 | setsid sh -c 'sleep 1000 | setsid sleep 1000'", timeout_ms=500)
    assert host.finish(run, 30).exit.cause == TIMEOUT
    # What is left would hold the pid namespace's count up: only the agent's own children are seen by wait.
    assert host.run("sh", "-c", "kill -0 -1 2>/dev/null; kill -9 -1; echo done").stdout in (b"", b"done\n")
    assert host.request(PING, b"x")


def test_the_workload_of_a_sandbox_cannot_attach_or_terminate(bare: Agent) -> None:
    host = bare.host()
    assert host.run("sh", "-c", "kill -TERM 1; kill -INT 1; kill -KILL 1; echo tried").stdout == b"tried\n"
    assert host.request(PING, b"x")
    host.request(SHUTDOWN)
    assert bare.process.wait(10) == 0


def test_the_workload_of_a_sandbox_is_not_accepted_as_a_host(sandboxed: Agent) -> None:
    host = sandboxed.host()
    intruder = host.run("unix", sandboxed.listen_path, builtin=CONNECT, stdin=b"AKCHAN1\n\1\0\0\0" + bytes(12) + b"\1\0\1\0" + bytes(4))
    assert intruder.stdout == b""
    assert host.request(PING, b"x")


def test_init_ends_by_sigterm_from_outside_only(sandboxed: Agent) -> None:
    host = sandboxed.host()
    assert host.run("sh", "-c", "kill -TERM 1; sleep 0.1; echo tried").stdout == b"tried\n"
    assert host.request(PING, b"x")
    bwrap = sandboxed.process.pid
    (inner,) = Path(f"/proc/{bwrap}/task/{bwrap}/children").read_text().split()
    os.kill(int(inner), signal.SIGTERM)
    assert sandboxed.process.wait(10) == 0


@pytest.mark.parametrize(
    "script",
    [
        "while :; do kill -9 -1; done",
        "(while :; do kill -9 -1 2>/dev/null; done) & b() { b | b & }; b; while :; do kill -STOP -1; done",
        "setsid sh -c 'while :; do kill -STOP -1; sleep 0.001; done' & while :; do kill -9 -1; sleep 0.01; done",
    ],
    ids=["kills all", "kills, stops and forks", "stops all"],
)
def test_a_workload_with_the_agents_own_uid_cannot_confuse_it(sandboxed: Agent, script: str) -> None:
    host = sandboxed.host()
    run = host.run("bash", "-c", f"ulimit -u 200; {script}", timeout_ms=700)
    assert run.exit.cause in (TIMEOUT, SUPERVISOR_LOST)
    eventually(lambda: struct.unpack("<QIIQQQ", next(decode_fields(host.request(STATS)))[2])[3] == 1)
    assert host.run("echo", "still here").stdout == b"still here\n"


def test_another_architecture_works_under_emulation(home: Path) -> None:
    compiler, qemu = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64-static")
    if compiler is None or qemu is None or os.uname().machine != "x86_64":
        pytest.skip("needs a cross compiler for aarch64 and qemu-aarch64-static")
    subprocess.run(
        ["python3", str(ROOT / "guest" / "build.py"), "--output", str(home), "--compiler", compiler], check=True, capture_output=True
    )
    agent = Agent([qemu, str(home / "agentkernel-guest")], home)
    host = agent.host()
    run = host.run("sh", "-c", "echo hi; cat; exit 5", stdin=b"input")
    assert (run.stdout, run.exit.value) == (b"hi\ninput", 5)
    assert host.run("/etc/passwd", "0", "0", builtin=READ).stdout == Path("/etc/passwd").read_bytes()
    killed = host.run("sh", "-c", "setsid sleep 1000 & echo $!; wait", timeout_ms=300)
    assert killed.exit.cause == TIMEOUT and not alive(int(killed.stdout))
    terminal = host.run("stty", "size", terminal=(30, 90))
    assert terminal.stdout == b"30 90\r\n"
    host.request(SHUTDOWN)
    assert agent.process.wait(20) == 0
    agent.stop()


def test_the_binary_is_small_and_the_idle_agent_too(guest_binary: Path, home: Path) -> None:
    assert guest_binary.stat().st_size < 300 << 10
    agent = Agent([str(guest_binary)], home)
    host = agent.host()
    for _ in range(20):
        host.send(FORGET, host.run("echo", "x" * 1000).id)
    rss_kib = int(
        next(line for line in Path(f"/proc/{agent.process.pid}/status").read_text().splitlines() if line.startswith("VmRSS")).split()[1]
    )
    assert rss_kib < 1024
    agent.stop()


def test_an_idle_agent_does_not_wake_up(agent: Agent, host: Host) -> None:
    host.started("sleep", "1000")
    time.sleep(0.2)
    before = Path(f"/proc/{agent.process.pid}/status").read_text()
    time.sleep(1.5)
    after = Path(f"/proc/{agent.process.pid}/status").read_text()

    def switches(text: str) -> int:
        return int(next(line for line in text.splitlines() if line.startswith("voluntary")).split()[1])

    assert switches(after) - switches(before) <= 2


def test_the_listening_socket_is_the_owners_alone(agent: Agent, host: Host, home: Path) -> None:
    assert stat.S_IMODE((home / "agent.sock").stat().st_mode) == 0o600
    assert fcntl.fcntl(host.sock, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_a_socket_for_any_uid_is_as_open_as_the_directories_above_it(guest_binary: Path, tmp_path: Path) -> None:
    path = tmp_path / "any.sock"
    with subprocess.Popen([str(guest_binary), "agent", "--listen-any", str(path)]) as agent:
        deadline = time.monotonic() + 10
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        agent.terminate()
