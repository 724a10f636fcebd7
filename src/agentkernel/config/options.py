"""What callers may say about a sandbox and about a command, by name, and the request or command that it becomes.

Pure: shared by the Python API, the HTTP API and MCP. Where one of them takes less, or knows a word of its own, that is its business.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final

from agentkernel.config.given import Given
from agentkernel.config.load import Layer, OriginKind, Settings
from agentkernel.config.request import request_from_settings
from agentkernel.config.table import BY_KEY
from agentkernel.config.values import DURATION, Read
from agentkernel.errors import InvalidInput, UnknownKey
from agentkernel.model.command import DEFAULT_OUTPUT_LIMIT_BYTES, Command, TerminalSize
from agentkernel.model.names import suggest, validate_environment_name, validate_environment_value
from agentkernel.model.network import EgressChange, PortRule, Rule
from agentkernel.model.ports import checked_port, parse_port
from agentkernel.model.record import CreateOptions, Labels
from agentkernel.model.request import SandboxRequest
from agentkernel.model.rules import parse_rule
from agentkernel.model.status import Status

Argument = str | bytes | os.PathLike[str]

_SETTINGS: Final[Mapping[str, str]] = {
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
_NETWORK: Final = ("allow_hosts", "deny_hosts", "only_hosts", "transparent_network", "ports")
_LASTING: Final = ("labels", "ttl", "idle", "start")
_COMMAND: Final = ("environment", "cwd", "user", "timeout", "tty", "output_limit_bytes")
_DEFAULT_TERMINAL: Final = (24, 80)


def asked_for(options: Mapping[str, object], *, base: str, environment: Mapping[str, str], below: tuple[Layer, ...] = ()) -> SandboxRequest:
    """The sandbox to ask for. What belongs to a lasting sandbox alone is passed over.

    Args:
        options: by name; one that is None is as one that is left out.
        base: the directory that relative paths of the host are meant from.
        environment: the caller's.
        below: layers of settings that hold where the options say nothing.

    Raises:
        UnknownKey: there is no such option.
        InvalidInput: a value is wrong, or names something of the host that does not exist.
    """
    values = _network(options)
    for option, value in options.items():
        if option in _LASTING or option in _NETWORK or value is None:
            continue
        if option not in _SETTINGS:
            raise UnknownKey(f"a sandbox has no option {option!r}", hint=suggest(option, (*_SETTINGS, *_NETWORK, *_LASTING)))
        key = _SETTINGS[option]
        given = os.fspath(value) if isinstance(value, os.PathLike) else value
        values[key] = Given(value=_read(option, BY_KEY[key].type.read, given, base), where=option)
    settings = Settings(layers=(*below, Layer(kind=OriginKind.FLAG, values=values)))
    return request_from_settings(settings, argv=(), cwd="/", environment=environment)


def _network(options: Mapping[str, object]) -> dict[str, Given]:
    """The settings about the network: each wants a list or a switch, never the text that a variable of the environment has."""
    ports = options.get("ports")
    said: dict[str, tuple[str, object]] = {
        "security.domains.allow": ("allow_hosts", _rules("allow_hosts", options.get("allow_hosts"))),
        "security.domains.block": ("deny_hosts", _rules("deny_hosts", options.get("deny_hosts"))),
        "security.domains.allowlist_only": ("only_hosts", switch_of("only_hosts", options.get("only_hosts"))),
        "network.transparent": ("transparent_network", switch_of("transparent_network", options.get("transparent_network"))),
        "network.ports": ("ports", tuple(port_of(port) for port in _several("ports", ports))),
    }
    return {key: Given(value=value, where=option) for key, (option, value) in said.items() if value not in (None, ())}


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
        start=switch_of("start", options.get("start")) is not False,
    )


def command_of(argv: Sequence[object], options: Mapping[str, object], *, stdin: bool, detached: bool = False) -> Command:
    """The command to run, of words or of one list of them.

    Raises:
        UnknownKey: there is no such option.
        InvalidInput: there is no word, or a value is wrong.
    """
    for option in options:
        if option not in _COMMAND:
            raise UnknownKey(f"a command has no option {option!r}", hint=suggest(option, _COMMAND))
    words: Sequence[object] = argv[0] if len(argv) == 1 and isinstance(argv[0], list | tuple) else argv
    if not words:
        raise InvalidInput("there is no command to run", hint='for example: exec("python3", "-c", "print(1)")')
    environment = options.get("environment") or {}
    if not isinstance(environment, Mapping):
        raise InvalidInput("environment wants a mapping of names to values")
    limit = options.get("output_limit_bytes", DEFAULT_OUTPUT_LIMIT_BYTES)
    if not isinstance(limit, int) or limit < 0:
        raise InvalidInput(f"output_limit_bytes cannot be {limit!r}")
    return Command(
        argv=tuple(map(_word, words)),
        environment={
            os.fsencode(validate_environment_name(_text(name))): os.fsencode(validate_environment_value(name, _text(value)))
            for name, value in environment.items()
        },
        cwd=text_of("cwd", options.get("cwd")),
        user=_user(options.get("user")),
        terminal=_terminal(options.get("tty")),
        stdin=stdin,
        timeout_s=seconds("timeout", options.get("timeout")),
        detached=detached,
        output_limit_bytes=limit,
    )


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
    """The states that words name; raises UnknownKey, and InvalidInput for a single word in place of a list."""
    if isinstance(words, str):
        raise InvalidInput(f"statuses wants a list, not {words!r}", hint=f"for example: statuses=[{words!r}]")
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


def switch_of(option: str, value: object) -> bool | None:
    """A switch as it is; raises InvalidInput for anything else."""
    if value is not None and not isinstance(value, bool):
        raise InvalidInput(f"{option} wants True or False, not {value!r}")
    return value


def text_of(option: str, value: object) -> str | None:
    """A text, or a path as text; raises InvalidInput for anything else."""
    if value is None:
        return None
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise InvalidInput(f"{option} wants a string")
    return text


def _word(word: object) -> bytes:
    if isinstance(word, str | bytes | os.PathLike):
        return os.fsencode(word)
    raise InvalidInput(f"a command is made of strings, bytes and paths, not of {word!r}", hint="for a number: str(number)")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise InvalidInput(f"environment wants names and values that are strings, not {value!r}", hint="for a number: str(number)")


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
