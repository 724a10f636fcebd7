"""The files of booted sandboxes, kept on the disk while these are stopped.

    <base>/sandboxes/<id>/          made before, and removed after, everything that is kept
        owner                       the identity of the store that the sandbox is in
        ids                         the first id of the range that the files belong to, or `single`
        booted                      there once it has been built as a whole
        files/                      the sandbox's data root (see `layout`)
    <base>/gvisor/                  `sandboxes` and `scratch` of the gVisor backend
    <base>/ranges/<n>               the leases of these ranges, which outlast the host's next start
    <base>/scratch/<id>/            what engines in process write with `--storage disk`

<base> is `config.directories.data_directory`. Nobody but its owner can enter a sandbox's directory: what the workload has made in there -
programs that change their user above all - can be neither read nor run by another user of the host.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agentkernel.backends._linux.disk import remove_trees
from agentkernel.backends._linux.ranges import find_range, lease_range, release_range
from agentkernel.backends._linux.state import CLOSED, PASSABLE, PLACES, own_directory
from agentkernel.backends._records import check_owner, read_file, write_file
from agentkernel.errors import LaunchFailed

SINGLE = "single"
VOLATILE = ("tmp", "shm", "image-upper/run")  # of the data root: what a stop ends
_KEPT = ("home", "work", "vartmp")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRoot:
    """The base directory; use `open_data_root`."""

    path: Path
    place: str  # of the backend's own directories in it

    @property
    def sandboxes(self) -> Path:
        """One directory per sandbox whose files are kept."""
        return self.path / self.place / "sandboxes"

    @property
    def ranges(self) -> Path:
        """One link per id range that kept files belong to."""
        return self.path / "ranges"

    @property
    def homes(self) -> tuple[Path, ...]:
        """Where the sandboxes of all backends are that lease ranges here."""
        return tuple(self.path / place / "sandboxes" for place in PLACES.values())

    @property
    def scratch(self) -> Path:
        """One directory per sandbox of an engine in process with storage on disk."""
        return self.path / self.place / "scratch"


def open_data_root(base: Path, uid: int, backend: str) -> DataRoot:
    """Makes the base directory where needed; refuses one that somebody else can write."""
    root = DataRoot(path=base, place=PLACES[backend])
    mode = PASSABLE if uid == 0 else CLOSED  # level `process` has no mounts: there root's sandboxes walk to their files
    own = base / root.place
    for directory, wanted in ((base, mode), (own, mode), (root.sandboxes, mode), (root.scratch, mode), (root.ranges, CLOSED)):
        own_directory(directory, wanted, uid)
    return root


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One sandbox's directory."""

    root: DataRoot
    sandbox_id: str

    @property
    def path(self) -> Path:
        """The directory itself."""
        return self.root.sandboxes / self.sandbox_id

    @property
    def files(self) -> Path:
        """The sandbox's data root."""
        return self.path / "files"

    @property
    def id_base(self) -> int | None:
        """The first id of the range that its files belong to; None: the user's own id."""
        recorded = read_file(f"{self.path}/ids").decode(errors="replace")
        return int(recorded) if recorded.isdecimal() else None

    @property
    def directories(self) -> tuple[str, ...]:
        """Which of the kept directories of the data root are there, whole, with the modes that the workload gave them."""
        if not os.path.exists(f"{self.path}/booted"):
            return ()
        return tuple(name for name in _KEPT if os.path.isdir(f"{self.files}/{name}"))

    def take_ids(self, *, privileged: bool, temporary_leases: Path) -> int | None:
        """The range of its files, leased at the first boot; raises LaunchFailed where this process cannot have the same ids again."""
        recorded = read_file(f"{self.path}/ids").decode(errors="replace")
        if recorded and (recorded != SINGLE) is not privileged:
            raise LaunchFailed(
                "its files belong to " + ("a range of ids" if recorded != SINGLE else "a single id"),
                hint="start it with the rights that it was first started with",
            )
        if recorded:
            return self.id_base
        first_id = None
        if privileged:  # a crash may have come between lease and record
            first_id = find_range(self.root.ranges, self.sandbox_id)
            if first_id is None:
                first_id = lease_range(self.root.ranges, self.sandbox_id, temporary_leases)
        write_file(f"{self.path}/ids", SINGLE if first_id is None else str(first_id))
        return first_id

    def make_files(self, *, passable: bool) -> Path:
        """Makes the data root, or finds it; `passable`: other ids walk to it by its path."""
        self.path.chmod(PASSABLE if passable else CLOSED)
        with contextlib.suppress(FileExistsError):
            self.files.mkdir(mode=0o755)
        return self.files

    def finish(self) -> None:
        """Notes that a boot was whole."""
        write_file(f"{self.path}/booted", "")

    async def remove_volatile(self) -> None:
        """Removes what no stop keeps, and lets no other id walk in any more; nothing of the sandbox runs."""
        self.path.chmod(CLOSED)
        await _remove([self.files / name for name in VOLATILE], self.id_base)

    async def remove_files(self) -> None:
        """Removes the data root; nothing of the sandbox runs."""
        await _remove([self.files], self.id_base)

    def release_ids(self) -> None:
        """Gives the range back; no file belongs to it any more."""
        first_id = self.id_base or find_range(self.root.ranges, self.sandbox_id)
        if first_id is not None:
            release_range(self.root.ranges, first_id)

    def release(self) -> None:
        """Removes the (emptied) directory."""
        for name in ("booted", "ids", "owner"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.path}/{name}")
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self.path)


async def _remove(paths: Sequence[Path], id_base: int | None) -> None:
    trees = [path for path in paths if not _removed_at_once(path)]
    await remove_trees(trees, id_base)
    _require_gone(trees)


def _require_gone(paths: Sequence[Path]) -> None:
    for path in paths:
        if os.path.lexists(path):
            raise OSError(errno.ENOTEMPTY, f"{path} cannot be removed")


def _removed_at_once(path: Path) -> bool:
    """Removes what one system call removes: an empty directory as a rule, or whatever a workload has put there in place of one."""
    try:
        if stat.S_ISDIR(path.lstat().st_mode):
            path.rmdir()
        else:
            path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return True


def make_kept(root: DataRoot, sandbox_id: str, owner: str) -> tuple[Kept, bool]:
    """Makes a sandbox's directory, or finds it; also tells whether it is new. Raises Conflict where it belongs to another store."""
    kept = find_kept(root, sandbox_id, owner)
    if kept is not None:
        return kept, False
    kept = Kept(root=root, sandbox_id=sandbox_id)
    kept.path.mkdir(mode=0o700)
    try:
        write_file(f"{kept.path}/owner", owner)
    except BaseException:
        kept.release()
        raise
    return kept, True


def find_kept(root: DataRoot, sandbox_id: str, owner: str) -> Kept | None:
    """A sandbox's directory; raises Conflict where it belongs to another store."""
    kept = Kept(root=root, sandbox_id=sandbox_id)
    if not kept.path.is_dir():
        return None
    recorded = read_file(f"{kept.path}/owner").decode(errors="replace")
    check_owner(sandbox_id, recorded, owner)
    if not recorded:
        write_file(f"{kept.path}/owner", owner)
    return kept
