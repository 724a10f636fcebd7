"""A `ContainerPlan` as Podman's own interface takes it: `SpecGenerator` of libpod (pkg/specgen/specgen.go). Pure.

Docker's interface, which Podman speaks too, lacks what is needed here: user namespaces of our own making, the runtime of one container,
cgroups that are not to be made, mount options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentkernel.backends.containers.dialect import EngineBind
from agentkernel.backends.containers.plan import RUN_DIRECTORY, ContainerPlan, Stream, Tmpfs
from agentkernel.backends.containers.runtimes import level_of
from agentkernel.backends.containers.shown import parents_of
from agentkernel.model.isolation import IsolationLevel

CPU_PERIOD_US: Final = 100_000
_RESOLVER = "/etc/resolv.conf"
_EVERYBODYS = 0o1777
_CDI_KIND = "nvidia.com/gpu"  # as nvidia-ctk(1) names GPUs in the Container Device Interface


@dataclass(frozen=True, slots=True, kw_only=True)
class IdMap:
    """One line of a container's id map: its ids, those of the engine's own user namespace, how many."""

    inside: int
    outside: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What this Podman needs to be told beside the plan."""

    seccomp_file: str  # of the service's host; empty: it has no seccomp
    resolver_file: str = ""  # what resolv.conf is to be; empty: nothing
    runtime: str = ""  # where none is asked for; empty: Podman's own default
    uid_map: tuple[IdMap, ...] = ()  # empty: the engine's own user namespace
    gid_map: tuple[IdMap, ...] = ()
    limits: frozenset[str] = frozenset()  # which limits can be had by cgroup
    open_files: int = 0  # the hard limit of descriptors; 0: what Podman gives
    processes: int = 0  # of RLIMIT_NPROC


def specification(plan: ContainerPlan, binds: Sequence[EngineBind], way: Way) -> dict[str, Any]:
    """The body of `POST /libpod/containers/create`."""
    spec = {**_program(plan), **_file_systems(plan, binds, way), **_walls(plan, way), **_namespaces(plan, way), **_limits(plan, way)}
    runtime = plan.runtime or way.runtime
    if runtime:
        spec["oci_runtime"] = runtime
    if plan.gpus:
        spec["devices"] = [{"path": name} for name in cdi_names(plan.gpus)]
    return spec


def _program(plan: ContainerPlan) -> dict[str, Any]:
    """The agent, of which nothing of the image's own configuration is to change anything."""
    return {
        "name": plan.name,
        "image": plan.image,
        "labels": dict(plan.labels),
        "entrypoint": [plan.argv[0]],
        "command": list(plan.argv[1:]),
        "env": dict(each.partition("=")[::2] for each in plan.environment),
        "unsetenvall": True,  # the image's too
        "httpproxy": False,
        "env_host": False,
        "work_dir": "/",
        "user": "0:0",
        "hostname": plan.hostname,
        "terminal": False,
        "stdin": plan.stream is Stream.STDIO,
        "log_configuration": {"driver": "none"},
        "systemd": "false",
        "sdnotifyMode": "ignore",
        "restart_policy": "no",
        "stop_timeout": 0,
        "healthconfig": {"Test": ["NONE"]},
    }


def _file_systems(plan: ContainerPlan, binds: Sequence[EngineBind], way: Way) -> dict[str, Any]:
    joined = level_of(plan.runtime or way.runtime) is IsolationLevel.CONTAINER
    mounts = [_tmpfs(each, joined=joined) for each in plan.tmpfs]
    mounts += [mount for bind in binds for mount in _binds(bind)]
    if plan.stream is Stream.SOCKET:
        mounts.append(_bind(plan.run_directory, RUN_DIRECTORY, "rw", "noexec"))
    if way.resolver_file:
        mounts.append(_bind(way.resolver_file, _RESOLVER, "ro", "noexec"))
    return {
        "mounts": mounts,
        "volumes": [
            {"Name": plan.guest_volume, "Dest": directory, "Options": ["ro", "nosuid", "nodev"]} for directory in plan.guest_directories
        ],
        "image_volume_mode": "ignore",  # what an image has there is of its root, like the rest
        "read_only_filesystem": plan.read_only_root,
        "read_write_tmpfs": False,
        "shm_size": plan.shm_bytes,
    }


