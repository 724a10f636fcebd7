"""SandboxSpec to a container, in no engine's words: what it is made of, what it may use and what it may do. Pure.

The guest's agent is its first process. It runs as the container's root with the few capabilities that it takes to be the workload's
supervisor; the workload has another user and none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from agentkernel.backends.containers.shown import Mount, shown
from agentkernel.model.spec import NetworkMode, RootFile, SandboxSpec, StorageKind, WorkspaceMode
from agentkernel.policy import inside

OWN: Final = "/.agentkernel"
GUEST_DIRECTORY: Final = f"{OWN}/bin"
GUEST: Final = f"{GUEST_DIRECTORY}/agentkernel-guest"
# Runtimes give a file system in memory the mode of the directory that an image has in its place. No image has one in this place, for it is
# in such a file system itself.
CLOSED: Final = f"{OWN}/closed"
RUN_DIRECTORY: Final = f"{CLOSED}/run"
INNER_SOCKET: Final = f"{CLOSED}/agent.sock"  # SESSION
LABEL_SANDBOX, LABEL_OWNER, LABEL_VERSION = "agentkernel.sandbox", "agentkernel.owner", "agentkernel.version"
LABEL_SPEC: Final = "agentkernel.spec"
NAME_PREFIX: Final = "agentkernel-"

# What the agent needs: terminals that belong to their user, killing, and becoming another user; its bounding set it drops.
_CAPABILITIES: Final = ("CHOWN", "KILL", "SETGID", "SETPCAP", "SETUID")
AGENT_FILES: Final = 16_384  # descriptors of the agent; the workload gets the spec's
SHM_SHARE: Final = 2  # of the memory limit: what /dev/shm may hold at most
_OWN_BYTES: Final = 65_536
_SHM_BYTES: Final = 64 * 1024 * 1024
_RESERVED_PIDS: Final = 2  # the agent, and the supervisor of a command

PROC_MASKED: Final = (
    "acpi", "asound", "interrupts", "iomem", "ioports", "kallsyms", "kcore", "keys", "kmsg", "latency_stats", "modules", "sched_debug",
    "scsi", "timer_list", "timer_stats", "vmallocinfo",
)  # fmt: skip
# All but the processors, the NUMA nodes and the control groups, by which programs size themselves.
SYS_MASKED: Final = (
    "block", "bus", "class", "dev", "devices/platform", "devices/virtual", "firmware", "fs/bpf", "fs/btrfs", "fs/ext4", "fs/fuse",
    "fs/pstore", "fs/xfs", "hypervisor", "kernel", "module", "power",
)  # fmt: skip
PROC_READ_ONLY: Final = ("bus", "fs", "irq", "sys", "sysrq-trigger")


class Stream(StrEnum):
    """How the agent is reached."""

    SOCKET = "socket"  # it listens in a directory that the host shows it
    STDIO = "stdio"  # the engine passes its standard streams on
    SESSION = "session"  # it listens inside, and a session of the engine's joins its streams to that for each attach


@dataclass(frozen=True, slots=True, kw_only=True)
class Tmpfs:
    """An empty file system in memory."""

    target: str
    size_bytes: int
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    writable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A directory (without content) or a file that is put into the container's own layer while it does not run."""

    path: str
    mode: int
    uid: int = 0
    gid: int = 0
    content: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """What a sandbox is called, and where its parts are outside."""

    sandbox_id: str
    owner: str
    version: str
    guest_volume: str
    stream: Stream
    run_directory: str = ""  # SOCKET: of the host, shown at RUN_DIRECTORY
    apart: bool = False  # SOCKET: that directory belongs to nobody inside, so that the workload's root cannot enter it either
    open_socket: bool = False  # SOCKET: the host's user is not the container's root, so the socket takes whoever reaches it
    fingerprint: str = ""  # of the spec


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerPlan:
    """A whole container. Capabilities without CAP_; sizes in bytes; None means no limit."""

    name: str
    image: str  # what the engine is asked for: a digest where one is known
    labels: dict[str, str]
    argv: tuple[str, ...]
    stream: Stream
    hostname: str
    mounts: tuple[Mount, ...]
    guest_volume: str
    guest_directories: tuple[str, ...]  # where it is shown, read-only
    run_directory: str
    tmpfs: tuple[Tmpfs, ...]
    entries: tuple[Entry, ...]  # directories of its own layer, made before its first start
    files: tuple[RootFile, ...]  # shown read-only, or put into its layer where the engine is elsewhere
    capabilities: tuple[str, ...]
    masked: tuple[str, ...]
    read_only: tuple[str, ...]
    read_only_root: bool
    memory_bytes: int | None
    cpus: float | None
    pids: int | None
    shm_bytes: int
    host_network: bool
    resolver: str = ""  # the name server that its resolv.conf names; empty: none
    runtime: str = ""
    gpus: str = ""
    environment: tuple[str, ...] = field(default=())  # of the agent, which needs none: what the image says is for the workload alone


def container_name(sandbox_id: str) -> str:
    """By which it is found again."""
    return NAME_PREFIX + sandbox_id


