"""The process: the installed command and `python -m agentkernel`. What it imports here every `exec` pays for; see `cli.hot`."""

import os
import sys

from agentkernel.cli import hot

# Containers made before the collector looks at them for garbage. A start makes tens of thousands that all live to the end; with the
# interpreter's 700 it would look through them again and again.
_GC_THRESHOLD = 100_000
_EXIT_INTERRUPTED = 130  # 128 + SIGINT


def command() -> None:
    """Runs the command line and ends the process.

    What was written is flushed, and every sandbox of this process gone, by then. So the process ends at once: taking the interpreter and
    hundreds of modules apart in good order takes as long as making a sandbox.
    """
    try:
        status = hot.main(sys.argv[1:])
        if status is None:
            status = _full()
    except KeyboardInterrupt:
        status = _EXIT_INTERRUPTED
    os._exit(status)


def _full() -> int:
    import gc  # noqa: PLC0415 - see above

    from agentkernel.cli.main import main  # noqa: PLC0415 - see above

    gc.set_threshold(_GC_THRESHOLD)
    return main()


if __name__ == "__main__":
    command()
