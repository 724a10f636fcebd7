"""Every verb with a daemon elsewhere, as users have it: a server, a token, and a terminal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from e2e.conftest import DEADLINE_S, AgentKernel
from remote_world import Wire, certificates, serving


def _text(done: subprocess.CompletedProcess[bytes]) -> str:
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def _until(agentkernel: AgentKernel, wanted: str, *words: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while wanted not in (said := agentkernel(*words).stdout.decode()):
        assert time.monotonic() < deadline, said
        time.sleep(0.1)


def test_a_command_runs_there_with_nothing_of_here(remote: AgentKernel) -> None:
    (remote.directory / "package.json").write_text("{}")  # a project, whose view a command would have here
    done = remote("run", "-q", "--", "sh", "-c", "cat; pwd; ls; exit 7", stdin=b"piped ")
    assert (done.returncode, done.stdout.split()) == (7, [b"piped", b"/home/user"]), done.stderr
    said = json.loads(remote("run", "--json", "-e", "A=1", "--", "sh", "-c", "echo $A; echo no >&2").stdout)
    assert (said["stdout"], said["stderr"], said["exit_code"], said["backend"]) == ("1\n", "no\n", 0, "namespaces")
    assert remote("run", "-q", "--", "no-such-program").returncode == 127


def test_a_lasting_sandbox_is_used_from_afar(remote: AgentKernel) -> None:
    assert _text(remote("create", "-q", "box", "--start", "--label", "job=7", "-p", "8000")) == "box"
    assert _text(remote("list", "-q", "--label", "job=7")) == "box"
    assert json.loads(_text(remote("info", "box", "--json")))["status"] == "running"
    (remote.directory / "tree").mkdir()
    (remote.directory / "tree" / "leaf").write_text("green")
    assert "Copied 2 entries" in _text(remote("cp", "tree", "box:/home/user/tree"))
    assert _text(remote("exec", "box", "cat", "tree/leaf")) == "green"
    _text(remote("cp", "box:/home/user/tree/leaf", "back"))
    assert (remote.directory / "back").read_text() == "green"
    exec_id = _text(remote("exec", "-d", "box", "sh", "-c", "echo begun; sleep 1000; true"))
    assert exec_id in _text(remote("ps", "box"))
    _until(remote, "begun", "logs", "box")
    _text(remote("kill", "box", exec_id))
    assert _text(remote("network", "allow", "box", "example.com:443")) is not None
    assert "8000" in _text(remote("ports", "box"))
    _text(remote("rename", "box", "crate"))
    _text(remote("extend-ttl", "crate", "1h"))
    assert _text(remote("stop", "crate")) == "crate"
    assert _text(remote("start", "crate")) == "crate"
    assert _text(remote("exec", "crate", "cat", "tree/leaf")) == "green"
    kinds = {json.loads(line)["kind"] for line in _text(remote("audit", "--sandbox", "crate")).splitlines()}
    assert kinds >= {"sandbox.stopped", "exec.started"}
    assert _text(remote("remove", "--force", "crate")) == "crate"


def test_what_is_about_the_machine_there(remote: AgentKernel, behind_daemon: AgentKernel, wire: Wire) -> None:
    status = json.loads(_text(remote("daemon", "status", "--json")))
    assert status["host"] == wire.url and "socket" not in status
    assert "namespaces" in _text(remote("backends"))
    assert json.loads(_text(remote("image", "list", "--json"))) == json.loads(_text(behind_daemon("image", "list", "--json")))
    assert isinstance(json.loads(_text(remote("gc", "--dry-run", "--json"))), list)


_NOT_FROM_AFAR = {
    ("daemon", "stop"): "is about this machine's daemon",
    ("daemon", "start"): "is about this machine's daemon",
    ("image", "build", "-t", "x", "."): "reads files of the daemon's machine",
    ("image", "import", ".", "x"): "reads files of the daemon's machine",
    ("run", "--dir", ".", "--", "true"): "a directory of this machine cannot be shown",
    ("run", "--mount", ".:/mnt", "--", "true"): "a mount of this machine cannot be shown",
    ("run", "--image", "/usr", "--", "true"): "an image that is a file of this machine cannot be shown",
    ("create", "--mount-cwd", "box"): "the working directory of this machine cannot be shown",
    ("run", "--no-daemon", "--", "true"): "without a daemon it runs here",
    ("serve", "--port", "0"): "a server serves the daemon of its own machine",
}


def test_what_cannot_be_done_from_afar_says_so(remote: AgentKernel) -> None:
    for words, says in _NOT_FROM_AFAR.items():
        done = remote(*words)
        assert done.returncode == 125 and done.stdout == b"", (words, done)
        error, hint = done.stderr.decode().splitlines()
        assert error.startswith("error: ") and says in error and hint.startswith("hint: ")
    assert _text(remote("list", "--all", "-q")) == ""


def test_a_server_that_does_not_let_one_in_is_one_line_and_a_hint(remote: AgentKernel) -> None:
    remote.environment["AGENTKERNEL_TOKEN"] = "ak_" + "x" * 43
    for words in (("run", "--", "true"), ("list",), ("remove", "one", "two"), ("create", "box")):
        done = remote(*words)
        assert done.returncode == 125 and done.stdout == b"", (words, done)
        error, hint = done.stderr.decode().splitlines()
        assert "does not take this token" in error and hint.startswith("hint: AGENTKERNEL_TOKEN")


def test_the_users_file_names_the_server(remote: AgentKernel) -> None:
    directory = Path(remote.environment["HOME"]) / ".config" / "agentkernel"
    directory.mkdir(parents=True)
    (directory / "token").write_text(remote.environment.pop("AGENTKERNEL_TOKEN"))
    (directory / "config.toml").write_text(f'host = "{remote.environment.pop("AGENTKERNEL_HOST")}"\ntoken_file = "token"\n')
    assert _text(remote("create", "-q", "filed")) == "filed"
    assert _text(remote("list", "-q")) == "filed"


def test_a_server_with_a_certificate_of_ours(remote: AgentKernel, daemon_environment: dict[str, str], tmp_path: Path) -> None:
    signer, own = certificates(tmp_path)
    with serving(daemon_environment, "--tls-cert", own, "--tls-key", own) as server:
        remote.environment["AGENTKERNEL_HOST"] = f"https://localhost:{server.port}"
        untrusted = remote("list")
        assert untrusted.returncode == 125
        assert b"certificate" in untrusted.stderr and b"SSL_CERT_FILE" in untrusted.stderr
        remote.environment["SSL_CERT_FILE"] = signer
        assert _text(remote("run", "-q", "--", "echo", "trusted")) == "trusted"


def test_a_run_goes_on_over_a_way_that_was_cut(remote: AgentKernel, wire: Wire, tmp_path: Path) -> None:
    _text(remote("create", "-q", "box", "--start"))
    script = "echo one; until [ -e /tmp/go ]; do sleep 0.05; done; echo two; exit 5"
    running = remote.start("exec", "box", "sh", "-c", script)
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == b"one\n"
        wire.cut()
        _text(remote("exec", "box", "touch", "/tmp/go"))
        out, err = running.communicate(timeout=DEADLINE_S)
    finally:
        running.kill()
    assert (out, running.returncode) == (b"two\n", 5), err


class Screen:
    """A terminal of tmux with one command in it, and a shell around that which tells its exit status."""

    def __init__(self, socket: Path, agentkernel: AgentKernel, *words: str) -> None:
        self._tmux = ["tmux", "-S", str(socket), "-f", "/dev/null"]
        self._environment = agentkernel.environment | {"TERM": "xterm-256color"}
        command = subprocess.list2cmdline([*agentkernel.argv, *words])
        self._do("new-session", "-d", "-x", "80", "-y", "24", f"{command}; echo left with $?; exec cat")

    def _do(self, *words: str) -> str:
        done = subprocess.run([*self._tmux, *words], env=self._environment, capture_output=True, text=True, timeout=DEADLINE_S)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def type(self, *keys: str) -> None:
        """Keys as tmux names them."""
        self._do("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        """Makes the window of another size."""
        self._do("resize-window", "-x", str(columns), "-y", str(rows))

    def shows(self, *texts: str) -> list[str]:
        """Waits until all these stand on the screen; returns its lines."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            lines = [line.rstrip() for line in self._do("capture-pane", "-p").split("\n")]
            if all(any(text == line for line in lines) for text in texts):
                return lines
            assert time.monotonic() < deadline, (texts, lines)
            time.sleep(0.05)

    def has(self, number: int, text: str) -> None:
        """Waits until so many lines on the screen are that text."""
        deadline = time.monotonic() + DEADLINE_S
        while (lines := [line.rstrip() for line in self._do("capture-pane", "-p").split("\n")]).count(text) != number:
            assert time.monotonic() < deadline, (number, text, lines)
            time.sleep(0.05)

    def command_mode(self) -> None:
        """Leaves the typing of text in an editor; waits until it has: busybox takes Escape and a key that comes with it for another key."""
        self.type("Escape")
        deadline = time.monotonic() + DEADLINE_S
        while any(line.startswith(("-- INSERT --", "I /")) for line in self._do("capture-pane", "-p").split("\n")):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def prompts(self) -> None:
        """Waits until a shell asks: what is typed before the terminal is the shell's is lost."""
        deadline = time.monotonic() + DEADLINE_S
        while not any(line.rstrip().endswith(("$", "#")) for line in self._do("capture-pane", "-p").split("\n")):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def end(self) -> None:
        """Ends tmux and what runs in it; waits until it is gone."""
        pid = int(self._do("display-message", "-p", "#{pid}"))
        self._do("kill-server")
        deadline = time.monotonic() + DEADLINE_S
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@contextmanager
def _screen(socket: Path, agentkernel: AgentKernel, *words: str) -> Iterator[Screen]:
    screen = Screen(socket, agentkernel, *words)
    try:
        yield screen
    finally:
        screen.end()


