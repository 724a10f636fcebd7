"""`python reaper.py PROGRAM ARGS...`: runs a service and adopts whatever it leaves, so that nothing of it becomes the tests' own child.

Container engines start a monitor for each container which its parent leaves at once; a test process that adopts orphans to count them
would count these. Ends the program at SIGTERM (with SIGKILL, should it not end by itself), and then what it adopted and still runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

PATIENCE_S = 10
PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG = 36, 1


def children(of: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == of and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def main() -> int:
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    child = os.fork()
    if child == 0:
        os.execvp(sys.argv[1], sys.argv[1:])

    def end(number: int, _frame: object) -> None:
        os.kill(child, signal.SIGTERM if number == signal.SIGTERM else signal.SIGKILL)
        signal.alarm(PATIENCE_S)

    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, end)
    status = 0
    while True:
        pid, ended = os.wait()
        if pid == child:
            status = os.waitstatus_to_exitcode(ended)
            break
    while left := children(os.getpid()):
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        try:
            while True:
                os.waitpid(-1, 0)
        except ChildProcessError:
            continue
    return status


if __name__ == "__main__":
    sys.exit(main())
