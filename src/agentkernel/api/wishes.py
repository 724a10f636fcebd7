"""What a body asks for, as the kernel takes it: sandboxes with the operator's settings underneath, and commands.

The operator's files and variables are those of the server. What they show or give away (mounts, the home directory, variables, secrets) is
for the operator's own runs: a sandbox made here gets what its request names, and the engine asks whether this caller may name it. Hosts
and an image are there for every sandbox, and no caller named them (`SandboxRequest.added_hosts`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from agentkernel.abc import Caller
from agentkernel.api.remembered import Remembered
from agentkernel.api.shapes import (
    SHOWN,
    BatchBody,
    CommandBody,
    CreateBody,
    FileBody,
    InputBody,
    RunBody,
    SandboxBody,
    SecretBody,
    SocketBody,
    UserBody,
)
from agentkernel.config.invocation import ids_of
from agentkernel.config.load import Layer, Settings, users_settings
from agentkernel.config.options import asked_for, command_of, create_options, seconds
from agentkernel.config.secrets import checked_values
from agentkernel.config.values import USER, is_path_image
from agentkernel.errors import InvalidInput, Refused
from agentkernel.model.command import Command
from agentkernel.model.names import validate_environment_name
from agentkernel.model.record import CreateOptions
from agentkernel.model.request import SandboxRequest
from agentkernel.model.secrets import checked

NOWHERE: Final = "/nonexistent"  # what relative paths are meant from: nothing is there, so that a name of an image is never a file
MIB: Final = 2**20
_OPTIONS: Final[Mapping[str, str]] = {  # of bodies that are called otherwise
    "vcpus": "cpus",
    "memory_mb": "memory",
    "disk_mb": "disk",
}
_PLAIN: Final = SandboxBody.model_fields.keys() - {"env", "secrets"}
_OPERATORS_OWN: Final = frozenset(
    {"dir", "mounts", "files", "security.mount_cwd", "security.mount_home", "security.pass_env", "network.ports", "sandbox.name"}
    | {"environment", "secrets"}
)
_FOUND_BY: Final = ("PATH", "HOME")  # of the server's environment: where the host's own programs are
_KEY_CHARACTERS: Final = 32
_REMEMBERED: Final = Remembered()
_TEXT: Final = "surrogateescape"


def sandbox_of(body: SandboxBody, environment: Mapping[str, str], caller: Caller) -> SandboxRequest:
    """The sandbox to ask for; `environment` is the server's.

    Raises:
        Refused: it names files of the host, which this caller may not; whether they are there is not looked at.
        InvalidInput, UnknownKey: a value is wrong, or the operator's files are.
    """
    variables = {} if body.env is None else {"environment": environment_of(body.env)}
    return _asked(body, environment, caller, _operators(environment), variables)


def _asked(
    body: SandboxBody, environment: Mapping[str, str], caller: Caller, operators: Settings, variables: Mapping[str, object]
) -> SandboxRequest:
    given = body.model_dump(include=_PLAIN, exclude_none=True)
    options = {_OPTIONS.get(name, name): value * MIB if name.endswith("_mb") else value for name, value in given.items()}
    paths = [text for text in (body.directory, *(body.mounts or ()), _path_of(body.image)) if text]
    _check_host(caller, paths)

    def made() -> SandboxRequest:
        request = asked_for({**options, **variables}, base=NOWHERE, environment=environment, below=operators.layers)
        return replace(
            request,
            mount_cwd=None if request.directory is not None else False,
            mount_home=False,
            pass_environment=False,
            host_environment={name: environment[name] for name in _FOUND_BY if name in environment},
            added_hosts=operators.get("security.domains.allow"),
            added_image=operators.get("sandbox.base_image") or "",
        )

    if variables or paths or any(isinstance(value, list) for value in options.values()):
        request = made()
    else:
        request = _REMEMBERED.request(options, operators, environment, made)
    return request if body.secrets is None else _with_secrets(request, body.secrets)


def run_of(body: RunBody, environment: Mapping[str, str], caller: Caller) -> tuple[SandboxRequest, Command, bytes]:
    """The sandbox, the command in it and the command's input. The variables are the command's alone: ready sandboxes have none."""
    command, data = exec_of(body)
    operators = _operators(environment)
    request = replace(_asked(body, environment, caller, operators, {}), argv=command.argv)
    return request, replace(command, timeout_s=_timeout(body.timeout_s, operators)), data


def batch_of(
    body: BatchBody, environment: Mapping[str, str], caller: Caller, output_bytes: int
) -> tuple[SandboxRequest, tuple[Command, ...]]:
    """The sandbox that each of the commands gets one of; so many bytes of each of its streams are kept."""
    options = {"timeout": _timeout(body.timeout_s, _operators(environment)), "output_limit_bytes": output_bytes}
    commands = tuple(_command(each.command, options) for each in body.commands)
    return sandbox_of(body, environment, caller), commands


def create_of(
    body: CreateBody, environment: Mapping[str, str], caller: Caller, request_key: str = ""
) -> tuple[SandboxRequest, CreateOptions]:
    """The sandbox, and what it has beyond that."""
    options = {"name": body.name, "labels": body.labels, "ttl": body.ttl_s, "idle": body.idle_s, "start": body.start}
    return sandbox_of(body, environment, caller), replace(create_options(options), request_key=request_key)


def request_key_of(caller: Caller, key: str, body: bytes) -> str:
    """What the engine remembers a creation by, so that a repeat after a restart finds it; empty without an idempotency key."""
    said = "\0".join((caller.principal, caller.via, key)).encode() + b"\0" + body
    return hashlib.sha256(said).hexdigest()[:_KEY_CHARACTERS] if key else ""


def secret_values_of(given: Mapping[str, str]) -> dict[str, str]:
    """Values of secrets by name; raises InvalidInput, which shows none."""
    return checked_values({validate_environment_name(name): value for name, value in given.items()})


def exec_of(body: InputBody) -> tuple[Command, bytes]:
    """A command that is waited for, and its input."""
    data = _input(body)
    return _command(body.command, _surroundings(body) | {"output_limit_bytes": body.output_limit_bytes}, stdin=bool(data)), data


def detached_of(body: CommandBody) -> Command:
    """A command that goes on by itself."""
    return _command(body.command, _surroundings(body), detached=True)


def opened_of(body: SocketBody) -> Command:
    """A command whose input follows, on a terminal where the body has the size of one."""
    options = _surroundings(body) | {"tty": None if body.rows is None else (body.rows, body.columns)}
    return _command(body.command, options, stdin=True, detached=body.detached)


def environment_of(given: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """Variables of an object, or of a list of NAME=VALUE; raises InvalidInput."""
    if isinstance(given, Mapping):
        return {validate_environment_name(name): _plain(value) for name, value in given.items()}
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidInput(f"{text[:SHOWN]!r} is no variable", hint="write NAME=VALUE")
        found[validate_environment_name(name)] = _plain(value)
    return found


def _surroundings(body: CommandBody) -> dict[str, Any]:
    options: dict[str, Any] = {"timeout": body.timeout_s, "cwd": None if body.workdir is None else _plain(body.workdir)}
    if body.env is not None:
        options["environment"] = environment_of(body.env)
    if isinstance(body, UserBody):
        if body.sudo and body.user is not None:
            raise InvalidInput("sudo and user are two ways to say the same", hint="leave one of them out")
        options["user"] = (0, 0) if body.sudo else None if body.user is None else ids_of(str(USER.read(body.user, "")))
    return options


def _command(words: Sequence[str], options: Mapping[str, object], *, stdin: bool = False, detached: bool = False) -> Command:
    if not words or not words[0]:
        raise InvalidInput("command is required", hint='for example: {"command": ["python3", "-c", "print(1)"]}')
    given = {name: value for name, value in options.items() if value is not None}
    return command_of([_plain(word) for word in words], given, stdin=stdin, detached=detached)


def _input(body: InputBody) -> bytes:
    if body.stdin_base64 is not None:
        return decoded(body.stdin_base64, "stdin_base64")
    return _plain(body.stdin or "", nul=True).encode("utf-8", _TEXT)


def content_of(given: str | FileBody) -> bytes:
    """The bytes of a file."""
    if isinstance(given, FileBody) and given.encoding == "base64":
        return decoded(given.content, "content")
    return _plain(given if isinstance(given, str) else given.content, nul=True).encode("utf-8", _TEXT)


def path_of(text: str) -> str:
    """An absolute path inside, as it is: what `..` means only the sandbox knows. Raises InvalidInput."""
    if not text.startswith("/"):
        raise InvalidInput(f"{text[:SHOWN]!r} is no absolute path inside the sandbox", hint="start it with /")
    return _plain(text)


def decoded(text: str, where: str) -> bytes:
    """Bytes of base64; raises InvalidInput that names the field."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"{where}: this is no base64") from None


