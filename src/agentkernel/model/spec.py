"""What a sandbox is to be: the fully decided, backend-neutral description that `policy.decide` grants and a backend builds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum

from agentkernel.errors import InvalidInput
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.network import NOTHING, USUAL, EgressLimits, EgressRules, PortRule, Secret


class NetworkMode(StrEnum):
    """What the sandbox can reach."""

    NONE = "none"  # loopback only
    FILTERED = "filtered"  # loopback, and through it what the egress rules allow
    HOST = "host"  # the host's own network, unfiltered


class RootKind(StrEnum):
    """Where the root file system comes from."""

    HOST = "host"  # an allow-list of the host's directories, read-only
    DIRECTORY = "directory"  # an unpacked image; never changed, writes go to an overlay
    IMAGE = "image"  # an image that the backend keeps by its name


class WorkspaceMode(StrEnum):
    """How the working directory is seen at /workspace."""

    NONE = "none"  # an empty directory
    COPY_ON_WRITE = "copy-on-write"  # a private view; the host's files never change
    WRITABLE = "writable"  # the host's directory itself
    FILES = "files"  # only the named files, read-only


class StorageKind(StrEnum):
    """Where the sandbox's own writes go."""

    MEMORY = "memory"  # tmpfs: counts against the memory limit, hard limit by its size
    DISK = "disk"  # a directory of the host: limited by sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """One host path made visible inside; both are absolute and normalised."""

    source: str
    target: str
    writable: bool = False
    executable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RootFile:
    """A small synthetic file of the host root (/etc/passwd and the like)."""

    path: str
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class RootFilesystem:
    """The root file system: for HOST binds, links and files, for DIRECTORY the path of an unpacked image, for IMAGE its name."""

    kind: RootKind
    directory: str = ""  # DIRECTORY: its absolute path
    reference: str = ""  # of an image that has a name, canonical
    digest: str = ""  # of that image; IMAGE: what the backend must use, whatever the name stands for by now
    entrypoint: tuple[str, ...] = ()  # of the image: put before the words of `run`
    command: tuple[str, ...] = ()  # of the image: what `run` starts without words
    working_directory: str = ""  # of the image, absolute: where commands start that have no workspace
    label: str = "host"  # what `list` and audit show
    binds: tuple[Bind, ...] = ()  # HOST: read-only
    masked: tuple[str, ...] = ()  # what of the binds is shown as an empty directory
    symlinks: tuple[tuple[str, str], ...] = ()  # (path, target)
    files: tuple[RootFile, ...] = ()
    path_directories: tuple[str, ...] = ()  # PATH inside, in order
    environment: tuple[tuple[str, str], ...] = ()  # what toolchains need (PYENV_ROOT, ...)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """The view of the working directory at `target`."""

    mode: WorkspaceMode = WorkspaceMode.NONE
    source: str = ""  # absolute host directory (not for NONE)
    target: str = "/workspace"
    files: tuple[str, ...] = ()  # FILES: paths relative to source
    protected: tuple[str, ...] = ()  # WRITABLE: relative paths that stay read-only inside


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Limits; None means unlimited, which only the permissive profile grants."""

    memory_bytes: int | None = 512 * 1024 * 1024
    cpus: float | None = 1.0
    pids: int | None = 512
    disk_bytes: int = 1024 * 1024 * 1024  # all of the sandbox's own writes together
    open_files: int = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who the workload is inside."""

    uid: int = 1000
    gid: int = 1000
    name: str = "user"
    home: str = "/home/user"


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """A sandbox as granted; every field is final."""

    name: str
    root: RootFilesystem
    profile: str
    workspace: Workspace = Workspace()
    mounts: tuple[Bind, ...] = ()
    home_source: str = ""  # host HOME shown read-only at user.home, without what home_denied lists; empty: a private empty HOME
    home_denied: tuple[str, ...] = ()  # relative to home_source
    network: NetworkMode = NetworkMode.NONE
    egress: EgressRules = NOTHING  # FILTERED: who it may talk to, when it starts
    egress_limits: EgressLimits = USUAL  # FILTERED: how much of it
    transparent_network: bool = False  # FILTERED: also programs that know no proxy reach it
    ports: tuple[PortRule, ...] = ()  # published while it runs
    secrets: tuple[Secret, ...] = ()  # with their placeholders; the values are in the engine's memory alone
    trust: str = ""  # with secrets: the host's file of the certificates that its user trusts; empty: none that everybody may read
    resources: Resources = Resources()
    storage: StorageKind = StorageKind.MEMORY
    read_only_root: bool = False
    user: User = User()
    seccomp: str = "moderate"  # name of a table in policy.seccomp
    hostname: str = "sandbox"
    environment: tuple[tuple[str, str], ...] = ()  # base environment of every command; never holds secrets of the host
    level: IsolationLevel = IsolationLevel.CONTAINER
    runtime: str = ""  # of a container engine: runsc, kata, sysbox-runc, ...; empty: its own default
    gpus: str = ""  # all, a number, or ids joined by commas; empty: none
    linger_s: float | None = None  # the sandbox ends by itself when no host has been attached for so long; None: never


def first_words(root: RootFilesystem, argv: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """What `run` starts: the image's entrypoint and then what was typed, or where nothing was, the image's command.

    Raises InvalidInput where that is nothing.
    """
    typed = argv or tuple(os.fsencode(word) for word in root.command)
    words = (*(os.fsencode(word) for word in root.entrypoint), *typed)
    if not words or not words[0]:
        raise InvalidInput(
            f"there is no command to run, and the image {root.label} names none", hint="agentkernel run --image IMAGE COMMAND"
        )
    return words