def _tmpfs(tmpfs: Tmpfs, *, joined: bool) -> dict[str, Any]:
    """Podman knows no option for the owner, but passes on what follows the mode, and runtimes of the kernel's own containers join all
    with commas for mount(2): `joined`. Else the owner's directories are everybody's."""
    mode = f"mode={tmpfs.mode:o}" if joined or not tmpfs.uid else f"mode={_EVERYBODYS:o}"
    inodes = max(1024, tmpfs.size_bytes // 4096)
    how = f"{mode},uid={tmpfs.uid},gid={tmpfs.gid},nr_inodes={inodes}" if joined else mode
    options = [f"size={tmpfs.size_bytes}", how, "nosuid", "nodev", "rw" if tmpfs.writable else "ro", "notmpcopyup"]
    return {"destination": tmpfs.target, "type": "tmpfs", "source": "tmpfs", "options": options}


def _binds(bind: EngineBind) -> list[dict[str, Any]]:
    """With what of it is protected: a mount point cannot be renamed, so each directory above one is a mount point, too."""
    noexec = () if bind.executable else ("noexec",)
    made = [_bind(bind.source, bind.target, "rw" if bind.writable else "ro", *noexec)]
    made += [_bind(f"{bind.source}/{path}", f"{bind.target}/{path}", "rw", *noexec) for path in parents_of(bind.protected)]
    made += [_bind(f"{bind.source}/{path}", f"{bind.target}/{path}", "ro", *noexec) for path in bind.protected]
    return made


def _bind(source: str, target: str, *flags: str) -> dict[str, Any]:
    """With all its flags: Podman gives those of the source that it knows to the runtime, which then mounts anew with these alone."""
    return {"destination": target, "type": "bind", "source": source, "options": ["rbind", "rprivate", "nosuid", "nodev", *flags]}


def _walls(plan: ContainerPlan, way: Way) -> dict[str, Any]:
    walls = {
        "privileged": False,
        "cap_drop": ["ALL"],
        "cap_add": [f"CAP_{name}" for name in plan.capabilities],
        "no_new_privileges": True,
        "mask": list(plan.masked),
        "umask": "0022",
    }
    if way.seccomp_file:
        walls["seccomp_profile_path"] = way.seccomp_file
    return walls


def _namespaces(plan: ContainerPlan, way: Way) -> dict[str, Any]:
    made: dict[str, Any] = {name: {"nsmode": "private"} for name in ("pidns", "ipcns", "utsns", "cgroupns")}
    made["netns"] = {"nsmode": "host" if plan.host_network else "none"}
    made["userns"] = {"nsmode": "private" if way.uid_map else "host"}
    if way.uid_map:
        made["idmappings"] = {
            "HostUIDMapping": False,
            "HostGIDMapping": False,
            "UIDMap": [_line(each) for each in way.uid_map],
            "GIDMap": [_line(each) for each in way.gid_map],
        }
    return made


def cdi_names(gpus: str) -> list[str]:
    """The devices that `--gpus` means: all, ids joined by commas, or of a number the first so many."""
    if gpus.isdecimal():
        return [f"{_CDI_KIND}={number}" for number in range(int(gpus))]
    return [f"{_CDI_KIND}={name}" for name in gpus.split(",") if name]


def _line(line: IdMap) -> dict[str, int]:
    return {"container_id": line.inside, "host_id": line.outside, "size": line.count}


def _limits(plan: ContainerPlan, way: Way) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if plan.memory_bytes is not None and "memory" in way.limits:
        limits["memory"] = {"limit": plan.memory_bytes, "swap": plan.memory_bytes}
    if plan.pids is not None and "pids" in way.limits:
        limits["pids"] = {"limit": plan.pids}
    if plan.cpus is not None and "cpu" in way.limits:
        limits["cpu"] = {"quota": max(1000, int(plan.cpus * CPU_PERIOD_US)), "period": CPU_PERIOD_US}
    # Podman's own defaults may be more than its service may give.
    rlimits = [("core", 0), ("nofile", way.open_files), ("nproc", way.processes)]
    return {
        "resource_limits": limits,
        "r_limits": [{"type": name, "soft": value, "hard": value} for name, value in rlimits if value or name == "core"],
    }


def caller_as(user: int, ids: Sequence[tuple[int, int]]) -> tuple[IdMap, ...]:
    """The id map of a container in which `user` is whoever runs a rootless engine: id 0 of its user namespace.

    `ids`: (first, count) of the ids that this namespace has, in order, from 0 on. All others follow in their order; an engine with one id
    gives but that user.
    """
    total = sum(count for _, count in ids)
    below = min(user, total - 1)
    lines = [IdMap(inside=0, outside=1, count=below), IdMap(inside=user, outside=0, count=1)]
    lines.append(IdMap(inside=user + 1, outside=below + 1, count=total - 1 - below))
    return tuple(line for line in lines if line.count > 0)
