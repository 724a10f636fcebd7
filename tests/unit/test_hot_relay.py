"""The hot path of `run` and `exec` as a process, against a scripted daemon on a real socket."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from unit.cli_harness import DEADLINE_S, OnTerminal, environment_in
from unit.door_server import (
    CALL,
    CONSUMED,
    FAILED,
    FORGET,
    KILL,
    RESIZE,
    RESUME,
    RESUMED,
    SIGNAL,
    START,
    STDIN,
    STDIN_CONSUMED,
    Attach,
    DoorServer,
    Script,
)

from agentkernel.channel import door
from agentkernel.channel.refusal import encode_refusal
from agentkernel.cli import hot
from agentkernel.config.directories import socket_path
from agentkernel.config.invocation import configure_exec, configure_run
from agentkernel.config.parsing import Parser
from agentkernel.errors import CommandNotFound, Conflict
from agentkernel.images.hostroot import CERTIFICATE_VARIABLES

ALL_BYTES = bytes(range(256)) * 4096


class Client:
    """`agentkernel` with a scripted daemon."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "daemon.sock"
        self.argv = [sys.executable, "-m", "agentkernel"]
        self.environment = environment_in(directory, AGENTKERNEL_SOCKET=str(self.socket), AGENTKERNEL_DAEMON="on")

    def serve(self, *scripts: Script, state: int = 0) -> DoorServer:
        return DoorServer(self.socket, *scripts, state=state)

    def start(self, *words: str, **streams: int) -> subprocess.Popen[bytes]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
        return subprocess.Popen([*self.argv, *words], cwd=self.directory, env=self.environment, **pipes)  # type: ignore[call-overload,no-any-return]

    def __call__(self, *words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        given = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        return subprocess.run(
            [*self.argv, *words], cwd=self.directory, env=self.environment, capture_output=True, timeout=DEADLINE_S, **given
        )  # type: ignore[call-overload,no-any-return]


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path)


def _hello(attach: Attach) -> None:
    attach.started()
    attach.output(b"hello\n")
    attach.exited()
    attach.until_closed()


def test_words_go_out_and_output_comes_back(client: Client) -> None:
    def script(attach: Attach) -> None:
        asked.update(attach.started())
        attach.output(b"out\x00\xff\n")
        attach.output(b"err\n", stream=2)
        attach.exited(5)
        attach.until_closed()

    asked: dict[int, list[bytes]] = {}
    client.environment |= {"GIVEN": "by name", "SECRET": "not sent", "XDG_CONFIG_HOME": "/x"}
    with client.serve(script):
        done = client("exec", "-e", "GIVEN", "-eA=1", "box", "--", "ls", "-e", "SECRET", "\udcff")
    assert (done.returncode, done.stdout, done.stderr) == (5, b"out\x00\xff\n", b"err\n")
    assert asked[door.WORD] == [b"exec", b"-e", b"GIVEN", b"-eA=1", b"box", b"--", b"ls", b"-e", b"SECRET", b"\xff"]
    assert asked[door.CWD] == [bytes(client.directory)]
    assert {b"GIVEN=by name", b"XDG_CONFIG_HOME=/x"} < set(asked[door.ENV])
    assert not [variable for variable in asked[door.ENV] if variable.startswith((b"SECRET", b"PYTHONPATH"))]
    assert asked[door.TTYS] == [b"\0\0\0\0"]


def test_a_record_is_forgotten_when_its_end_is_known(client: Client) -> None:
    with client.serve(_hello) as server:
        assert client("exec", "box", "true").returncode == 0
    assert [frame.kind for frame in server.attaches[0].seen] == [START, CALL, FORGET]


def test_much_output_is_acknowledged(client: Client) -> None:
    def script(attach: Attach) -> None:
        attach.started()
        for _ in range(64):
            attach.output(ALL_BYTES)
            while not attach.seen or attach.seen[-1].kind != CONSUMED or struct.unpack("<Q", attach.seen[-1].payload)[0] < attach.sent[1]:
                attach.next(CONSUMED)
        attach.exited()

    with client.serve(script):
        done = client("run", "cat")
    assert done.stdout == ALL_BYTES * 64


