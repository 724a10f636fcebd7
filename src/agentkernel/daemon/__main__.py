"""The daemon's process: `python -m agentkernel.daemon`. Clients start it (`config.daemon_process`), or systemd does (deploy/)."""

from __future__ import annotations

import os
import sys
from importlib import import_module

USAGE = "usage: python -m agentkernel.daemon [--foreground | --background] [--start-lock FD] [--idle SECONDS] [--backends NAME,...]\n"


def main(words: list[str]) -> int:
    """Parses the words and serves; in the background the caller is told at once that there is a process."""
    given: dict[str, str] = {}
    switches = {"--foreground", "--background"}
    rest = iter(words)
    for word in rest:
        if word in switches:
            given[word] = ""
        elif word in ("--start-lock", "--idle", "--backends"):
            given[word] = next(rest, "")
        else:
            sys.stderr.write(USAGE)
            return 2
    if "--background" in given:
        # Before anything is imported: a child has nobody's attention, and its parent's parent waits for this process alone.
        if os.fork():
            os._exit(0)
        os.setsid()
    process = import_module("agentkernel.daemon.process")  # after the fork
    return int(
        process.run(
            process.Options(
                start_lock=int(given["--start-lock"]) if "--start-lock" in given else None,
                idle_s=float(given["--idle"]) if "--idle" in given else None,
                backends=tuple(given["--backends"].split(",")) if "--backends" in given else None,
            )
        )
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
