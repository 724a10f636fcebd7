"""Podman's interface where nobody serves it: a `podman system service` of this user's, started with the first call and ended by idleness.

Podman has no daemon. Containers do not depend on the service: it may end, or be killed, at any time, and the next call starts another.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agentkernel.backends._records import write_file
from agentkernel.backends.containers.endpoint import Endpoint, Transport

IDLE_S: Final = 120
_START_S = 30.0
_PAUSE_S = 0.02
# It shall hold nobody's directory; and what conmon writes where it stands (a file `oom`) lies among its own files.
_IN_ITS_DIRECTORY = ("/bin/sh", "-c", 'cd "$1" && shift && exec "$@"', "sh")
_LOG_BYTES = 65_536
_MOUNT_NAMESPACE = "/proc/self/ns/mnt"
_NAME_CHARACTERS = 32  # a socket's address has room for 107 in all
# What Podman itself reads; nothing else of the caller's environment is a service's that outlives it (nor is its TMPDIR).
_PASSED = (
    "CONTAINERS_", "DBUS_SESSION_BUS_ADDRESS", "HOME", "HTTPS_PROXY", "HTTP_PROXY", "LANG", "LOGNAME", "NO_PROXY", "PATH",
    "REGISTRY_AUTH_FILE", "SSL_CERT_", "STORAGE_", "USER", "XDG_", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip


class PodmanService(Endpoint):
    """Its endpoint. `directory` is private to this user; socket, lock, log and process id are in it, one of each for each `runtime` and
    for each mount namespace: a service that was started in another one does not find the directories that containers shall get from here.

    The runtime that containers get is a service's own: Podman 4 does not let who creates one choose. Empty: as Podman is configured.
    """

    __slots__ = ("_directory", "_environment", "_program", "_runtime")

    def __init__(self, program: str, directory: Path, environment: Mapping[str, str], runtime: str = "") -> None:
        name = runtime.strip("/").replace("/", "-")[-_NAME_CHARACTERS:] or "default"
        own = directory / f"{name}-{os.stat(_MOUNT_NAMESPACE).st_ino}"  # a service holds its namespace, so the number stays that one's
        super().__init__(transport=Transport.UNIX, address=str(own / "podman.sock"), source="a service of agentkernel's own")
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_directory", own)
        object.__setattr__(self, "_runtime", runtime)
        object.__setattr__(self, "_environment", {name: environment[name] for name in environment if name.startswith(_PASSED)})

    _program: str
    _directory: Path
    _runtime: str
    _environment: dict[str, str]

    def open(self, timeout_s: float) -> socket.socket:
        """As of any endpoint; starts the service where nobody listens, for which it waits up to 30 seconds more."""
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return super().open(timeout_s)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of several engines of a user one starts it
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                return super().open(timeout_s)
            return self._start(timeout_s)
        finally:
            os.close(lock)

    def _start(self, timeout_s: float) -> socket.socket:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.address)
        chosen = ("--runtime", self._runtime) if self._runtime else ()
        pid = self._spawn(
            (*_IN_ITS_DIRECTORY, str(self._directory), self._program, *chosen, "system", "service", f"--time={IDLE_S}", str(self))
        )
        write_file(str(self._directory / "pid"), str(pid))
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                connection = super().open(timeout_s)
                threading.Thread(target=_reap, args=(pid,), name="podman-service", daemon=True).start()
                return connection
            if os.waitpid(pid, os.WNOHANG)[0]:
                raise ConnectionError(f"`podman system service` ends at once: {self._last_words()}")
            time.sleep(_PAUSE_S)
        os.kill(pid, signal.SIGKILL)
        _reap(pid)
        raise TimeoutError("`podman system service` does not listen")

    def _spawn(self, argv: tuple[str, ...]) -> int:
        """In a session of its own, with a log in place of its streams; nobody's `Popen`, for it outlives this process as a rule."""
        log = str(self._directory / "log")
        streams = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        return os.posix_spawn(argv[0], argv, self._environment, file_actions=streams, setsid=True)

    def _last_words(self) -> str:
        lines = (self._directory / "log").read_bytes()[-_LOG_BYTES:].decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def _reap(pid: int) -> None:
    """Waits for its end, so that no zombie stays."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