@pytest.mark.skipif(shutil.which("tmux") is None or shutil.which("less") is None, reason="tmux or less is not installed")
def test_a_pager_on_a_terminal_far_away(remote: AgentKernel, wire: Wire, tmp_path: Path) -> None:
    _text(remote("create", "-q", "box", "--start"))
    _text(remote("exec", "box", "sh", "-c", "seq 1 500 > /tmp/numbers"))
    with _screen(tmp_path / "tmux", remote, "exec", "-q", "box", "less", "/tmp/numbers") as screen:
        screen.shows("1", "23")
        screen.type("G")
        screen.shows("478", "500")
        screen.resize(100, 40)
        screen.type("g")
        screen.shows("1", "39")  # it knows the new size, and fills it
        wire.cut()
        screen.type("G")
        screen.shows("462", "500")  # over the next connection
        screen.type("q")
        screen.shows("left with 0")


def _editor(name: str) -> tuple[str, ...]:
    """The words that start it inside, by a path that is there too; skips where this machine has none."""
    program = shutil.which(name)
    if program is None or shutil.which("tmux") is None:
        pytest.skip(f"{name if program is None else 'tmux'} is not installed")
    real = os.path.realpath(program)
    if name != "busybox" and not os.path.basename(real).startswith("vim"):
        pytest.skip("vi is another editor than vim here")
    if name != "busybox":
        return (real, "-u", "NONE", "-N")
    if "vi" not in subprocess.run([real, "--list"], capture_output=True, text=True).stdout.split():
        pytest.skip("this busybox has no vi")
    return (real, "vi")


