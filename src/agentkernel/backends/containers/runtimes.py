"""Runtimes of container engines: how much each isolates, which ones an engine has, and what brings one that it lacks. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping

from agentkernel.errors import Unsupported
from agentkernel.model.isolation import IsolationLevel, Runtime

_KATA = "install Kata Containers (https://katacontainers.io/docs/) and add it to the engine's configuration as a runtime"
_GVISOR = "install gVisor and run `runsc install`, then restart the engine"
_SYSBOX = "install Sysbox (https://github.com/nestybox/sysbox), which adds itself to Docker"
_SHIM = r"(?:io\.containerd\.)?"  # the name of a shim of containerd's, which Docker takes as a runtime too
_USER_KERNEL = re.compile(rf"{_SHIM}(?:runsc|gvisor)(?:[-._].*)?")
_VM = re.compile(rf"{_SHIM}(?:kata|krun|crun-vm|crun-krun|cc-runtime)(?:[-._].*)?")


def level_of(runtime: str) -> IsolationLevel:
    """How much a runtime isolates whose program, shim or name is that; what nobody knows counts as a shared kernel."""
    name = posixpath.basename(runtime)
    if _USER_KERNEL.fullmatch(name):
        return IsolationLevel.USER_KERNEL
    if _VM.fullmatch(name):
        return IsolationLevel.VM
    return IsolationLevel.CONTAINER


def shares_sockets(level: IsolationLevel) -> bool:
    """Whether a socket that is bound in a mounted directory inside can be connected to outside: the kernel must be the same."""
    return level <= IsolationLevel.CONTAINER


def runtimes_of(names: Iterable[str]) -> tuple[Runtime, ...]:
    """As a fingerprint lists them, by name."""
    return tuple(Runtime(name=name, level=level_of(name)) for name in sorted(set(names)))


def of_docker(information: Mapping[str, object]) -> tuple[Runtime, ...]:
    """What `GET /info` of the Engine API lists. The program that a runtime is counts, not the name that an administrator gave it."""
    found = information.get("Runtimes")
    if not isinstance(found, Mapping):
        return ()
    return tuple(Runtime(name=str(name), level=level_of(_program(about) or str(name))) for name, about in sorted(found.items()))


def default_of_docker(information: Mapping[str, object]) -> IsolationLevel:
    """The level of what containers get that ask for no runtime."""
    name = str(information.get("DefaultRuntime") or "")
    return next((each.level for each in of_docker(information) if each.name == name), level_of(name))


def _program(about: object) -> str:
    if not isinstance(about, Mapping):
        return ""
    return str(about.get("runtimeType") or about.get("path") or "")


def require_runtime(runtime: str, known: Iterable[Runtime], backend: str) -> IsolationLevel:
    """The level that a sandbox with that runtime has; raises Unsupported for one that the engine does not list."""
    names = {each.name: each.level for each in known}
    if runtime in names:
        return names[runtime]
    listed = ", ".join(sorted(names)) or "none"
    raise Unsupported(f"backend {backend!r} has no runtime {runtime!r} (it has: {listed})", hint=remedy(runtime))


def remedy(runtime: str) -> str:
    """What to do to get it."""
    name = posixpath.basename(runtime)
    if _USER_KERNEL.fullmatch(name):
        return _GVISOR
    if name.startswith("kata"):
        return _KATA
    if name.startswith("sysbox"):
        return _SYSBOX
    if name in ("crun", "runc", "youki"):
        return f"install the package {name!r}; the engine finds it, or is told of it in its configuration"
    return "name one that it has, or add it to the engine's configuration"
