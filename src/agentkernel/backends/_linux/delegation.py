"""Where cgroups may be made: below our own group (v1), or below a v2 group whose controllers we may hand down.

A v2 group with processes of its own hands no controllers down (cgroups(7), "no internal processes"), and systemd wants to be the only
one that writes to its units' groups unless they are delegated (systemd.resource-control(5), `Delegate=`). So:

* uid 0 makes a group of its own beside systemd's slices, as container engines do - unless its unit is delegated: then everything stays
  below that.
* A plain user in a delegated unit moves the unit's processes to a leaf of it.
* A plain user in a session, or in a scope shared with a shell or a terminal, asks the user's systemd for a delegated scope, and this
  process moves there. One in a service stays where it is: its limits, its logs and its end are the service's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentkernel.model.isolation import Provision, Support

PREFIX = "agentkernel-"
CONTROLLERS = ("memory", "pids", "cpu")
ENGINE_LEAF = "agentkernel-engine"
REMEDY = "start agentkernel with `systemd-run --user --scope -p Delegate=yes agentkernel ...`, or as root"
SYSTEMD_PATIENCE_S = 2.0
_MOVES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupHost:
    """Where this user may make groups: controller -> parent directory."""

    version: int  # 0: nowhere
    parents: dict[str, str]  # memory, pids, cpu
    agents: str = ""  # v2: the group in which sandboxes' first processes are born
    reason: str = ""
    remedy: str = ""

    def provision(self, controller: str, emulation: str) -> Provision:
        """How a limit is provided here."""
        if controller in self.parents:
            return Provision(support=Support.NATIVE)
        return Provision(support=Support.EMULATED, reason=f"{emulation} ({self.reason})", remedy=self.remedy)


def find_host() -> CgroupHost:
    """Finds where groups can be made; may move this process to another group of its user's (see above). Blocks for 50 ms then."""
    mounts = _mounts()
    groups = _own_groups()
    v1 = {}
    for controller in CONTROLLERS:
        mount, group = mounts.get(controller), groups.get(controller)
        if mount is None or group is None:
            continue
        parent = f"{mount}{group}".rstrip("/")
        if os.access(parent, os.W_OK):
            v1[controller] = parent
    if v1:
        return CgroupHost(version=1, parents=v1, reason="this hierarchy is not writable")
    if "cgroup2" not in mounts or "" not in groups:
        return CgroupHost(version=0, parents={}, reason="no cgroup tree is mounted", remedy="mount cgroup2 on /sys/fs/cgroup")
    return _find_v2(Path(mounts["cgroup2"]))


def _find_v2(mount: Path) -> CgroupHost:
    for directory in _candidates(mount):
        parent = _prepare(directory)
        if parent is not None:
            available = words(parent / "cgroup.subtree_control")
            return CgroupHost(
                version=2,
                parents={name: str(parent) for name in CONTROLLERS if name in available},
                agents=str(parent / "agents"),
                reason="not delegated",
                remedy=REMEDY,
            )
    return CgroupHost(version=0, parents={}, reason="no delegated cgroup", remedy=REMEDY)


def _candidates(mount: Path) -> Iterator[Path]:
    """Groups that might be ours to divide, best first; asking for a scope comes last, since it moves this process."""
    own = _own_v2(mount)
    if os.geteuid() != 0 or _is_marked(own):
        yield own
    if os.geteuid() == 0:
        yield mount
    elif own.suffix == ".scope" and _move_to_scope():
        yield _own_v2(mount)


def _own_v2(mount: Path) -> Path:
    """Our group; of an engine that has made room, the group that it made room in."""
    own = mount / _own_groups()[""].lstrip("/")
    return own.parent if own.name == ENGINE_LEAF else own


