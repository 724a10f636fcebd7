"""Whether a sandbox that was made a while ago still shows what one made now would show.

What it binds it holds by the kernel's objects, not by name: a file that a package manager has replaced is the old one inside, a
directory that was moved away is still there, a file system mounted since is missing. What lies *in* a bound directory is always
as it is now, and so is what lies below a private view of a project in which nobody has looked yet (overlayfs looks up each name in
the layer below when it is first asked for).
"""

from __future__ import annotations

import os

from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.spec import RootKind, SandboxSpec, WorkspaceMode
from agentkernel.policy.inside import CERTIFICATES

Standing = tuple[object, ...]

_SHARED_VIEWS = (WorkspaceMode.NONE, WorkspaceMode.COPY_ON_WRITE)
_MOUNTS = "/proc/self/mountinfo"
_MOUNT_POINT = 4  # the fifth field of a line (proc_pid_mountinfo(5))


def is_poolable(spec: SandboxSpec) -> bool:
    """Whether such a sandbox may be made before anybody asks for it.

    Not if what it shows of the host's is found out only while it is built, or was judged by what lay there when it was asked for:
    HOME without its credentials, writable directories with their protected files, mounts, single files. The one that tells whom the host
    trusts, which every image is shown, is looked at when one is handed out. GPUs are not taken for nobody.
    """
    return (
        spec.level is not IsolationLevel.PROCESS  # moves every path of the spec
        and all(bind.target == CERTIFICATES for bind in spec.mounts)
        and not spec.gpus
        and not spec.secrets  # whom it trusts is made for each
        and not spec.home_source
        and spec.workspace.mode in _SHARED_VIEWS
    )


def standing_of(spec: SandboxSpec) -> Standing:
    """What the host has now at every path that the sandbox would bind; equal to another's if nothing was replaced, moved or mounted.

    A mounted object keeps its inode, so its number is not given to another one as long as the sandbox is there. Raises OSError when
    that cannot be found out.
    """
    sources = _sources(spec)
    return (*map(_identity, sources), *_mounts_beneath(sources))


def _sources(spec: SandboxSpec) -> tuple[str, ...]:
    root = (spec.root.directory,) if spec.root.kind is RootKind.DIRECTORY else ()
    workspace = (spec.workspace.source,) if spec.workspace.mode is not WorkspaceMode.NONE else ()
    return (*(bind.source for bind in spec.root.binds), *(bind.source for bind in spec.mounts), *root, *workspace)


def _identity(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_uid  # whose files it shows as whose goes by the owner


def _mounts_beneath(sources: tuple[str, ...]) -> tuple[bytes, ...]:
    """The mounts at or below those paths, as the kernel describes them; none on a system that has no such list."""
    try:
        with open(_MOUNTS, "rb") as file:
            lines = file.readlines()
    except FileNotFoundError:
        return ()
    prefixes = tuple(_escaped(source) + b"/" for source in sources)
    return tuple(line for line in lines if (line.split(b" ", _MOUNT_POINT + 1)[_MOUNT_POINT] + b"/").startswith(prefixes))


def _escaped(path: str) -> bytes:
    """A path as that list has it."""
    text = os.fsencode(path.rstrip("/"))
    for character in (b"\\", b" ", b"\t", b"\n"):
        text = text.replace(character, b"\\%03o" % ord(character))
    return text
