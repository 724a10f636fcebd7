"""Makes processes to be killed: forks them, ready imported, which takes 10 ms where a new interpreter takes 300.

    python -m reliability.nursery CONTROL_FD SHARED_FILE

On the control socket come JSON lines `{"kind", "environment", "failpoints", "arguments", "stderr"}`, for kind `engine` with the descriptor of a
socket; it answers `{"pid"}` and, when one of them has ended, `{"ended", "status"}`.
"""

from __future__ import annotations

import time

_real_time = time.time


def _shifted_time() -> float:
    return _real_time() + (_shared.clock_s if _shared is not None else 0.0)


time.time = _shifted_time  # before anybody takes the function: engines are given it as their clock

import importlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import pkgutil  # noqa: E402
import select  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
import traceback  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from reliability.shared import Shared  # noqa: E402

import agentkernel  # noqa: E402
from agentkernel import failpoints  # noqa: E402

_shared: Shared | None = None
_NOT_IMPORTED = ("agentkernel.__main__", "agentkernel.testing")


def _import_everything() -> None:
    for module in pkgutil.walk_packages(agentkernel.__path__, "agentkernel."):
        if not module.name.startswith(_NOT_IMPORTED):
            importlib.import_module(module.name)


def _arm(text: str) -> None:
    """What importing `failpoints` with that variable would have done; and each act is counted before it is done."""
    rules = failpoints.parse(text)
    for each in (rule for some in rules.values() for rule in some):
        each.act = _counted(each.act)
    failpoints._rules.update(rules)


def _counted(act: Any) -> Any:
    def counted(name: str) -> None:
        assert _shared is not None
        _shared.fired += 1
        act(name)

    return counted


def _child(asked: dict[str, Any], descriptors: list[int]) -> None:
    """A forked process becomes what was asked for, and never returns."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        errors = os.open(asked["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(errors, 1)
        os.dup2(errors, 2)
        os.close(errors)
        os.setsid()
        os.environ.clear()
        os.environ.update(asked["environment"])
        _arm(asked["failpoints"])
        if asked["kind"] == "engine":
            status = importlib.import_module("reliability.subject").main(*asked["arguments"], *descriptors)
        else:
            status = importlib.import_module("agentkernel.daemon.__main__").main(asked["arguments"])
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main(control_fd: str, shared: str) -> None:
    """Serves until the control socket is closed."""
    global _shared
    _shared = Shared(Path(shared))
    _import_everything()
    importlib.import_module("reliability.subject")
    control = socket.socket(fileno=int(control_fd))
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken)
    control.sendall(b'{"ready": true}\n')
    living: set[int] = set()
    while True:
        ready = select.select([control, wake], [], [])[0]
        if wake in ready:
            os.read(wake, 4096)
            _reap(control, living)
        if control in ready:
            data, descriptors, _, _ = socket.recv_fds(control, 1 << 20, 8)
            if not data:
                for pid in living:  # the campaign is over, or was killed itself
                    os.kill(pid, signal.SIGKILL)
                return
            pid = os.fork()
            if pid == 0:
                control.close()
                _child(json.loads(data), descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            living.add(pid)
            control.sendall(json.dumps({"pid": pid}).encode() + b"\n")


def _reap(control: socket.socket, living: set[int]) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        living.discard(pid)
        control.sendall(json.dumps({"ended": pid, "status": os.waitstatus_to_exitcode(status)}).encode() + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
