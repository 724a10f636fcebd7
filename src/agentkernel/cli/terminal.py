"""The user's terminal: its size, and raw mode that is left whatever happens."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import termios
import tty
from types import TracebackType

from agentkernel.model.command import TerminalSize

_DEFAULT = TerminalSize(rows=24, columns=80)


def terminal_size() -> TerminalSize:
    """The size of the terminal at stdout, stdin or stderr, in that order; 24 by 80 when there is none."""
    for descriptor in (1, 0, 2):
        try:
            rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(descriptor, termios.TIOCGWINSZ, b"\0" * 8))
        except OSError:
            continue
        if rows and columns:
            return TerminalSize(rows=rows, columns=columns)
    return _DEFAULT


class RawTerminal:
    """Raw mode for the length of a `with` block: every key goes to the program inside, also Ctrl-C."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._saved = termios.tcgetattr(descriptor)

    def __enter__(self) -> RawTerminal:
        tty.setraw(self._descriptor, termios.TCSADRAIN)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def suspend(self) -> None:
        """Stops this process as SIGTSTP would, with the terminal as the shell left it; returns when it goes on."""
        self._restore()
        os.kill(os.getpid(), signal.SIGSTOP)
        tty.setraw(self._descriptor, termios.TCSADRAIN)

    def _restore(self) -> None:
        try:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._saved)
        except termios.error:  # the terminal is gone, and its mode with it
            return
