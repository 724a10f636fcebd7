"""The daemon's process: `python -m agentkernel.daemon`. Clients start it (`config.daemon_process`), or systemd does (deploy/)."""

from __future__ import annotations

import os
import sys

from agentkernel.daemon.process import Options, run

USAGE = "usage: python -m agentkernel.daemon [--foreground | --background] [--start-lock FD] [--idle SECONDS] [--backends NAME,...]\n"


def main(words: list[str]) -> int:
    """Parses the words and serves; in the background as nobody's child, while this process ends."""
    given: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        if word in ("--foreground", "--background"):
            given[word] = ""
        elif word in ("--start-lock", "--idle", "--backends"):
            given[word] = next(rest, "")
        else:
            sys.stderr.write(USAGE)
            return 2
    if "--background" in given:
        if os.fork():
            os._exit(0)
        os.setsid()
    return run(
        Options(
            start_lock=int(given["--start-lock"]) if "--start-lock" in given else None,
            idle_s=float(given["--idle"]) if "--idle" in given else None,
            backends=tuple(given["--backends"].split(",")) if "--backends" in given else None,
        )
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