def test_input_goes_in_as_far_as_there_is_room(client: Client) -> None:
    def script(attach: Attach) -> None:
        attach.started(input_limit=1000)
        taken, limit = b"", 1000
        while True:
            frame = attach.next(STDIN)
            assert struct.unpack("<Q", frame.payload[:8])[0] == len(taken)
            taken += frame.payload[8:]
            assert len(taken) <= limit
            if frame.flags:
                break
            limit = len(taken) + 70_000
            attach.send(STDIN_CONSUMED, struct.pack("<QQ", len(taken), limit))
        attach.output(taken)
        attach.exited()
        attach.until_closed()

    with client.serve(script):
        assert client("run", "cat", stdin=ALL_BYTES).stdout == ALL_BYTES


def test_a_command_that_closes_its_input_gets_no_more(client: Client) -> None:
    def script(attach: Attach) -> None:
        attach.started(input_limit=10)
        attach.next(STDIN)
        attach.send(STDIN_CONSUMED, struct.pack("<QQ", 3, 100), flags=1)
        attach.exited()
        attach.until_closed()

    with client.serve(script), client.start("exec", "box", "head", "-c", "3", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"abc")
        process.stdin.flush()
        assert process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_first_signal_is_passed_to_the_tree_and_the_second_kills(number: int, status: int, client: Client) -> None:
    def script(attach: Attach) -> None:
        attach.started()
        attach.output(b"ready\n")
        frame = attach.next(SIGNAL)
        inner = door.decode_request(frame.payload)[door.INNER][0]
        assert struct.unpack("<QII", inner) == (attach.exec_id, number, 1)
        attach.output(b"asked\n")
        assert attach.next(KILL).payload == struct.pack("<I", 2)
        attach.exited(137)
        attach.until_closed()

    with client.serve(script), client.start("exec", "box", "sleep", "9") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == b"asked\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == status


def test_a_command_that_ignores_the_signal_is_killed_and_a_daemon_that_ignores_all_is_left(client: Client) -> None:
    def script(attach: Attach) -> None:
        attach.started()
        attach.output(b"ready\n")
        attach.next(SIGNAL)
        attach.next(KILL)
        attach.until_closed()

    with client.serve(script), client.start("exec", "box", "sleep", "9") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 143


def test_a_signal_ends_a_client_that_is_stuck_in_a_write(client: Client) -> None:
    def script(attach: Attach) -> None:
        attach.started()
        attach.output(ALL_BYTES[:131072])  # more than a pipe holds
        attach.next(SIGNAL)
        attach.next(KILL)
        attach.until_closed()

    with client.serve(script), client.start("exec", "box", "cat") as process:
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 1) == b"\0"  # and no more: the pipe is full
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130


def test_a_signal_before_the_command_ends_the_client_at_once(client: Client) -> None:
    def script(attach: Attach) -> None:
        attach.next(START)
        here.set()
        assert [frame.kind for frame in attach.until_closed()] == [CALL]

    here = threading.Event()
    with client.serve(script), client.start("run", "sleep", "9") as process:
        assert here.wait(DEADLINE_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 143


def test_a_reader_that_goes_away_ends_the_command(client: Client) -> None:
    def script(attach: Attach) -> None:
        attach.started()
        attach.output(b"y\n")
        gone.wait(DEADLINE_S)
        attach.output(b"y\n")
        attach.next(KILL)
        attach.output(b"y\n")
        attach.exited(137)
        attach.until_closed()

    gone = threading.Event()
    with client.serve(script), client.start("run", "yes") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        gone.set()
        assert process.wait(DEADLINE_S) == 141


def test_a_full_disk_behind_the_output_is_our_failure(client: Client) -> None:
    def script(attach: Attach) -> None:
        attach.started()
        attach.output(b"x")
        attach.next(KILL)
        attach.exited(137)
        attach.until_closed()

    with open("/dev/full", "wb") as full, client.serve(script), client.start("run", "yes", stdout=full.fileno()) as process:
        _, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, err) == (125, b"error: cannot write the command's output: No space left on device\n")


def test_what_is_to_be_said_is_said(client: Client) -> None:
    def script(attach: Attach) -> None:
        attach.started(notices=(json.dumps({"code": "x", "message": "careful", "hint": "do"}).encode(),))
        attach.exited(124, "error: too long\nhint: more time\n")
        attach.until_closed()

    with client.serve(script):
        done = client("run", "true")
    assert (done.returncode, done.stderr) == (124, b"note: careful\nhint: do\nerror: too long\nhint: more time\n")


