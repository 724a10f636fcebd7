"""Layers of settings, from the lowest: defaults, the operator's file, the user's file, the project's file, the environment, flags.

The project's file (`agentkernel.toml` in the working directory, or what `--config` names) comes with code that somebody else wrote, so it
may only tighten what the user would have without it. Naming a file with `--config` is no trust in it: the command line is often copied from
the same place. Only a file in the user's own configuration directory speaks for the user.
"""

# (paths stay strings here)

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from agentkernel import config as late  # what only runs with a configuration file need
from agentkernel.config import tighten
from agentkernel.config.arguments import option_of
from agentkernel.config.given import Given, read_value
from agentkernel.config.places import PROJECT_FILE, Places, check_authority, find_places
from agentkernel.config.rawfile import read_raw
from agentkernel.config.setting import Setting
from agentkernel.config.table import BY_ENVIRONMENT, BY_KEY
from agentkernel.config.unsupported import OTHER_VARIABLES
from agentkernel.config.values import Merge
from agentkernel.errors import InvalidInput, NotTrusted, UnknownKey
from agentkernel.model.names import suggest

if TYPE_CHECKING:
    from agentkernel.config.document import Document
    from agentkernel.config.loosening import Loosening

VARIABLE_PREFIX = "AGENTKERNEL_"


class OriginKind(StrEnum):
    """A layer; in their order."""

    DEFAULT = "default"
    OPERATOR = "operator"
    USER = "user"
    PROJECT = "project"
    ENVIRONMENT = "environment"
    FLAG = "flag"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Which layer gave a value, and where in it: `agentkernel.toml:12`, `AGENTKERNEL_MEMORY`, `--memory`."""

    kind: OriginKind
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """The values that one source gives."""

    kind: OriginKind
    values: Mapping[str, Given]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All layers together. `get` tells the value in force; which values a type's `write` shows is the table's business."""

    layers: tuple[Layer, ...]
    project: Document | None = None  # the project's file, if there is one; None also for a file of the user's own
    trusted: bool = False  # its digest is in the user's list

    def get(self, key: str) -> Any:
        """The value in force; None where the profile decides."""
        return merge(_setting(key), self.layers)[0]

    def origin(self, key: str) -> Origin:
        """The highest layer that gave the value, or a part of it."""
        return merge(_setting(key), self.layers)[1]

    def explain(self, key: str) -> tuple[tuple[Origin, object], ...]:
        """What every layer that says something about `key` says, from the lowest."""
        setting = _setting(key)
        said = [
            (Origin(kind=layer.kind, where=layer.values[key].where), layer.values[key].value)
            for layer in self.layers
            if key in layer.values
        ]
        return ((Origin(kind=OriginKind.DEFAULT), setting.default), *said)

    def loosenings(self) -> tuple[Loosening, ...]:
        """What the project's file loosens, compared with the settings as they are without it."""
        return late.loosenings(self) if self.project is not None else ()


def load_settings(
    *, cwd: str, config_path: str | None, environment: Mapping[str, str], flags: Mapping[str, object], places: Places | None = None
) -> Settings:
    """The settings for work in `cwd`; `flags` are by key, as `arguments.flags_given` gives them.

    Raises:
        NotTrusted: the project's file loosens the policy, and the user has not trusted it as it is now.
        UnknownKey, InvalidInput: a file, variable or flag is wrong.
    """
    settings = collect(cwd=cwd, config_path=config_path, environment=environment, flags=flags, places=places)
    loosened = () if settings.trusted else settings.loosenings()
    if settings.project is not None and loosened:
        names = ", ".join(one.setting.key for one in loosened)
        raise NotTrusted(
            f"{settings.project.path} asks for more than you allow: {names}",
            hint=f"read it; if you agree, run `agentkernel trust {settings.project.path}`",
        )
    return settings


def collect(
    *, cwd: str, config_path: str | None, environment: Mapping[str, str], flags: Mapping[str, object], places: Places | None = None
) -> Settings:
    """Like `load_settings`, but leaves it to the caller what to do about an untrusted file that loosens."""
    places = places or find_places(environment)
    layers = _policy_layers(places)
    document, of_user = _project_document(cwd, config_path, places)
    if document is not None:
        if not of_user:
            _refuse_elsewhere(document)
        layers.append(Layer(kind=OriginKind.USER if of_user else OriginKind.PROJECT, values=document.values))
    layers.append(Layer(kind=OriginKind.ENVIRONMENT, values=_from_environment(environment, cwd)))
    layers.append(Layer(kind=OriginKind.FLAG, values=_from_flags(flags, cwd)))
    settings = Settings(layers=tuple(layers), project=None if of_user else document)
    if settings.project is None or not settings.loosenings():
        return settings  # what only tightens needs no trust, so the list need not be read
    trusted = late.TrustStore(places.trusted).is_trusted(settings.project.path, settings.project.digest)
    return Settings(layers=settings.layers, project=settings.project, trusted=trusted)


