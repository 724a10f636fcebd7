"""SandboxSpec to launch plan: what a sandbox's file system and walls look like. Pure.

Two roots are mounted, one in the other. The *data* root (a tmpfs, or a directory on disk) at the state directory's mount point holds
everything that the sandbox may write: tmp, home, shm, overlay uppers. The *new* root at `<mount point>/root` is what the sandbox sees; it
binds from the data root, which itself is out of sight once the old root is detached. So one size limit bounds every write.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import lru_cache

from agentkernel.backends.namespaces.cgroups import CgroupPlan
from agentkernel.backends.namespaces.facts import HostFacts
from agentkernel.backends.namespaces.plan import CloneFlag, MountAttr, Op, Step, Text
from agentkernel.backends.namespaces.ranges import RANGE_SIZE
from agentkernel.model.network import NOTHING
from agentkernel.model.spec import Bind, NetworkMode, RootKind, SandboxSpec, StorageKind, WorkspaceMode
from agentkernel.policy import landlock
from agentkernel.policy.inside import RESOLVER_PORT, TRANSPARENT_PORT, files

AGENT_SOCKET_FD = 10

# Plain integers: arithmetic with enum flags is twenty times slower, and a launch does much of it.
_NONE, _RDONLY, _NOSUID = int(MountAttr.NONE), int(MountAttr.RDONLY), int(MountAttr.NOSUID)
_NODEV, _NOEXEC = int(MountAttr.NODEV), int(MountAttr.NOEXEC)
_HARD = _NOSUID | _NODEV
_CAP_CHOWN, _CAP_KILL, _CAP_SETGID, _CAP_SETUID = 0, 5, 6, 7
_KEEP_SEPARATED = 1 << _CAP_CHOWN | 1 << _CAP_KILL | 1 << _CAP_SETGID | 1 << _CAP_SETUID

# What a container engine hides of /proc (the OCI default, plus what leaks the host's activity), and what it makes read-only.
PROC_MASKED = (
    "acpi", "asound", "interrupts", "iomem", "ioports", "kallsyms", "kcore", "keys", "kmsg", "latency_stats", "modules", "sched_debug",
    "scsi", "timer_list", "timer_stats", "vmallocinfo",
)  # fmt: skip
PROC_READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")

# Counted for the sandbox and, above it, for the host user who made it (user_namespaces(7)), who must keep some. Namespaces are refused by
# the seccomp filter, too.
_USER_LIMITS = (("max_user_namespaces", "0"), ("max_inotify_instances", "48"))


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
    resolved: dict[str, str] = field(default_factory=dict)  # source -> the same without symlinks, which the launcher follows nowhere


def _step(op: Op, *arguments: int | str | bytes, why: str) -> Step:
    wire = tuple([Text(argument) if isinstance(argument, str) else argument for argument in arguments])
    return Step(op=op, arguments=wire, description=why)


class Owners(IntEnum):
    """Whom the files of a shown host path belong to inside. The values of the first two are TREE's."""

    IMAGE = 1  # to the same ids there: root's to the sandbox's root
    SYSTEM = 2  # likewise, or to nobody where the file system cannot be id-mapped: they are only read
    USER = 3  # what belongs to the source's owner belongs to the sandbox's user


@dataclass(frozen=True, slots=True, kw_only=True)
class _OwnedTree:
    """An IDMAP_TREE whose map waits for the id range."""

    slot: int
    source: str
    where: str
    attributes: int
    owner: int

    def step(self, id_base: int, user: int) -> Step:
        arguments = (self.slot, Text(self.where), self.attributes, 1, Text(_owner_mapping(self.owner, id_base, user)))
        return Step(op=Op.IDMAP_TREE, arguments=arguments, description=f"id-map {self.source} for the sandbox's user")


@dataclass(frozen=True, slots=True, kw_only=True)
class _DataTree:
    """The TREE of storage on disk, which waits for the sandbox's directory."""

    slot: int

    def step(self, directory: str) -> Step:
        arguments = (self.slot, Text(directory), _HARD, 0, 0)
        return Step(op=Op.TREE, arguments=arguments, description="mount the sandbox's directory on disk")


_Prepared = Step | _OwnedTree | _DataTree


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """What of the surroundings decides all steps but a few: equal for sandboxes that are made alike."""

    facts: HostFacts
    mount_point: str
    separated: bool
    data_directory: str
    kept: tuple[str, ...]
    storage_bytes: int
    owners: tuple[tuple[str, int], ...]
    resolved: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Builder:
    """Collects outer and inner steps; the slots of prepared trees are numbered as they are asked for."""

    spec: SandboxSpec
    around: _Shape
    outer: list[_Prepared] = field(default_factory=list)
    inner: list[Step] = field(default_factory=list)
    slots: int = 0
    owners: dict[str, int] = field(init=False)
    resolved: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.owners, self.resolved = dict(self.around.owners), dict(self.around.resolved)

    @property
    def separated(self) -> bool:
        return self.around.separated

    @property
    def data(self) -> str:
        return self.around.mount_point

    @property
    def new_root(self) -> str:
        return f"{self.around.mount_point}/root"

    def do(self, op: Op, *arguments: int | str | bytes, why: str) -> None:
        self.inner.append(_step(op, *arguments, why=why))

    def next_slot(self) -> int:
        """Numbers the next prepared tree."""
        self.slots += 1
        return self.slots - 1

    def mount_host(self, source: str, target: str, attributes: int, owners: Owners) -> None:
        """Shows a host path at `target`.

        With an id range, the tree is prepared outside: there root's rights reach any source, and an id-mapped mount gives the files their
        owners inside.
        """
        where = self.resolved.get(source, source)
        if not self.separated:
            self.do(Op.BIND, where, _relative(target), attributes, 1, why=f"bind {source} at {target}")
            return
        slot = self.next_slot()
        if owners is Owners.USER:
            owner = self.owners.get(source, 0)
            self.outer.append(_OwnedTree(slot=slot, source=source, where=where, attributes=attributes, owner=owner))
        else:
            self.outer.append(
                Step(op=Op.TREE, arguments=(slot, Text(where), attributes, 1, int(owners)), description=f"id-map the mount of {source}")
            )
        self.do(Op.ATTACH, slot, _relative(target), why=f"mount {source} at {target}")


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


def build_plan(spec: SandboxSpec, around: Surroundings) -> tuple[Step, ...]:
    """Computes every step of a sandbox's launch; those that the sandbox's own names and ids are in anew, the others as remembered."""
    shape = _Shape(
        facts=around.facts,
        mount_point=around.mount_point,
        separated=around.id_base is not None,
        data_directory=around.data_directory,
        kept=around.kept,
        storage_bytes=around.storage_bytes,
        owners=tuple(around.owners.items()),
        resolved=tuple(around.resolved.items()),
    )
    trees, inner = _body(replace(spec, name="", egress=NOTHING, ports=(), environment=()), shape)
    return (*_outside(spec, around), *(_prepared(tree, spec, around) for tree in trees), _GO, *inner)


def _prepared(tree: _Prepared, spec: SandboxSpec, around: Surroundings) -> Step:
    if isinstance(tree, _OwnedTree):
        return tree.step(around.id_base or 0, spec.user.uid)
    return tree.step(around.data_directory) if isinstance(tree, _DataTree) else tree


_GO = Step(op=Op.GO)


@lru_cache(maxsize=16)
def _body(spec: SandboxSpec, shape: _Shape) -> tuple[tuple[_Prepared, ...], tuple[Step, ...]]:
    """The trees to prepare outside, and what is done inside."""
    build = _Builder(spec=spec, around=shape)
    _identity(build)
    _data_root(build)
    _new_root(build)
    build.inner.extend(_kernel_file_systems(shape.facts))
    _writable_directories(build)
    _workspace(build)
    _root_binds(build, late=True)
    _mounts(build)
    _finish_root(build)
    _walls(build)
    build.do(Op.AGENT, AGENT_SOCKET_FD, why="become the agent")
    return tuple(build.outer), tuple(build.inner)


def _outside(spec: SandboxSpec, around: Surroundings) -> tuple[Step, ...]:
    flags = CloneFlag.NEWUSER | CloneFlag.NEWNS | CloneFlag.NEWPID | CloneFlag.NEWIPC | CloneFlag.NEWUTS
    # systemd mounts cgroup2 with `nsdelegate`: then nothing is cloned into a group outside of its own cgroup namespace (cgroups(7)).
    if around.facts.cgroup_namespace and not around.cgroups.agents:
        flags |= CloneFlag.NEWCGROUP
    if spec.network is not NetworkMode.HOST:
        flags |= CloneFlag.NEWNET
    steps = [
        Step(op=Op.CGROUP, arguments=(version, Text(directory)), description=f"open the cgroup {directory}")
        for version, directory in around.cgroups.directories
    ]
    if around.cgroups.agents:
        steps.append(Step(op=Op.CGROUP, arguments=(3, Text(around.cgroups.agents)), description=f"open the cgroup {around.cgroups.agents}"))
    steps.append(Step(op=Op.CLONE, arguments=(int(flags),), description="create the namespaces"))
    if around.id_base is not None:
        line = f"0 {around.id_base} {RANGE_SIZE}\n"
        maps = (Text(line), Text(line), 0)
    else:
        maps = (Text(f"{spec.user.uid} {around.facts.uid} 1\n"), Text(f"{spec.user.gid} {around.facts.gid} 1\n"), 1)
    steps.append(Step(op=Op.IDMAP, arguments=maps, description="write the user and group id maps"))
    return tuple(steps)


def _identity(build: _Builder) -> None:
    build.do(Op.PRIVATE, why="make the mounts private")
    uid, gid = (0, 0) if build.separated else (build.spec.user.uid, build.spec.user.gid)
    build.do(Op.SETID, uid, gid, why=f"become uid {uid} of the sandbox")
    if build.around.facts.sysctl_writable:
        for name, value in _USER_LIMITS:
            build.do(Op.SYSCTL, f"user/{name}", value, why=f"limit {name} of the sandbox")


def _directory(build: _Builder, path: str, mode: int, *, user: bool) -> None:
    """Makes a directory (beneath the current new root) that belongs to the sandbox's user, or to its root."""
    owner, group = (build.spec.user.uid, build.spec.user.gid) if user or not build.separated else (0, 0)
    build.do(Op.MKDIR, _relative(path), mode, owner, group, why=f"make {path}")


def _data_root(build: _Builder) -> None:
    spec = build.spec
    if spec.storage is StorageKind.DISK:
        _disk_root(build)
    else:
        size = build.around.storage_bytes
        options = f"size={size},nr_inodes={max(1024, size // 4096)},mode=755"
        build.do(Op.ROOT_TMPFS, build.data, options, why="mount the sandbox's storage")
    for name, mode, user in (
        ("root", 0o755, False),
        ("tmp", 0o1777, False),
        ("shm", 0o1777, False),
        ("vartmp", 0o1777, False),
        ("home", 0o755, True),
        ("work", 0o755, True),
    ):
        if name not in build.around.kept:
            _directory(build, name, mode, user=user)
    if spec.root.kind is RootKind.DIRECTORY:
        _directory(build, "image", 0o755, user=False)
        for name in ("image-upper", "image-work"):
            _directory(build, name, 0o755, user=False)
        if files(spec) and not build.separated:  # an /etc of somebody else's could not be written to
            _directory(build, "image-upper/etc", 0o755, user=True)
        build.mount_host(spec.root.directory, "image", _HARD | _RDONLY, Owners.IMAGE)
    if spec.workspace.mode is WorkspaceMode.COPY_ON_WRITE:
        for name in ("work-lower", "work-upper", "work-work"):
            _directory(build, name, 0o755, user=True)
        build.mount_host(spec.workspace.source, "work-lower", _HARD | _RDONLY, Owners.USER)


def _disk_root(build: _Builder) -> None:
    why = "mount the sandbox's directory on disk"
    if not build.separated:
        build.do(Op.ROOT_BIND, build.around.data_directory, build.data, _HARD, why=why)
        return
    slot = build.next_slot()
    build.outer.append(_DataTree(slot=slot))
    build.do(Op.ROOT_SLOT, slot, build.data, why=why)


def _new_root(build: _Builder) -> None:
    spec = build.spec
    if spec.root.kind is RootKind.DIRECTORY:
        options = f"lowerdir={build.data}/image,upperdir={build.data}/image-upper,workdir={build.data}/image-work,userxattr"
        build.do(Op.ROOT_OVERLAY, build.new_root, options, why="mount the image with a private upper layer")
    else:
        build.do(Op.ROOT_TMPFS, build.new_root, "size=4m,nr_inodes=4096,mode=755", why="mount the root")
    _root_binds(build, late=False)
    for path, target in spec.root.symlinks:
        build.do(Op.SYMLINK, target, _relative(path), why=f"link {path} to {target}")
    for file in files(spec):
        build.do(Op.FILE, _relative(file.path), file.mode, file.content, why=f"write {file.path}")


