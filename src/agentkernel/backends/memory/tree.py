"""Ends an agent that is not PID 1, and everything below it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 10.0


def end_tree(agent: int) -> None:
    """Kills every descendant of the agent, lets it reap them, and kills it; the caller reaps the agent itself.

    The agent is stopped meanwhile, so that it starts nothing more; orphans below it come to it, because it is a subreaper.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(agent, signal.SIGSTOP)
        _repeat(lambda: _kill_living(agent))
        os.kill(agent, signal.SIGCONT)
        _repeat(lambda: not _below(agent))
        os.kill(agent, signal.SIGKILL)


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