@pytest.mark.parametrize("error", [CommandNotFound("there is no command 'x'", hint="check"), Conflict("it is stopped", hint="check")])
def test_a_refusal_is_an_error_with_its_own_status(error: CommandNotFound | Conflict, client: Client) -> None:
    def script(attach: Attach) -> None:
        attach.exec_id = attach.next(START).ident
        attach.send(FAILED, encode_refusal(error))
        attach.until_closed()

    with client.serve(script):
        done = client("exec", "box", "x")
    assert (done.returncode, done.stderr.decode()) == (error.exit_status, f"error: {error.message}\nhint: check\n")


def test_a_lost_daemon_is_replaced_and_the_output_goes_on_where_it_was(client: Client) -> None:
    def first(attach: Attach) -> None:
        attach.started(input_limit=100)
        attach.output(b"one\n")
        assert attach.next(STDIN).payload[8:] == b"abcdef"

    def second(attach: Attach) -> None:
        resume = attach.next(RESUME)
        attach.exec_id = resume.ident
        fields = door.decode_request(resume.payload)
        assert (fields[door.INNER], fields[door.SANDBOX]) == ([struct.pack("<QQ", 4, 0)], [b"0123456789abcdef"])
        attach.send(RESUMED, struct.pack("<IIQQQQ", 0, 3, 0, 0, 2, 100))
        repeated = attach.next(STDIN)
        assert repeated.payload == struct.pack("<Q", 2) + b"cdef"
        attach.sent[1] = 4
        attach.output(b"two\n")
        attach.exited(7)
        attach.until_closed()

    with client.serve(first, second), client.start("exec", "box", "x", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"abcdef")
        process.stdin.flush()
        assert process.stdout is not None
        assert process.stdout.read() == b"one\ntwo\n"
        assert process.wait(DEADLINE_S) == 7


def test_the_command_of_a_run_is_found_by_its_id(client: Client) -> None:
    def second(attach: Attach) -> None:
        resume = attach.next(RESUME)
        attach.exec_id = resume.ident
        assert door.SANDBOX not in door.decode_request(resume.payload)
        attach.send(RESUMED, struct.pack("<IIQQQQ", 1, 3, 0, 0, 0, 0))
        attach.exited(7)
        attach.until_closed()

    with client.serve(lambda attach: attach.started() and None, second):
        assert client("run", "true").returncode == 7


def test_a_start_that_was_not_answered_is_repeated_with_its_id(client: Client) -> None:
    def first(attach: Attach) -> None:
        ids.append(attach.next(START).ident)

    def second(attach: Attach) -> None:
        _hello(attach)
        ids.append(attach.exec_id)

    ids: list[int] = []
    with client.serve(first, second):
        assert client("run", "true").stdout == b"hello\n"
    assert ids[0] == ids[1]


def test_a_daemon_that_keeps_dying_is_given_up(client: Client) -> None:
    with client.serve(lambda attach: attach.next(START) and None), client.start("run", "true") as process:
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 125
    assert err.startswith(b"error: the daemon keeps dying")


def test_another_store_behind_the_next_daemon_is_an_error(client: Client) -> None:
    def first(attach: Attach) -> None:
        attach.started()
        server.store = b"t" * 16

    with client.serve(first, lambda attach: attach.until_closed() and None) as server:
        done = client("run", "true")
    assert (done.returncode, b"another daemon" in done.stderr) == (125, True)


def _terminal(client: Client, *words: str) -> OnTerminal:
    return OnTerminal(client.directory, words, argv=client.argv, environment=client.environment | {"TERM": "xterm"})


def test_a_terminal_is_raw_while_the_command_runs(client: Client) -> None:
    def script(attach: Attach) -> None:
        asked.update(attach.started(input_limit=100))
        attach.output(b"ready\r\n")
        assert attach.next(STDIN).payload[8:] == b"\x03"
        attach.output(b"typed\r\n")
        assert attach.next(RESIZE).payload == struct.pack("<HH", 50, 132)
        attach.output(b"resized\r\n")
        assert attach.next(STDIN).payload[8:] == b"q"
        attach.exited(9)
        attach.until_closed()

    asked: dict[int, list[bytes]] = {}
    with client.serve(script), _terminal(client, "exec", "box", "sh") as child:
        child.expect(b"ready")
        assert child.is_raw()
        child.type(b"\x03")
        child.expect(b"typed")
        child.set_size(50, 132)
        child.expect(b"resized")
        child.type(b"q")
        assert child.wait() == 9
        assert not child.is_raw()
    assert (asked[door.TTYS], asked[door.TERMINAL]) == ([b"\x0f\0\0\0"], [struct.pack("<HH", 30, 100)])


