"""Why an engine cannot start a container: it passes on what its runtime said, which helps nobody. Its runtime does not fit its host, or the
image has something in the way of a mount."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator

from agentkernel.backends.containers.api import EngineRefused
from agentkernel.backends.containers.calls import Kind
from agentkernel.backends.containers.host import Host
from agentkernel.backends.containers.plan import ContainerPlan
from agentkernel.errors import AgentKernelError, LaunchFailed

OBSTACLE_HINT = "use an image without it"
_HYBRID = "cgroups in hybrid mode not supported"  # crun's words
_HYBRID_REASON = "the engine's runtime crun does not run where cgroups are of both versions (hybrid)"
_HYBRID_HINT = "install runc on its host, and have it served so: `podman --runtime runc system service`"
_ENGINES_OWN = ("/dev", "/etc", "/proc", "/sys")  # in which engines and their runtimes mount


async def obstacle(host: Host, plan: ContainerPlan, said: str) -> LaunchFailed | None:
    """Looks into the image, too; `said`: the engine's own words. None: nothing that is known is in the way, or it cannot be told."""
    if _HYBRID in said:
        return LaunchFailed(_HYBRID_REASON, hint=_HYBRID_HINT)
    body = {"Image": plan.image, "Cmd": ["-"], "HostConfig": {"NetworkMode": "none"}}
    try:
        async with host.momentary(body) as container:
            for path, wanted in wanted_of(plan):
                found = await _kind(host, container, path)
                # Most links are fine, and engines follow them.
                if found in (Kind.NONE, wanted) or (found is Kind.LINK and not _names(said, path)):
                    continue
                return LaunchFailed(f"the image has a {found} at {path}, where the sandbox needs a {wanted} of its own", hint=OBSTACLE_HINT)
    except AgentKernelError:
        return None
    return None


async def _kind(host: Host, container: str, path: str) -> Kind:
    try:
        return await host.containers.kind(container, path)
    except EngineRefused:
        return Kind.LINK  # one that leads to itself


def _names(said: str, path: str) -> bool:
    return re.search(rf"(?<![\w./-]){re.escape(path)}(?![\w./-])", said) is not None


def wanted_of(plan: ContainerPlan) -> Iterator[tuple[str, Kind]]:
    """What the container's mounts need, outer ones first."""
    directories = {*_ENGINES_OWN, *plan.guest_directories, *(each.target for each in plan.tmpfs), *(each.path for each in plan.entries)}
    directories |= {mount.target for mount in plan.mounts if os.path.isdir(mount.source)}
    files = {file.path for file in plan.files}
    for path in (*directories, *files, *(mount.target for mount in plan.mounts)):
        while (path := posixpath.dirname(path)) != "/":
            directories.add(path)
    wanted = {**dict.fromkeys(files, Kind.FILE), **dict.fromkeys(directories, Kind.DIRECTORY)}
    yield from sorted(wanted.items(), key=lambda each: (each[0].count("/"), each[0]))
