"""Starting the daemon in the background, as every client does it when none answers.

Close to the command line's hot path: imports nothing of Python or of this package that takes long.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import stat
import sys
import time

from agentkernel.config.directories import runtime_directory, socket_path
from agentkernel.errors import DaemonUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

START_LOCK = "daemon.starting"  # held by the starting daemon until its socket listens
ERRORS = "daemon.stderr"
WAIT_S = 15.0
_PASSED = frozenset({"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE"})
# Where this user's container engines listen: the daemon asks those that the first client would.
_PASSED_ENGINES = frozenset(
    {
        *("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"),
        *("CONTAINER_HOST", "CONTAINER_SSHKEY", "CONTAINER_CONNECTION"),
        *("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "CONTAINERS_REGISTRIES_CONF"),  # where Podman's own settings are
    }
)
# What reaching a registry takes here; none of it is ever shown to a sandbox.
_PASSED_REGISTRIES = frozenset(
    {
        *("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "all_proxy", "no_proxy"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REGISTRY_AUTH_FILE"),
    }
)
_PASSED_OWN = frozenset(
    {
        *("AGENTKERNEL_HOME", "AGENTKERNEL_SOCKET", "AGENTKERNEL_FAILPOINTS", "AGENTKERNEL_GUEST"),
        *("AGENTKERNEL_RUNSC", "AGENTKERNEL_PODMAN", "AGENTKERNEL_CONTAINER"),  # which programs backends use
    }
)
_POLL_S = 0.002
_SHOWN_BYTES = 2000


def spawn(environment: Mapping[str, str], wait_s: float = WAIT_S) -> None:
    """Starts a daemon, or waits for the one that somebody else is starting; returns when its socket listens.

    The daemon is nobody's child, has a session of its own, the directory `/`, no terminal and of the environment only what
    `daemon_environment` passes. It exits at once, quietly, where another one serves already; then the caller finds that one.

    One that fails later, while it starts, has left `last_words`, and the caller still cannot connect.

    Raises:
        DaemonUnavailable: it cannot be started, or is not ready within `wait_s` seconds.
    """
    directory = runtime_directory(environment, os.geteuid())
    try:
        own_directory(directory)
        lock = os.open(f"{directory}/{START_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise DaemonUnavailable(f"no daemon can be started: {error}", hint="set AGENTKERNEL_HOME to a directory of yours") from error
    try:
        if _locked(lock, fcntl.LOCK_EX):
            if _listens(socket_path(environment)):
                return  # somebody was quicker
            _launch(environment, directory, lock)
            os.close(lock)  # the daemon's copy keeps it locked
            lock = os.open(f"{directory}/{START_LOCK}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        deadline = time.monotonic() + wait_s
        while not _locked(lock, fcntl.LOCK_SH):
            if time.monotonic() > deadline:
                raise DaemonUnavailable(f"the daemon was not ready within {wait_s:g} seconds", hint=f"see {directory}/{ERRORS}")
            time.sleep(_POLL_S)
    finally:
        os.close(lock)


def daemon_argv(*, background: bool, start_lock: int | None = None) -> list[str]:
    """How the daemon is called. `-P`: what lies in the current directory must not be imported."""
    if not sys.executable:
        raise DaemonUnavailable("no daemon can be started: this process does not know its Python interpreter")
    argv = [sys.executable, "-P", "-m", "agentkernel.daemon", "--background" if background else "--foreground"]
    return argv if start_lock is None else [*argv, "--start-lock", str(start_lock)]


def daemon_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What of the client's environment the daemon gets: nothing that a sandbox must not see, and nothing that changes with the client."""
    names = _PASSED | _PASSED_ENGINES | _PASSED_REGISTRIES | _PASSED_OWN
    passed = {name: value for name, value in environment.items() if name in names or name.startswith("XDG_")}
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if root in map(os.path.abspath, environment.get("PYTHONPATH", "").split(os.pathsep)):  # a source tree: this very package, and no more
        passed["PYTHONPATH"] = root
    return passed


def last_words(environment: Mapping[str, str]) -> str:
    """What the daemon that was started last wrote before it gave up: one line."""
    try:
        with open(f"{runtime_directory(environment, os.geteuid())}/{ERRORS}", "rb") as file:
            lines = file.read()[-_SHOWN_BYTES:].split(b"\n")
    except OSError:
        lines = []
    return next((line.decode("utf-8", "replace").strip() for line in reversed(lines) if line.strip()), "it says nothing")


def own_directory(path: str, *, closes: bool = True) -> None:
    """Makes a directory that is ours and closed to others, or checks that it is; raises OSError where it is not.

    Without `closes` one that is there already stays as open as it is: HOME, say, or /run, where somebody wants the socket to be.

    /tmp is anyone's: a directory (or symlink) that somebody else has put there is not used. Root's may be passed through, though not be
    looked into: its sandboxes' users reach their mounts beneath it.
    """
    mode = 0o700 if os.geteuid() else 0o711
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        pass
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise PermissionError(f"{path} is not a directory of uid {os.geteuid()}")
    if status.st_mode & 0o022:
        raise PermissionError(f"{path} can be written by others")
    if closes and status.st_mode & 0o077 != mode & 0o077:
        os.chmod(path, mode)


def _launch(environment: Mapping[str, str], directory: str, lock: int) -> None:
    errors = f"{directory}/{ERRORS}"
    inherited = 3 if lock != 3 else 4
    null = "/dev/null"
    actions = [
        (os.POSIX_SPAWN_DUP2, lock, inherited),
        (os.POSIX_SPAWN_OPEN, 0, null, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, null, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW, 0o600),
    ]
    argv = daemon_argv(background=True, start_lock=inherited)
    try:
        child = os.posix_spawn(argv[0], argv, daemon_environment(environment), file_actions=actions)
        _, status = os.waitpid(child, 0)
    except ChildProcessError:
        return  # the caller's process ignores its children; the lock tells the rest
    except OSError as error:
        raise DaemonUnavailable(f"no daemon can be started: {error}") from error
    if status:
        raise DaemonUnavailable(f"the daemon did not start: {last_words(environment)}", hint=f"see {errors}")


def _listens(path: str) -> bool:
    probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        probe.connect(path)
    except OSError:
        return False
    finally:
        probe.close()
    return True


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
