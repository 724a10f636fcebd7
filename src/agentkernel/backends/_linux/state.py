"""The directories by which every sandbox of a backend can be found again after a crash.

    <base>/sandboxes/<id>/          one directory per sandbox of an engine in process, made before anything else
    <base>/lasting/<id>/            the same of booted sandboxes, which only their owner's engine takes up or removes
        lease                       flock'ed by the engine that holds it; free means that engine is gone
        owner                       (lasting) the identity of the store that the sandbox is in
        configuration               (lasting) what its agent was configured with
        cgroups                     one cgroup directory per line: `<version> <controller> <directory>`
        range                       the first id of its id range (root only; for kept files see `kept`)
        agent.sock                  the agent's listening socket
        pid                         "<pid> <start time> <boot>" of its first process
        log, baseline               (gVisor) what its runtime complained of; the memory that it takes by itself, in bytes
        data                        the directory of its own writes, with `--storage disk` (lasting: see `kept`)
    <base>/ranges/<n>               a leased id range: a symlink that says the sandbox's id
    <base>/gvisor/                  `sandboxes` and `lasting` of the gVisor backend: each backend has its own, the ranges are everybody's
    <base>/mount/                   an empty directory: where a sandbox's own mount namespace mounts its new root

<base> is `config.directories.state_directory`, which is in memory as a rule: what it tells of is gone with the host's next start, too.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from agentkernel.backends._agent import SOCKET_NAME
from agentkernel.backends._configuration import Configuration
from agentkernel.backends._lease import LEASE, UNFINISHED_LEASE, new_lease, taken_lease
from agentkernel.backends._records import check_owner, read_file, write_file
from agentkernel.errors import Conflict, LaunchFailed

PASSABLE, CLOSED = 0o711, 0o700
LOG = "log"
_ROOTS_MOUNT_POINT = "/run/agentkernel-mount"
# In the order in which they go: while there is a directory, its owner and its lease tell whose it is.
_FILES = (SOCKET_NAME, "pid", "cgroups", "range", "data", "configuration", LOG, "baseline", UNFINISHED_LEASE, "owner", LEASE)


# Where each backend keeps its sandboxes beneath a base directory.
PLACES = {"namespaces": "", "gvisor": "gvisor"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRoot:
    """The base directory; use `open_state_root`."""

    path: Path
    place: str  # of the backend's own directories in it
    mount_point: Path  # where new roots are mounted, each in its own mount namespace

    @property
    def sandboxes(self) -> Path:
        """One directory per sandbox of an engine in process."""
        return self.path / self.place / "sandboxes"

    @property
    def lasting(self) -> Path:
        """One directory per booted sandbox."""
        return self.path / self.place / "lasting"

    @property
    def ranges(self) -> Path:
        """One link per leased id range."""
        return self.path / "ranges"

    @property
    def homes(self) -> tuple[Path, ...]:
        """Where the sandboxes of all backends are that lease ranges here."""
        return tuple(self.path / place / kind for place in PLACES.values() for kind in ("sandboxes", "lasting"))


def open_state_root(base: Path, uid: int, backend: str) -> StateRoot:
    """Makes the base directory where needed; refuses one that somebody else made (the name in /tmp is predictable)."""
    # A sandbox's processes walk to their mount point as ids of its range, so root's directories let others search (not list) them.
    mode = PASSABLE if uid == 0 else CLOSED
    mount_point = base / "mount"
    root = StateRoot(path=base, place=PLACES[backend], mount_point=mount_point)
    own = base / root.place
    for directory, wanted in ((base, mode), (own, mode), (root.sandboxes, mode), (root.lasting, CLOSED), (root.ranges, CLOSED)):
        own_directory(directory, wanted, uid)
    if uid == 0 and not _passable(base.parent):
        mount_point = Path(_ROOTS_MOUNT_POINT)  # AGENTKERNEL_HOME in a directory that is closed to others
    own_directory(mount_point, mode, uid)
    return replace(root, mount_point=mount_point)


def own_directory(directory: Path, mode: int, uid: int) -> None:
    """Makes a directory with that mode, or checks that it is ours; raises LaunchFailed."""
    try:
        directory.mkdir(mode=mode, parents=True, exist_ok=True)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & 0o022:
            raise LaunchFailed(
                f"{directory} is not a directory that only uid {uid} can write",
                hint="someone else made it; remove it, or set AGENTKERNEL_HOME to a directory of yours",
            )
        if stat.S_IMODE(found.st_mode) != mode:  # the umask, or an earlier version
            directory.chmod(mode)
    except OSError as error:
        raise LaunchFailed(f"cannot prepare {directory}: {error}", hint="set AGENTKERNEL_HOME to a directory of yours") from error


def _passable(directory: Path) -> bool:
    return all(place.stat().st_mode & stat.S_IXOTH for place in (directory, *directory.parents))


@dataclass(slots=True)
class SandboxState:
    """One sandbox's directory, leased by this process as long as `lease_fd` is open."""

    sandbox_id: str
    path: Path
    lease_fd: int

    @property
    def socket_path(self) -> Path:
        """The agent's listening socket."""
        return self.path / SOCKET_NAME

    @property
    def data(self) -> Path | None:
        """The directory with the sandbox's own writes, for storage on disk and isolation level `process`; not of a lasting one."""
        recorded = self.recorded("data")
        return Path(recorded) if recorded else None

    def make_data(self, base: Path) -> Path:
        """Makes that directory beneath `base`, recorded first."""
        data = base / self.sandbox_id
        self.record("data", str(data))
        data.mkdir(mode=0o755)
        return data

    def record(self, name: str, content: str | bytes) -> None:
        """Writes one fact before (or right after) the effect it stands for."""
        write_file(f"{self.path}/{name}", content)

    def recorded(self, name: str) -> str:
        """Reads one fact; empty when it was never written."""
        return self.recorded_bytes(name).decode(errors="replace")

    def recorded_bytes(self, name: str) -> bytes:
        """The same for what is no text."""
        return read_file(f"{self.path}/{name}")

    @property
    def configuration(self) -> Configuration:
        """What the agent was configured with."""
        return Configuration.decode(self.recorded_bytes("configuration"))

    def let_go(self) -> None:
        """Gives the lease back and leaves the rest as it is."""
        if self.lease_fd >= 0:
            os.close(self.lease_fd)
            self.lease_fd = -1

    def release(self) -> None:
        """Removes the (emptied) directory and gives the lease back."""
        for name in _FILES:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.path}/{name}")
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self.path)
        self.let_go()


