"""Runs a program that ends with whoever started it, however that ends: `python lifeline.py PROGRAM WORDS...`.

Standard input is the line: nothing is ever sent over it, and when it ends, so does everything in this process group, which is of its own.
A builder that lost its daemon would go on, for hours perhaps, for nobody. Imports only the standard library.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress


def _hold() -> None:
    """Waits for the end of the line."""
    with suppress(OSError):  # a line that was cut is one that has ended
        while os.read(0, 1024):
            pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main(argv: list[str]) -> int:
    """Returns the program's exit status; one that a signal ended is 128 and that."""
    nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    child = os.posix_spawn(argv[0], argv, os.environ, file_actions=[nothing])
    threading.Thread(target=_hold, daemon=True).start()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.stdout.flush()
    os._exit(main(sys.argv[1:]))  # (at once: the thread is still waiting)
