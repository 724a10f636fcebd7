"""The process: the installed command and `python -m agentkernel`."""

from __future__ import annotations

import gc
import os
from typing import NoReturn

from agentkernel.cli.main import main

# Containers made before the collector looks at them for garbage. A start makes tens of thousands that all live to the end; with the
# interpreter's 700 it would look through them again and again.
_GC_THRESHOLD = 100_000


def command() -> NoReturn:
    """Runs the command line and ends the process.

    `main` has flushed what it wrote, and every sandbox is gone by then. So the process ends at once: taking the interpreter and hundreds
    of modules apart in good order takes as long as making a sandbox.
    """
    gc.set_threshold(_GC_THRESHOLD)
    os._exit(main())


if __name__ == "__main__":
    command()
