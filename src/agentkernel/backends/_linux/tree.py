"""SandboxSpec to the steps that build a sandbox's file tree in a mount namespace of its own. Pure.

There are two trees. The *data* tree (a tmpfs, or a directory on disk) holds everything that the sandbox may write: tmp, home, shm, overlay
uppers; so one size limit bounds every write. The *new root* is what the sandbox sees; it binds from the data tree, which itself is out of
sight. Each backend says where the two are and mounts them; what is in them is the same for all.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from enum import IntEnum

from agentkernel.backends._linux.cgroups import CgroupPlan
from agentkernel.backends._linux.facts import HostFacts
from agentkernel.backends._linux.plan import CloneFlag, MountAttr, Op, Step, Text
from agentkernel.errors import LaunchFailed
from agentkernel.model.spec import Bind, RootKind, SandboxSpec, WorkspaceMode
from agentkernel.owners import IMAGE_IDS, RANGE_SIZE
from agentkernel.policy.inside import GUEST, files

# Plain integers: arithmetic with enum flags is twenty times slower, and a launch does much of it.
NONE, RDONLY, NOSUID = int(MountAttr.NONE), int(MountAttr.RDONLY), int(MountAttr.NOSUID)
NODEV, NOEXEC = int(MountAttr.NODEV), int(MountAttr.NOEXEC)
HARD = NOSUID | NODEV


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the plan needs to know beside the spec: the host, and the names that this sandbox was given."""

    facts: HostFacts
    mount_point: str
    cgroups: CgroupPlan
    id_base: int | None = None  # the first id of the range; None: a single id
    data_directory: str = ""  # for storage on disk
    kept: tuple[str, ...] = ()  # directories of it that are there from an earlier boot, and stay as they are
    storage_bytes: int = 0  # the size of storage in memory
    owners: dict[str, int] = field(default_factory=dict)  # uid of each source that is shown as the user's
    guest: str = ""  # the guest binary, where programs inside may run it; empty: they may not
    resolved: dict[str, str] = field(default_factory=dict)  # source -> the same without symlinks, which the launcher follows nowhere


def step(op: Op, *arguments: int | str | bytes, why: str) -> Step:
    """One step; strings become `Text`."""
    wire = tuple([Text(argument) if isinstance(argument, str) else argument for argument in arguments])
    return Step(op=op, arguments=wire, description=why)


class Owners(IntEnum):
    """Whom the files of a shown host path belong to inside. The values of the first two are TREE's."""

    IMAGE = 1  # to the same ids there: root's to the sandbox's root; those of an image of the store that has them, as the image says
    SYSTEM = 2  # likewise, or to nobody where the file system cannot be id-mapped: they are only read
    USER = 3  # what belongs to the source's owner belongs to the sandbox's user


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedTree:
    """An IDMAP_TREE whose map waits for the id range."""

    slot: int
    source: str
    where: str
    attributes: int
    owner: int | None  # whose files become the sandbox user's; None: those of an image, which have owners of their own

    def step(self, id_base: int, user: int) -> Step:
        """With the range's first id, and the sandbox's user."""
        lines = f"{IMAGE_IDS} {id_base} {RANGE_SIZE}\n" if self.owner is None else _owner_mapping(self.owner, id_base, user)
        arguments = (self.slot, Text(self.where), self.attributes, 1, Text(lines))
        return Step(op=Op.IDMAP_TREE, arguments=arguments, description=f"id-map {self.source} for the sandbox's user")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataTree:
    """The TREE of storage on disk, which waits for the sandbox's directory."""

    slot: int

    def step(self, directory: str) -> Step:
        """With that directory."""
        arguments = (self.slot, Text(directory), HARD, 0, 0)
        return Step(op=Op.TREE, arguments=arguments, description="mount the sandbox's directory on disk")


Prepared = Step | OwnedTree | DataTree


