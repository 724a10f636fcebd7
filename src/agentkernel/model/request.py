"""What a user asks for, before policy has decided, and what policy grants."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentkernel.model.image import PullPolicy
from agentkernel.model.isolation import BackendKind, IsolationLevel
from agentkernel.model.network import USUAL, EgressLimits, PortRule, Rule, Secret
from agentkernel.model.spec import Bind, SandboxSpec, StorageKind


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxRequest:
    """A sandbox as asked for; None means `what the profile says`.

    The five switches override the profile's columns. `cwd` is the host directory the request comes from.
    """

    argv: tuple[bytes, ...] = ()  # the first command, which root and toolchains are chosen for
    profile: str = "moderate"
    cwd: str = "/"
    backend: str | None = None
    min_isolation: IsolationLevel = IsolationLevel.NONE
    image: str | None = None  # the absolute path of a directory or an archive; any other text is a name, whatever lies in `cwd`
    pull: PullPolicy = PullPolicy.MISSING  # of an image by name
    runtime: str | None = None  # of a container engine
    gpus: str | None = None  # all, a number, or ids joined by commas
    entrypoint: tuple[str, ...] | None = None  # in place of the image's; empty: none
    language: str | None = None  # of the project: which image is taken where the host's own system cannot be the root
    name: str | None = None
    network: bool | None = None
    allow_hosts: tuple[Rule, ...] = ()  # beyond what the profile allows; with `only_hosts` nothing but these
    deny_hosts: tuple[Rule, ...] = ()
    only_hosts: bool = False  # [security.domains] allowlist_only
    egress_limits: EgressLimits = USUAL
    host_network: bool = True  # whether a profile may give the host's own network; false: a filtered one in its place
    transparent_network: bool | None = None  # None: where the backend can
    ports: tuple[PortRule, ...] = ()
    secrets: tuple[Secret, ...] = ()
    secret_values: dict[str, str] = field(default_factory=dict, repr=False)  # by name; never stored, told or given to a sandbox
    mount_cwd: bool | None = None
    mount_home: bool | None = None
    pass_environment: bool | None = None
    read_only_root: bool | None = None
    directory: str | None = None  # --dir: shown at /workspace
    mounts: tuple[Bind, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)  # explicit -e and [environment]
    host_environment: dict[str, str] = field(default_factory=dict)  # the caller's, for pass_environment and toolchains
    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None
    disk_bytes: int | None = None
    storage: StorageKind | None = None
    user: str | None = None  # "root", "user" or "uid[:gid]"
    notices: tuple[Notice, ...] = ()  # what reading the settings brought to light
    added_hosts: tuple[Rule, ...] = ()  # of `allow_hosts`: what the operator of a server added to what somebody elsewhere asked for
    added_image: str = ""  # and the image, where that is a file of the operator's; both are believed of `Caller.vouched` ones alone

    def of_its_machine(self) -> tuple[str, ...]:
        """The fields that ask for files or variables of the machine that it was made on; what is merely told, as `cwd`, is none of them."""
        asked = {
            "mounts": bool(self.mounts),
            "directory": self.directory is not None,
            "image": self.image is not None and self.image.startswith("/"),
            "mount_cwd": self.mount_cwd is True,
            "mount_home": self.mount_home is True,
            "pass_environment": self.pass_environment is True,
        }
        return tuple(field for field, is_asked in asked.items() if is_asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something the user should be told once: a stable code, what, and what to do."""

    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Policy's yes: what to build, by whom, and what to say."""

    spec: SandboxSpec
    backend: str
    chosen: BackendKind
    notices: tuple[Notice, ...] = ()
    tar_image: str | None = None  # the image must first be unpacked from this file; spec.root.directory is then set by the engine

    @property
    def fetches(self) -> bool:
        """Whether its image, which has a name, must be fetched first: what it says of its commands is not in the spec yet."""
        return bool(self.spec.root.reference) and not self.spec.root.digest
