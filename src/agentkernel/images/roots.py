"""Unpacked images, by digest. What is once here is never changed again; writes of sandboxes go to overlays.

<directory>/<hex>/rootfs         the root file system
<directory>/<hex>/image.json     what its configuration says, and the users of its /etc/passwd
<directory>/<hex>.lock           held while it is made
<directory>/<hex>.used           held, shared, by every process whose sandboxes may use it; who removes it holds it alone
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from agentkernel.errors import Conflict
from agentkernel.failpoints import failpoint
from agentkernel.images.beneath import DIRECTORY, open_file
from agentkernel.images.locks import held, try_hold
from agentkernel.images.threads import to_its_end
from agentkernel.model.image import Image, ImageConfig

MAX_USERS = 1024
MAX_PASSWD_BYTES = 1024 * 1024
GRACE_S = 600.0  # between finding an image and having a sandbox on it
_GONE = ".gone"

Unpack = Callable[[Sequence[str], Sequence[str], str], Awaitable[None]]


class Roots:
    """The unpacked images of one store. `unpack(options, archives, destination)` runs `images.unpack` where hostile bytes may be parsed."""

    def __init__(self, directory: str, unpack: Unpack) -> None:
        self._directory = directory
        self._unpack = unpack
        self._held: dict[str, int] = {}  # digest -> the lock that says that this process may use it

    def close(self) -> None:
        """Gives the locks back: no sandbox of this process uses an image any more."""
        while self._held:
            os.close(self._held.popitem()[1])

    def directory(self, digest: str) -> str:
        """Where the root file system of that digest is, or would be."""
        return f"{self._base(digest)}/rootfs"

    def find(self, digest: str, reference: str) -> Image | None:
        """The image, if it is unpacked; from now on no process removes it while this one lives."""
        known = self._known(digest) if self._hold(digest) else None
        if known is None:
            return None
        return Image(reference=reference, digest=digest, config=known[0], directory=self.directory(digest), users=known[1])

    async def make(self, digest: str, options: Sequence[str], archives: Sequence[str], config: ImageConfig) -> None:
        """Unpacks the archives, unless somebody has meanwhile; nothing is left of it if that fails. Raises what `unpack` raises."""
        self._prepare()
        async with held(f"{self._base(digest)}.lock"):
            if self._known(digest) is None:
                fresh = await self._staged(digest, options, archives)
                await self._settle(fresh, digest, config)

    async def stage(self, name: str, options: Sequence[str], archives: Sequence[str]) -> str:
        """Unpacks something of which is not yet known what it is; returns where it is, `rootfs` in it. For `keep`, or `discard`."""
        self._prepare()
        return await self._staged(f"{name}-{os.urandom(8).hex()}", options, archives)

    async def keep(self, staged: str, digest: str, config: ImageConfig) -> None:
        """Takes up what was staged as the root file system of that digest."""
        async with held(f"{self._base(digest)}.lock"):
            if self._known(digest) is None:
                await self._settle(staged, digest, config)
            else:
                await self.discard(staged)

    async def discard(self, staged: str) -> None:
        """Removes what was staged."""
        await asyncio.to_thread(shutil.rmtree, staged, ignore_errors=True)

    def remove(self, digest: str) -> None:
        """Removes it; raises Conflict while another process may use it."""
        if (own := self._held.pop(digest, None)) is not None:
            os.close(own)
        if not os.path.lexists(self._base(digest)):
            return
        lock = try_hold(f"{self._base(digest)}.used")
        if lock is None:
            raise Conflict(
                f"{digest[:19]} may be used by sandboxes of another process",
                hint="it is free when that `agentkernel run --no-daemon`, or program of the SDK, has ended",
            )
        try:
            self._set_aside(digest)
            os.unlink(f"{self._base(digest)}.used")
        finally:
            os.close(lock)

    def remove_unused(self, digest: str) -> None:
        """Removes it unless somebody used it just now, or another process may use it."""
        try:
            last = os.stat(f"{self._base(digest)}.used").st_mtime
        except FileNotFoundError:
            last = 0.0
        if time.time() - last >= GRACE_S:
            with suppress(Conflict):
                self.remove(digest)

    def digests(self) -> Iterator[str]:
        """Of all that are unpacked."""
        for name in self._listed():
            if len(name) == 64:
                yield f"sha256:{name}"

    def remove_rests(self) -> None:
        """Removes what crashes left; the caller has seen to it that nobody is unpacking anything."""
        for name in self._listed():
            if ".new" in name or _GONE in name:
                shutil.rmtree(f"{self._directory}/{name}", ignore_errors=True)
            elif name.endswith((".lock", ".used")) and len(name) == 69 and name[:64] not in self._listed():
                self._remove_lock(f"{self._directory}/{name}")

    def _remove_lock(self, path: str) -> None:
        lock = try_hold(path)
        if lock is not None:
            os.unlink(path)
            os.close(lock)

    async def _staged(self, name: str, options: Sequence[str], archives: Sequence[str]) -> str:
        fresh = f"{self._base(name)}.new"
        await self.discard(fresh)  # of a crash: under the lock nobody else uses it
        make_passable(fresh)
        try:
            os.mkdir(f"{fresh}/rootfs")
            os.chmod(f"{fresh}/rootfs", 0o755)  # noqa: S103 - a root directory; what is around it is closed
            if archives:
                await self._unpack(options, archives, f"{fresh}/rootfs")
            failpoint("images.root.unpacked")
        except BaseException:
            await self.discard(fresh)
            raise
        return fresh

    async def _settle(self, fresh: str, digest: str, config: ImageConfig) -> None:
        await to_its_end(_note, fresh, config)
        await to_its_end(flush, fresh)  # or a power failure might leave files without content under a name that says they are whole
        if os.path.lexists(self._base(digest)):  # noqa: ASYNC240 - one look at a local disk
            await to_its_end(self._set_aside, digest)
        failpoint("images.root.noted")
        os.rename(fresh, self._base(digest))
        failpoint("images.root.settled")

    def _set_aside(self, digest: str) -> None:
        gone = f"{self._base(digest)}{_GONE}-{os.urandom(4).hex()}"
        os.rename(self._base(digest), gone)
        failpoint("images.root.set_aside")
        shutil.rmtree(gone, ignore_errors=True)

    def _known(self, digest: str) -> tuple[ImageConfig, tuple[tuple[str, int, int], ...]] | None:
        """What is noted of an unpacked image; None: it is not there, or damaged."""
        try:
            with open(f"{self._base(digest)}/image.json", "rb") as file:
                fields = json.load(file)
            return _config(fields["config"]), tuple((str(name), int(uid), int(gid)) for name, uid, gid in fields["users"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _prepare(self) -> None:
        make_passable(self._directory)

    def _hold(self, digest: str) -> bool:
        if digest in self._held:
            os.utime(self._held[digest])
            return True
        if not os.path.lexists(self._base(digest)):
            return False
        lock = try_hold(f"{self._base(digest)}.used", shared=True)
        if lock is None:
            return False  # somebody is removing it
        os.utime(lock)
        self._held[digest] = lock
        return True

    def _base(self, digest: str) -> str:
        return f"{self._directory}/{digest.removeprefix('sha256:')}"

    def _listed(self) -> list[str]:
        try:
            return sorted(os.listdir(self._directory))
        except FileNotFoundError:
            return []


def _note(staged: str, config: ImageConfig) -> None:
    with open(f"{staged}/image.json", "w") as file:
        file.write(json.dumps({"config": asdict(config), "users": _users(f"{staged}/rootfs")}))


def _config(fields: dict[str, Any]) -> ImageConfig:
    return ImageConfig(
        environment=tuple((str(name), str(value)) for name, value in fields["environment"]),
        working_directory=str(fields["working_directory"]),
        user=str(fields["user"]),
        entrypoint=tuple(map(str, fields["entrypoint"])),
        command=tuple(map(str, fields["command"])),
    )


def make_passable(directory: str) -> None:
    """Makes a directory that nobody else may look into, and that sandboxes' ids walk through to their files, whatever the umask is."""
    os.makedirs(directory, mode=0o711, exist_ok=True)
    if stat.S_IMODE(os.stat(directory).st_mode) != 0o711:
        os.chmod(directory, 0o711)  # noqa: S103 - to walk through, not to list


def flush(directory: str) -> None:
    """Has everything that was written to this file system reach the disk: syncfs(2), where there is one."""
    descriptor = os.open(directory, DIRECTORY)
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None, use_errno=True).syncfs(descriptor)
        else:
            os.sync()
    finally:
        os.close(descriptor)


def _users(rootfs: str) -> list[tuple[str, int, int]]:
    """(name, uid, gid) of the image's /etc/passwd, as far as its lines can be read; links in the image lead nowhere out of it."""
    root = os.open(rootfs, DIRECTORY)
    try:
        with open(open_file(root, b"etc/passwd"), "rb") as file:
            content = file.read(MAX_PASSWD_BYTES).decode(errors="replace")
    except OSError:
        return []
    finally:
        os.close(root)
    found = []
    for line in content.split("\n"):
        fields = line.split(":")
        if len(fields) >= 4 and fields[0] and _is_id(fields[2]) and _is_id(fields[3]):
            found.append((fields[0][:256], int(fields[2]), int(fields[3])))
    return found[:MAX_USERS]


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) < 2**32 - 1
