"""Podman's interface where nobody serves it: a `podman system service` of this user's, started with the first call and ended by idleness.

Podman has no daemon. Containers do not depend on the service: it may end, or be killed, at any time, and the next call starts another.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
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
_LOG_BYTES = 65_536
# What Podman itself reads; nothing else of the caller's environment is a service's that outlives it (nor is its TMPDIR).
_PASSED = (
    "CONTAINERS_", "DBUS_SESSION_BUS_ADDRESS", "HOME", "HTTPS_PROXY", "HTTP_PROXY", "LANG", "LOGNAME", "NO_PROXY", "PATH",
    "REGISTRY_AUTH_FILE", "SSL_CERT_", "STORAGE_", "USER", "XDG_", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip


class PodmanService(Endpoint):
    """Its endpoint. `directory` is private to this user; socket, lock, log and process id are in it, one of each for each `runtime`.

    The runtime that containers get is a service's own: Podman 4 does not let who creates one choose. Empty: as Podman is configured.
    """

    __slots__ = ("_directory", "_environment", "_program", "_runtime")

    def __init__(self, program: str, directory: Path, environment: Mapping[str, str], runtime: str = "") -> None:
        own = directory / (runtime or "default")
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
        argv = (self._program, *chosen, "system", "service", f"--time={IDLE_S}", str(self))
        with open(self._directory / "log", "wb") as log:
            started = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env=self._environment, start_new_session=True
            )
        write_file(str(self._directory / "pid"), str(started.pid))
        threading.Thread(target=started.wait, name="podman-service", daemon=True).start()  # so that no zombie stays
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                return super().open(timeout_s)
            if started.returncode is not None:
                raise ConnectionError(f"`podman system service` ended with status {started.returncode}: {self._last_words()}")
            time.sleep(_PAUSE_S)
        started.kill()
        raise TimeoutError("`podman system service` does not listen")

    def _last_words(self) -> str:
        lines = (self._directory / "log").read_bytes()[-_LOG_BYTES:].decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
