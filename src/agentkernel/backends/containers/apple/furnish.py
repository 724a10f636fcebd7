"""What a machine gets through its agent: single files, private copies of directories, directories of the workload's.

Everything is written by builtins as somebody inside, before the sandbox is handed out; whatever the image holds can mislead them within its
own machine only.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
import stat
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Final

from agentkernel.backends.containers.plan import ContainerPlan, Entry, Tmpfs
from agentkernel.backends.containers.shown import Mount
from agentkernel.channel.files import GuestFiles
from agentkernel.channel.sandbox import GuestSandbox
from agentkernel.errors import FileOperationFailed, LaunchFailed
from agentkernel.model.spec import SandboxSpec, StorageKind, User

MOST_ENTRIES: Final = 20_000
_AT_ONCE = 16
_CHUNK_BYTES = 256 * 1024
_ROOT: Final = User(uid=0, gid=0, name="root", home="/root")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A plan's mounts, by how they come into a machine."""

    files: tuple[Mount, ...]  # written
    copies: tuple[Mount, ...]  # copied
    memory: tuple[Tmpfs, ...]  # where the copies are, unless they are kept


def parts_of(plan: ContainerPlan, spec: SandboxSpec) -> Parts:
    """Looks at what each source is; raises LaunchFailed for one that is not there."""
    files: list[Mount] = []
    copies: list[Mount] = []
    for mount in plan.mounts:
        try:
            mode = os.stat(mount.source).st_mode
        except OSError as error:
            raise LaunchFailed(f"{mount.source} cannot be shown: {error.strerror}", hint="correct the path") from error
        (copies if stat.S_ISDIR(mode) else files).append(mount)
    size, user = spec.resources.disk_bytes, spec.user
    memory = () if _is_kept(spec) else tuple(Tmpfs(target=each.target, size_bytes=size, uid=user.uid or 1) for each in copies)
    return Parts(files=tuple(files), copies=tuple(copies), memory=memory)


async def furnish(sandbox: GuestSandbox, plan: ContainerPlan, parts: Parts, *, again: bool) -> None:
    """Makes and writes everything; `again`: the machine has its disk from an earlier boot.

    Raises:
        LaunchFailed: a source is too large to be copied, or something cannot be written.
    """
    root = GuestFiles(sandbox.launch, _ROOT)
    kept = _is_kept(sandbox.spec)
    try:
        for entry in plan.entries:
            if entry.content is not None:
                await root.write(entry.path, entry.content, mode=entry.mode, parents=True)
            else:
                await _own_directory(root, sandbox.files, entry)
        for file in parts.files:
            await root.write(file.target, _content(file.source), mode=0o755 if file.executable else 0o644, parents=True)
        for copy in parts.copies:
            if not (kept and again):
                if kept:
                    user = sandbox.spec.user
                    await _own_directory(root, sandbox.files, Entry(path=copy.target, mode=0o755, uid=user.uid, gid=user.gid))
                await _copy(copy, sandbox.files, sandbox.spec.resources.disk_bytes)
    except (FileOperationFailed, OSError) as error:
        raise LaunchFailed(f"the sandbox cannot be furnished: {error}", hint="is there room in it, and may its root be written?") from error


def _is_kept(spec: SandboxSpec) -> bool:
    return spec.storage is StorageKind.DISK and not spec.read_only_root


async def _own_directory(root: GuestFiles, own: GuestFiles, entry: Entry) -> None:
    """A directory of the workload's user: nothing gives files away, so that user makes it, for which the parent is opened a moment."""
    parent = posixpath.dirname(entry.path) or "/"
    await root.make_directory(parent, parents=True)
    try:
        found = await root.stat(entry.path)
    except FileOperationFailed:
        pass
    else:
        if found.uid != entry.uid:
            await root.change_mode(entry.path, 0o1777)  # the image's own; nobody but the workload is there
        return
    before = stat.S_IMODE((await root.stat(parent)).mode)
    await root.change_mode(parent, 0o1777)
    try:
        await (own if entry.uid else root).make_directory(entry.path)
    finally:
        await root.change_mode(parent, before)
    await (own if entry.uid else root).change_mode(entry.path, entry.mode)


async def _copy(mount: Mount, files: GuestFiles, limit_bytes: int) -> None:
    """A private copy of a tree as the workload's own: directories in order, then what is in them, some at a time."""
    found = list(_tree(mount.source, limit_bytes))
    for path, mode in ((path, mode) for path, mode in found if stat.S_ISDIR(mode)):
        await files.make_directory(f"{mount.target}/{path}", mode=mode & 0o777 | 0o700, parents=True)
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(path: str, mode: int) -> None:
        async with slots:
            source, target = f"{mount.source}/{path}", f"{mount.target}/{path}"
            if stat.S_ISLNK(mode):
                await files.symlink(os.readlink(source), target)
            else:
                await files.write(target, _content(source), mode=mode & 0o777 | 0o600)

    await asyncio.gather(*(one(path, mode) for path, mode in found if not stat.S_ISDIR(mode)))


def _tree(top: str, limit_bytes: int) -> Iterator[tuple[str, int]]:
    """(relative path, mode) of directories, files and symlinks, outer ones first; raises LaunchFailed for more than can be copied."""
    entries = total = 0
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        with os.scandir(f"{top}/{inside}") as listed:
            for each in sorted(listed, key=lambda entry: entry.name):
                found = each.stat(follow_symlinks=False)
                path = f"{inside}/{each.name}".lstrip("/")
                entries, total = entries + 1, total + (found.st_size if stat.S_ISREG(found.st_mode) else 0)
                if entries > MOST_ENTRIES or total > limit_bytes:
                    message = f"{top} has more than can be copied into a machine: {MOST_ENTRIES} entries, {limit_bytes} bytes"
                    raise LaunchFailed(message, hint="show a smaller directory, or itself with --mount-cwd, or raise --disk")
                if stat.S_ISDIR(found.st_mode):
                    waiting.append(path)
                if stat.S_IFMT(found.st_mode) in (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK):
                    yield path, found.st_mode


async def _content(path: str) -> AsyncIterator[bytes]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        while chunk := os.read(fd, _CHUNK_BYTES):
            yield chunk
    finally:
        os.close(fd)
