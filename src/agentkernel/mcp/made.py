"""A sandbox that exists, held against what the operator allows now: its name must not be a way to what a new one would not have.

Compared is what was granted then with what a sandbox would be granted that is asked for now without any wish: nothing that the model can
ask for is looser than that.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from agentkernel.config.load import Settings
from agentkernel.config.request import passes_environment
from agentkernel.config.tighten import PROFILES, unset
from agentkernel.errors import Refused
from agentkernel.model.network import Base, EgressLimits, Secret
from agentkernel.model.record import SandboxInfo
from agentkernel.model.request import SandboxRequest
from agentkernel.model.secrets import checked
from agentkernel.model.spec import Bind, NetworkMode, RootKind, SandboxSpec, StorageKind, WorkspaceMode
from agentkernel.policy.environment import environment
from agentkernel.policy.inside import CERTIFICATE_VARIABLES, CERTIFICATES
from agentkernel.policy.network import network
from agentkernel.policy.profiles import profile
from agentkernel.policy.resources import resources

HOSTS: Final = "security.domains.allow"
_UNLIMITED: Final = float("inf")


def check_made(operator: Settings, now: SandboxRequest, info: SandboxInfo, spec: SandboxSpec, *, may_allow_hosts: bool) -> None:
    """Raises Refused for a sandbox that has more than the operator allows by now; the hint names the setting.

    Args:
        operator: the settings of now.
        now: what they come to where the model wishes nothing.
        info: the sandbox.
        spec: what it was granted, as `Kernel.spec` tells it.
        may_allow_hosts: hosts that were allowed while it ran are no reason: the model may do that now, too.
    """
    for key in _looser(operator, now, info, spec):
        if key == HOSTS and may_allow_hosts:
            continue
        message = f"sandbox {info.name!r} has more than the operator of this server allows now ({key})"
        raise Refused(message, hint=f"make another one; or the operator can change the setting {key}, or --share {info.name}")


def _looser(operator: Settings, now: SandboxRequest, info: SandboxInfo, spec: SandboxSpec) -> Iterator[str]:
    """The settings that the sandbox does not keep to."""
    if PROFILES.index(info.profile) > PROFILES.index(now.profile):
        yield "security.profile"
    if info.isolation < now.min_isolation:
        yield "isolation.minimum"
    if now.backend is not None and info.backend != now.backend:
        yield "backend"  # another one may isolate less
    if spec.runtime != (now.runtime or ""):
        yield "sandbox.container_runtime"
    if spec.gpus and spec.gpus != now.gpus:
        yield "sandbox.gpus"
    if spec.user.uid == 0 and now.user != "root":
        yield "user"  # no image has root as its user
    yield from _network(now, spec)
    yield from _shown(now, spec)
    yield from _kept_to(now, spec)
    if {replace(each, placeholder="") for each in spec.secrets} - set(map(_secret, now.secrets)):
        yield "secrets"
    if not passes_environment(operator) and _variables(spec) - _expected(now, spec):
        yield "environment"


def _network(now: SandboxRequest, spec: SandboxSpec) -> Iterator[str]:
    today = network(now, profile(now.profile))
    if spec.network is NetworkMode.NONE or today.mode is NetworkMode.HOST:
        return
    if today.mode is NetworkMode.NONE or spec.network is NetworkMode.HOST:
        yield "security.network"
        return
    if spec.egress.base is Base.PUBLIC and today.rules.base is Base.NONE:
        yield "security.domains.allowlist_only"
    if {*spec.egress.allow, *spec.egress.private} - {*today.rules.allow, *today.rules.private}:
        yield HOSTS
    if set(today.rules.deny) - set(spec.egress.deny):
        yield "security.domains.block"
    yield from _limits(today.limits, spec.egress_limits)


def _limits(today: EgressLimits, then: EgressLimits) -> Iterator[str]:
    if then.connections > today.connections:
        yield "network.max_connections"
    if then.lookups_per_s > today.lookups_per_s:
        yield "network.max_lookups"
    if _more(then.bytes_total, today.bytes_total):
        yield "network.max_bytes"


def _shown(now: SandboxRequest, spec: SandboxSpec) -> Iterator[str]:
    """What of the host's files it sees."""
    view = spec.workspace
    if view.mode is not WorkspaceMode.NONE and (now.directory is None or view.source != now.directory):
        yield "dir"
    if view.mode is WorkspaceMode.WRITABLE and not now.mount_cwd:
        yield "security.mount_cwd"
    if not all(_is_among(bind, now.mounts) for bind in spec.mounts):
        yield "mounts"
    home = unset(now.profile, "security.mount_home") if now.mount_home is None else now.mount_home
    if spec.home_source and not home:
        yield "security.mount_home"
    if not _has_root(now.image, spec):
        yield "sandbox.base_image"
    if {rule.port for rule in spec.ports} - {rule.port for rule in now.ports}:
        yield "network.ports"


def _kept_to(now: SandboxRequest, spec: SandboxSpec) -> Iterator[str]:
    """Its limits, and where its writes go."""
    today, then = resources(now, profile(now.profile)), spec.resources
    for key, had, allowed in (
        ("resources.memory", then.memory_bytes, today.memory_bytes),
        ("resources.cpus", then.cpus, today.cpus),
        ("resources.pids", then.pids, today.pids),
        ("resources.disk", then.disk_bytes, today.disk_bytes),
    ):
        if _more(had, allowed):
            yield key
    read_only = unset(now.profile, "security.read_only") if now.read_only_root is None else now.read_only_root
    if read_only and not spec.read_only_root:
        yield "security.read_only"
    if spec.storage is StorageKind.DISK and now.storage is StorageKind.MEMORY:
        yield "storage"


def _more(had: float | None, allowed: float | None) -> bool:
    return (_UNLIMITED if had is None else had) > (_UNLIMITED if allowed is None else allowed)


def _is_among(bind: Bind, allowed: Iterable[Bind]) -> bool:
    """Whether it is one of these, or a part of one at the same place (protected files of a writable one are such); not with more rights."""
    if bind.target == CERTIFICATES:
        return not bind.writable  # policy's own, and no place for another's
    return any(
        (bind.source + "/").startswith(each.source + "/")
        and bind.target == each.target + bind.source[len(each.source) :]
        and bind.writable <= each.writable
        and bind.executable <= each.executable
        for each in allowed
    )


def _has_root(image: str | None, spec: SandboxSpec) -> bool:
    """Whether a sandbox of now may have that root: any image that has a name, the host's own system where no image is set, and of images
    that are files the operator's alone."""
    root = spec.root
    if root.reference:
        return True
    if root.kind is RootKind.HOST:
        return image is None
    if image is None or not image.startswith("/"):
        return False
    return root.directory == os.path.realpath(image) if os.path.isdir(image) else root.label == os.path.basename(image)


def _secret(secret: Secret) -> Secret:
    return checked(secret.name, secret.hosts, path=secret.path, method=secret.method, header=secret.header)


def _variables(spec: SandboxSpec) -> set[str]:
    return {name for name, _ in spec.environment}


def _expected(now: SandboxRequest, spec: SandboxSpec) -> set[str]:
    """The variables of such a sandbox that are its own, and those that are given now."""
    return {name for name, _ in environment(now, spec, passes=False, certificates="")} | set(CERTIFICATE_VARIABLES)
