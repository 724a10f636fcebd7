"""The request that settings make: the last step before policy decides."""

# (the host's paths are looked at once, as strings)

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from agentkernel import config as late  # what only requests with secrets need
from agentkernel.config.compound import FileEntry
from agentkernel.config.load import OriginKind, Settings
from agentkernel.config.table import NO_LANGUAGE
from agentkernel.config.tighten import unset
from agentkernel.errors import InvalidInput
from agentkernel.model.names import validate_environment_value
from agentkernel.model.network import EgressLimits
from agentkernel.model.request import SandboxRequest
from agentkernel.model.spec import Bind

if TYPE_CHECKING:
    from agentkernel.config.secrets import ReadSecrets


def request_from_settings(settings: Settings, *, argv: tuple[bytes, ...], cwd: str, environment: Mapping[str, str]) -> SandboxRequest:
    """The sandbox to ask for; `environment` is the caller's.

    `-e NAME` takes its value from there, so that it stays out of process lists. The project's name is not the name of a run: two runs of
    one project go side by side. Host paths are resolved here, so that policy judges what would be shown and not a link to it.

    Raises:
        InvalidInput: a host path of a mount, a file or --dir does not exist, or a variable of `-e NAME` is not set.
    """
    secrets = late.read_secrets(settings.get("secrets"), environment) if settings.get("secrets") else None
    given = given_environment(settings.get("environment"), environment)
    request = SandboxRequest(
        argv=argv,
        profile=settings.get("security.profile"),
        cwd=os.path.realpath(cwd),
        backend=settings.get("backend"),
        min_isolation=settings.get("isolation.minimum"),
        image=settings.get("sandbox.base_image"),
        pull=settings.get("sandbox.pull"),
        runtime=settings.get("sandbox.container_runtime"),
        gpus=settings.get("sandbox.gpus"),
        entrypoint=settings.get("sandbox.entrypoint"),
        language=_language(settings.get("sandbox.runtime")),
        name=settings.get("sandbox.name") if settings.origin("sandbox.name").kind is OriginKind.FLAG else None,
        network=settings.get("security.network"),
        allow_hosts=settings.get("security.domains.allow"),
        deny_hosts=settings.get("security.domains.block"),
        only_hosts=settings.get("security.domains.allowlist_only"),
        transparent_network=settings.get("network.transparent"),
        egress_limits=EgressLimits(
            connections=settings.get("network.max_connections"),
            lookups_per_s=settings.get("network.max_lookups"),
            bytes_total=settings.get("network.max_bytes"),
        ),
        ports=settings.get("network.ports"),
        mount_cwd=settings.get("security.mount_cwd"),
        mount_home=settings.get("security.mount_home"),
        pass_environment=settings.get("security.pass_env"),
        read_only_root=settings.get("security.read_only"),
        directory=_directory(settings.get("dir")),
        mounts=(*map(_mount, settings.get("mounts")), *map(_file, settings.get("files"))),
        environment=given,
        host_environment=dict(environment),
        memory_bytes=settings.get("resources.memory"),
        cpus=settings.get("resources.cpus"),
        pids=settings.get("resources.pids"),
        disk_bytes=settings.get("resources.disk"),
        storage=settings.get("storage"),
        user=settings.get("user"),
    )
    return request if secrets is None else _with_secrets(request, secrets)


def _with_secrets(request: SandboxRequest, secrets: ReadSecrets) -> SandboxRequest:
    """The request with them; what held their values is passed on to no sandbox."""
    if both := sorted(request.environment.keys() & secrets.values.keys()):
        raise InvalidInput(f"{both[0]} is a secret, and a variable with a value too", hint="leave one of them out")
    return replace(
        request,
        secrets=secrets.secrets,
        secret_values=secrets.values,
        host_environment={name: value for name, value in request.host_environment.items() if name not in secrets.variables},
        notices=secrets.notices,
    )


def passes_environment(settings: Settings) -> bool:
    """Whether the command gets the caller's whole environment; where nobody says so, the profile does."""
    switch = settings.get("security.pass_env")
    return bool(unset(settings.get("security.profile"), "security.pass_env") if switch is None else switch)


def given_environment(wanted: Mapping[str, str | None], caller: Mapping[str, str]) -> dict[str, str]:
    """The variables of -e and [environment]; those without a value have the caller's; raises InvalidInput for one that is not set."""
    result = {}
    for name, value in wanted.items():
        if value is None:
            if name not in caller:
                raise InvalidInput(f"-e {name}: there is no such variable here", hint=f"set it, or write -e {name}=VALUE")
            value = caller[name]
        result[name] = validate_environment_value(name, value)
    return result


def _language(word: str) -> str | None:
    return None if word == NO_LANGUAGE else word


def _directory(path: str | None) -> str | None:
    if path is None:
        return None
    resolved = os.path.realpath(path)
    if not os.path.isdir(resolved):
        raise InvalidInput(f"the directory {path} does not exist", hint="--dir names a directory of this host")
    return resolved


def _mount(bind: Bind) -> Bind:
    return Bind(source=_existing(bind.source), target=bind.target, writable=bind.writable, executable=bind.executable)


def _file(entry: FileEntry) -> Bind:
    """A `[[files]]` entry is shown read-only, with the file's own mode; another mode than that would be a lie."""
    source = _existing(entry.source)
    if not os.path.isfile(source):
        raise InvalidInput(f"{entry.source} is not a regular file", hint="[[files]] names files; for a directory use mounts")
    executable = bool(stat.S_IMODE(os.stat(source).st_mode) & 0o111)
    if entry.mode is not None and bool(entry.mode & 0o111) != executable:
        wanted, flag = ("", "+x") if entry.mode & 0o111 else (" not", "-x")
        raise InvalidInput(
            f"{entry.source} should{wanted} be executable inside", hint=f"chmod {flag} it: files are shown with their own mode"
        )
    return Bind(source=source, target=entry.target, writable=False, executable=executable)


def _existing(path: str) -> str:
    resolved = os.path.realpath(path)
    if not os.path.lexists(resolved):
        raise InvalidInput(f"{path} does not exist on this host", hint="a mount is SOURCE:DESTINATION, with the source on this host")
    return resolved