def _root_binds(build: _Builder, *, late: bool) -> None:
    """Shows the host root's directories; those beneath a directory of the sandbox's own only after it (a toolchain in /tmp, say)."""
    spec = build.spec
    covers = ("/tmp/", "/var/tmp/", f"{spec.user.home}/", f"{spec.workspace.target}/")  # noqa: S108 - inside
    for bind in spec.root.binds:
        if bind.target.startswith(covers) is late:
            build.mount_host(bind.source, bind.target, _HARD | _RDONLY, Owners.SYSTEM)
    for path in spec.root.masked:
        if path.startswith(covers) is late:
            build.do(Op.MASK, _relative(path), why=f"hide {path}")


@lru_cache(maxsize=4)
def _kernel_file_systems(facts: HostFacts) -> tuple[Step, ...]:
    """/proc, /sys and /dev: the same in every sandbox of a host."""
    steps = [_step(Op.PROC, "proc", "", _HARD | _NOEXEC, why="mount /proc")]
    steps += [_step(Op.MASK, f"proc/{name}", why=f"mask /proc/{name}") for name in PROC_MASKED]
    steps += [_step(Op.READ_ONLY, f"proc/{name}", why=f"make /proc/{name} read-only") for name in PROC_READ_ONLY]
    steps.append(_step(Op.TMPFS, "sys", "size=64k,nr_inodes=64,mode=755", _HARD | _NOEXEC, why="mount an empty /sys"))
    for source in facts.sys_binds:
        steps.append(_step(Op.BIND, source, _relative(source), _HARD | _NOEXEC | _RDONLY, 1, why=f"show {source}"))
    steps.append(_step(Op.TMPFS, "dev", "size=64k,nr_inodes=128,mode=755", _NOSUID | _NOEXEC, why="mount /dev"))
    for name in facts.devices:
        steps.append(_step(Op.BIND, f"/dev/{name}", f"dev/{name}", _NOSUID | _NOEXEC, 0, why=f"bind /dev/{name}"))
    steps.append(_step(Op.DEVPTS, "dev/pts", "newinstance,ptmxmode=0666,mode=620", _NOSUID | _NOEXEC, why="mount /dev/pts"))
    for target, name in (("pts/ptmx", "ptmx"), ("/proc/self/fd", "fd"), ("fd/0", "stdin"), ("fd/1", "stdout"), ("fd/2", "stderr")):
        steps.append(_step(Op.SYMLINK, target, f"dev/{name}", why=f"link /dev/{name}"))
    steps.append(_step(Op.MQUEUE, "dev/mqueue", _HARD | _NOEXEC, why="mount /dev/mqueue"))
    return tuple(steps)


def _writable_directories(build: _Builder) -> None:
    spec = build.spec
    if spec.root.kind is RootKind.HOST:
        for path in ("/run", "/var", "/mnt", "/opt", "/root", "/srv"):
            _directory(build, path, 0o755, user=False)
    sealed = _RDONLY if spec.read_only_root else _NONE
    for name, target, attributes in (
        ("shm", "/dev/shm", _HARD | _NOEXEC),  # noqa: S108 - the sandbox's own
        ("tmp", "/tmp", _HARD),  # noqa: S108 - the sandbox's own
        ("vartmp", "/var/tmp", _HARD | sealed),  # noqa: S108 - the sandbox's own
    ):
        build.do(Op.BIND, f"{build.data}/{name}", _relative(target), attributes, 0, why=f"mount {target}")
    if spec.home_source:
        build.mount_host(spec.home_source, spec.user.home, _HARD | _RDONLY, Owners.USER)
        for path in spec.home_denied:
            build.do(Op.MASK, f"{_relative(spec.user.home)}/{path}", why=f"hide {path} of the home directory")
    else:
        build.do(Op.BIND, f"{build.data}/home", _relative(spec.user.home), _HARD | sealed, 0, why=f"mount {spec.user.home}")