def _plain(text: str, *, nul: bool = False) -> str:
    """Text that stands for bytes: no half of a pair of surrogates but those that stand for one, and no NUL where the kernel ends at it."""
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:
        raise InvalidInput("half of a surrogate pair stands for no byte") from None
    if b"\0" in data and not nul:
        raise InvalidInput(f"{text[:SHOWN]!r} contains a NUL byte", hint="remove the NUL byte")
    return text


def _path_of(image: str | None) -> str | None:
    return image if image is not None and is_path_image(image) else None


def _check_host(caller: Caller, paths: Sequence[str]) -> None:
    if paths and caller.is_elsewhere:
        raise Refused(
            "a caller elsewhere may name no files of the server's host",
            hint="write the files into the sandbox; or use a token with the scope host",
        )
    for path in paths:
        if not path.startswith("/"):
            raise InvalidInput(f"{path[:SHOWN]!r} is no absolute path of the server's host")


def _timeout(given: float | None, operators: Settings) -> float | None:
    """Seconds; None: never. What the operator says holds where the body says nothing."""
    return seconds("timeout_s", operators.get("timeout") if given is None else given)


def _operators(environment: Mapping[str, str]) -> Settings:
    """The settings below the request, without what is for the operator's own runs."""
    settings = users_settings(cwd=NOWHERE, environment=environment, flags={})
    return Settings(
        layers=tuple(
            Layer(kind=layer.kind, values={key: given for key, given in layer.values.items() if key not in _OPERATORS_OWN})
            for layer in settings.layers
            if layer.values
        )
    )


def _with_secrets(request: SandboxRequest, given: Sequence[SecretBody]) -> SandboxRequest:
    """Those of the body in place of the operator's of the same name."""
    secrets = {secret.name: secret for secret in request.secrets}
    values = dict(request.secret_values)
    for each in given:
        secrets[each.name] = checked(each.name, tuple(each.hosts), path=each.path, method=each.method, header=each.header)
        values[each.name] = each.value
    return replace(request, secrets=tuple(secrets.values()), secret_values=checked_values(values))