@pytest.mark.parametrize("name", ["vi", "busybox"])
def test_an_editor_far_away_follows_the_window_and_is_left_and_joined_again(name: str, remote: AgentKernel, tmp_path: Path) -> None:
    editor = (*_editor(name), "/tmp/notes")
    _text(remote("create", "-q", "box", "--start"))
    with _screen(tmp_path / "tmux", remote, "exec", "-t", "-q", "box", *editor) as screen:
        screen.has(22, "~")
        screen.type("i", "first line")
        screen.shows("first line")
        screen.resize(100, 40)
        screen.has(38, "~")  # it knows the new size, and fills it
        screen.type("Enter", "second line")
        screen.shows("first line", "second line")
        screen.resize(60, 20)
        screen.has(17, "~")
        screen.command_mode()
        screen.type(":wq", "Enter")
        screen.shows("left with 0")
    assert _text(remote("exec", "box", "cat", "/tmp/notes")) == "first line\nsecond line"
    with _screen(tmp_path / "tmux", remote, "attach", "box") as screen:
        screen.prompts()
        screen.type(" ".join((*editor[:-1], "/tmp/more")), "Enter")
        screen.has(22, "~")
        screen.type("i", "begun")
        screen.shows("begun")
        screen.type("C-p", "C-q")  # which are keys of the editor too, and do not reach it
        screen.shows("left with 0")
    with _screen(tmp_path / "tmux", remote, "attach", "box") as screen:
        screen.resize(70, 30)
        screen.has(28, "~")  # it draws itself for this window
        screen.shows("begun")
        screen.type("Enter", "and ended")
        screen.shows("begun", "and ended")
        screen.command_mode()
        screen.type(":wq", "Enter")
        screen.prompts()
        screen.type("exit 3", "Enter")
        screen.shows("left with 3")
    assert _text(remote("exec", "box", "cat", "/tmp/more")) == "begun\nand ended"


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_a_shell_is_left_and_joined_again_far_away(remote: AgentKernel, tmp_path: Path) -> None:
    _text(remote("create", "-q", "box", "--start"))
    with _screen(tmp_path / "tmux", remote, "attach", "box") as screen:
        screen.prompts()
        screen.type("stty size; x=kept", "Enter")
        screen.shows("24 80")
        screen.type("C-p", "C-q")
        screen.shows("left with 0")
    with _screen(tmp_path / "tmux", remote, "attach", "box") as screen:
        screen.prompts()
        screen.type("echo it was $x", "Enter")
        screen.shows("it was kept")
        screen.type("exit 3", "Enter")
        screen.shows("left with 3")