def test_no_terminal_inside_leaves_the_one_outside_as_it_is(client: Client) -> None:
    def script(attach: Attach) -> None:
        attach.started(input_limit=100)
        attach.output(b"ready\n")
        assert struct.unpack("<QII", door.decode_request(attach.next(SIGNAL).payload)[door.INNER][0])[1] == signal.SIGINT
        attach.exited()
        attach.until_closed()

    with client.serve(script), _terminal(client, "exec", "--no-tty", "box", "sh") as child:
        child.expect(b"ready")
        assert not child.is_raw()
        child.type(b"\x03")
        assert child.wait() == 130


Configure = Callable[[Parser], None]


@pytest.mark.parametrize(("verb", "configure"), [("run", configure_run), ("exec", configure_exec)])
def test_the_options_of_the_hot_path_are_those_of_the_parsers(verb: str, configure: Configure) -> None:
    parser = Parser(verb)
    configure(parser)
    shown = [action for action in parser._actions if action.option_strings and action.help != "==SUPPRESS=="]
    switches = {flag for action in shown if action.nargs == 0 for flag in action.option_strings}
    of_the_full_path = {"-S", "--secret"}  # whose values are read by the caller's own process
    assert {flag for action in shown if action.nargs != 0 for flag in action.option_strings} - of_the_full_path == hot.VALUED[verb]
    left_out = {"run": {"--json", "-k", "--keep", "--no-daemon"}, "exec": {"--json", "-d", "--detach", "--no-daemon"}}
    assert switches - left_out[verb] == hot.SWITCHES[verb]


def test_what_names_certificates_is_sent_along() -> None:
    assert {os.fsencode(name) for name in CERTIFICATE_VARIABLES} <= set(hot.SENT)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["list"],
        ["run", "--help"],
        ["run", "-h"],
        ["run", "--json", "ls"],
        ["run", "--keep", "ls"],
        ["run", "-qk", "ls"],
        ["run", "--no-daemon", "ls"],
        ["exec", "-d", "box", "ls"],
        ["exec", "box", "--detach", "ls"],
        ["exec", "--", "box", "-d", "ls"],
        ["exec", "--frobnicate", "box", "ls"],
    ],
)
def test_what_is_not_plain_is_left_to_the_full_path(words: list[str]) -> None:
    assert hot.scan(words) is None


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["run", "ls", "--json"], ([], None)),
        (["run", "--", "ls"], ([], None)),
        (["run", "--memory", "--json", "ls"], ([], None)),
        (["run", "--memory=1g", "-t", "ls", "--no-tty"], ([], True)),
        (
            ["exec", "-e", "A", "--env=B", "-eC", "--env", "D=1", "box", "-e", "E", "--no-tty", "ls", "-e", "F"],
            ([b"A", b"B", b"C", b"E"], False),
        ),
        (["exec", "box", "--", "-d"], ([], None)),
        (["exec", "box"], ([], None)),
        (["exec", "-e"], ([b""], None)),
    ],
)
def test_what_is_plain_is_looked_through_for_what_the_client_must_know(words: list[str], found: object) -> None:
    assert hot.scan(words) == found


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"AGENTKERNEL_HOME": "/srv/ak/"},
        {"AGENTKERNEL_HOME": "relative"},
        {"AGENTKERNEL_SOCKET": "/s", "AGENTKERNEL_HOME": "/srv"},
        {"XDG_RUNTIME_DIR": "/run/user/7"},
        {"XDG_RUNTIME_DIR": "/" + "x" * 40},
    ],
)
@pytest.mark.parametrize("uid", [0, 7])
def test_the_socket_is_where_the_settings_say(environment: dict[str, str], uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert os.fsdecode(hot.socket_path({name.encode(): value.encode() for name, value in environment.items()})) == socket_path(environment)