def create_state(root: StateRoot, sandbox_id: str) -> SandboxState:
    """Makes and leases a sandbox's directory: the intent, before any effect."""
    return _made(root.sandboxes / sandbox_id)


def abandoned(root: StateRoot) -> list[SandboxState]:
    """Leases and returns the sandboxes of engines in process whose engine is gone."""
    found = []
    for path in sorted(root.sandboxes.iterdir()):
        with contextlib.suppress(OSError):
            found.append(SandboxState(sandbox_id=path.name, path=path, lease_fd=taken_lease(path)))
    return found


def create_lasting(root: StateRoot, sandbox_id: str, owner: str) -> SandboxState:
    """The same for a booted sandbox, whose directory must not be there yet."""
    return _made(root.lasting / sandbox_id, owner)


def _made(path: Path, owner: str = "") -> SandboxState:
    path.mkdir(mode=0o700)
    state = SandboxState(sandbox_id=path.name, path=path, lease_fd=-1)
    try:
        if owner:
            state.record("owner", owner)
        state.lease_fd = new_lease(path)
    except BaseException:
        state.release()
        raise
    return state


def taken_lasting(root: StateRoot, sandbox_id: str, owner: str) -> SandboxState | None:
    """Leases a booted sandbox's directory; None where there is none, which means that nothing of it runs.

    Raises:
        Conflict: it belongs to another store, or an engine that lives holds it.
    """
    path = root.lasting / sandbox_id
    check_owner(sandbox_id, read_file(f"{path}/owner").decode(errors="replace"), owner)
    try:
        fd = taken_lease(path, unfinished_age_s=0)  # of this owner's engines there is one at a time, and it is us
    except FileNotFoundError:
        return None
    except BlockingIOError as error:
        raise Conflict(f"another engine holds sandbox {sandbox_id}", hint="is a second daemon running?") from error
    return SandboxState(sandbox_id=sandbox_id, path=path, lease_fd=fd)
