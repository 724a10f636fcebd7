"""What callers may say about a sandbox and about a command, and how it becomes a request. Pure: shared by the sync and the async API."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypedDict

from agentkernel.config.given import Given
from agentkernel.config.load import Layer, OriginKind, Settings
from agentkernel.config.request import request_from_settings
from agentkernel.config.table import BY_KEY
from agentkernel.config.values import DURATION, Read
from agentkernel.errors import InvalidInput, UnknownKey
from agentkernel.images.hostroot import CERTIFICATE_VARIABLES
from agentkernel.images.toolchains import HOME_VARIABLES, MANAGERS
from agentkernel.model.command import DEFAULT_OUTPUT_LIMIT_BYTES, Command, TerminalSize
from agentkernel.model.image import ImageWork, ImageWorkKind
from agentkernel.model.names import suggest, validate_environment_name, validate_environment_value
from agentkernel.model.network import EgressChange, PortRule, Rule
from agentkernel.model.ports import checked_port, parse_port
from agentkernel.model.record import CreateOptions, Labels
from agentkernel.model.request import SandboxRequest
from agentkernel.model.rules import parse_rule
from agentkernel.model.status import Status
from agentkernel.policy.deny import filter_environment

Argument = str | bytes | os.PathLike[str]


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
    timeout: float | str  # seconds, or "30s", from its start: then its whole process tree is killed
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


_SETTINGS: Mapping[str, str] = {
    "profile": "security.profile",
    "backend": "backend",
    "min_isolation": "isolation.minimum",
    "image": "sandbox.base_image",
    "pull": "sandbox.pull",
    "runtime": "sandbox.container_runtime",
    "gpus": "sandbox.gpus",
    "directory": "dir",
    "mounts": "mounts",
    "environment": "environment",
    "network": "security.network",
    "max_connections": "network.max_connections",
    "max_bytes": "network.max_bytes",
    "max_lookups": "network.max_lookups",
    "mount_home": "security.mount_home",
    "pass_environment": "security.pass_env",
    "read_only": "security.read_only",
    "memory": "resources.memory",
    "cpus": "resources.cpus",
    "pids": "resources.pids",
    "disk": "resources.disk",
    "storage": "storage",
    "user": "user",
    "secrets": "secrets",
    "name": "sandbox.name",
}
_NETWORK = ("allow_hosts", "deny_hosts", "only_hosts", "transparent_network", "ports")
_FOUND_BY = frozenset(
    {"PATH", "HOME", "GOPATH", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", *HOME_VARIABLES, *CERTIFICATE_VARIABLES}
    | {variable for root, others in MANAGERS.values() for variable in (root, *others)}
)
_LASTING = ("labels", "ttl", "idle", "start")
_COMMAND = tuple(CommandOptions.__annotations__)
_BUILD = tuple(BuildOptions.__annotations__)
_DEFAULT_TERMINAL = (24, 80)


def request_of(options: Mapping[str, object], environment: Mapping[str, str]) -> SandboxRequest:
    """The sandbox to ask for; `environment` is the caller's. What belongs to a lasting sandbox alone is passed over.

    Raises:
        UnknownKey: there is no such option.
        InvalidInput: a value is wrong, or names something of the host that does not exist.
    """
    cwd = os.getcwd()
    values: dict[str, Given] = {}
    for option, value in options.items():
        if option in _LASTING or option in _NETWORK or value is None:
            continue
        if option not in _SETTINGS:
            raise UnknownKey(f"a sandbox has no option {option!r}", hint=suggest(option, (*_SETTINGS, *_NETWORK, *_LASTING)))
        key = _SETTINGS[option]
        given = os.fspath(value) if isinstance(value, os.PathLike) else value
        values[key] = Given(value=_read(option, BY_KEY[key].type.read, given, cwd), where=option)
    settings = Settings(layers=(Layer(kind=OriginKind.FLAG, values=values),))
    request = request_from_settings(settings, argv=(), cwd="/", environment=environment)
    return replace(
        request,
        allow_hosts=_rules("allow_hosts", options.get("allow_hosts")),
        deny_hosts=_rules("deny_hosts", options.get("deny_hosts")),
        only_hosts=_switch("only_hosts", options.get("only_hosts")) or False,
        transparent_network=_switch("transparent_network", options.get("transparent_network")),
        ports=tuple(port_of(port) for port in _several("ports", options.get("ports"))),
        mount_cwd=None if request.directory is not None else False,  # the directory that a program happens to be in is no wish
        host_environment=_told(request, environment),
    )


def change_of(*, allow: Sequence[str] = (), deny: Sequence[str] = (), forget: Sequence[str] = ()) -> EgressChange:
    """A change of a sandbox's rules; raises InvalidInput for what is no host."""
    return EgressChange(allow=_rules("allow", allow), deny=_rules("deny", deny), remove=_rules("forget", forget))


def port_of(port: object, host_port: int = 0) -> PortRule:
    """A port to publish: a number, or text such as `8080:80`; raises InvalidInput, Refused."""
    if isinstance(port, str):
        return parse_port(port)
    if not isinstance(port, int) or isinstance(port, bool) or not isinstance(host_port, int):
        raise InvalidInput(f"{port!r} is no port to publish", hint='for example: 80, or "8080:80"')
    return checked_port(PortRule(port=port, host_port=host_port))