def prepared(tree: Prepared, spec: SandboxSpec, around: Surroundings) -> Step:
    """The step of a tree that waited for the sandbox's own ids or directory."""
    if isinstance(tree, OwnedTree):
        return tree.step(around.id_base or 0, spec.user.uid)
    return tree.step(around.data_directory) if isinstance(tree, DataTree) else tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What of the surroundings decides all steps but a few: equal for sandboxes that are made alike."""

    facts: HostFacts
    mount_point: str
    separated: bool
    data_directory: str
    kept: tuple[str, ...]
    storage_bytes: int
    owners: tuple[tuple[str, int], ...]
    resolved: tuple[tuple[str, str], ...]
    guest: str


def shape_of(around: Surroundings) -> Shape:
    """Without the sandbox's own ids and groups."""
    return Shape(
        facts=around.facts,
        mount_point=around.mount_point,
        separated=around.id_base is not None,
        data_directory=around.data_directory,
        kept=around.kept,
        storage_bytes=around.storage_bytes,
        owners=tuple(around.owners.items()),
        resolved=tuple(around.resolved.items()),
        guest=around.guest,
    )


@dataclass(slots=True)
class Builder:
    """Collects outer and inner steps; the slots of prepared trees are numbered as they are asked for.

    `data` and `new_root` are absolute, in the old root; `beneath` is where the steps' relative paths begin, beneath the plan's own root:
    empty, or with a slash at its end.
    """

    spec: SandboxSpec
    around: Shape
    data: str
    new_root: str
    beneath: str = ""
    outer: list[Prepared] = field(default_factory=list)
    inner: list[Step] = field(default_factory=list)
    slots: int = 0
    owners: dict[str, int] = field(init=False)
    resolved: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.owners, self.resolved = dict(self.around.owners), dict(self.around.resolved)

    @property
    def separated(self) -> bool:
        """Whether there is an id range."""
        return self.around.separated

    def at(self, path: str) -> str:
        """A path of the tree as a step names it."""
        return self.beneath + path.lstrip("/")

    def do(self, op: Op, *arguments: int | str | bytes, why: str) -> None:
        """Adds an inner step."""
        self.inner.append(step(op, *arguments, why=why))

    def next_slot(self) -> int:
        """Numbers the next prepared tree."""
        self.slots += 1
        return self.slots - 1

    def directory(self, path: str, mode: int, *, user: bool) -> None:
        """Makes a directory that belongs to the sandbox's user, or to its root."""
        owner, group = (self.spec.user.uid, self.spec.user.gid) if user or not self.separated else (0, 0)
        self.do(Op.MKDIR, self.at(path), mode, owner, group, why=f"make {path}")

    def mount_host(self, source: str, target: str, attributes: int, owners: Owners) -> None:
        """Shows a host path at `target`.

        With an id range, the tree is prepared outside: there root's rights reach any source, and an id-mapped mount gives the files their
        owners inside.
        """
        where = self.resolved.get(source, source)
        owner = self.owners.get(source, 0)
        if not self.separated:
            if owner == IMAGE_IDS:
                raise LaunchFailed(
                    f"the image {self.spec.root.label} was unpacked with owners of its own, and a sandbox here has one id",
                    hint="`agentkernel image remove` it and pull it again, or run it as the one who unpacked it",
                )
            self.do(Op.BIND, where, self.at(target), attributes, 1, why=f"bind {source} at {target}")
            return
        slot = self.next_slot()
        if owners is Owners.USER or (owners is Owners.IMAGE and owner == IMAGE_IDS):
            whose = owner if owners is Owners.USER else None
            self.outer.append(OwnedTree(slot=slot, source=source, where=where, attributes=attributes, owner=whose))
        else:
            self.outer.append(
                Step(op=Op.TREE, arguments=(slot, Text(where), attributes, 1, int(owners)), description=f"id-map the mount of {source}")
            )
        self.do(Op.ATTACH, slot, self.at(target), why=f"mount {source} at {target}")


def _owner_mapping(owner_uid: int, base: int, user: int) -> str:
    """Lines `on-disk outside count`: the owner and the sandbox's user change places, all other ids keep theirs.

    One map serves uids and gids, so it follows the uid; a group that differs from it keeps its number.
    """
    owner = owner_uid if owner_uid < RANGE_SIZE else user
    places = {owner: user, user: owner}
    lines, start = [], 0
    for special in sorted(places):
        if special > start:
            lines.append(f"{start} {base + start} {special - start}")
        lines.append(f"{special} {base + places[special]} 1")
        start = special + 1
    if start < RANGE_SIZE:
        lines.append(f"{start} {base + start} {RANGE_SIZE - start}")
    if owner_uid >= RANGE_SIZE:  # an owner beyond the range takes the user's place alone
        lines = [line for line in lines if not line.startswith(f"{user} ")]
        lines.append(f"{owner_uid} {base + user} 1")
    return "\n".join(lines) + "\n"


def cgroup_steps(cgroups: CgroupPlan) -> list[Step]:
    """Opens the groups, and where there is one, the group in which the first process is born."""
    steps = [
        Step(op=Op.CGROUP, arguments=(version, Text(directory)), description=f"open the cgroup {directory}")
        for version, directory in cgroups.directories
    ]
    if cgroups.agents:
        steps.append(Step(op=Op.CGROUP, arguments=(3, Text(cgroups.agents)), description=f"open the cgroup {cgroups.agents}"))
    return steps


def clone_steps(flags: CloneFlag, spec: SandboxSpec, around: Surroundings) -> list[Step]:
    """The namespaces, and whose ids there are in them."""
    if around.id_base is not None:
        line = f"0 {around.id_base} {RANGE_SIZE}\n"
        maps = (Text(line), Text(line), 0)
    else:
        maps = (Text(f"{spec.user.uid} {around.facts.uid} 1\n"), Text(f"{spec.user.gid} {around.facts.gid} 1\n"), 1)
    return [
        Step(op=Op.CLONE, arguments=(int(flags),), description="create the namespaces"),
        Step(op=Op.IDMAP, arguments=maps, description="write the user and group id maps"),
    ]


def data_directories(build: Builder) -> None:
    """What is in the data tree."""
    spec = build.spec
    for name, mode, user in (
        ("root", 0o755, False),
        ("tmp", 0o1777, False),
        ("shm", 0o1777, False),
        ("vartmp", 0o1777, False),
        ("home", 0o755, True),
        ("work", 0o755, True),
    ):
        if name not in build.around.kept:
            build.directory(name, mode, user=user)
    if spec.root.kind is RootKind.DIRECTORY:
        build.directory("image", 0o755, user=False)
        for name in ("image-upper", "image-work"):
            build.directory(name, 0o755, user=False)
        if files(spec) and not build.separated:  # an /etc of somebody else's could not be written to
            build.directory("image-upper/etc", 0o755, user=True)
        build.mount_host(spec.root.directory, "image", HARD | RDONLY, Owners.IMAGE)
    if spec.workspace.mode is WorkspaceMode.COPY_ON_WRITE:
        for name in ("work-lower", "work-upper", "work-work"):
            build.directory(name, 0o755, user=True)
        build.mount_host(spec.workspace.source, "work-lower", HARD | RDONLY, Owners.USER)


def image_options(build: Builder) -> str:
    """Of the overlay that is the root of an image."""
    return f"lowerdir={build.data}/image,upperdir={build.data}/image-upper,workdir={build.data}/image-work,userxattr"


def root_content(build: Builder) -> None:
    """What is in the new root, but for what the sandbox may write and what the user shows."""
    spec = build.spec
    root_binds(build, late=False)
    for path, target in spec.root.symlinks:
        build.do(Op.SYMLINK, target, build.at(path), why=f"link {path} to {target}")
    for file in files(spec):
        build.do(Op.FILE, build.at(file.path), file.mode, file.content, why=f"write {file.path}")
    if build.around.guest:
        build.mount_host(build.around.guest, GUEST, HARD | RDONLY, Owners.SYSTEM)