def users_settings(*, cwd: str, environment: Mapping[str, str], flags: Mapping[str, object], places: Places | None = None) -> Settings:
    """The settings without a project's: what counts where no sandbox is made."""
    places = places or find_places(environment)
    layers = _policy_layers(places)
    layers.append(Layer(kind=OriginKind.ENVIRONMENT, values=_from_environment(environment, cwd)))
    layers.append(Layer(kind=OriginKind.FLAG, values=_from_flags(flags, cwd)))
    return Settings(layers=tuple(layers))


def settings_of_flags(flags: Mapping[str, object], *, cwd: str) -> Settings:
    """What the command line alone says, on top of the defaults."""
    return Settings(layers=(Layer(kind=OriginKind.FLAG, values=_from_flags(flags, cwd)),))


def _setting(key: str) -> Setting:
    if key not in BY_KEY:
        raise UnknownKey(f"there is no setting {key!r}", hint=suggest(key, BY_KEY))
    return BY_KEY[key]


def merge(setting: Setting, layers: Iterable[Layer]) -> tuple[Any, Origin]:
    """The value that `layers`, from the lowest, come to, and the highest that had a say in it."""
    value: Any = setting.default
    origin = Origin(kind=OriginKind.DEFAULT)
    for layer in layers:
        given = layer.values.get(setting.key)
        if given is None:
            continue
        origin = Origin(kind=layer.kind, where=given.where)
        added: Any = given.value
        if setting.type.merge is Merge.UPDATE:
            value = {**value, **added}
        elif setting.type.merge is Merge.APPEND:
            value = (*value, *(item for item in added if item not in value))
        else:
            value = added
    return value, origin


def _policy_layers(places: Places) -> list[Layer]:
    return [
        *_policy_layer(OriginKind.OPERATOR, places.operator, frozenset({places.operator_owner})),
        *_policy_layer(OriginKind.USER, places.user, frozenset({0, os.geteuid()})),
    ]


def _policy_layer(kind: OriginKind, path: str, owners: frozenset[int]) -> tuple[Layer, ...]:
    raw = read_raw(os.path.realpath(path))  # dotfiles are often links; who can write the file itself is what counts
    if raw is None:
        return ()
    return (Layer(kind=kind, values=late.parse(check_authority(raw, owners=owners)).values),)


def _project_document(cwd: str, config_path: str | None, places: Places) -> tuple[Document | None, bool]:
    """The project's file, and whether it is the user's own."""
    if config_path is None:
        raw = read_raw(os.path.join(os.path.realpath(cwd), PROJECT_FILE))
        return (None if raw is None else late.parse(raw)), False
    path = os.path.realpath(os.path.join(cwd, config_path))
    raw = read_raw(path)
    if raw is None:
        raise InvalidInput(f"there is no file {path}", hint="--config names a file like agentkernel.toml")
    of_user = path.startswith(os.path.realpath(os.path.dirname(places.user)) + "/")
    if of_user:
        check_authority(raw, owners=frozenset({0, os.geteuid()}))
    return late.parse(raw), of_user


def _refuse_elsewhere(document: Document) -> None:
    """What is no project's business is an error in its file, not ignored there."""
    for key, given in document.values.items():
        if BY_KEY[key].project is tighten.NEVER:
            raise InvalidInput(f"{given.where}: {key} is not a project's to set", hint="it belongs into your own configuration file")


def _from_environment(environment: Mapping[str, str], cwd: str) -> Mapping[str, Given]:
    values = {}
    for name in sorted(name for name in environment if name.startswith(VARIABLE_PREFIX)):
        setting = BY_ENVIRONMENT.get(name)
        if setting is None:
            _check_slip(name)
        elif environment[name]:
            value = read_value(setting.key, setting.type.read, environment[name], base=cwd, where=name)
            values[setting.key] = Given(value=value, where=name)
    return values


def _check_slip(name: str) -> None:
    """A variable that nearly names a setting is an error: AGENTKERNEL_PROFLIE=restrictive must not mean moderate."""
    if name in OTHER_VARIABLES:
        return
    known = {other.removeprefix(VARIABLE_PREFIX): other for other in (*BY_ENVIRONMENT, *OTHER_VARIABLES)}
    near = difflib.get_close_matches(name.removeprefix(VARIABLE_PREFIX), known, n=1, cutoff=0.8)
    if near:
        raise UnknownKey(f"the environment variable {name} is not a setting", hint=f"did you mean {known[near[0]]}?")


def _from_flags(flags: Mapping[str, object], cwd: str) -> Mapping[str, Given]:
    values = {}
    for key, value in flags.items():
        setting = _setting(key)
        where = option_of(setting, value)
        values[key] = Given(value=read_value(key, setting.type.read, value, base=cwd, where=where), where=where)
    return values
