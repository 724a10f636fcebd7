"""SandboxSpec to launch plan: everything that runsc needs, and nothing else of the host, as the root of its processes. Pure.

    /            a small tmpfs, which is gone with the sandbox's first process
    /proc, /dev, /tmp   what runsc itself needs
    /runsc       the program
    /state       what it remembers of its container
    /bundle      config.json
    /data        what the sandbox may write (a tmpfs, or its directory on disk)
    /root        the sandbox's file tree (`_linux.tree`)

So neither runsc nor gVisor's processes, should the workload ever get the better of them, see more of the host than the sandbox does.
"""

from __future__ import annotations

from agentkernel.backends._linux import tree
from agentkernel.backends._linux.plan import AGENT_SOCKET_FD, LOG_FD, CloneFlag, Op, Step
from agentkernel.backends._linux.tree import HARD, NODEV, NOEXEC, NOSUID, RDONLY, Builder, DataTree, Owners, Surroundings, step
from agentkernel.backends.gvisor.bundle import GUEST, GUEST_DIRECTORY
from agentkernel.model.spec import RootKind, SandboxSpec, StorageKind

ROOT = "/root"
BUNDLE = "/bundle"
STATE = "/state"
_RUNSC = "/runsc"
_DEVICES = ("null", "zero", "full", "random", "urandom")
_GO = Step(op=Op.GO)


def build_plan(
    spec: SandboxSpec, around: Surroundings, *, programs: tuple[str, str], words: tuple[str, ...], config: bytes, devices: tuple[str, ...]
) -> tuple[Step, ...]:
    """Computes every step of a sandbox's launch.

    `programs`: the host's paths of runsc and of the guest binary; `words`: what runsc is started with; `devices`: those of /dev that its
    platform needs.
    """
    point = around.mount_point
    build = Builder(spec=spec, around=tree.shape_of(around), data=f"{point}/data", new_root=f"{point}{ROOT}")
    build.do(Op.PRIVATE, why="make the mounts private")
    build.do(Op.SETID, 0, 0, why="become root of the sandbox")
    _surroundings(build, programs[0], config, devices)
    _data(build)
    _root(build, programs[1])
    build.do(Op.PIVOT, why="change the root")
    encoded = b"".join(word.encode() + b"\0" for word in ("runsc", *words))
    build.do(Op.PROGRAM, AGENT_SOCKET_FD, LOG_FD, _RUNSC, encoded, why="start runsc")
    flags = CloneFlag.NEWUSER | CloneFlag.NEWNS | CloneFlag.NEWPID | CloneFlag.NEWIPC | CloneFlag.NEWUTS
    outside = (*tree.cgroup_steps(around.cgroups), *tree.clone_steps(flags, spec, around))
    return (*outside, *(tree.prepared(each, spec, around) for each in build.outer), _GO, *build.inner)


def _surroundings(build: Builder, runsc: str, config: bytes, devices: tuple[str, ...]) -> None:
    point = build.around.mount_point
    build.do(Op.ROOT_TMPFS, point, "size=16m,nr_inodes=4096,mode=755", why="mount the root of runsc")
    build.do(Op.PROC, "proc", "", HARD | NOEXEC, why="mount /proc")
    build.do(Op.TMPFS, "dev", "size=64k,nr_inodes=64,mode=755", NOSUID | NOEXEC, why="mount /dev")
    for name in (*_DEVICES, *devices):
        build.do(Op.BIND, f"/dev/{name}", f"dev/{name}", NOSUID | NOEXEC, 0, why=f"bind /dev/{name}")
    for name, mode in (("tmp", 0o700), ("state", 0o700), ("bundle", 0o700)):
        build.do(Op.MKDIR, name, mode, 0, 0, why=f"make /{name} of runsc")
    build.mount_host(runsc, _RUNSC, HARD | RDONLY, Owners.SYSTEM)
    build.do(Op.FILE, f"{BUNDLE.lstrip('/')}/config.json", 0o600, config, why="write the bundle")


def _data(build: Builder) -> None:
    if build.spec.storage is StorageKind.DISK:
        slot = build.next_slot()
        build.outer.append(DataTree(slot=slot))
        build.do(Op.ATTACH, slot, "data", why="mount the sandbox's directory on disk")
    else:
        size = build.around.storage_bytes
        options = f"size={size},nr_inodes={max(1024, size // 4096)},mode=755"
        build.do(Op.TMPFS, "data", options, NOSUID | NODEV, why="mount the sandbox's storage")
    build.beneath = "data/"
    tree.data_directories(build)


def _root(build: Builder, guest: str) -> None:
    spec = build.spec
    build.beneath = f"{ROOT.lstrip('/')}/"
    where = ROOT.lstrip("/")
    is_image = spec.root.kind is RootKind.DIRECTORY
    if is_image:
        build.do(Op.OVERLAY, where, tree.image_options(build), HARD, why="mount the image with a private upper layer")
    else:
        build.do(Op.TMPFS, where, "size=4m,nr_inodes=4096,mode=755", HARD, why="mount the root")
    tree.root_content(build)
    for path in ("/proc", "/sys", "/dev"):
        if not is_image:  # gVisor mounts there, and needs nothing to mount on
            build.directory(path, 0o755, user=False)
    tree.writable_directories(build)
    tree.workspace(build)
    tree.root_binds(build, late=True)
    tree.mounts(build)
    build.directory(GUEST_DIRECTORY, 0o700, user=False)
    build.mount_host(guest, GUEST, HARD | RDONLY, Owners.SYSTEM)
    if spec.read_only_root or not is_image:
        build.inner.append(step(Op.REMOUNT, where, HARD | RDONLY, why="make the root read-only"))