def root_binds(build: Builder, *, late: bool) -> None:
    """Shows the host root's directories; those beneath a directory of the sandbox's own only after it (a toolchain in /tmp, say)."""
    spec = build.spec
    covers = ("/tmp/", "/var/tmp/", f"{spec.user.home}/", f"{spec.workspace.target}/")  # noqa: S108 - inside
    for bind in spec.root.binds:
        if bind.target.startswith(covers) is late:
            build.mount_host(bind.source, bind.target, HARD | RDONLY, Owners.SYSTEM)
    for path in spec.root.masked:
        if path.startswith(covers) is late:
            build.do(Op.MASK, build.at(path), why=f"hide {path}")


def writable_directories(build: Builder) -> None:
    """What the sandbox may write, and HOME."""
    spec = build.spec
    if spec.root.kind is RootKind.HOST:
        for path in ("/run", "/var", "/mnt", "/opt", "/root", "/srv"):
            build.directory(path, 0o755, user=False)
    sealed = RDONLY if spec.read_only_root else NONE
    for name, target, attributes in (
        ("shm", "/dev/shm", HARD | NOEXEC),  # noqa: S108 - the sandbox's own
        ("tmp", "/tmp", HARD),  # noqa: S108 - the sandbox's own
        ("vartmp", "/var/tmp", HARD | sealed),  # noqa: S108 - the sandbox's own
    ):
        build.do(Op.BIND, f"{build.data}/{name}", build.at(target), attributes, 0, why=f"mount {target}")
    if spec.home_source:
        build.mount_host(spec.home_source, spec.user.home, HARD | RDONLY, Owners.USER)
        for path in spec.home_denied:
            build.do(Op.MASK, f"{build.at(spec.user.home)}/{path}", why=f"hide {path} of the home directory")
    else:
        build.do(Op.BIND, f"{build.data}/home", build.at(spec.user.home), HARD | sealed, 0, why=f"mount {spec.user.home}")


def workspace(build: Builder) -> None:
    """The working directory, as its mode says."""
    wanted = build.spec.workspace
    target = build.at(wanted.target)
    if wanted.mode is WorkspaceMode.COPY_ON_WRITE:
        options = f"lowerdir={build.data}/work-lower,upperdir={build.data}/work-upper,workdir={build.data}/work-work,userxattr"
        build.do(Op.OVERLAY, target, options, HARD, why=f"mount a private view of {wanted.source}")
        return
    if wanted.mode is WorkspaceMode.WRITABLE:
        build.mount_host(wanted.source, wanted.target, HARD, Owners.USER)
        _protect(build, target, wanted.protected)
        return
    attributes = HARD | (RDONLY if build.spec.read_only_root and not wanted.files else NONE)
    build.do(Op.BIND, f"{build.data}/work", target, attributes, 0, why=f"mount {wanted.target}")
    for name in wanted.files:
        build.mount_host(posixpath.join(wanted.source, name), f"{wanted.target}/{name}", HARD | RDONLY, Owners.USER)


def _protect(build: Builder, target: str, protected: tuple[str, ...]) -> None:
    """Makes paths of a writable workspace read-only, and their parents mount points, which cannot be renamed away."""
    parents = sorted({posixpath.dirname(path) for path in protected if "/" in path})
    for parent in parents:
        build.do(Op.BIND_WITHIN, f"{target}/{parent}", f"{target}/{parent}", HARD, why=f"pin {parent} of the workspace")
    for path in protected:
        build.do(Op.READ_ONLY, f"{target}/{path}", why=f"protect {path} of the workspace")


def mounts(build: Builder) -> None:
    """What the user shows beside the working directory."""
    for bind in build.spec.mounts:
        build.mount_host(bind.source, bind.target, mount_attributes(bind), Owners.USER)


def mount_attributes(bind: Bind) -> int:
    """The attributes of a mount that the user asked for."""
    attributes = HARD
    if not bind.writable:
        attributes |= RDONLY
    if not bind.executable:
        attributes |= NOEXEC
    return attributes
