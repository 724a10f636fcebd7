"""The directories by which every sandbox of this backend can be found again after a crash.

    <base>/sandboxes/<id>/          one directory per sandbox, made before anything else
        lease                       flock'ed by the engine that owns it; free means its owner is gone
        pid                         "<pid> <start time>" of its first process
        cgroups                     one cgroup directory per line
        range                       the first id of its id range (root only)
        agent.sock                  the agent's listening socket
        data                        the directory of its own writes, with `--storage disk`
    <base>/ranges/<n>               a leased id range; holds the sandbox's id
    <base>/mount/                   an empty directory: where a sandbox's own mount namespace mounts its new root

<base> is /run/agentkernel for root, else $XDG_RUNTIME_DIR/agentkernel or /tmp/agentkernel-<uid>. Storage on disk is elsewhere, for these
are often in memory: /var/lib/agentkernel/sandboxes for root, else $XDG_DATA_HOME/agentkernel/sandboxes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from agentkernel.errors import LaunchFailed

UNFINISHED_AGE_S = 10.0
_UNFINISHED_LEASE = "lease.new"
_LEASE_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRoot:
    """The base directory; use `open_state_root`."""

    path: Path

    @property
    def sandboxes(self) -> Path:
        """One directory per sandbox."""
        return self.path / "sandboxes"

    @property
    def ranges(self) -> Path:
        """One file per leased id range."""
        return self.path / "ranges"

    @property
    def mount_point(self) -> Path:
        """Where new roots are mounted, each in its own mount namespace."""
        return self.path / "mount"


def state_base(uid: int, environment: dict[str, str]) -> Path:
    """Names the base directory for a user."""
    if uid == 0:
        return Path("/run/agentkernel")
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and len(runtime) <= 40:  # sun_path holds 107 bytes, the rest of the path needs 60
        return Path(runtime) / "agentkernel"
    return Path(f"/tmp/agentkernel-{uid}")  # noqa: S108 - checked below: ours, a real directory, closed to others


def data_base(uid: int, environment: dict[str, str]) -> Path:
    """Where storage on disk is, for a user."""
    if uid == 0:
        return Path("/var/lib/agentkernel/sandboxes")
    data = environment.get("XDG_DATA_HOME", "")
    return Path(data if data.startswith("/") else f"{environment.get('HOME', '/')}/.local/share") / "agentkernel" / "sandboxes"


def open_state_root(base: Path, uid: int) -> StateRoot:
    """Makes the base directory where needed; refuses one that somebody else made (the name in /tmp is predictable)."""
    root = StateRoot(path=base)
    # A sandbox's processes walk to their directories as ids of its range, so root's directories let others search (not list) them.
    mode = 0o711 if uid == 0 else 0o700
    try:
        for directory, wanted in ((base, mode), (root.sandboxes, mode), (root.ranges, 0o700), (root.mount_point, mode)):
            with contextlib.suppress(FileExistsError):
                directory.mkdir(mode=wanted)
            found = directory.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & 0o022:
                raise LaunchFailed(
                    f"{directory} is not a directory that only uid {uid} can write",
                    hint=f"someone else made it; remove it (rm -rf {base}) or set XDG_RUNTIME_DIR",
                )
            if stat.S_IMODE(found.st_mode) != wanted:  # the umask, or an earlier version
                directory.chmod(wanted)
    except OSError as error:
        raise LaunchFailed(
            f"cannot prepare the state directory {base}: {error}", hint="set XDG_RUNTIME_DIR to a directory of yours"
        ) from error
    return root


@dataclass(slots=True)
class SandboxState:
    """One sandbox's directory, leased by this process as long as `lease_fd` is open."""

    sandbox_id: str
    path: Path
    lease_fd: int

    @property
    def socket_path(self) -> Path:
        """The agent's listening socket."""
        return self.path / "agent.sock"

    @property
    def data(self) -> Path | None:
        """The directory with the sandbox's own writes, for storage on disk and isolation level `process`."""
        recorded = self.recorded("data")
        return Path(recorded) if recorded else None

    def make_data(self, base: Path, owner: int | None) -> Path:
        """Makes that directory beneath `base`, recorded first; an owner of its own may enter it."""
        data = base / self.sandbox_id
        self.record("data", str(data))
        base.mkdir(mode=0o711, parents=True, exist_ok=True)
        data.mkdir(mode=0o755)
        if owner is not None:
            os.chown(data, owner, owner)
        return data

    def record(self, name: str, text: str) -> None:
        """Writes one fact before (or right after) the effect it stands for."""
        write_file(f"{self.path}/{name}", text)

    def recorded(self, name: str) -> str:
        """Reads one fact; empty when it was never written."""
        try:
            with open(f"{self.path}/{name}") as file:
                return file.read()
        except OSError:
            return ""

    def release(self) -> None:
        """Removes the (emptied) directory and gives the lease back."""
        for name in ("agent.sock", "pid", "cgroups", "range", "data", _UNFINISHED_LEASE, "lease"):
            with contextlib.suppress(OSError):
                os.unlink(f"{self.path}/{name}")
        with contextlib.suppress(OSError):
            os.rmdir(self.path)
        if self.lease_fd >= 0:
            os.close(self.lease_fd)
            self.lease_fd = -1


def write_file(path: str, text: str) -> None:
    """Writes a small file in three system calls, where a file object takes seven: each start writes a dozen."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def create_state(root: StateRoot, sandbox_id: str) -> SandboxState:
    """Makes and leases a sandbox's directory: the intent, before any effect."""
    path = root.sandboxes / sandbox_id
    path.mkdir(mode=0o700)
    return SandboxState(sandbox_id=sandbox_id, path=path, lease_fd=_new_lease(path))


def abandoned(root: StateRoot) -> list[SandboxState]:
    """Leases and returns the sandboxes whose owner is gone."""
    found = []
    for path in sorted(root.sandboxes.iterdir()):
        with contextlib.suppress(OSError):
            found.append(SandboxState(sandbox_id=path.name, path=path, lease_fd=_taken_lease(path)))
    return found


def _new_lease(path: Path) -> int:
    """The lease appears when it is locked already: between its making and its locking another engine's sweep would take it."""
    unfinished = path / _UNFINISHED_LEASE
    fd = os.open(unfinished, _LEASE_FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.link(unfinished, path / "lease")
        unfinished.unlink()
    except BaseException:
        os.close(fd)
        raise
    return fd


def _taken_lease(path: Path) -> int:
    """Locks the lease of a sandbox whose owner is gone; raises OSError when it is not.

    A directory without a lease is one that its maker has not finished; its age tells a crash from a start under way.
    """
    try:
        fd = os.open(path / "lease", _LEASE_FLAGS)
    except FileNotFoundError:
        if time.time() - path.stat().st_mtime <= UNFINISHED_AGE_S:
            raise
        fd = os.open(path / "lease", _LEASE_FLAGS | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd
