"""Where the workload writes is its own, whatever an image has in the place.

runc before 1.2 gives a file system in memory the mode of the directory that an image has there, whatever it is told, and no engine opens
what is above. So each start sets the modes again from inside, by the agent's builtins, while nothing else runs there: as the owner, without
a capability. Only what is our own is touched: an image's links could lead to something of the host's that is shown.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agentkernel import channel as late  # what is only needed once a sandbox is made
from agentkernel.backends.containers.mounting import unescaped
from agentkernel.backends.containers.obstacles import OBSTACLE_HINT
from agentkernel.backends.containers.plan import CLOSED, OWN, kept_in_layer, own_places, tmpfs_of
from agentkernel.channel.sandbox import GuestSandbox
from agentkernel.errors import FileOperationFailed, LaunchFailed
from agentkernel.model.spec import SandboxSpec, User

if TYPE_CHECKING:
    from agentkernel.channel.files import GuestFiles

_MOUNTS: Final = "/proc/self/mountinfo"
_EVERYBODYS: Final = 0o1777
_MOST_LINKS: Final = 40  # as the kernel's (path_resolution(7))
_HINT: Final = "use an image whose directories are open, or run as root inside with --user root"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A directory that the workload may write to."""

    path: str
    mode: int | None = None  # of one in memory; that of one in the container's layer is set before
    is_users: bool = False  # else root's


def places_of(spec: SandboxSpec) -> tuple[Place, ...]:
    """All of a spec's that are to be written to, the agent's own left out. Pure."""
    memory = tuple(
        Place(path=each.target, mode=each.mode, is_users=bool(each.uid))
        for each in tmpfs_of(spec)
        if each.writable and each.target not in (OWN, CLOSED)
    )
    return (*memory, *(Place(path=path, is_users=True) for path in own_places(spec) if kept_in_layer(spec)))


def mounts_of(listed: bytes) -> dict[str, bool]:
    """What is mounted, by place, and whether that is a whole file system in memory; `listed`: proc_pid_mountinfo(5). What a later mount
    hides is left out. Pure."""
    found: dict[str, bool] = {}
    for line in listed.splitlines():
        fields = line.split(b" ")
        if len(fields) < 9 or b"-" not in fields[6:-2]:
            continue
        place, kind = unescaped(fields[4]), fields[fields.index(b"-", 6) + 1]
        for hidden in [each for each in found if each.startswith(f"{place.rstrip('/')}/")]:
            del found[hidden]
        found[place] = kind == b"tmpfs" and fields[3] == b"/"
    return found


async def open_places(sandbox: GuestSandbox) -> None:
    """Gives each of them its mode, and lets the sandbox's user through to it.

    Raises:
        LaunchFailed: the image closes the way to one, and nothing here can open it, or leads the agent's own directory elsewhere.
        SandboxLost: the agent does not answer.
    """
    try:
        opening = _Opening(sandbox, mounts_of(await _as(sandbox, 0).read(_MOUNTS)))
        await opening.require_own()
        for place in places_of(sandbox.spec):
            await opening.open(place)
    except FileOperationFailed as error:
        raise LaunchFailed(f"the image keeps the sandbox's user from its own files: {error.message}", hint=_HINT) from error


@dataclass(frozen=True, slots=True)
class _Opening:
    """One sandbox's; each act raises FileOperationFailed."""

    sandbox: GuestSandbox
    mounts: Mapping[str, bool]

    async def require_own(self) -> None:
        """Raises LaunchFailed where the agent's directory was mounted at the end of a link, in which anything may be."""
        if OWN not in self.mounts and stat.S_ISLNK((await _as(self.sandbox, 0).stat(OWN, follow=False)).mode):
            raise LaunchFailed(f"the image has a link at {OWN}, where the sandbox's agent belongs", hint=OBSTACLE_HINT)

    async def open(self, place: Place) -> None:
        """Sets the mode as its owner, and what is above it once the user turns out not to get through."""
        path = place.path
        if place.mode is not None and not self.mounts.get(path, False):
            with contextlib.suppress(FileOperationFailed):  # a link that leads to what a mount has hidden, say
                path = await self._real(path)
            if not self.mounts.get(path, False):
                return  # nothing of ours is there
        try:
            await self._set(place, path)
        except FileOperationFailed as error:
            if error.errno != errno.EACCES:
                raise
            await self._open_above(path)
            await self._set(place, path)

    async def _set(self, place: Place, path: str) -> None:
        own, root = self.sandbox.files, _as(self.sandbox, 0)
        if place.mode is not None:
            try:
                await (own if place.is_users else root).change_mode(path, place.mode)
            except FileOperationFailed as error:
                if error.errno != errno.EPERM:
                    raise
                # Somebody else's, where a runtime can give it no owner (`podman_plan`), or an image's link has made one of two places.
                await _as(self.sandbox, (await root.stat(path)).uid).change_mode(path, _EVERYBODYS)
        if place.mode is None or not place.is_users:
            await own.stat(path)

    async def _real(self, path: str) -> str:
        """Where the image's links lead; the path itself where that cannot be told."""
        real, left, links = "/", path.strip("/").split("/"), 0
        while left:
            name = left.pop(0)
            if name == "..":
                real = posixpath.dirname(real)
                continue
            found = await _as(self.sandbox, 0).stat(posixpath.join(real, name), follow=False)
            if not stat.S_ISLNK(found.mode):
                real = posixpath.join(real, name)
                continue
            links += 1
            if links > _MOST_LINKS:
                return path
            target = os.fsdecode(found.target)
            real = "/" if target.startswith("/") else real
            left = [each for each in target.split("/") if each not in ("", ".")] + left
        return real

    async def _open_above(self, path: str) -> None:
        for above in _above(path):
            found = await _as(self.sandbox, 0).stat(above, follow=False)
            if not stat.S_ISDIR(found.mode) or self._mount_of(above) != "/":
                return
            if not found.mode & stat.S_IXOTH:
                await _as(self.sandbox, found.uid).change_mode(above, stat.S_IMODE(found.mode) | stat.S_IXOTH)

    def _mount_of(self, path: str) -> str:
        return next(each for each in (path, *reversed(list(_above(path))), "/") if each in self.mounts or each == "/")


def _as(sandbox: GuestSandbox, uid: int) -> GuestFiles:
    """Files as whoever owns them inside, without a capability."""
    return late.GuestFiles(sandbox.launch, User(uid=uid, gid=uid, name="owner", home="/"))


def _above(path: str) -> Iterator[str]:
    """The directories above a path, outer ones first."""
    found = []
    while path != "/":
        path = posixpath.dirname(path)
        found.append(path)
    yield from reversed(found)
