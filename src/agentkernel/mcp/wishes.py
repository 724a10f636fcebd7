"""What the model asks for, held against the operator's settings: it may tighten them, as a project's file may without being trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from agentkernel.config.given import Given
from agentkernel.config.load import Layer, OriginKind, Settings
from agentkernel.config.request import request_from_settings
from agentkernel.config.setting import Setting
from agentkernel.config.table import BY_KEY
from agentkernel.config.tighten import unset
from agentkernel.config.values import Read, read_mebibytes
from agentkernel.errors import InvalidInput, Refused
from agentkernel.model.request import SandboxRequest

# The arguments of tools that are settings. All others (mounts, directory, secrets, ports, user, backend, ...) are the operator's.
KEYS: Final[Mapping[str, str]] = {
    "profile": "security.profile",
    "image": "sandbox.base_image",
    "network": "security.network",
    "min_isolation": "isolation.minimum",
    "memory_mb": "resources.memory",
    "vcpus": "resources.cpus",
    "pids": "resources.pids",
    "disk_mb": "resources.disk",
    "read_only": "security.read_only",
    "deny_hosts": "security.domains.block",
    "timeout_s": "timeout",
}
_READS: Final[Mapping[str, Read]] = {"memory_mb": read_mebibytes, "disk_mb": read_mebibytes}
NOWHERE: Final = "/nonexistent"  # what relative paths are meant from: nothing of this host, whatever a command or an image is called


def tightened(operator: Settings, wishes: Mapping[str, object]) -> Settings:
    """The operator's settings with the model's on top; a wish that is None is none.

    Raises:
        Refused: a wish is looser than what holds without it; the message says which, the hint what the operator could change.
        InvalidInput, UnknownKey: it cannot be read.
    """
    profile = operator.get("security.profile")
    values: dict[str, Given] = {}
    for name, wish in wishes.items():
        if wish is None:
            continue
        setting = BY_KEY[KEYS[name]]
        value = _read(name, setting, wish)
        without = operator.get(setting.key)
        without = unset(profile, setting.key) if without is None else without
        if not setting.project.allows(value, without):
            raise Refused(_looser(name, setting, wish, without), hint=_remedy(setting))
        values[setting.key] = Given(value=value, where=name)
    return replace(operator, layers=(*operator.layers, Layer(kind=OriginKind.FLAG, values=values)))


def requested(settings: Settings, environment: Mapping[str, str]) -> SandboxRequest:
    """The sandbox to ask for. The operator's `dir` is shown at /workspace as a private copy, unless `security.mount_cwd` says otherwise;
    the directory that the server happens to run in is nobody's wish."""
    request = request_from_settings(settings, argv=(), cwd="/", environment=environment)
    writable = request.directory is not None and settings.get("security.mount_cwd") is True
    return replace(request, cwd=NOWHERE, name=None, mount_cwd=writable)


def _read(name: str, setting: Setting, wish: object) -> object:
    try:
        return _READS.get(name, setting.type.read)(list(wish) if isinstance(wish, tuple) else wish, NOWHERE)
    except InvalidInput as error:
        raise type(error)(f"{name}: {error.message}", hint=error.hint) from None


def _looser(name: str, setting: Setting, wish: object, without: object) -> str:
    allowed = "" if without is None else f", which is {setting.type.write(without)}"
    return f"{name}={wish!r} is looser than what the operator of this server allows{allowed}"


def _remedy(setting: Setting) -> str:
    flag = f", or start the server as `agentkernel mcp {setting.flags[-1]} ...`" if setting.flags else ""
    return f"do without it; or the operator can change the setting {setting.key} in the configuration file{flag}"
