"""What programs may say about a sandbox, a command and a build: the names, for type checkers, and what is particular to a program's own
process. Pure: shared by the sync and the async API."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypedDict

from agentkernel.config.options import asked_for, switch_of, text_of
from agentkernel.errors import InvalidInput, UnknownKey
from agentkernel.images.hostroot import CERTIFICATE_VARIABLES
from agentkernel.images.toolchains import HOME_VARIABLES, MANAGERS
from agentkernel.model.image import ImageWork, ImageWorkKind
from agentkernel.model.names import suggest
from agentkernel.model.request import SandboxRequest
from agentkernel.policy.deny import filter_environment


class SandboxOptions(TypedDict, total=False):
    """A sandbox as asked for. What is left out is what the profile says; configuration files and AGENTKERNEL_* settings are not read."""

    profile: str  # "permissive", "moderate" (default) or "restrictive"
    backend: str  # by name; without it the strongest that is ready
    min_isolation: str  # "process" < "container" < "user-kernel" < "vm-emulated" < "vm"
    image: str  # the name of an image, fetched when it is not here ("python:3.13"), or a directory or tar archive of the host
    pull: str  # "missing" (default), "always" or "never": when the registry is asked for an image by name
    runtime: str  # of a container engine: "runsc", "kata", ...
    gpus: str  # "all", a number, or ids joined by commas
    directory: str  # of the host, shown at /workspace: a private copy, unless the profile shows the real one
    mounts: Sequence[str]  # "SOURCE:DESTINATION[:ro]"
    environment: Mapping[str, str | None]  # of every command; None: the caller's own value
    network: bool  # False: none at all; True: filtered by the profile's rules and the following, or the host's where the profile says so
    allow_hosts: Sequence[str]  # beyond what the profile allows: "example.com", "*.example.com", "db.example.com:5432", "10.0.0.0/8:22"
    deny_hosts: Sequence[str]  # likewise; a denial wins over a permission
    only_hosts: bool  # nothing but `allow_hosts`
    transparent_network: bool  # also for programs that know no proxy; without it where the backend can
    max_connections: int  # out of the sandbox at a time; 512 by default
    max_bytes: int | str  # sent and received, both together, from each start to its stop: bytes, or "500MB"; without it any amount
    max_lookups: int  # different names in a second; 100 by default
    secrets: Sequence[str]  # used without being seen, as --secret names them: "NAME=ENV:VARIABLE@api.example.com", "FILE:", "KEYRING:"
    ports: Sequence[int | str]  # inside, published on the host's loopback: 80 (any host port), "8080:80"
    mount_home: bool
    pass_environment: bool
    read_only: bool
    memory: int | str  # bytes, or "512MiB"
    cpus: float
    pids: int
    disk: int | str  # bytes, or "1GiB": all of the sandbox's own writes together
    storage: str  # "memory" (hard limit) or "disk"
    user: str  # "user" (default), "root" or "UID[:GID]"


class LastingOptions(SandboxOptions, total=False):
    """A sandbox that outlives the client."""

    name: str  # 1-63 letters, digits, hyphens and underscores; without it a random one
    labels: Mapping[str, str]
    ttl: float | str  # seconds, or "1h": removed so long after its creation
    idle: float | str  # seconds, or "10m": stopped after so long without use
    start: bool  # default True


class CommandOptions(TypedDict, total=False):
    """The surroundings of one command."""

    environment: Mapping[str, str]  # on top of the sandbox's
    cwd: str  # absolute, inside; without it the workspace, or HOME
    user: tuple[int, int]  # uid and gid inside
    timeout: float | str  # seconds, or "30s", from its start: then its whole process tree is killed; 0 is never
    tty: bool | tuple[int, int]  # a terminal, of (rows, columns) or 24 by 80
    output_limit_bytes: int  # per stream, of what `exec` keeps; 16 MiB by default


class BuildOptions(TypedDict, total=False):
    """How an image is built."""

    file: str | os.PathLike[str]  # the Dockerfile, when it has another name or place; relative to the context
    target: str  # the stage to stop at
    arguments: Mapping[str, str]  # for its ARGs
    builder: str  # "docker", "podman" or "buildah"; without it the first that is here
    platform: str  # such as "linux/arm64"
    backend: str  # the engine that keeps the image
    fresh: bool  # without what an earlier build left


_FOUND_BY = frozenset(
    {"PATH", "HOME", "GOPATH", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", *HOME_VARIABLES, *CERTIFICATE_VARIABLES}
    | {variable for root, others in MANAGERS.values() for variable in (root, *others)}
)
_BUILD = tuple(BuildOptions.__annotations__)


def request_of(options: Mapping[str, object], environment: Mapping[str, str]) -> SandboxRequest:
    """The sandbox to ask for; `environment` is the caller's. Raises what `asked_for` raises."""
    request = asked_for(options, base=os.getcwd(), environment=environment)
    return replace(
        request,
        mount_cwd=None if request.directory is not None else False,  # the directory that a program happens to be in is no wish
        host_environment=_told(request, environment),
    )


def build_of(context: str | os.PathLike[str], name: str, options: Mapping[str, object]) -> ImageWork:
    """The work of building an image; raises UnknownKey for an option that there is not, InvalidInput for a value that cannot be."""
    for option in options:
        if option not in _BUILD:
            raise UnknownKey(f"a build has no option {option!r}", hint=suggest(option, _BUILD))
    arguments = options.get("arguments") or {}
    if not isinstance(arguments, Mapping):
        raise InvalidInput("arguments wants a mapping of names to values")
    return ImageWork(
        kind=ImageWorkKind.BUILD,
        reference=name,
        path=os.path.realpath(os.fspath(context)),
        dockerfile=text_of("file", options.get("file")) or "",
        target=text_of("target", options.get("target")) or "",
        arguments=tuple((str(each), str(value)) for each, value in arguments.items()),
        builder=text_of("builder", options.get("builder")) or "",
        platform=text_of("platform", options.get("platform")) or "",
        backend=text_of("backend", options.get("backend")) or "",
        fresh=switch_of("fresh", options.get("fresh")) or False,
    )


def import_of(path: str | os.PathLike[str], name: str, backend: str) -> ImageWork:
    """The work of taking up what lies at a path of the host."""
    return ImageWork(kind=ImageWorkKind.IMPORT, reference=name, path=os.path.realpath(os.fspath(path)), backend=backend)


def _told(request: SandboxRequest, environment: Mapping[str, str]) -> dict[str, str]:
    """What of the caller's environment goes with a request: what toolchains and certificates are found by, and what is passed on."""
    passed = request.pass_environment or (request.pass_environment is None and request.profile == "permissive")
    shown = filter_environment(environment) if passed else {}
    return {name: value for name, value in request.host_environment.items() if name in shown or name in _FOUND_BY}
