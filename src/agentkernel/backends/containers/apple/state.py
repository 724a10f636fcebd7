"""The directories by which every sandbox of this backend is found again after a crash.

    <base>/sandboxes/<id>/   of engines in process
    <base>/lasting/<id>/     of booted ones: only their owner's engine takes them up or removes them
        lease                flock'ed by the engine that holds it; free means that engine is gone
        owner                (lasting) the identity of the store that the sandbox is in
        configuration        what its agent was configured with, from the first boot on
        arguments            what its container was created with, one per line; there once it was
    <base>/guest/<digest>/   the guest, alone in a directory that machines are shown

<base> lies in the data directory: containers outlive the host's next start, and so must what is known of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from agentkernel.backends._configuration import Configuration
from agentkernel.backends._lease import LEASE, UNFINISHED_LEASE, new_lease, taken_lease
from agentkernel.backends._records import check_owner, read_file, write_file
from agentkernel.errors import Conflict


@dataclass(slots=True, kw_only=True)
class Place:
    """One sandbox's directory, leased by this process as long as `lease_fd` is open."""

    sandbox_id: str
    path: Path
    owner: str = ""
    lease_fd: int = -1

    @property
    def configuration(self) -> Configuration:
        """What the agent was configured with."""
        return Configuration.decode(read_file(f"{self.path}/configuration"))

    def record_configuration(self, configuration: Configuration) -> None:
        """Before the agent is started."""
        write_file(f"{self.path}/configuration", configuration.encode())

    @property
    def arguments(self) -> tuple[str, ...]:
        """What the container was created with; empty: it was not."""
        return tuple(read_file(f"{self.path}/arguments").decode().split("\n")[:-1])

    def record_arguments(self, arguments: tuple[str, ...]) -> None:
        """Once the container has been created."""
        write_file(f"{self.path}/arguments", "".join(f"{word}\n" for word in arguments))

    def let_go(self) -> None:
        """Gives the lease back."""
        if self.lease_fd >= 0:
            os.close(self.lease_fd)
            self.lease_fd = -1

    def release(self) -> None:
        """Removes the directory, the lease last, and gives that back."""
        for name in ("arguments", "configuration", UNFINISHED_LEASE, "owner", LEASE):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path / name)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self.path)
        self.let_go()


class Places:
    """All of them, beneath a base directory that is made when the first is."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def make(self, sandbox_id: str, owner: str = "") -> Place:
        """A new one; of an owner for a sandbox that is booted. Raises OSError."""
        path = self._directory(owner) / sandbox_id
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
        place = Place(sandbox_id=sandbox_id, path=path, owner=owner)
        try:
            if owner:
                write_file(f"{path}/owner", owner)
            place.lease_fd = new_lease(path)
        except BaseException:
            place.release()
            raise
        return place

    def find(self, sandbox_id: str, owner: str) -> Place | None:
        """Takes up a booted one; None where there is none. Raises Conflict for another store's, and for one that is held."""
        path = self._directory(owner) / sandbox_id
        check_owner(sandbox_id, read_file(f"{path}/owner").decode(errors="replace"), owner)
        try:
            fd = taken_lease(path, unfinished_age_s=0)
        except FileNotFoundError:
            return None
        except BlockingIOError as error:
            raise Conflict(f"another engine holds sandbox {sandbox_id}", hint="is a second daemon running?") from error
        return Place(sandbox_id=sandbox_id, path=path, owner=owner, lease_fd=fd)

    def abandoned(self) -> list[Place]:
        """Those of engines in process that are gone, each leased now."""
        found = []
        for path in sorted(self._directory("").glob("*")):
            with contextlib.suppress(OSError):  # it is held, or being made
                found.append(Place(sandbox_id=path.name, path=path, lease_fd=taken_lease(path)))
        return found

    def knows(self, sandbox_id: str) -> bool:
        """Whether an engine in process made a sandbox of that id, living or not."""
        return (self._directory("") / sandbox_id).is_dir()

    @property
    def lasting(self) -> Path:
        """Where those of booted sandboxes are."""
        return self.base / "lasting"

    def guest_directory(self, guest: Path) -> Path:
        """A directory with nothing but this guest in it, made when there is none."""
        content = guest.read_bytes()
        directory = self.base / "guest" / hashlib.sha256(content).hexdigest()[:16]
        target = directory / "agentkernel-guest"
        if not target.is_file():
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            temporary = self.base / "guest" / f".{os.getpid()}"
            shutil.copyfile(guest, temporary)
            temporary.chmod(0o755)
            temporary.replace(target)
        return directory

    def _directory(self, owner: str) -> Path:
        return self.lasting if owner else self.base / "sandboxes"
