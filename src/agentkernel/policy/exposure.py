"""Which host directories may be shown inside, and where inside they may appear."""

from __future__ import annotations

from agentkernel.errors import InvalidInput, Refused
from agentkernel.model.names import validate_inside_path
from agentkernel.model.request import SandboxRequest
from agentkernel.model.spec import Bind, User, Workspace, WorkspaceMode
from agentkernel.policy.deny import credential_in, is_within
from agentkernel.policy.surroundings import Surroundings

# Inside, nothing may be mounted on or beneath these: the sandbox's own structure and masks live there.
_SYSTEM_TARGETS = ("/proc", "/sys", "/dev", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/boot", "/run", "/nix")
# Nor on these themselves, though beneath them is fine.
_PRIVATE_TARGETS = ("/", "/tmp", "/home", "/root", "/var", "/opt")  # noqa: S108 - inside


def why_not_shown(path: str, surroundings: Surroundings) -> str | None:
    """Why the host directory `path` must not be shown inside, as the end of a sentence; None when it may."""
    if path == "/":
        return "it is the host's root directory"
    if path == surroundings.home:
        return "it is the home directory"
    if is_within(surroundings.home, path):
        return "it holds the home directory"
    if any(is_within(path, own) for own in surroundings.own_directories):
        return "agentkernel keeps its own state in it"
    credential = credential_in(path, surroundings.home)
    if credential is not None:
        return f"it would show {credential!r}, which is on the deny list of credentials and host secrets"
    for directory, found in surroundings.credentials_found:
        if is_within(directory, path):
            return f"it holds {found!r}, which is on the deny list of credentials"
    return None


def require_shown(path: str, surroundings: Surroundings) -> str:
    """Returns the absolute host path; raises Refused, naming what it would show."""
    if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise InvalidInput(f"{path!r} is not an absolute path of the host", hint="write an absolute path without ..")
    reason = why_not_shown(path, surroundings)
    if reason is not None:
        raise Refused(f"{path!r} cannot be shown in a sandbox: {reason}", hint="name a directory that holds only what the command needs")
    return path


def mounts(request: SandboxRequest, workspace: Workspace, user: User, surroundings: Surroundings) -> tuple[Bind, ...]:
    """The request's mounts, checked, and the read-only files on top of the writable ones."""
    result: list[Bind] = []
    taken = {user.home} | ({workspace.target} if workspace.mode is not WorkspaceMode.NONE else set())
    for bind in request.mounts:
        source = require_shown(bind.source, surroundings)
        target = _checked_target(bind.target)
        if target in taken:
            raise InvalidInput(f"something else is already mounted at {target!r}", hint="choose another target for the mount")
        taken.add(target)
        result.append(Bind(source=source, target=target, writable=bind.writable, executable=bind.executable))
        if bind.writable:
            protected = [name for directory, name in surroundings.protected_in_mounts if directory == source]
            result.extend(Bind(source=f"{source}/{name}", target=f"{target}/{name}", executable=bind.executable) for name in protected)
    return tuple(result)


def _checked_target(target: str) -> str:
    path = validate_inside_path(target)
    if path in _PRIVATE_TARGETS or any(is_within(path, system) for system in _SYSTEM_TARGETS):
        raise Refused(f"Cannot access system path: {path!r} cannot be the target of a mount", hint="mount it beneath /mnt or /data")
    return path