def plan_of(spec: SandboxSpec, naming: Naming) -> ContainerPlan:
    """Computes the container of a spec whose root is an image; raises nothing, the spec having been checked."""
    limits = spec.resources
    listening = {
        Stream.SOCKET: ("--listen-any" if naming.open_socket else "--listen", f"{RUN_DIRECTORY}/agent.sock"),
        Stream.STDIO: ("--stream", "0"),
        Stream.SESSION: ("--listen", INNER_SOCKET),
    }
    root = spec.root
    return ContainerPlan(
        name=container_name(naming.sandbox_id),
        image=root.digest or root.reference,
        labels={
            LABEL_SANDBOX: naming.sandbox_id,
            LABEL_OWNER: naming.owner,
            LABEL_VERSION: naming.version,
            LABEL_SPEC: naming.fingerprint,
        },
        argv=(GUEST, "agent", *listening[naming.stream]),
        stream=naming.stream,
        hostname=spec.hostname,
        mounts=shown(spec),
        guest_volume=naming.guest_volume,
        guest_directories=(GUEST_DIRECTORY, *((inside.GUEST_DIRECTORY,) if inside.shows_guest(spec) else ())),
        run_directory=naming.run_directory,
        tmpfs=tmpfs_of(spec),
        entries=_entries(spec),
        files=_files(spec),
        capabilities=_capabilities(spec, naming),
        masked=(*(f"/proc/{name}" for name in PROC_MASKED), *(f"/sys/{name}" for name in SYS_MASKED)),
        read_only=tuple(f"/proc/{name}" for name in PROC_READ_ONLY),
        read_only_root=spec.read_only_root,
        memory_bytes=limits.memory_bytes,
        cpus=limits.cpus,
        pids=None if limits.pids is None else limits.pids + _RESERVED_PIDS,
        shm_bytes=_shm_bytes(spec),
        host_network=spec.network is NetworkMode.HOST,
        resolver="127.0.0.1" if spec.network is NetworkMode.FILTERED else "",
        runtime=spec.runtime,
        gpus=spec.gpus,
    )


def _capabilities(spec: SandboxSpec, naming: Naming) -> tuple[str, ...]:
    more = ("NET_BIND_SERVICE",) if spec.network is NetworkMode.FILTERED else ()  # the resolver's port
    return (*_CAPABILITIES, *more, *(("DAC_OVERRIDE",) if naming.apart or naming.open_socket else ()))


def _shm_bytes(spec: SandboxSpec) -> int:
    memory = spec.resources.memory_bytes
    return min(_SHM_BYTES, spec.resources.disk_bytes, _SHM_BYTES if memory is None else memory // SHM_SHARE)


def own_places(spec: SandboxSpec) -> tuple[str, ...]:
    """The directories that are the workload's own: HOME and the workspace, unless something of the host is shown there."""
    home = () if spec.home_source else (spec.user.home,)
    work = (spec.workspace.target,) if spec.workspace.mode in (WorkspaceMode.NONE, WorkspaceMode.FILES) else ()
    return (*home, *work)


def kept_in_layer(spec: SandboxSpec) -> bool:
    """Whether its own places are in the container's layer, where a stop keeps them. Where nothing is to be written nothing is kept."""
    return spec.storage is StorageKind.DISK and not spec.read_only_root


def tmpfs_of(spec: SandboxSpec) -> tuple[Tmpfs, ...]:
    """Its file systems in memory, outer ones first."""
    size, sealed = spec.resources.disk_bytes, spec.read_only_root
    shared = [
        Tmpfs(target=OWN, size_bytes=_OWN_BYTES),
        Tmpfs(target=CLOSED, size_bytes=_OWN_BYTES, mode=0o700),  # a workload that is not root cannot enter it
        Tmpfs(target="/tmp", size_bytes=size, mode=0o1777),  # noqa: S108 - the sandbox's own
    ]
    if not kept_in_layer(spec):
        shared.append(Tmpfs(target="/var/tmp", size_bytes=size, mode=0o1777, writable=not sealed))  # noqa: S108 - the sandbox's own
        user = spec.user
        shared += [
            Tmpfs(target=place, size_bytes=size, uid=user.uid, gid=user.gid, writable=not sealed or bool(spec.workspace.files))
            for place in own_places(spec)
        ]
    return tuple(shared)


def _entries(spec: SandboxSpec) -> tuple[Entry, ...]:
    """Directories that the layer needs. A copy of the project is put there before the start, wherever the rest is."""
    if spec.read_only_root:
        return ()
    user, kept = spec.user, kept_in_layer(spec)
    copied = (spec.workspace.target,) if spec.workspace.mode is WorkspaceMode.COPY_ON_WRITE else ()
    places = sorted((*(own_places(spec) if kept else ()), *copied))
    own = [Entry(path=place, mode=0o755, uid=user.uid, gid=user.gid) for place in places]
    return (Entry(path="/var/tmp", mode=0o1777), *own) if kept else tuple(own)  # noqa: S108 - the sandbox's own


def _files(spec: SandboxSpec) -> tuple[RootFile, ...]:
    """Small files of the spec and of the filtered network, but for what the engine itself writes."""
    return tuple(file for file in inside.files(spec) if file.path not in ("/etc/resolv.conf", "/etc/hosts"))
