"""Raw mode of the user's terminal, which is left whatever happens."""

from __future__ import annotations

import os
import signal
import termios
import tty
from types import TracebackType


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
