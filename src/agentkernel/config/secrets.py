"""Secrets that a sandbox uses without seeing them: how `--secret` and `[[secrets]]` are written, and their values, read in the client.

What is written, told or trusted is the reference to a value and where it may go; the value goes to the engine's memory and nowhere else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module

from agentkernel.config.rawfile import read_raw
from agentkernel.config.values import describe, read_path, read_string
from agentkernel.errors import InvalidInput, UnknownKey, Unsupported
from agentkernel.model import secrets as bindings
from agentkernel.model.names import suggest, validate_environment_name
from agentkernel.model.network import Secret
from agentkernel.model.request import Notice

MIN_VALUE, MAX_VALUE, MAX_VALUES, MAX_SECRETS, MAX_HOSTS = 8, 8192, 12_288, 16, 16
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_KEYS = ("name", "source", "hosts", "path", "method", "header")
_OTHERS_MAY_READ = 0o044


class SourceKind(StrEnum):
    """Where a value is."""

    ENVIRONMENT = "ENV"
    FILE = "FILE"
    KEYRING = "KEYRING"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Of one value: a variable's name, a file's absolute path, or `service/user`."""

    kind: SourceKind
    reference: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.reference}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretReference:
    """A secret as configured."""

    secret: Secret
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSecrets:
    """What a request carries of secrets."""

    secrets: tuple[Secret, ...] = ()
    values: dict[str, str] = field(default_factory=dict, repr=False)  # by name
    notices: tuple[Notice, ...] = ()
    variables: frozenset[str] = frozenset()  # of the caller's, that held values: no sandbox gets them


NO_SECRETS = ReadSecrets()


def read_secrets(references: Mapping[str, SecretReference], environment: Mapping[str, str]) -> ReadSecrets:
    """The values of `[[secrets]]` and `--secret`; `environment` is the caller's.

    Raises:
        InvalidInput: a value is not there, or is none that a header can carry. The message never shows one.
        Unsupported: the keyring cannot be asked.
    """
    if len(references) > MAX_SECRETS or len({host for each in references.values() for host in each.secret.hosts}) > MAX_HOSTS:
        raise InvalidInput(f"a sandbox has at most {MAX_SECRETS} secrets, bound to {MAX_HOSTS} hosts together")
    sources = {name: each.source for name, each in references.items()}
    values, notices = read_values(sources, environment)
    return ReadSecrets(
        secrets=tuple(each.secret for each in references.values()),
        values=values,
        notices=notices,
        variables=frozenset(each.reference for each in sources.values() if each.kind is SourceKind.ENVIRONMENT) | references.keys(),
    )


def read_values(sources: Mapping[str, Source], environment: Mapping[str, str]) -> tuple[dict[str, str], tuple[Notice, ...]]:
    """Values by the secrets' names, and what there is to say about where they are kept; raises what `read_secrets` raises."""
    notices: list[Notice] = []
    values = checked_values({name: _value(name, source, environment, notices) for name, source in sources.items()})
    return values, tuple(notices)


def checked_values(values: dict[str, str]) -> dict[str, str]:
    """The values by name, if headers can carry them and they are not too much; raises InvalidInput, which shows none."""
    for name, value in values.items():
        _check(name, value)
    if sum(map(len, values.values())) > MAX_VALUES:
        raise InvalidInput(f"the secrets of a sandbox are longer than {MAX_VALUES} characters together")
    return values


def read_given(texts: Iterable[str], base: str) -> dict[str, Source]:
    """`NAME=ENV:VARIABLE` and the like, without a binding: of a sandbox that has its bindings already; `NAME` alone is ENV:NAME."""
    found = {}
    for text in texts:
        name, equals, source = text.partition("=")
        validate_environment_name(name)
        found[name] = _source(source, base) if equals else Source(kind=SourceKind.ENVIRONMENT, reference=name)
    return found


def _value(name: str, source: Source, environment: Mapping[str, str], notices: list[Notice]) -> str:
    if source.kind is SourceKind.ENVIRONMENT:
        if source.reference not in environment:
            raise InvalidInput(
                f"secret {name}: there is no variable {source.reference} here", hint=f"set it, or name another: {bindings.HINT}"
            )
        return environment[source.reference]
    return _of_file(name, source.reference, notices) if source.kind is SourceKind.FILE else _of_keyring(name, source.reference)


