"""Gathers the facts of the host that a decision needs. All reading of the host's files for policy happens here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from agentkernel.engine.parts import Parts
from agentkernel.model.names import ARCHIVE_ENDINGS
from agentkernel.model.request import SandboxRequest
from agentkernel.model.spec import Bind, Workspace, WorkspaceMode
from agentkernel.policy.deny import denied_in_home, holds_credentials, ordinary_in_projects, protected_paths
from agentkernel.policy.exposure import require_shown
from agentkernel.policy.surroundings import ImageName, Surroundings


def resolve(request: SandboxRequest) -> SandboxRequest:
    """The request with every host path absolute and free of symlinks, as policy compares them."""
    cwd = os.path.realpath(request.cwd)
    return replace(
        request,
        cwd=cwd,
        directory=None if request.directory is None else os.path.realpath(os.path.join(cwd, request.directory)),
        image=request.image if request.image is None or not _is_path(request.image) else os.path.realpath(request.image),
        mounts=tuple(
            Bind(source=os.path.realpath(bind.source), target=bind.target, writable=bind.writable, executable=bind.executable)
            for bind in request.mounts
        ),
    )


def gather(request: SandboxRequest, parts: Parts) -> Surroundings:
    """The facts for a resolved request."""
    environment, home = whose(request, parts)
    view = _Directory(request.directory or request.cwd)
    mounts = {bind.source: _Directory(bind.source) for bind in request.mounts}
    here = _Directory(request.cwd) if request.cwd != view.path else view
    image = request.image if request.image is not None and _is_path(request.image) else None
    of_host = request.image is None
    of_command = parts.images.image_for(request.argv, ()) if of_host else None
    return Surroundings(
        home=home,
        uid=parts.uid,
        own_directories=_own_directories(parts.data_directory, parts.runtime_directory, parts.cache_directory),
        root=parts.images.host_root(argv=request.argv, environment=environment, home=home, uid=parts.uid) if of_host else None,
        image_directory=image if image is not None and os.path.isdir(image) else None,
        image_is_tar=image is not None and image.endswith(ARCHIVE_ENDINGS) and os.path.isfile(image),
        cwd_is_project=parts.images.is_project(request.cwd, home),
        named_files=_named_files(request),
        protected_present=_protected(view),
        protected_in_mounts=tuple(
            (bind.source, name) for bind in request.mounts if bind.writable for name in _protected(mounts[bind.source])
        ),
        credentials_found=tuple(
            (directory.path, name) for directory in ({view.path: view} | mounts).values() for name in _credentials(directory)
        ),
        certificates=parts.images.certificates(environment),
        image_name=None if of_host or image is not None else _named(request.image, parts),
        command_image=_named(of_command, parts),
        picked_image=_named(of_command or _of_project(request, here.names, parts), parts) if of_host else None,
    )


def taken_up(path: str, parts: Parts) -> str:
    """The path of the host, without symlinks, that an image is to be made of; raises what `policy.exposure.require_shown` raises."""
    own = _own_directories(parts.data_directory, parts.runtime_directory, parts.cache_directory)
    facts = Surroundings(home=_home(parts.environment, parts), uid=parts.uid, own_directories=own)
    return require_shown(os.path.realpath(path), facts)


@lru_cache(maxsize=8)
def _own_directories(*directories: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(os.path.realpath(each) for each in directories))


def _of_project(request: SandboxRequest, names: tuple[str, ...], parts: Parts) -> str | None:
    """What the language table has for the language that the project says it is of, else for its files, else for none."""
    images = parts.images
    of_language = None if request.language is None else images.image_of_language(request.language)
    return of_language or images.image_for((), names) or images.default_image()


def _named(text: str | None, parts: Parts) -> ImageName | None:
    return ImageName(text=text, reference=parts.images.canonical(text)) if text else None


def whose(request: SandboxRequest, parts: Parts) -> tuple[Mapping[str, str], str]:
    """The environment and the real HOME of the user that asks: a daemon's own say nothing about where that user's programs are."""
    environment = request.host_environment or parts.environment
    return environment, _home(environment, parts)


def _home(environment: Mapping[str, str], parts: Parts) -> str:
    home = environment.get("HOME", "")
    return os.path.realpath(home if home.startswith("/") else parts.home)


def appeared(workspace: Workspace) -> tuple[str, ...]:
    """Protected paths of a writable workspace that were not there when it was shown, so that nothing could be mounted over them."""
    if workspace.mode is not WorkspaceMode.WRITABLE:
        return ()
    return tuple(name for name in _protected(_Directory(workspace.source)) if name not in workspace.protected)


def _protected(directory: _Directory) -> tuple[str, ...]:
    """The protected paths that are there; also `.git` where it is a file, as in worktrees and submodules: it says where the hooks are."""
    pointer = (".git",) if os.path.isfile(f"{directory.path}/.git") else ()
    return (*pointer, *directory.those_in_it(protected_paths()))


class _Directory:
    """A directory of the host in which hundreds of paths are looked for, of which few are there: it is listed, not searched for each."""

    def __init__(self, path: str) -> None:
        self.path = path
        names = self._list("")
        self.names = tuple(names or ())  # directly in it, as far as it can be read
        self._folded = {"": _folded(names)}

    def those_in_it(self, paths: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the relative paths that exist; symlinks count as they are."""
        top, by_first = self._folded[""], _by_first_component(paths)
        listed = paths if top is None else (path for first, group in by_first.items() if first in top for path in group)
        return tuple(path for path in listed if self._may_hold(path) and os.path.lexists(f"{self.path}/{path}"))

    def _may_hold(self, path: str) -> bool:
        """Whether the listing of the directory that it would lie in has its name, in any case (to some file systems all are one)."""
        parent, _, name = path.rpartition("/")
        if parent not in self._folded:
            self._folded[parent] = _folded(self._list(parent) if self._may_hold(parent) else [])
        listed = self._folded[parent]
        return listed is None or name.casefold() in listed

    def _list(self, relative: str) -> list[str] | None:
        """The names in a directory beneath; None where it must not be read, though what lies in it may be reached by name."""
        try:
            return os.listdir(f"{self.path}/{relative}")
        except PermissionError:
            return None
        except OSError:
            return []


@lru_cache(maxsize=8)
def _by_first_component(paths: tuple[str, ...]) -> dict[str, list[str]]:
    """The paths in groups, by what a listing would have to hold for any of a group to be there."""
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(path.partition("/")[0].casefold(), []).append(path)
    return found


def _folded(names: list[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(name.casefold() for name in names)


def _is_path(image: str) -> bool:
    """Images of this host are absolute paths; what a name means relative to which directory, only the settings know."""
    return image.startswith("/")


def _credentials(directory: _Directory) -> tuple[str, ...]:
    candidates = {*directory.those_in_it(denied_in_home()), *directory.names} - ordinary_in_projects()
    return holds_credentials(sorted(candidates))


def _named_files(request: SandboxRequest) -> tuple[str, ...]:
    """Arguments that are regular files beneath the working directory; an option's `--file=NAME` counts too.

    None are beneath `/`, where every file is: that is who works nowhere.
    """
    if request.cwd == "/":
        return ()
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
