"""Raw mode of the user's terminal, which is left whatever happens. A terminal that is gone has no mode; its hang-up is told by a signal."""

from __future__ import annotations

import os
import signal
import termios
import tty
from contextlib import suppress
from types import TracebackType
from typing import Any


class RawTerminal:
    """Raw mode for the length of a `with` block: every key goes to the program inside, also Ctrl-C."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._saved: list[Any] | None = None
        with suppress(termios.error):
            self._saved = termios.tcgetattr(descriptor)

    def __enter__(self) -> RawTerminal:
        self._make_raw()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def suspend(self) -> None:
        """Stops this process as SIGTSTP would, with the terminal as the shell left it; returns when it goes on."""
        self._restore()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._make_raw()

    def _make_raw(self) -> None:
        with suppress(termios.error):
            tty.setraw(self._descriptor, termios.TCSADRAIN)

    def _restore(self) -> None:
        if self._saved is None:
            return
        with suppress(termios.error):
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._saved)