def create_options(options: Mapping[str, object]) -> CreateOptions:
    """What a lasting sandbox has beyond its request."""
    name = options.get("name")
    labels = options.get("labels")
    return CreateOptions(
        name=None if name is None else str(name),
        labels=() if labels is None else labels_of(labels),
        ttl_s=seconds("ttl", options.get("ttl")),
        idle_s=seconds("idle", options.get("idle")),
        start=_switch("start", options.get("start")) is not False,
    )


def command_of(argv: Sequence[Argument], options: Mapping[str, object], *, stdin: bool, detached: bool = False) -> Command:
    """The command to run.

    Raises:
        UnknownKey: there is no such option.
        InvalidInput: there is no word, or a value is wrong.
    """
    for option in options:
        if option not in _COMMAND:
            raise UnknownKey(f"a command has no option {option!r}", hint=suggest(option, _COMMAND))
    if not argv:
        raise InvalidInput("there is no command to run", hint='for example: exec("python3", "-c", "print(1)")')
    environment = options.get("environment") or {}
    if not isinstance(environment, Mapping):
        raise InvalidInput("environment wants a mapping of names to values")
    limit = options.get("output_limit_bytes", DEFAULT_OUTPUT_LIMIT_BYTES)
    if not isinstance(limit, int) or limit < 0:
        raise InvalidInput(f"output_limit_bytes cannot be {limit!r}")
    return Command(
        argv=tuple(os.fsencode(word) for word in argv),
        environment={
            os.fsencode(validate_environment_name(name)): os.fsencode(validate_environment_value(name, value))
            for name, value in environment.items()
        },
        cwd=_text("cwd", options.get("cwd")),
        user=_user(options.get("user")),
        terminal=_terminal(options.get("tty")),
        stdin=stdin,
        timeout_s=seconds("timeout", options.get("timeout")),
        detached=detached,
        output_limit_bytes=limit,
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
        dockerfile=_text("file", options.get("file")) or "",
        target=_text("target", options.get("target")) or "",
        arguments=tuple((str(each), str(value)) for each, value in arguments.items()),
        builder=_text("builder", options.get("builder")) or "",
        platform=_text("platform", options.get("platform")) or "",
        backend=_text("backend", options.get("backend")) or "",
        fresh=_switch("fresh", options.get("fresh")) or False,
    )


def import_of(path: str | os.PathLike[str], name: str, backend: str) -> ImageWork:
    """The work of taking up what lies at a path of the host."""
    return ImageWork(kind=ImageWorkKind.IMPORT, reference=name, path=os.path.realpath(os.fspath(path)), backend=backend)


def labels_of(labels: object) -> Labels:
    """Labels as the store has them: sorted by key; raises InvalidInput for what is no mapping."""
    if not isinstance(labels, Mapping):
        raise InvalidInput(f"labels wants a mapping of keys to values, not {labels!r}", hint='for example: labels={"job": "7"}')
    return tuple(sorted((str(key), str(value)) for key, value in labels.items()))


def seconds(option: str, value: object) -> float | None:
    """A duration in seconds, from a number or text such as `1h30m`; None and 0 are none."""
    if value is None:
        return None
    return float(str(_read(option, DURATION.read, value, ""))) or None


def statuses_of(words: Sequence[Status | str]) -> tuple[Status, ...]:
    """The states that words name; raises UnknownKey."""
    for word in words:
        if word not in tuple(Status):
            raise UnknownKey(f"there is no status {str(word)!r}", hint=suggest(str(word), [str(status) for status in Status]))
    return tuple(Status(word) for word in words)


def _read(option: str, read: Read, value: object, base: str) -> object:
    """A value as the table of settings reads it; its errors name the option."""
    try:
        return read(value, base)
    except InvalidInput as error:
        raise type(error)(f"{option}: {error.message}", hint=error.hint) from None


def _told(request: SandboxRequest, environment: Mapping[str, str]) -> dict[str, str]:
    """What of the caller's environment goes with a request: what toolchains and certificates are found by, and what is passed on."""
    passed = request.pass_environment or (request.pass_environment is None and request.profile == "permissive")
    shown = filter_environment(environment) if passed else {}
    return {name: value for name, value in request.host_environment.items() if name in shown or name in _FOUND_BY}


def _several(option: str, value: object) -> Sequence[object]:
    if value is None:
        return ()
    if isinstance(value, str | bytes) or not isinstance(value, Sequence | frozenset | set):
        raise InvalidInput(f"{option} wants a list, not {value!r}")
    return tuple(value)


def _rules(option: str, value: object) -> tuple[Rule, ...]:
    return tuple(_rule(option, host) for host in _several(option, value))


def _rule(option: str, host: object) -> Rule:
    if not isinstance(host, str):
        raise InvalidInput(f"{option}: {host!r} is no host", hint='for example: "example.com"')
    try:
        return parse_rule(host)
    except InvalidInput as error:
        raise InvalidInput(f"{option}: {error.message}", hint=error.hint) from None


def _switch(option: str, value: object) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise InvalidInput(f"{option} wants True or False, not {value!r}")
    return value


def _text(option: str, value: object) -> str | None:
    if value is None:
        return None
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise InvalidInput(f"{option} wants a string")
    return text


def _user(value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(each, int) for each in value):
        return (value[0], value[1])
    raise InvalidInput("user wants a pair: uid and gid inside the sandbox")


def _terminal(value: object) -> TerminalSize | None:
    if value is None or value is False:
        return None
    size = _DEFAULT_TERMINAL if value is True else value
    if isinstance(size, tuple | list) and len(size) == 2 and all(isinstance(each, int) for each in size):
        return TerminalSize(rows=size[0], columns=size[1])
    raise InvalidInput("tty wants True, or a pair: rows and columns")