def _prepare(directory: Path) -> Path | None:
    """Returns a group below `directory` whose children get the controllers, or None."""
    wanted = [name for name in CONTROLLERS if name in words(directory / "cgroup.controllers")]
    if not wanted or not os.access(directory, os.W_OK):
        return None
    parent = directory / "agentkernel"
    try:
        if not _hand_down(directory, wanted):
            return None
        parent.mkdir(exist_ok=True)
        _enable(parent, wanted)
        (parent / "agents").mkdir(exist_ok=True)
        if os.geteuid() == 0:
            # clone3(2) into a group asks, with the ids of a sandbox's agent, for the common ancestor of both groups as well as for the
            # target. This one never has processes, the ones below belong to their sandboxes' ids: nothing else is opened up.
            (parent / "cgroup.procs").chmod(0o666)
    except OSError:
        return None
    return parent


def _hand_down(directory: Path, wanted: Sequence[str]) -> bool:
    """Enables the controllers for the group's children; moves its processes to a leaf where that is needed and ours to do."""
    leaf = directory / ENGINE_LEAF
    for _ in range(_MOVES):
        inside = words(directory / "cgroup.procs") if (directory / "cgroup.type").exists() else []  # the root group may keep its own
        if inside and inside != [str(os.getpid())] and not _is_delegated(directory):
            return False
        if inside:
            leaf.mkdir(exist_ok=True)
        for pid in inside:
            with contextlib.suppress(ProcessLookupError):
                (leaf / "cgroup.procs").write_text(pid)
        try:
            _enable(directory, wanted)
            return True
        except OSError as error:
            if error.errno != errno.EBUSY:  # one of them forked meanwhile
                raise
    return False


def _enable(directory: Path, controllers: Sequence[str]) -> None:
    control = directory / "cgroup.subtree_control"
    missing = [name for name in controllers if name not in words(control)]
    if missing:
        control.write_text(" ".join(f"+{name}" for name in missing))


def _is_marked(directory: Path) -> bool:
    """Whether systemd marked the group as delegated: with the first name as pid 1 does for any unit, the second since systemd 251."""
    for name in ("trusted.delegate", "user.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(directory, name) == b"1":
                return True
    return False


def _is_delegated(directory: Path) -> bool:
    """Whether the group's processes are ours to move: it is delegated, or nobody manages groups here (a container without systemd)."""
    if _is_marked(directory) or not Path("/run/systemd/system").is_dir():
        return True
    if os.geteuid() == 0 or not directory.suffix:
        return False
    return _ask("systemctl", "--user", "show", "--property=Delegate", "--value", "--", directory.name).strip() == "yes"


def _move_to_scope() -> bool:
    """Asks the user's systemd for a delegated scope with this process in it; False where there is none to ask, or it refuses."""
    if not Path(_runtime_directory(), "bus").is_socket():
        return False
    scope = f"{PREFIX}{os.urandom(4).hex()}.scope"
    manager = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
    properties = ("3", "PIDs", "au", "1", str(os.getpid()), "Delegate", "b", "true", "CollectMode", "s", "inactive-or-failed")
    if not _ask("busctl", "--user", "call", *manager, "StartTransientUnit", "ssa(sv)a(sa(sv))", scope, "fail", *properties, "0"):
        return False
    deadline = time.monotonic() + SYSTEMD_PATIENCE_S
    while not _own_groups().get("", "").endswith(f"/{scope}"):  # the answer names a job; this is its end
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def _ask(*argv: str) -> str:
    """What a program of systemd's prints; empty when it fails."""
    environment = {**os.environ, "XDG_RUNTIME_DIR": _runtime_directory()}
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=SYSTEMD_PATIENCE_S, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _runtime_directory() -> str:
    return os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"


def words(path: Path) -> list[str]:
    """The words of a small kernel file; none where it cannot be read."""
    try:
        return path.read_text().split()
    except OSError:
        return []


def _mounts() -> dict[str, str]:
    """Controller (or `cgroup2`) -> mount point."""
    found: dict[str, str] = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, options, *_ = line.split(" ")
        if kind == "cgroup2":
            found.setdefault("cgroup2", point)
        elif kind == "cgroup":
            for option in options.split(","):
                if option in CONTROLLERS:
                    found.setdefault(option, point)
    return found


def _own_groups() -> dict[str, str]:
    """Controller -> our group's path; the v2 group under the empty name (cgroups(7), /proc/[pid]/cgroup)."""
    found = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found