def _of_file(name: str, path: str, notices: list[Notice]) -> str:
    raw = read_raw(os.path.realpath(path))  # a secret that is mounted is often a link
    if raw is None:
        raise InvalidInput(f"secret {name}: there is no file {path}")
    if raw.mode & _OTHERS_MAY_READ:
        message = f"others on this host may read the secret {name}: {path}"
        notices.append(Notice(code="secret-readable", message=message, hint=f"chmod 600 {path}"))
    try:
        return raw.content.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise InvalidInput(f"secret {name}: {path} does not hold a line of text") from None


def _of_keyring(name: str, reference: str) -> str:
    service, _, user = reference.rpartition("/")
    try:
        keyring = import_module("keyring")
    except ImportError:
        raise Unsupported(f"secret {name}: asking the keyring takes another package", hint="pip install 'agentkernel[keyring]'") from None
    try:
        value = keyring.get_password(service, user)
    except Exception as error:  # noqa: BLE001 - of whatever desktop or platform the library found; its text may say too much
        raise Unsupported(f"secret {name}: the keyring cannot be asked ({type(error).__name__})", hint="use ENV: or FILE:") from None
    if value is None:
        raise InvalidInput(f"secret {name}: the keyring has nothing for {reference}", hint=f"keyring set {service} {user}")
    return str(value)


def _check(name: str, value: str) -> None:
    if not MIN_VALUE <= len(value) <= MAX_VALUE:
        raise InvalidInput(f"the value of the secret {name} is not {MIN_VALUE} to {MAX_VALUE} characters long")
    if not _VALUE.fullmatch(value):
        raise InvalidInput(f"the value of the secret {name} is more than one line of printable ASCII, which no header can carry")


def read_references(value: object, base: str) -> dict[str, SecretReference]:
    """What `[[secrets]]` or several `--secret` say, by the secrets' names; see `config.reach.SECRETS`."""
    if value == {}:
        return {}
    if not isinstance(value, list | tuple):
        raise InvalidInput(f"wants [[secrets]] tables, not {describe(value)}")
    found: dict[str, SecretReference] = {}
    for item in value:
        reference = _of_table(item, base) if isinstance(item, Mapping) else _of_text(read_string(item), base)
        if reference.secret.name in found:
            raise InvalidInput(f"the secret {reference.secret.name} is there twice", hint="name all of its hosts in one")
        found[reference.secret.name] = reference
    return found


def _of_text(text: str, base: str) -> SecretReference:
    what, at, binding = text.rpartition("@")
    name, equals, source = what.partition("=")
    if not at:
        shown = text.partition("=")[0]  # what follows may be the value, written there by mistake
        raise InvalidInput(f"--secret {shown}: it does not say for which host", hint=bindings.HINT)
    secret = bindings.bound(validate_environment_name(name), binding)
    given = _source(source, base) if equals else Source(kind=SourceKind.ENVIRONMENT, reference=name)
    return SecretReference(secret=secret, source=given)


def _of_table(table: Mapping[str, object], base: str) -> SecretReference:
    for key in table:
        if key not in _KEYS:
            raise UnknownKey(f"has no key {key!r}", hint=suggest(str(key), _KEYS))
    if "name" not in table or "hosts" not in table:
        raise InvalidInput("needs name and hosts", hint='name = "API_KEY", hosts = ["api.example.com"], source = "ENV:API_KEY"')
    hosts = table["hosts"]
    if not isinstance(hosts, list):
        raise InvalidInput(f"hosts wants a list, not {describe(hosts)}")
    path, method, header = (read_string(table.get(key, "")) for key in ("path", "method", "header"))
    secret = bindings.checked(read_string(table["name"]), tuple(map(read_string, hosts)), path=path, method=method, header=header)
    source = _source(read_string(table["source"]), base) if "source" in table else None
    return SecretReference(secret=secret, source=source or Source(kind=SourceKind.ENVIRONMENT, reference=secret.name))


def _source(text: str, base: str) -> Source:
    """Never shows the text: it may be the value itself, written there by mistake."""
    kind, colon, reference = text.partition(":")
    if not colon or not reference or kind not in tuple(SourceKind):
        raise InvalidInput("a secret's value is named by ENV:VARIABLE, FILE:path or KEYRING:service/user", hint=bindings.HINT)
    if kind == SourceKind.FILE:
        reference = read_path(reference, base)
    elif kind == SourceKind.ENVIRONMENT:
        validate_environment_name(reference)
    elif not all(reference.rpartition("/")[::2]):
        raise InvalidInput("a value in the keyring is named by KEYRING:service/user")
    return Source(kind=SourceKind(kind), reference=reference)


def write_references(value: object) -> object:
    """References, no values."""
    assert isinstance(value, Mapping)  # noqa: S101 - what read_references gave
    return [f"{name}={each.source}@{bindings.describe(each.secret)}" for name, each in value.items()]
