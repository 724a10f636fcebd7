"""Making what a container shows of the host: by mounts of ours with exchanged owners, by the engine's own binds, or by copying in.

Mounts of ours lie beneath the sandbox's state directory, from just before the container is started until it runs: then it has its copies.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import posixpath
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from agentkernel.backends import _hostmounts
from agentkernel.backends._linux.disk import remove_trees
from agentkernel.backends._sources import hidden_in_home, owners, protected_in_workspace, resolved_sources
from agentkernel.backends.containers.archive import tar_of_directory
from agentkernel.backends.containers.dialect import EngineBind, EngineFacts
from agentkernel.backends.containers.host import Host
from agentkernel.backends.containers.shown import Mount, Showing, parents_of, shown
from agentkernel.errors import LaunchFailed, SandboxFailed, Unsupported
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.spec import RootFile, SandboxSpec, StorageKind, WorkspaceMode

MOUNTS: Final = "mounts"
_ALL_IDS: Final = 2**32 - 1
_REMAPPED_IDS: Final = 65_536
_COPIED_BYTES: Final = 4 * 1024 * 1024
_PATIENCE_S: Final = 30.0
_OCTAL: Final = re.compile(rb"\\([0-7]{3})")  # proc_pid_mountinfo(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the container is created with, and what is to be done besides."""

    binds: tuple[EngineBind, ...] = ()
    steps: tuple[dict[str, Any], ...] = ()  # mounts of ours, in order
    copies: tuple[Mount, ...] = ()  # put in before the first start
    files: tuple[RootFile, ...] = ()  # likewise: small files of this host, for an engine elsewhere
    masked: tuple[str, ...] = ()  # what of HOME the engine has to hide, in the sandbox; none where our mounts do


@dataclass(frozen=True, slots=True, kw_only=True)
class Whose:
    """The sandbox that something is mounted for, and its state directory."""

    state: Path
    sandbox_id: str
    owner: str  # as its container's label says it


def sandbox_user(spec: SandboxSpec, host: Host, facts: EngineFacts) -> SandboxSpec:
    """The spec with the user that a sandbox gets which shows files of the host: where no id map exchanges owners it is the caller, who is
    root inside an engine of its own. Root stays what it is."""
    if not spec.user.uid or not shown(spec) or host.dialect.exchanges_owners(facts) or facts.caller_is_user or not facts.local:
        return spec
    uid, gid = (0, 0) if facts.rootless else (os.geteuid(), os.getegid())
    return replace(spec, user=replace(spec.user, uid=uid, gid=gid))


def with_protected(spec: SandboxSpec) -> SandboxSpec:
    """The spec with each link on the way to a protected path, and what it leads to."""
    if spec.workspace.mode is not WorkspaceMode.WRITABLE:
        return spec
    return replace(spec, workspace=replace(spec.workspace, protected=protected_in_workspace(spec.workspace)))


def arrange(spec: SandboxSpec, host: Host, facts: EngineFacts, whose: Whose) -> Shown:
    """How the mounts of a spec are made here; raises Unsupported, LaunchFailed, before anything is done."""
    mounts = shown(spec)
    if not mounts:
        return Shown()
    places, owned = resolved_sources(spec), owners(spec)
    mounts = tuple(replace(mount, source=places.get(mount.source, mount.source)) for mount in mounts)
    for mount in mounts:
        if not os.path.lexists(mount.source):
            raise LaunchFailed(f"{mount.source} is not there to be shown", hint="name a directory or a file that there is")
    hidden = hidden_in_home(spec, host.own_directories)
    by_place = {places.get(source, source): uid for source, uid in owned.items()}
    if host.dialect.mounter(facts) is not None:
        exchanges = host.dialect.exchanges_owners(facts)
        arranged = _Arrangement(spec=spec, facts=facts, host=host, whose=whose, owners=by_place if exchanges else {}, hidden=hidden)
        binds = tuple(arranged.bind(number, mount) for number, mount in enumerate(mounts))
        return Shown(binds=binds, steps=tuple(arranged.steps))
    if spec.home_source and spec.level is IsolationLevel.USER_KERNEL:
        raise Unsupported("gVisor masks nothing for engines, so a home directory cannot be shown here", hint="leave --mount-home out")
    copies = tuple(mount for mount in mounts if mount.showing is Showing.PRIVATE)
    if copies and spec.read_only_root:
        raise Unsupported("a private copy cannot be put into a read-only root here", hint="leave --read-only out")
    direct = tuple(mount for mount in mounts if mount.showing is Showing.DIRECT)
    if not facts.local:
        return Shown(copies=copies, files=tuple(map(_copied, direct)))
    masked = tuple(posixpath.join(spec.user.home, path) for path in hidden) if spec.home_source else ()
    return Shown(binds=tuple(map(_plain, direct)), copies=copies, masked=masked)


def _copied(mount: Mount) -> RootFile:
    """A small file that is only read; raises Unsupported for all else."""
    found = os.stat(mount.source)
    if mount.writable or not stat.S_ISREG(found.st_mode) or found.st_size > _COPIED_BYTES:
        raise Unsupported(f"an engine elsewhere cannot show {mount.source} of this host", hint="copy it in with `agentkernel cp`")
    return RootFile(path=mount.target, content=Path(mount.source).read_bytes(), mode=stat.S_IMODE(found.st_mode))


def _plain(mount: Mount) -> EngineBind:
    """By the engine itself, which sets no flags but read-only and follows every link."""
    found = os.stat(mount.source)
    if not mount.executable and (mount.writable or stat.S_ISDIR(found.st_mode) or found.st_mode & 0o111):
        raise Unsupported(f"{mount.source} cannot be shown without execution here", hint="leave noexec out, or run agentkernel as root")
    links = [path for path in mount.protected if os.path.islink(f"{mount.source}/{path}")]
    if links:
        raise Unsupported(
            f"{links[0]} of the workspace is a link, which cannot be protected here", hint="show it read-only, or a copy of it"
        )
    protected = tuple(path for path in mount.protected if os.path.lexists(f"{mount.source}/{path}"))
    return EngineBind(source=mount.source, target=mount.target, writable=mount.writable, protected=protected)


@dataclass(slots=True, kw_only=True)
class _Arrangement:
    """Collects the steps of one sandbox's mounts."""

    spec: SandboxSpec
    facts: EngineFacts
    host: Host
    whose: Whose
    owners: Mapping[str, int]
    hidden: tuple[str, ...] = ()  # of HOME
    steps: list[dict[str, Any]] = field(default_factory=list)

    def bind(self, number: int, mount: Mount) -> EngineBind:
        """The steps of one mount, and what the engine is to bind."""
        target = f"{self.whose.state}/{MOUNTS}/{number}"
        if mount.showing is Showing.PRIVATE:
            self._private(mount, target)
        else:
            self._show(mount, target, writable=mount.writable)
            for path in parents_of(mount.protected):
                self.steps.append({"do": "pin", "target": target, "path": path})
            for path in self.hidden if mount.is_home else ():
                self.steps.append({"do": "hide", "target": target, "path": path})
            for path in mount.protected:
                self.steps.append({"do": "seal", "target": target, "path": path})
        return EngineBind(source=target, target=mount.target, writable=mount.writable, executable=mount.executable, has_flags=True)

    def _show(self, mount: Mount, target: str, *, writable: bool) -> None:
        owner = self.owners.get(mount.source)
        self.steps.append(
            {
                "do": "bind",
                "source": mount.source,
                "target": target,
                "writable": writable,
                "executable": mount.executable,
                "owners": owner_map(owner, self.spec.user.uid, self.facts.id_base) if owner is not None else "",
            }
        )

    def _private(self, mount: Mount, target: str) -> None:
        lower, data = f"{target}-lower", f"{target}-data"
        self._show(mount, lower, writable=False)
        if self.spec.storage is StorageKind.DISK:
            data = str(self.host.make_files(self.whose.sandbox_id, self.whose.owner))
        else:
            self.steps.append({"do": "memory", "target": data, "size": self.spec.resources.disk_bytes})
        user, base = self.spec.user, self.facts.id_base
        inside = self.facts.rootless
        self.steps.append(
            {
                "do": "overlay",
                "lower": lower,
                "upper": f"{data}/upper",
                "work": f"{data}/work",
                "target": target,
                "owner": None if inside else [base + user.uid, base + user.gid],
                "own_xattrs": inside,
            }
        )


