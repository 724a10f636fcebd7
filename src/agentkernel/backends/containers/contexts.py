"""Which engine a user means: DOCKER_HOST, CONTAINER_HOST, contexts and connections, and the places where engines listen as a rule."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from agentkernel.backends.containers.endpoint import Certificates, Endpoint, parse_endpoint
from agentkernel.errors import BackendUnavailable

_MAX_BYTES = 1024 * 1024
_DOCKER_SOCKETS = (
    "{runtime}/docker.sock",  # rootless
    "{home}/.docker/run/docker.sock",  # Docker Desktop on macOS
    "{home}/.docker/desktop/docker.sock",  # Docker Desktop on Linux
    "{home}/.colima/default/docker.sock",
    "{home}/.orbstack/run/docker.sock",
    "{home}/.rd/docker.sock",  # Rancher Desktop
)


def docker_endpoint(environment: Mapping[str, str]) -> Endpoint | None:
    """As `docker` finds it: DOCKER_HOST, DOCKER_CONTEXT, the current context, then the first socket that is there; None: nowhere.

    Raises:
        BackendUnavailable: what is named is no address, or is not known.
    """
    directory = environment.get("DOCKER_CONFIG") or f"{_home(environment)}/.docker"
    if host := environment.get("DOCKER_HOST"):
        return parse_endpoint(host, source="DOCKER_HOST", tls=_tls_of(environment, directory))
    name = environment.get("DOCKER_CONTEXT") or str(_json(f"{directory}/config.json").get("currentContext") or "")
    if name and name != "default":
        return _context(directory, name)
    places = ("/var/run/docker.sock", *_places(_DOCKER_SOCKETS, environment))
    return _first_there(places)


def podman_endpoint(environment: Mapping[str, str], uid: int) -> Endpoint | None:
    """As `podman --remote` finds it: CONTAINER_HOST, the default connection, then this user's served socket; None: none is served."""
    if host := environment.get("CONTAINER_HOST"):
        identity = environment.get("CONTAINER_SSHKEY", "")
        return parse_endpoint(host, source="CONTAINER_HOST", program="podman", identity=identity)
    found = _connection(environment)
    if found is not None:
        return found
    own = "/run/podman/podman.sock" if uid == 0 else f"{_runtime(environment, uid)}/podman/podman.sock"
    return _first_there((own,))


def _context(directory: str, name: str) -> Endpoint:
    """A context as `docker context create` stores it, in directories named by the digest of its name."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    endpoint = _mapping(_mapping(_json(f"{directory}/contexts/meta/{digest}/meta.json").get("Endpoints")).get("docker"))
    host = endpoint.get("Host")
    if not isinstance(host, str) or not host:
        raise BackendUnavailable(f"there is no docker context {name!r}", hint="run `docker context ls`, or set DOCKER_HOST")
    files = f"{directory}/contexts/tls/{digest}/docker"
    skip = endpoint.get("SkipTLSVerify") is True
    return parse_endpoint(host, source=f"docker context {name!r}", tls=_certificates(files, verify=not skip))


def _tls_of(environment: Mapping[str, str], default: str) -> Certificates | None:
    """DOCKER_TLS and DOCKER_TLS_VERIFY ask for TLS, with the files in DOCKER_CERT_PATH, else in Docker's configuration directory."""
    verify = bool(environment.get("DOCKER_TLS_VERIFY"))
    if not verify and not environment.get("DOCKER_TLS"):
        return None
    directory = environment.get("DOCKER_CERT_PATH") or default
    return _certificates(directory, verify=verify) or Certificates(verify=verify)


def _certificates(directory: str, *, verify: bool) -> Certificates | None:
    authority, certificate, key = (_there(f"{directory}/{name}.pem") for name in ("ca", "cert", "key"))
    if not authority and not certificate and verify:
        return None
    return Certificates(authority=authority, certificate=certificate, key=key, verify=verify)


def _connection(environment: Mapping[str, str]) -> Endpoint | None:
    """The default of `podman system connection list`, which podman 5 keeps in a file of its own."""
    base = environment.get("XDG_CONFIG_HOME") or f"{_home(environment)}/.config"
    connection = _mapping(_json(f"{base}/containers/podman-connections.json").get("Connection"))
    name = environment.get("CONTAINER_CONNECTION") or connection.get("Default")
    chosen = _mapping(_mapping(connection.get("Connections")).get(name))
    uri, identity = chosen.get("URI"), chosen.get("Identity")
    if not isinstance(uri, str) or not uri:
        return None
    source = f"podman connection {name!r}"
    return parse_endpoint(uri, source=source, program="podman", identity=identity if isinstance(identity, str) else "")


def _places(patterns: tuple[str, ...], environment: Mapping[str, str]) -> Iterator[str]:
    home, runtime = _home(environment), _runtime(environment, os.geteuid())
    for pattern in patterns:
        yield pattern.format(home=home, runtime=runtime)


def _first_there(paths: tuple[str, ...]) -> Endpoint | None:
    for path in paths:
        if os.path.exists(path):  # one that may not be opened is named, so that its user learns why
            return parse_endpoint(path, source="the usual place")
    return None


def _home(environment: Mapping[str, str]) -> str:
    return environment.get("HOME") or "/nonexistent"


def _runtime(environment: Mapping[str, str], uid: int) -> str:
    return environment.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}"


def _there(path: str) -> str:
    return path if os.path.exists(path) else ""


def _mapping(found: object) -> dict[Any, Any]:
    return found if isinstance(found, dict) else {}


def _json(path: str) -> dict[str, Any]:
    """A file of the user's; empty where there is none or it holds something else."""
    try:
        with open(path, "rb") as file:
            return _mapping(json.loads(file.read(_MAX_BYTES)))
    except (OSError, ValueError, RecursionError):
        return {}
