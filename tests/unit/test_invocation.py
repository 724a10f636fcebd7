"""The words of `run` and `exec`: what they ask for, wherever they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agentkernel.config.console import Console
from agentkernel.config.invocation import Invocation, check_backend, read_words
from agentkernel.errors import AgentKernelError, Conflict, DaemonUnavailable, InvalidInput, UnknownKey
from agentkernel.model.command import TerminalSize

Read = Callable[..., Invocation]


@pytest.fixture
def console(tmp_path: Path) -> Console:
    environment = {"HOME": str(tmp_path), "TERM": "xterm", "GIVEN": "by name"}
    return Console(cwd=str(tmp_path), environment=environment, has_input=True, size=TerminalSize(rows=30, columns=100))


@pytest.fixture
def read(console: Console) -> Read:
    return lambda *words, **more: read_words(words, replace(console, **more))


def test_a_run_has_a_request_and_a_command(read: Read, tmp_path: Path) -> None:
    found = read("run", "-q", "--memory", "1GiB", "--timeout", "2s", "-e", "GIVEN", "ls", "-l")
    assert (found.verb, found.quiet, found.daemon, found.keep) == ("run", True, True, False)
    assert found.request is not None
    assert (found.request.argv, found.request.memory_bytes, found.request.cwd) == ((b"ls", b"-l"), 2**30, str(tmp_path))
    assert found.request.environment == {"GIVEN": "by name"}
    assert (found.command.argv, found.command.timeout_s, found.command.stdin) == ((b"ls", b"-l"), 2.0, True)


def test_a_run_may_say_where_in_the_sandbox_the_command_runs(read: Read) -> None:
    assert read("run", "ls").command.cwd is None
    assert read("run", "-w", "/srv//x/", "ls", "-w", "y").command.cwd == read("run", "--workdir=/srv/x", "ls").command.cwd == "/srv/x"
    for wrong in ("srv", "", "/srv/../etc"):
        with pytest.raises(InvalidInput):
            read("run", "-w", wrong, "ls")


def test_an_exec_has_a_sandbox_and_a_command(read: Read) -> None:
    words = ("-e", "A=1", "-e", "GIVEN", "-w", "/srv//x/", "--user", "5:6", "--timeout", "1m", "-B", "memory")
    found = read("exec", *words, "box", "--", "ls", "--", "-l")
    assert (found.sandbox, found.backend, found.request) == ("box", "memory", None)
    command = found.command
    assert command.argv == (b"ls", b"--", b"-l")
    assert command.environment == {b"A": b"1", b"GIVEN": b"by name"}
    assert (command.cwd, command.user, command.timeout_s) == ("/srv/x", (5, 6), 60.0)


def test_options_of_exec_may_stand_on_both_sides_of_the_name(read: Read) -> None:
    found = read("exec", "-e", "A=1", "box", "-e", "B=2", "-w", "/tmp", "ls", "-e", "C=3")
    assert found.command.environment == {b"A": b"1", b"B": b"2"}
    assert (found.sandbox, found.command.argv, found.command.cwd) == ("box", (b"ls", b"-e", b"C=3"), "/tmp")


@pytest.mark.parametrize(("user", "ids"), [("root", (0, 0)), ("user", None), ("1234", (1234, 1234)), ("7:8", (7, 8))])
def test_the_user_of_an_exec(user: str, ids: object, read: Read) -> None:
    assert read("exec", "--user", user, "box", "id").command.user == ids


def test_an_exec_gets_nothing_of_the_settings_of_sandboxes(read: Read, tmp_path: Path) -> None:
    (tmp_path / "agentkernel.toml").write_text('user = "root"\n[environment]\nA = "1"\n')  # not trusted, either
    (tmp_path / ".config" / "agentkernel").mkdir(parents=True)
    (tmp_path / ".config" / "agentkernel" / "config.toml").write_text('timeout = "9s"\nbackend = "memory"\n[environment]\nB = "2"\n')
    found = read("exec", "box", "ls")
    assert (found.command.user, found.command.environment, found.backend, found.command.timeout_s) == (None, {}, None, 9.0)


@pytest.mark.parametrize("words", [("run",), ("exec", "box")])
def test_a_terminal_inside_comes_of_terminals_outside(words: tuple[str, ...], read: Read) -> None:
    both = (True, True, False)
    assert read(*words, "ls").command.terminal is None
    assert read(*words, "-t", "ls").command.terminal == TerminalSize(rows=30, columns=100)
    assert read(*words, "ls", terminals=both).command.environment == {b"TERM": b"xterm"}
    for flag in ("--no-tty", "--json"):
        assert read(*words, flag, "ls", terminals=both).command.terminal is None
    assert read(*words, "ls", terminals=(True, False, True)).command.terminal is None


def test_a_detached_exec_has_neither_input_nor_a_terminal_of_its_own(read: Read) -> None:
    command = read("exec", "-d", "box", "ls", terminals=(True, True, True)).command
    assert (command.detached, command.stdin, command.terminal) == (True, False, None)
    assert read("exec", "-d", "-t", "box", "ls").command.terminal is not None


def test_what_only_the_caller_can_do_is_left_to_it(read: Read, tmp_path: Path) -> None:
    for words in (("run", "--no-daemon", "ls"), ("exec", "--no-daemon", "box", "ls")):
        with pytest.raises(DaemonUnavailable):
            read(*words)
    assert read("run", "--profile", "permissive", "ls").request is not None
    for words in (("run", "--profile", "permissive", "ls"), ("run", "--pass-env", "ls")):
        with pytest.raises(DaemonUnavailable):
            read(*words, whole=False)
    assert read("run", "--profile", "permissive", "--no-pass-env", "ls", whole=False).request is not None
    (tmp_path / ".config" / "agentkernel").mkdir(parents=True)
    (tmp_path / ".config" / "agentkernel" / "config.toml").write_text("daemon = false")
    with pytest.raises(DaemonUnavailable):
        read("run", "ls")
    assert read("run", "--daemon", "ls").daemon


def test_a_sandbox_remembers_its_backend() -> None:
    check_backend(None, "memory", "box")
    check_backend("memory", "memory", "box")
    with pytest.raises(Conflict, match="is of backend 'memory', not 'docker'"):
        check_backend("docker", "memory", "box")


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (("run",), InvalidInput, "no command"),
        (("run", ""), InvalidInput, "name is empty"),
        (("exec",), InvalidInput, "which sandbox"),
        (("exec", "box"), InvalidInput, "no command"),
        (("exec", "box", "-w", "/tmp"), InvalidInput, "no command"),
        (("exec", "-w", "relative", "box", "ls"), InvalidInput, "absolute"),
        (("exec", "-w", "/a/../b", "box", "ls"), InvalidInput, "traversal"),
        (("exec", "--user", "bob", "box", "ls"), InvalidInput, "user"),
        (("exec", "--memory", "1g", "box", "ls"), UnknownKey, "no flag --memory"),
        (("exec", "box", "--wrkdir", "/", "ls"), UnknownKey, "no flag --wrkdir"),
        (("exec", "-e", "NOT_SET", "box", "ls"), InvalidInput, "no such variable"),
        (("run", "--help"), UnknownKey, "no flag --help"),
        (("list",), InvalidInput, "hot path"),
        ((), InvalidInput, "hot path"),
    ],
)
def test_wrong_words_are_errors(words: tuple[str, ...], kind: type[AgentKernelError], said: str, read: Read) -> None:
    with pytest.raises(kind, match=said):
        read(*words)
