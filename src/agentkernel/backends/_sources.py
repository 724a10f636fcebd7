"""Where the host paths of a spec really are; all that the launch needs to ask the host's file system about them.

Policy has judged the paths that a user shows as they are. Who can write beside one could put a link in its place meanwhile; so no link is
followed any more, neither here nor by the launcher, but two kinds: in the system's directories that the host's root is made of, which are
the administrator's, and at a named file, whose target must lie beneath the same directory. What else the host's root shows (toolchains,
certificates that the user trusts) was free of links when it was found.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from agentkernel.config.directories import IMAGES
from agentkernel.errors import Refused
from agentkernel.model.spec import Bind, RootKind, SandboxSpec, Workspace, WorkspaceMode
from agentkernel.policy.deny import is_within

_MAX_LINKS = 40  # as the kernel's
_ROOT_HOLDS_S = 1.0
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/etc", "/opt", "/nix", "/gnu", "/var/lib/ca-certificates")
_BENEATH_SYSTEM = tuple(f"{directory}/" for directory in _SYSTEM)


def resolved_sources(spec: SandboxSpec) -> dict[str, str]:
    """Every host path of the spec that is to be mounted -> where it is."""
    places = dict(_places_of_root(spec.root.binds, int(time.monotonic() / _ROOT_HOLDS_S)))
    places.update({source: _without_leading_out(source, directory) for source, directory in _shown(spec)})
    return places


@lru_cache(maxsize=16)
def _places_of_root(binds: tuple[Bind, ...], moment: int) -> dict[str, str]:
    """Of the paths that the host's root is made of. Those of the system do not change often, and are asked for once in a `moment`."""
    return {bind.source: os.path.realpath(bind.source) if _is_systems(bind.source) else bind.source for bind in binds}


def _is_systems(path: str) -> bool:
    return path in _SYSTEM or path.startswith(_BENEATH_SYSTEM)


def owners(spec: SandboxSpec) -> dict[str, int]:
    """The uid of each source that is shown as the sandbox user's own, and of an image; one that is missing is the launcher's to refuse."""
    found = {}
    image = spec.root.directory if spec.root.kind is RootKind.DIRECTORY else ""
    for source in (*(source for source, _ in _shown(spec)), *((image,) if image else ())):
        with contextlib.suppress(OSError):
            found[source] = os.stat(source).st_uid
    return found


def require_apart(spec: SandboxSpec, own: tuple[str, ...]) -> None:
    """Raises Refused where a sandbox would see the backend's own directories: what is recorded there is believed by the next sweep.

    What lies in the store of images is no such record: sandboxes that unpack images are shown theirs, and policy shows it to no other.
    """
    copied = spec.workspace.source if spec.workspace.mode is WorkspaceMode.COPY_ON_WRITE else None
    for source, _ in _shown(spec):
        for place in own:
            if is_within(source, f"{place}/{IMAGES}"):
                continue
            if source not in (copied, spec.home_source) and (is_within(place, source) or is_within(source, place)):
                raise Refused(
                    f"{source!r} cannot be shown in a sandbox: agentkernel keeps its own state in {place!r}",
                    hint="name a directory that holds only what the command needs, or set XDG_RUNTIME_DIR to one elsewhere",
                )


def hidden_in_home(spec: SandboxSpec, own: tuple[str, ...]) -> tuple[str, ...]:
    """What to hide of HOME: the denied places that there are, each where it really is (dotfiles are often links into a repository).

    Also the backend's `own` directories, and the sockets that somebody listens on: read-only mounts keep nobody from connecting, and
    what answers - an agent with keys, a container engine - acts with the user's rights outside.

    What really lies outside of HOME is not shown with it.
    """
    home = spec.home_source.rstrip("/")
    found: dict[str, None] = {}
    for place in (*(f"{home}/{denied}" for denied in spec.home_denied), *own, *(_bound_sockets() if home else ())):
        if os.path.lexists(place):
            real = os.path.realpath(place)
            if real.startswith(f"{home}/"):
                found[real.removeprefix(f"{home}/")] = None
    return tuple(found)


def _bound_sockets() -> Iterator[str]:
    """The paths that unix sockets of this network namespace are bound to (proc_net(5))."""
    try:
        lines = Path("/proc/net/unix").read_bytes().splitlines()
    except OSError:
        return
    for line in lines[1:]:
        fields = line.split(None, 7)
        if len(fields) == 8 and fields[7].startswith(b"/"):
            yield os.fsdecode(fields[7])


def protected_in_workspace(workspace: Workspace) -> tuple[str, ...]:
    """What to protect of a writable workspace: the protected paths, and where they are links, each link on the way and what it leads to."""
    return tuple(dict.fromkeys(place for name in workspace.protected for place in _on_the_way(workspace.source, name)))


def _on_the_way(source: str, name: str) -> Iterator[str]:
    for _ in range(_MAX_LINKS):
        link = _first_link(source, name)
        if link is None:
            yield name
            return
        yield link
        target = os.path.join(source, os.path.dirname(link), os.readlink(f"{source}/{link}"), name[len(link) + 1 :])
        path = os.path.normpath(target)
        if not path.startswith(f"{source}/"):
            return  # not in the workspace
        name = path.removeprefix(f"{source}/")


def _first_link(source: str, name: str) -> str | None:
    parts = name.split("/")
    prefixes = ("/".join(parts[:count]) for count in range(1, len(parts) + 1))
    return next((prefix for prefix in prefixes if os.path.islink(f"{source}/{prefix}")), None)


def _shown(spec: SandboxSpec) -> Iterator[tuple[str, str]]:
    """The host paths that are shown as the sandbox user's own, each with the directory that a file's link may not lead out of."""
    for bind in spec.mounts:
        yield bind.source, posixpath.dirname(bind.source)
    if spec.home_source:
        yield spec.home_source, ""
    workspace = spec.workspace
    if workspace.mode is WorkspaceMode.FILES:
        for name in workspace.files:
            yield posixpath.join(workspace.source, name), workspace.source
    elif workspace.mode is not WorkspaceMode.NONE:
        yield workspace.source, ""


def _without_leading_out(source: str, directory: str) -> str:
    real = os.path.realpath(source)
    is_named_file = directory and real.startswith(directory.rstrip("/") + "/") and os.path.isfile(real)
    return real if is_named_file else source
