"""Runs the command line in tests: in this process, as a child process, or as a child on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass, field
from pathlib import Path

SCRIPT = Path(__file__).with_name("scripted_kernel.py")
SOURCE = Path(__file__).parents[2] / "src"
DEADLINE_S = 30.0
_ON_TERMINAL = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"


def environment_in(directory: Path, **more: str) -> dict[str, str]:
    """An environment whose every place is in `directory`."""
    return {
        "HOME": str(directory),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": str(SOURCE),
        "LANG": "C.UTF-8",
        "SCRIPTED_LOG": str(directory / "log"),
        "SCRIPTED_SIGINT": "default",
        "AGENTKERNEL_DAEMON": "off",  # the scripted kernel is in process
        **more,
    }


def command_line(*arguments: str) -> list[str]:
    """The argv of the command line on the scripted kernel."""
    return [sys.executable, str(SCRIPT), *arguments]


def start(directory: Path, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
    """Starts it with pipes at all three streams."""
    return subprocess.Popen(
        command_line(*arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=directory,
        env=environment_in(directory, **more),
    )


def run(directory: Path, *arguments: str, stdin: bytes = b"", **more: str) -> subprocess.CompletedProcess[bytes]:
    """Runs it to its end."""
    return subprocess.run(
        command_line(*arguments), input=stdin, capture_output=True, cwd=directory, env=environment_in(directory, **more), timeout=DEADLINE_S
    )


def log_of(directory: Path) -> list[str]:
    """What the scripted kernel says happened."""
    path = directory / "log"
    return path.read_text().splitlines() if path.exists() else []


def wait_for_log(directory: Path, event: str) -> None:
    """Waits until the kernel says so."""
    deadline = time.monotonic() + DEADLINE_S
    while event not in log_of(directory):
        assert time.monotonic() < deadline, f"{event!r} never happened: {log_of(directory)}"
        time.sleep(0.01)


@dataclass
class OnTerminal:
    """A child with a terminal of its own as stdin, stdout and stderr, and this end of it."""

    directory: Path
    arguments: tuple[str, ...]
    rows: int = 30
    columns: int = 100
    argv: list[str] = field(default_factory=list)  # in place of the scripted kernel
    environment: dict[str, str] = field(default_factory=dict)
    seen: bytes = b""

    def __enter__(self) -> OnTerminal:
        self.master, self.slave = pty.openpty()
        self.set_size(self.rows, self.columns)
        argv = [*self.argv, *self.arguments] if self.argv else command_line(*self.arguments)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _ON_TERMINAL, *argv],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            cwd=self.directory,
            env=environment_in(self.directory, TERM="xterm-256color") | self.environment,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def set_size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def expect(self, wanted: bytes) -> bytes:
        """Reads until `wanted` is shown."""
        deadline = time.monotonic() + DEADLINE_S
        while wanted not in self.seen:
            assert time.monotonic() < deadline, f"{wanted!r} was never shown, but {self.seen!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 65536)
        return self.seen

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def wait(self) -> int:
        return self.process.wait(DEADLINE_S)
