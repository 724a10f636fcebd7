"""SandboxSpec to launch plan: what a sandbox's file system and walls look like. Pure.

Two roots are mounted, one in the other: the data tree at the state directory's mount point, and the new root at `<mount point>/root` (see
`_linux.tree`). The data tree is out of sight once the old root is detached.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from agentkernel.backends._linux import tree
from agentkernel.backends._linux.facts import HostFacts
from agentkernel.backends._linux.plan import AGENT_SOCKET_FD, CloneFlag, Op, Step
from agentkernel.backends._linux.tree import HARD, NODEV, NOEXEC, NOSUID, RDONLY, Builder, DataTree, Prepared, Shape, Surroundings, step
from agentkernel.model.network import NOTHING, USUAL
from agentkernel.model.spec import NetworkMode, RootKind, SandboxSpec, StorageKind
from agentkernel.policy import landlock
from agentkernel.policy.inside import RESOLVER_PORT, TRANSPARENT_PORT

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
_GO = Step(op=Op.GO)


def build_plan(spec: SandboxSpec, around: Surroundings) -> tuple[Step, ...]:
    """Computes every step of a sandbox's launch; those that the sandbox's own names and ids are in anew, the others as remembered."""
    trees, inner = _body(replace(spec, name="", egress=NOTHING, egress_limits=USUAL, ports=(), environment=()), tree.shape_of(around))
    return (*_outside(spec, around), *(tree.prepared(each, spec, around) for each in trees), _GO, *inner)


@lru_cache(maxsize=16)
def _body(spec: SandboxSpec, shape: Shape) -> tuple[tuple[Prepared, ...], tuple[Step, ...]]:
    """The trees to prepare outside, and what is done inside."""
    build = Builder(spec=spec, around=shape, data=shape.mount_point, new_root=f"{shape.mount_point}/root")
    _identity(build)
    _data_root(build)
    _new_root(build)
    build.inner.extend(_kernel_file_systems(shape.facts))
    tree.writable_directories(build)
    tree.workspace(build)
    tree.root_binds(build, late=True)
    tree.mounts(build)
    _finish_root(build)
    _walls(build)
    build.do(Op.AGENT, AGENT_SOCKET_FD, why="become the agent")
    return tuple(build.outer), tuple(build.inner)


def _outside(spec: SandboxSpec, around: Surroundings) -> list[Step]:
    flags = CloneFlag.NEWUSER | CloneFlag.NEWNS | CloneFlag.NEWPID | CloneFlag.NEWIPC | CloneFlag.NEWUTS
    # systemd mounts cgroup2 with `nsdelegate`: then nothing is cloned into a group outside of its own cgroup namespace (cgroups(7)).
    if around.facts.cgroup_namespace and not around.cgroups.agents:
        flags |= CloneFlag.NEWCGROUP
    if spec.network is not NetworkMode.HOST:
        flags |= CloneFlag.NEWNET
    return [*tree.cgroup_steps(around.cgroups), *tree.clone_steps(flags, spec, around)]


def _identity(build: Builder) -> None:
    build.do(Op.PRIVATE, why="make the mounts private")
    uid, gid = (0, 0) if build.separated else (build.spec.user.uid, build.spec.user.gid)
    build.do(Op.SETID, uid, gid, why=f"become uid {uid} of the sandbox")
    if build.around.facts.sysctl_writable:
        for name, value in _USER_LIMITS:
            build.do(Op.SYSCTL, f"user/{name}", value, why=f"limit {name} of the sandbox")


def _data_root(build: Builder) -> None:
    if build.spec.storage is StorageKind.DISK:
        _disk_root(build)
    else:
        size = build.around.storage_bytes
        options = f"size={size},nr_inodes={max(1024, size // 4096)},mode=755"
        build.do(Op.ROOT_TMPFS, build.data, options, why="mount the sandbox's storage")
    tree.data_directories(build)


def _disk_root(build: Builder) -> None:
    why = "mount the sandbox's directory on disk"
    if not build.separated:
        build.do(Op.ROOT_BIND, build.around.data_directory, build.data, HARD, why=why)
        return
    slot = build.next_slot()
    build.outer.append(DataTree(slot=slot))
    build.do(Op.ROOT_SLOT, slot, build.data, why=why)


def _new_root(build: Builder) -> None:
    if build.spec.root.kind is RootKind.DIRECTORY:
        build.do(Op.ROOT_OVERLAY, build.new_root, tree.image_options(build), why="mount the image with a private upper layer")
    else:
        build.do(Op.ROOT_TMPFS, build.new_root, "size=4m,nr_inodes=4096,mode=755", why="mount the root")
    tree.root_content(build)


@lru_cache(maxsize=4)
def _kernel_file_systems(facts: HostFacts) -> tuple[Step, ...]:
    """/proc, /sys and /dev: the same in every sandbox of a host."""
    steps = [step(Op.PROC, "proc", "", HARD | NOEXEC, why="mount /proc")]
    steps += [step(Op.MASK, f"proc/{name}", why=f"mask /proc/{name}") for name in PROC_MASKED]
    steps += [step(Op.READ_ONLY, f"proc/{name}", why=f"make /proc/{name} read-only") for name in PROC_READ_ONLY]
    steps.append(step(Op.TMPFS, "sys", "size=64k,nr_inodes=64,mode=755", HARD | NOEXEC, why="mount an empty /sys"))
    for source in facts.sys_binds:
        steps.append(step(Op.BIND, source, _relative(source), HARD | NOEXEC | RDONLY, 1, why=f"show {source}"))
    steps.append(step(Op.TMPFS, "dev", "size=64k,nr_inodes=128,mode=755", NOSUID | NOEXEC, why="mount /dev"))
    for name in facts.devices:
        steps.append(step(Op.BIND, f"/dev/{name}", f"dev/{name}", NOSUID | NOEXEC, 0, why=f"bind /dev/{name}"))
    steps.append(step(Op.DEVPTS, "dev/pts", "newinstance,ptmxmode=0666,mode=620", NOSUID | NOEXEC, why="mount /dev/pts"))
    for target, name in (("pts/ptmx", "ptmx"), ("/proc/self/fd", "fd"), ("fd/0", "stdin"), ("fd/1", "stdout"), ("fd/2", "stderr")):
        steps.append(step(Op.SYMLINK, target, f"dev/{name}", why=f"link /dev/{name}"))
    steps.append(step(Op.MQUEUE, "dev/mqueue", NOSUID | NODEV | NOEXEC, why="mount /dev/mqueue"))
    return tuple(steps)


def _finish_root(build: Builder) -> None:
    if build.spec.read_only_root or build.spec.root.kind is RootKind.HOST:
        build.do(Op.REMOUNT_ROOT, HARD | RDONLY, why="make the root read-only")
    _low_ports(build)
    build.do(Op.PIVOT, why="change the root")
    build.do(Op.HOSTNAME, build.spec.hostname, why="set the host name")
    if build.spec.network is not NetworkMode.HOST:
        build.do(Op.LOOPBACK, why="bring up the loopback interface")
    if build.spec.transparent_network:
        build.do(Op.TRANSPARENT, TRANSPARENT_PORT, RESOLVER_PORT, why="redirect connections to the agent")


def _low_ports(build: Builder) -> None:
    """Who may serve below port 1024: everybody, for the namespace is the sandbox's own; the agent must, as a resolver."""
    network = build.spec.network
    if network is NetworkMode.FILTERED or (network is NetworkMode.NONE and build.around.facts.sysctl_writable):
        build.do(Op.SYSCTL, "net/ipv4/ip_unprivileged_port_start", "0", why="let the agent listen on port 53")


def _walls(build: Builder) -> None:
    build.do(Op.CAPABILITIES, _KEEP_SEPARATED if build.separated else 0, why="drop capabilities")
    build.do(Op.NO_NEW_PRIVS, why="set no_new_privs")
    abi = build.around.facts.landlock_abi
    if abi < landlock.MINIMUM_ABI:
        return
    build.do(Op.LANDLOCK, landlock.handled(abi), 0, landlock.scoped(abi), why="create the Landlock ruleset")
    for path, access in _landlock_rules(build, abi):
        build.do(Op.LANDLOCK_PATH, path, access, why=f"add the Landlock rule for {path}")
    build.do(Op.LANDLOCK_APPLY, why="apply the Landlock ruleset")


def _landlock_rules(build: Builder, abi: int) -> list[tuple[str, int]]:
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