def owner_map(owner: int, user: int, base: int) -> str:
    """Lines `on-disk outside count` of an id map: the owner and the sandbox's user change places, all other ids keep theirs.

    `base`: the host's id of the container's root. One map serves uids and gids, so it follows the uid.
    """
    count = _REMAPPED_IDS if base else _ALL_IDS
    places = {owner: user, user: owner}
    lines, start = [], 0
    for special in sorted(places):
        if special > start:
            lines.append(f"{start} {base + start} {special - start}")
        lines.append(f"{special} {base + places[special]} 1")
        start = special + 1
    if start < count:
        lines.append(f"{start} {base + start} {count - start}")
    return "\n".join(lines) + "\n"


async def make(host: Host, facts: EngineFacts, shown_here: Shown) -> None:
    """Makes the mounts; raises LaunchFailed, with none of them left."""
    if shown_here.steps:
        await _ask(host, facts, {"mounts": list(shown_here.steps)}, LaunchFailed)


async def unmake(host: Host, facts: EngineFacts, state: Path) -> None:
    """Unmounts whatever is mounted beneath a sandbox's state directory, and removes the mount points."""
    directory = state / MOUNTS
    if not directory.is_dir():
        return
    left = sorted(mounted_beneath(str(directory)), reverse=True)
    if left or facts.rootless:
        await _ask(host, facts, {"unmount": left or [str(path) for path in directory.iterdir()]}, SandboxFailed)
    for path in directory.iterdir():
        with contextlib.suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()
    with contextlib.suppress(OSError):
        directory.rmdir()


def mounted_beneath(directory: str) -> Iterator[str]:
    """The mount points of this process's mounts beneath a directory."""
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            place = unescaped(line.split(b" ")[4])
            if place.startswith(f"{directory}/"):
                yield place


def unescaped(place: bytes) -> str:
    """A mount point as proc_pid_mountinfo(5) has it."""
    return os.fsdecode(_OCTAL.sub(lambda found: bytes([int(found[1], 8)]), place))


async def remove_files(host: Host, sandbox_id: str, uid: int, base: int) -> None:
    """Removes what a private view kept on disk."""
    path = host.files(sandbox_id)
    if path.is_dir():
        await remove_trees([path], base if os.geteuid() == 0 else None, uid)


def contents(mount: Mount, spec: SandboxSpec) -> Iterator[bytes]:
    """The archive of a copy; raises Unsupported beyond its limits."""
    return tar_of_directory(mount.source, owner=(spec.user.uid, spec.user.gid))


async def _ask(host: Host, facts: EngineFacts, request: dict[str, Any], failure: type[SandboxFailed]) -> None:
    before = host.dialect.mounter(facts)
    if before is None:
        raise failure("this process can make no mounts for the engine", hint="run `agentkernel doctor`")
    argv = (*before, "-I", "-S", _hostmounts.__file__)
    pipe = asyncio.subprocess.PIPE
    program = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe, cwd="/")
    talk = asyncio.ensure_future(program.communicate(json.dumps(request).encode()))
    try:
        said, errors = await asyncio.wait_for(asyncio.shield(talk), _PATIENCE_S)
    except TimeoutError:
        program.kill()
        await talk
        raise failure("the mounts of the sandbox take too long", hint="see the host's own log") from None
    except asyncio.CancelledError:
        await asyncio.wait([talk])  # whoever undoes it must find all of it
        raise
    try:
        answer = json.loads(said)
    except ValueError:
        raise failure(f"the mounts of the sandbox cannot be made: {errors.decode(errors='replace').strip()[-300:]}") from None
    if answer:
        raise failure(f"the mounts of the sandbox cannot be made: {answer.get('what')}", hint=_hint(answer.get("errno")))


def _hint(number: object) -> str:
    return "its file system takes no id map: show a copy of it instead" if number == 22 else "run `agentkernel doctor`"
