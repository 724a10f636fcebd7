"""Isolation levels and what a backend can do on this host."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum, StrEnum


class IsolationLevel(IntEnum):
    """How much stands between the workload and the host's kernel; ordered, more is stronger."""

    NONE = 0
    PROCESS = 1  # Landlock and seccomp only
    CONTAINER = 2  # own namespaces, shared kernel
    USER_KERNEL = 3  # gVisor, Wasm
    VM_EMULATED = 4  # own kernel, no hardware boundary
    VM = 5  # own kernel behind a hardware boundary

    @property
    def label(self) -> str:
        """The name that users type and read: `container`, `vm-emulated`, ..."""
        return self.name.lower().replace("_", "-")


class Support(StrEnum):
    """How a backend provides a feature on this host."""

    NATIVE = "native"
    EMULATED = "emulated"
    REFUSED = "refused"


class Feature(StrEnum):
    """What a backend can declare; each value is proven by the conformance suite."""

    EXEC = "exec"
    TERMINAL = "terminal"
    FILES = "files"
    WATCH = "watch"
    CONNECT = "connect"
    HOST_ROOT = "host-root"
    IMAGE_DIRECTORY = "image-directory"
    IMAGE_TAR = "image-tar"
    IMAGE_NAME = "image-name"
    WORKSPACE_COPY_ON_WRITE = "workspace-copy-on-write"
    MOUNTS = "mounts"
    READ_ONLY_ROOT = "read-only-root"
    NETWORK_NONE = "network-none"
    NETWORK_HOST = "network-host"
    NETWORK_FILTERED = "network-filtered"
    TRANSPARENT_NETWORK = "transparent-network"
    PUBLISHED_PORTS = "published-ports"
    MEMORY_LIMIT = "memory-limit"
    CPU_LIMIT = "cpu-limit"
    PIDS_LIMIT = "pids-limit"
    DISK_LIMIT = "disk-limit"
    DISK_STORAGE = "disk-storage"
    SECCOMP = "seccomp"
    LANDLOCK = "landlock"
    USER_SWITCH = "user-switch"
    AGENT_SEPARATION = "agent-separation"
    GPUS = "gpus"
    CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provision:
    """One feature on this host: how it is provided and, unless native, why not better and what would help."""

    support: Support
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """A runtime of a container engine, and how much it isolates."""

    name: str
    level: IsolationLevel
    features: dict[Feature, Provision] = field(default_factory=dict)  # what is otherwise than with the engine's own default


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What a backend found out about this host by running its whole plan, not by testing single flags."""

    backend: str
    ready: bool
    level: IsolationLevel
    reason: str = ""  # why it is not ready
    remedy: str = ""  # what to do about it
    features: dict[Feature, Provision] = field(default_factory=dict)
    runtimes: tuple[Runtime, ...] = ()  # what --runtime may name; `level` is that of the engine's own default
    details: dict[str, str] = field(default_factory=dict)  # kernel, cgroup version, Landlock ABI, ...

    def support(self, feature: Feature) -> Support:
        """How `feature` is provided; what is not declared is refused. The engine unpacks images by name where a directory can be root."""
        if feature is Feature.IMAGE_NAME and feature not in self.features:
            feature = Feature.IMAGE_DIRECTORY
        provision = self.features.get(feature)
        return provision.support if provision else Support.REFUSED


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """What the host shows of a backend before anything of it is loaded or run: enough to pass over what is not installed."""

    identity: str = ""  # of what was found (which program, which socket), another once that was replaced; empty: it is not here
    reason: str = ""  # why not
    remedy: str = ""  # what to do about it


class BackendKind(Enum):
    """How a backend was chosen, for `info` and audit."""

    ASKED = "asked"
    CHOSEN = "chosen"
