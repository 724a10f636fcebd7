"""What the stand-in's machines are children of, as on a Mac they are launchd's: `python apple_service.py STATE`, until its input ends.

A connection to STATE/service.sock sends a machine's directory, and gets its pid, or a line that says what went wrong. Machines end with the
service, and it ends with whoever holds its input: nothing is left of a test run that was cut short.
"""

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
MACHINE = Path(__file__).with_name("apple_machine.py")
WITH_THE_SERVICE = ("setpriv", "--pdeathsig", "KILL", "--")
UNSHARE = ("unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child=KILL", "--")


def reap(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def boot(place: str) -> str:
    ready, told = os.pipe()
    null = subprocess.DEVNULL
    argv = [*WITH_THE_SERVICE, *UNSHARE, sys.executable, "-I", "-S", str(MACHINE), place, str(told)]
    machine = subprocess.Popen(argv, stdin=null, stdout=null, stderr=null, pass_fds=(told,), start_new_session=True)
    os.close(told)
    with os.fdopen(ready, "rb", buffering=0) as stream:
        words = stream.read(4096).decode()  # an empty line before the container's program is executed
    return str(machine.pid) if words == "\n" else words or "no machine"


def main(state: str) -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGCHLD, reap)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{state}/service.sock")
        listener.listen(64)
        print("listening", flush=True)
        while sys.stdin not in select.select([sys.stdin, listener], [], [])[0]:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(BrokenPipeError):  # who asked may have been killed; the others' machines go on
                connection.sendall(boot(connection.recv(4096).decode()).encode())


if __name__ == "__main__":
    main(sys.argv[1])
