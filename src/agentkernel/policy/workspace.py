"""What of the working directory is seen at /workspace.

How this reads the promise "permissive mounts it; moderate gives a private view; restrictive sees named files":

* The directory in question is `--dir D` when given, else the working directory of the caller.
* Where `mount_cwd` holds (permissive's column, or the request's switch), it is there writable, with protected files read-only.
* Else an explicit `--dir D` is a private copy-on-write view of D, under every profile.
* Else moderate (and permissive with `mount_cwd` switched off) gives such a view of the working directory when it is a project.
* Else restrictive shows the files that argv names, read-only; with `--dir` they are shown on top of D.
* HOME, `/`, what holds HOME and what holds credentials is refused when asked for, and left out with a notice when not.
"""

from __future__ import annotations

from agentkernel.errors import InvalidInput, Refused
from agentkernel.model.request import Notice, SandboxRequest
from agentkernel.model.spec import Bind, Workspace, WorkspaceMode
from agentkernel.policy.deny import credential_in, holds_credentials, is_within
from agentkernel.policy.exposure import require_shown, why_not_shown
from agentkernel.policy.profiles import Profile
from agentkernel.policy.surroundings import Surroundings

_EMPTY = Workspace()


def workspace(request: SandboxRequest, profile: Profile, surroundings: Surroundings) -> tuple[Workspace, tuple[Notice, ...]]:
    """The view at /workspace and what to tell about it."""
    writable = profile.mount_cwd if request.mount_cwd is None else request.mount_cwd
    asked = request.directory is not None or request.mount_cwd is True
    source = request.cwd if request.directory is None else request.directory
    if writable:
        mode = WorkspaceMode.WRITABLE
    elif request.directory is not None:
        mode = WorkspaceMode.COPY_ON_WRITE
    elif profile.unmounted is WorkspaceMode.FILES:
        return _named_files(request, surroundings), ()
    elif surroundings.cwd_is_project:
        mode = WorkspaceMode.COPY_ON_WRITE
    else:
        return _EMPTY, ()
    if asked:
        require_shown(source, surroundings)
    reason = why_not_shown(source, surroundings)
    if reason is not None:
        return _EMPTY, (_left_out(source, reason),)
    protected = surroundings.protected_present if mode is WorkspaceMode.WRITABLE else ()
    return Workspace(mode=mode, source=source, protected=protected), ()


def named_file_binds(request: SandboxRequest, profile: Profile, shown: Workspace, surroundings: Surroundings) -> tuple[Bind, ...]:
    """Restrictive with a `--dir` elsewhere: the files that argv names, each on its own at the place its relative name leads to."""
    if (
        profile.unmounted is not WorkspaceMode.FILES
        or shown.mode is not WorkspaceMode.COPY_ON_WRITE
        or is_within(request.cwd, shown.source)
    ):
        return ()
    files = _named_files(request, surroundings)
    return tuple(Bind(source=f"{request.cwd.rstrip('/')}/{name}", target=f"{shown.target}/{name}") for name in files.files)


def _named_files(request: SandboxRequest, surroundings: Surroundings) -> Workspace:
    for name in surroundings.named_files:
        if name.startswith("/") or "\0" in name or ".." in name.split("/"):
            raise InvalidInput(f"{name!r} is not a file beneath the working directory", hint="run the command from the file's directory")
        path = f"{request.cwd.rstrip('/')}/{name}"
        if credential_in(path, surroundings.home) is not None or holds_credentials((name,)):
            raise Refused(
                f"{path!r} cannot be shown in a sandbox: it is on the deny list of credentials", hint="copy what is needed elsewhere"
            )
    if not surroundings.named_files:
        return _EMPTY
    return Workspace(mode=WorkspaceMode.FILES, source=request.cwd, files=surroundings.named_files)


def _left_out(source: str, reason: str) -> Notice:
    return Notice(
        code="workspace-left-out",
        message=f"/workspace is empty: {source!r} is not shown, because {reason}",
        hint="run from a project's directory, or name one with --dir",
    )
