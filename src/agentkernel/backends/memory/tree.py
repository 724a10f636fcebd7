"""Ends an agent that is not PID 1, and everything below it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 10.0


def end_agent(agent: int, pidfd: int) -> None:
    """Kills every descendant of the agent, lets it reap them, kills it, and closes the pidfd; blocks for some milliseconds.

    The agent is stopped meanwhile, so that it starts nothing more; orphans below it come to it, because it is a subreaper.
    """
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
            _repeat(lambda: bool(poll.poll(0)) or _kill_living(agent))
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            _repeat(lambda: bool(poll.poll(0)) or not _below(agent))
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poll.poll(PATIENCE_S * 1000)
        with contextlib.suppress(ChildProcessError):  # an earlier engine's
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    finally:
        os.close(pidfd)


def _repeat(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done() and time.monotonic() < deadline:
        time.sleep(0.001)


def _kill_living(agent: int) -> bool:
    living = [pid for pid, state in _below(agent).items() if state != "Z"]
    for pid in living:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return not living


def _below(agent: int) -> dict[int, str]:
    """Pid and state of every descendant."""
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                parents[int(entry.name)] = (int(fields[1]), fields[0].decode())
    found: dict[int, str] = {}
    wave = {agent}
    while wave:
        wave = {pid for pid, (parent, _) in parents.items() if parent in wave and pid not in found}
        found.update((pid, parents[pid][1]) for pid in wave)
    return found
