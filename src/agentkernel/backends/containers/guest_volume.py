"""The guest binary inside an engine: a volume for each binary, filled once and then only read, and an image of the guest alone.

The volume's name says what it must hold, and its file's time of change that it was written as a whole; so whatever a crash left of it is
found out by looking at it once per process.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Final

from agentkernel.backends._guest import guest_binary
from agentkernel.backends.containers.api import Api, EngineRefused
from agentkernel.backends.containers.calls import NOT_FOUND, Containers
from agentkernel.backends.containers.dialect import Momentary
from agentkernel.backends.containers.plan import GUEST
from agentkernel.errors import SandboxFailed, Unsupported

_REPOSITORY: Final = "localhost/agentkernel-guest"  # without a registry Podman would look for it on Docker Hub
_FILLED: Final = "/guest"
_NAME: Final = "agentkernel-guest"
_OTHER_NAMES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """One guest binary."""

    path: Path
    digest: str  # 16 hexadecimal digits
    size: int

    @property
    def volume(self) -> str:
        """The volume that holds it."""
        return f"agentkernel-guest-{self.digest}"

    @property
    def image(self) -> str:
        """The image that holds it and nothing else."""
        return f"{_REPOSITORY}:{self.digest}"

    @property
    def marked_at(self) -> int:
        """Its time of change in the volume: a moment of the last century, which follows from its content."""
        return int(self.digest[:7], 16)


def this_guest(architecture: str) -> Guest:
    """The binary that sandboxes get; raises BackendUnavailable, and Unsupported for an engine of another architecture."""
    path = guest_binary()
    here = os.uname().machine
    if architecture not in (here, _OTHER_NAMES.get(here)):
        raise Unsupported(f"the engine runs {architecture} programs, and this guest is for {here}", hint="set $AGENTKERNEL_GUEST to one")
    found = path.stat()
    return _described(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=4)
def _described(path: Path, _changed_ns: int, size: int) -> Guest:
    return Guest(path=path, digest=hashlib.sha256(path.read_bytes()).hexdigest()[:16], size=size)


def _archive(guest: Guest, name: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.mode, member.size, member.mtime = 0o755, guest.size, guest.marked_at
        tar.addfile(member, io.BytesIO(guest.path.read_bytes()))
    return made.getvalue()


async def ensure_image(api: Api, guest: Guest) -> None:
    """Imports the image of the guest alone, where the engine has not got it."""
    try:
        await api.call("GET", f"/images/{guest.image}/json")
    except EngineRefused as refused:
        if refused.status != NOT_FOUND:
            raise
        query = {"fromSrc": "-", "repo": guest.image}
        async for line in api.lines("POST", "/images/create", query=query, body=_archive(guest, _NAME)):
            if "error" in line:
                raise SandboxFailed(f"the engine does not take the guest's image: {line['error']}") from None


async def holds_guest(api: Api, container: str, guest: Guest) -> bool:
    """Whether the volume, as a container that was made with it sees it, holds the whole binary."""
    found = await Containers(api).stat(container, GUEST) or {}
    return found.get("size") == guest.size and _is_marked(str(found.get("mtime", "")), guest)


def _is_marked(mtime: str, guest: Guest) -> bool:
    """`mtime` as engines write it, with the zone of their host."""
    try:
        return int(datetime.fromisoformat(mtime).timestamp()) == guest.marked_at
    except ValueError:
        return False


async def fill(api: Api, guest: Guest, momentary: Momentary) -> None:
    """Writes the binary into its volume by a container that is never started."""
    await ensure_image(api, guest)
    mount = {"Type": "volume", "Source": guest.volume, "Target": _FILLED, "VolumeOptions": {"NoCopy": True}}
    body = {"Image": guest.image, "Entrypoint": [f"/{_NAME}"], "Cmd": ["version"], "HostConfig": {"NetworkMode": "none", "Mounts": [mount]}}
    async with momentary(body) as container:
        await api.call("PUT", f"/containers/{container}/archive", query={"path": _FILLED}, body=_archive(guest, _NAME))
