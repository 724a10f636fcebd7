"""Gathers the facts of the host that a decision needs. All reading of the host's files for policy happens here."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

from agentkernel.engine.parts import Parts
from agentkernel.model.request import SandboxRequest
from agentkernel.model.spec import Bind, Workspace, WorkspaceMode
from agentkernel.policy.deny import denied_in_home, holds_credentials, protected_paths
from agentkernel.policy.surroundings import Surroundings

# On the deny list because of what they are in a home directory; projects hold files of these names for their own tools, and such a project
# is to be shown. Everything else of the list marks a directory that nobody meant to show.
_ORDINARY_IN_PROJECTS = frozenset(
    (
        ".agentkernel", ".aider.conf.yml", ".bundle/config", ".condarc", ".config/pip", ".config/yarn", ".continue", ".cursor",
        ".docker", ".fly", ".gemini", ".hex", ".history", ".jupyter", ".minikube", ".netlify", ".npmrc", ".pip", ".pulumi",
        ".replicate", ".wrangler", ".yarnrc", ".yarnrc.yml",
    )
)  # fmt: skip


def resolve(request: SandboxRequest) -> SandboxRequest:
    """The request with every host path absolute and free of symlinks, as policy compares them."""
    cwd = os.path.realpath(request.cwd)
    return replace(
        request,
        cwd=cwd,
        directory=None if request.directory is None else os.path.realpath(os.path.join(cwd, request.directory)),
        image=None if request.image is None else _image_path(request.image, cwd),
        mounts=tuple(
            Bind(source=os.path.realpath(bind.source), target=bind.target, writable=bind.writable, executable=bind.executable)
            for bind in request.mounts
        ),
    )


def gather(request: SandboxRequest, parts: Parts) -> Surroundings:
    """The facts for a resolved request."""
    home = os.path.realpath(parts.home)
    shown = list(dict.fromkeys([request.directory or request.cwd, *(bind.source for bind in request.mounts)]))
    image = request.image
    return Surroundings(
        home=home,
        uid=parts.uid,
        root=parts.images.host_root(argv=request.argv, environment=parts.environment, home=home, uid=parts.uid),
        image_directory=image if image is not None and os.path.isdir(image) else None,
        image_is_tar=image is not None and image.endswith(".tar") and os.path.isfile(image),
        cwd_is_project=parts.images.is_project(request.cwd, home),
        named_files=_named_files(request),
        protected_present=tuple(_existing(request.directory or request.cwd, protected_paths())),
        protected_in_mounts=tuple(
            (bind.source, name) for bind in request.mounts if bind.writable for name in _existing(bind.source, protected_paths())
        ),
        credentials_found=tuple((directory, name) for directory in shown for name in _credentials(directory)),
        detected_image=parts.images.image_for([os.fsdecode(word) for word in request.argv], request.cwd),
    )


def appeared(workspace: Workspace) -> tuple[str, ...]:
    """Protected paths of a writable workspace that were not there when it was shown, so that nothing could be mounted over them."""
    if workspace.mode is not WorkspaceMode.WRITABLE:
        return ()
    return tuple(name for name in _existing(workspace.source, protected_paths()) if name not in workspace.protected)


def _image_path(image: str, cwd: str) -> str:
    """An image that names something on this host becomes its path; any other name is left for policy to refuse."""
    path = os.path.join(cwd, image)
    return os.path.realpath(path) if os.path.exists(path) else image


def _names(directory: str) -> tuple[str, ...]:
    try:
        return tuple(os.listdir(directory))
    except OSError:
        return ()


def _existing(directory: str, names: Iterable[str]) -> list[str]:
    """Those of the relative paths that exist; symlinks count as they are."""
    return [name for name in names if os.path.lexists(os.path.join(directory, name))]


def _credentials(directory: str) -> tuple[str, ...]:
    candidates = {*_existing(directory, denied_in_home()), *_names(directory)} - _ORDINARY_IN_PROJECTS
    return holds_credentials(sorted(candidates))


def _named_files(request: SandboxRequest) -> tuple[str, ...]:
    """Arguments that are regular files beneath the working directory; an option's `--file=NAME` counts too."""
    found: dict[str, None] = {}
    for argument in request.argv:
        text = os.fsdecode(argument)
        for word in (text, text.partition("=")[2]) if text.startswith("-") else (text,):
            path = os.path.normpath(os.path.join(request.cwd, word)) if word and "\0" not in word else ""
            relative = path.removeprefix(request.cwd.rstrip("/") + "/")
            if path and relative != path and _is_plain_file(request.cwd, relative):
                found[relative] = None
    return tuple(found)


def _is_plain_file(directory: str, relative: str) -> bool:
    """A regular file that really lies beneath the directory: a symlink out of it, or to a key in it, would show something else."""
    real = os.path.realpath(os.path.join(directory, relative))
    inside = real.removeprefix(directory.rstrip("/") + "/")
    return inside != real and os.path.isfile(real) and not (inside != relative and holds_credentials((inside,)))
