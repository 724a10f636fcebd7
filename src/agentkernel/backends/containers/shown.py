"""What of the host a container shows: the workspace, mounts, the home directory, and whose it is inside. Pure."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from enum import StrEnum

from agentkernel.model.spec import SandboxSpec, WorkspaceMode


class Showing(StrEnum):
    """How a host path is shown."""

    DIRECT = "direct"  # itself
    PRIVATE = "private"  # a view of its own: what is written stays in the sandbox


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A path of the host and where it is inside. What belongs to the source's owner belongs to the sandbox's user inside."""

    source: str
    target: str
    showing: Showing = Showing.DIRECT
    writable: bool = False
    executable: bool = True
    protected: tuple[str, ...] = ()  # relative paths that stay as they are; their parents cannot be renamed
    is_home: bool = False  # what of it must not be seen is hidden


def shown(spec: SandboxSpec) -> tuple[Mount, ...]:
    """Every host path of the spec, outer targets before those in them."""
    mounts = [*_workspace(spec), *(_bind(spec)), *_home(spec)]
    return tuple(sorted(mounts, key=lambda mount: mount.target.count("/")))


def _home(spec: SandboxSpec) -> tuple[Mount, ...]:
    return (Mount(source=spec.home_source, target=spec.user.home, is_home=True),) if spec.home_source else ()


def _bind(spec: SandboxSpec) -> tuple[Mount, ...]:
    return tuple(Mount(source=b.source, target=b.target, writable=b.writable, executable=b.executable) for b in spec.mounts)


def _workspace(spec: SandboxSpec) -> tuple[Mount, ...]:
    workspace = spec.workspace
    if workspace.mode is WorkspaceMode.WRITABLE:
        return (Mount(source=workspace.source, target=workspace.target, writable=True, protected=workspace.protected),)
    if workspace.mode is WorkspaceMode.COPY_ON_WRITE:
        return (Mount(source=workspace.source, target=workspace.target, showing=Showing.PRIVATE, writable=True),)
    return tuple(
        Mount(source=posixpath.join(workspace.source, name), target=posixpath.join(workspace.target, name)) for name in workspace.files
    )


def parents_of(protected: tuple[str, ...]) -> tuple[str, ...]:
    """The directories above protected paths, outer ones first."""
    found: set[str] = set()
    for path in protected:
        while path := posixpath.dirname(path):
            found.add(path)
    return tuple(sorted(found))