def _workspace(build: _Builder) -> None:
    workspace = build.spec.workspace
    target = _relative(workspace.target)
    if workspace.mode is WorkspaceMode.COPY_ON_WRITE:
        options = f"lowerdir={build.data}/work-lower,upperdir={build.data}/work-upper,workdir={build.data}/work-work,userxattr"
        build.do(Op.OVERLAY, target, options, _HARD, why=f"mount a private view of {workspace.source}")
        return
    if workspace.mode is WorkspaceMode.WRITABLE:
        build.mount_host(workspace.source, workspace.target, _HARD, Owners.USER)
        _protect(build, target, workspace.protected)
        return
    attributes = _HARD | (_RDONLY if build.spec.read_only_root and not workspace.files else _NONE)
    build.do(Op.BIND, f"{build.data}/work", target, attributes, 0, why=f"mount {workspace.target}")
    for name in workspace.files:
        build.mount_host(posixpath.join(workspace.source, name), f"{workspace.target}/{name}", _HARD | _RDONLY, Owners.USER)


def _protect(build: _Builder, target: str, protected: tuple[str, ...]) -> None:
    """Makes paths of a writable workspace read-only, and their parents mount points, which cannot be renamed away."""
    parents = sorted({posixpath.dirname(path) for path in protected if "/" in path})
    for parent in parents:
        build.do(Op.BIND_WITHIN, f"{target}/{parent}", f"{target}/{parent}", _HARD, why=f"pin {parent} of the workspace")
    for path in protected:
        build.do(Op.READ_ONLY, f"{target}/{path}", why=f"protect {path} of the workspace")


def _mounts(build: _Builder) -> None:
    for bind in build.spec.mounts:
        build.mount_host(bind.source, bind.target, mount_attributes(bind), Owners.USER)


def mount_attributes(bind: Bind) -> int:
    """The attributes of a mount that the user asked for."""
    attributes = _HARD
    if not bind.writable:
        attributes |= _RDONLY
    if not bind.executable:
        attributes |= _NOEXEC
    return attributes


def _finish_root(build: _Builder) -> None:
    if build.spec.read_only_root or build.spec.root.kind is RootKind.HOST:
        build.do(Op.REMOUNT_ROOT, _HARD | _RDONLY, why="make the root read-only")
    _low_ports(build)
    build.do(Op.PIVOT, why="change the root")
    build.do(Op.HOSTNAME, build.spec.hostname, why="set the host name")
    if build.spec.network is not NetworkMode.HOST:
        build.do(Op.LOOPBACK, why="bring up the loopback interface")
    if build.spec.transparent_network:
        build.do(Op.TRANSPARENT, TRANSPARENT_PORT, RESOLVER_PORT, why="redirect connections to the agent")


def _low_ports(build: _Builder) -> None:
    """Who may serve below port 1024: everybody, for the namespace is the sandbox's own; the agent must, as a resolver."""
    network = build.spec.network
    if network is NetworkMode.FILTERED or (network is NetworkMode.NONE and build.around.facts.sysctl_writable):
        build.do(Op.SYSCTL, "net/ipv4/ip_unprivileged_port_start", "0", why="let the agent listen on port 53")


def _walls(build: _Builder) -> None:
    build.do(Op.CAPABILITIES, _KEEP_SEPARATED if build.separated else 0, why="drop capabilities")
    build.do(Op.NO_NEW_PRIVS, why="set no_new_privs")
    abi = build.around.facts.landlock_abi
    if abi < landlock.MINIMUM_ABI:
        return
    build.do(Op.LANDLOCK, landlock.handled(abi), 0, landlock.scoped(abi), why="create the Landlock ruleset")
    for path, access in _landlock_rules(build, abi):
        build.do(Op.LANDLOCK_PATH, path, access, why=f"add the Landlock rule for {path}")
    build.do(Op.LANDLOCK_APPLY, why="apply the Landlock ruleset")


def _landlock_rules(build: _Builder, abi: int) -> list[tuple[str, int]]:
    spec = build.spec
    write = landlock.write(abi)
    if spec.root.kind is RootKind.DIRECTORY and not spec.read_only_root:
        rules = [("/", write)]
    else:
        rules = [("/", landlock.READ)]
        rules += [(path, write) for path in ("/tmp", "/var/tmp", spec.user.home, spec.workspace.target, "/proc")]  # noqa: S108
        rules += [(bind.target, write) for bind in spec.mounts if bind.writable]
    devices = landlock.handled(abi) & (
        landlock.READ_FILE | landlock.WRITE_FILE | landlock.READ_DIR | landlock.TRUNCATE | landlock.IOCTL_DEV
    )
    return [*rules, ("/dev", devices), ("/dev/shm", write), ("/dev/mqueue", write)]  # noqa: S108


def _relative(path: str) -> str:
    return path.lstrip("/")
