"""What of the host tells, without anything being run or imported, that a backend may be here: a program, a socket.

These tests are made before every choice of a backend, so they are a few stat(2) each. What they find may still not work: that is for the
backend's probe to say. What they do not find costs nothing more.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from functools import cache, lru_cache

from agentkernel.model.isolation import Presence

# Where packages put programs, for processes whose PATH is short (cron, services) or was made by somebody else.
_USUAL = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin", "/opt/homebrew/bin")
_PLATFORM = sys.platform
_DOCKER_SOCKETS = ("/run/docker.sock", "/var/run/docker.sock")
_PODMAN_SOCKETS = ("/run/podman/podman.sock",)
_MANAGERS = ("apt-get", "dnf", "pacman", "zypper", "apk")  # each with the packages below, in this order
_DOCKER_PACKAGES = ("docker.io", "moby-engine", "docker", "docker", "docker")
_PODMAN_PACKAGES = ("podman", "podman", "podman", "podman", "podman")
_INSTALLS = {"apt-get": "apt-get install", "dnf": "dnf install", "pacman": "pacman -S", "zypper": "zypper install", "apk": "apk add"}


def find_program(name: str) -> str:
    """The absolute path of a program: in $PATH, but for relative entries, which a hostile project could fill, else in the usual places.

    Where AGENTKERNEL_RUNSC, AGENTKERNEL_PODMAN or AGENTKERNEL_CONTAINER is set, that path is the only one: empty, or where nothing is, it
    takes the backend out of the choice. Returns an empty text where there is no program.
    """
    return _program(name)[0]


def linux() -> Presence:
    """What needs nothing but the kernel."""
    if _is_linux():
        return Presence(identity="linux")
    return Presence(reason=f"it needs Linux, and this is {_PLATFORM}", remedy="use docker, podman or apple here")


def gvisor() -> Presence:
    """gVisor's `runsc`, which drives Linux only."""
    if not _is_linux():
        return Presence(reason=f"it needs Linux, and this is {_PLATFORM}", remedy="use docker, podman or apple here")
    _, identity = _program("runsc")
    if identity:
        return Presence(identity=identity)
    return Presence(reason="the program `runsc` is not installed", remedy="`agentkernel setup` says how to get gVisor")


def docker() -> Presence:
    """A place where the Docker Engine may be listening; the command line program alone is none."""
    home, runtime = os.environ.get("HOME", ""), os.environ.get("XDG_RUNTIME_DIR", "")
    configuration = os.environ.get("DOCKER_CONFIG") or f"{home}/.docker"
    sockets = (f"{runtime}/docker.sock", *_DOCKER_SOCKETS, f"{home}/.docker/run/docker.sock")
    named = os.environ.get("DOCKER_HOST", "")
    identity = _named(named) if named else _identities((*sockets, f"{configuration}/contexts/meta"))
    if identity:
        return Presence(identity=identity)
    if named:
        return Presence(reason=f"there is no socket at {named}", remedy="start the engine that DOCKER_HOST names, or unset DOCKER_HOST")
    if find_program("dockerd") or find_program("docker"):
        remedy = "systemctl start docker" if _is_linux() else "start Docker Desktop"
        return Presence(reason="the Docker Engine does not run: none of its sockets is there", remedy=remedy)
    return Presence(reason="Docker is not installed", remedy=_install(_DOCKER_PACKAGES, "https://docs.docker.com/engine/install/"))


def podman() -> Presence:
    """Podman's program, or the socket of a service of it; the one that CONTAINER_HOST names, where it does."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    named = os.environ.get("CONTAINER_HOST", "")
    places = (*_PODMAN_SOCKETS, *((f"{runtime}/podman/podman.sock",) if runtime else ()))
    identity = _named(named) if named else "\n".join(filter(None, (_identities(places), _program("podman")[1])))
    if identity:
        return Presence(identity=identity)
    if named:  # the program alone would be its client
        remedy = "start the service that CONTAINER_HOST names, or unset CONTAINER_HOST"
        return Presence(reason=f"there is no socket at {named}", remedy=remedy)
    return Presence(reason="Podman is not installed", remedy=_install(_PODMAN_PACKAGES, "https://podman.io/docs/installation"))


def apple() -> Presence:
    """Apple's `container` program, which there is for macOS only."""
    if _PLATFORM != "darwin":
        return Presence(reason=f"it needs macOS 26 or newer, and this is {_PLATFORM}", remedy="use docker, podman or gvisor here")
    _, identity = _program("container")
    if identity:
        return Presence(identity=identity)
    return Presence(reason="the program `container` is not installed", remedy="install it from https://github.com/apple/container/releases")


def _program(name: str) -> tuple[str, str]:
    """(path, identity) of a program; empty where there is none."""
    named = os.environ.get(f"AGENTKERNEL_{name.upper()}")
    places = (f"{directory}/{name}" for directory in _directories(os.environ.get("PATH", ""))) if named is None else (named,)
    for path in filter(os.path.isabs, places):
        if os.access(path, os.X_OK):
            try:
                found = os.stat(path)
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode):
                return path, _identity(path, found)
    return "", ""


@lru_cache(maxsize=4)
def _directories(path: str) -> tuple[str, ...]:
    """Where programs are looked for."""
    return tuple(dict.fromkeys((*filter(os.path.isabs, path.split(os.pathsep)), *_USUAL)))


def _is_linux() -> bool:
    return _PLATFORM == "linux"


def _named(url: str) -> str:
    """The identity of the engine that a variable names: of a socket of this host what is there, of any other place its name."""
    scheme, separator, place = url.partition("://")
    if separator and scheme != "unix":
        return url
    return _identities((place or url,))


def _identities(paths: Iterable[str]) -> str:
    """One line for each of the absolute paths that is there."""
    found = []
    for path in paths:
        if path.startswith("/"):
            try:
                found.append(_identity(path, os.stat(path)))
            except (OSError, ValueError):
                continue
    return "\n".join(found)


def _identity(path: str, found: os.stat_result) -> str:
    """What differs once the thing was replaced, repaired, or opened to this user."""
    return f"{path} {found.st_dev} {found.st_ino} {found.st_mtime_ns} {found.st_mode} {found.st_uid} {found.st_gid}"


@cache
def _install(packages: tuple[str, ...], page: str) -> str:
    """The command that installs it by this host's package manager; without one, the page that says how."""
    for manager, package in zip(_MANAGERS, packages, strict=True):
        if find_program(manager):
            return f"{_INSTALLS[manager]} {package}"
    return f"see {page}"
