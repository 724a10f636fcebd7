"""Isolation level `process`: where the host forbids user namespaces, Landlock and seccomp alone. Used only when it is asked for.

There is no mount namespace, so nothing can be shown elsewhere than where it is: the sandbox's HOME, /tmp and working directory are
directories on the host's disk, and the environment points to them. There is no network namespace either, so the seccomp filter refuses
every socket that is not a pair.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os

from agentkernel.backends._linux.facts import HostFacts
from agentkernel.backends._linux.plan import AGENT_SOCKET_FD, Op, Step, Text
from agentkernel.backends._sources import resolved_sources
from agentkernel.errors import Unsupported
from agentkernel.model.spec import NetworkMode, RootKind, SandboxSpec, StorageKind, WorkspaceMode
from agentkernel.policy import landlock

SECCOMP_TABLE = "process"
_WORKLOAD_ID = 1000
_DIRECTORIES = ("home", "tmp", "work")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
# Read-only parts of /etc that the dynamic linker, TLS and name services need; the synthetic files of a host root cannot be shown here.
_ETC = (
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ssl/certs", "ssl/openssl.cnf", "ca-certificates.conf", "alternatives", "localtime",
    "nsswitch.conf", "passwd", "group",
)  # fmt: skip


def require(facts: HostFacts) -> None:
    """Raises Unsupported where Landlock cannot keep signals and abstract sockets inside."""
    if facts.landlock_abi < landlock.SCOPE_ABI:
        raise Unsupported(
            f"isolation level `process` needs Landlock ABI {landlock.SCOPE_ABI}, this kernel has {facts.landlock_abi}",
            hint="use kernel 6.12 or newer, or allow user namespaces",
        )


def directories(data: str) -> tuple[str, ...]:
    """The directories that the backend makes beneath the sandbox's own directory."""
    return tuple(f"{data}/{name}" for name in _DIRECTORIES)


def user(facts: HostFacts, id_base: int | None) -> tuple[int, int]:
    """Whose agent and workload run, as the host sees it."""
    return (facts.uid, facts.gid) if id_base is None else (id_base + _WORKLOAD_ID, id_base + _WORKLOAD_ID)


def make_directories(data: str, uid: int, gid: int) -> None:
    """Makes those that are not there yet; what the workload made in an earlier boot stays as it is."""
    for path in directories(data):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        os.chown(path, uid, gid, follow_symlinks=False)


def relocate(spec: SandboxSpec, data: str, uid: int, gid: int) -> SandboxSpec:
    """The spec with HOME, /tmp, /workspace and the user as they are at this level; raises Unsupported for what it cannot give."""
    _refuse(spec)
    places = {spec.user.home: f"{data}/home", "/tmp": f"{data}/tmp", "/var/tmp": f"{data}/tmp"}  # noqa: S108
    workspace = dataclasses.replace(spec.workspace, target=f"{data}/work")
    if spec.workspace.mode in (WorkspaceMode.WRITABLE, WorkspaceMode.FILES):
        workspace = dataclasses.replace(spec.workspace, target=spec.workspace.source)
    places[spec.workspace.target] = workspace.target
    environment = tuple((name, _moved(value, places)) for name, value in spec.environment)
    return dataclasses.replace(
        spec,
        workspace=workspace,
        user=dataclasses.replace(spec.user, uid=uid, gid=gid, home=f"{data}/home"),
        environment=environment,
        seccomp=SECCOMP_TABLE,
        storage=StorageKind.DISK,
    )


def _refuse(spec: SandboxSpec) -> None:
    wanted = ""
    if spec.root.kind is not RootKind.HOST:
        wanted = "an image at isolation level `process`"
    elif spec.workspace.mode is WorkspaceMode.COPY_ON_WRITE:
        wanted = "a private view of the working directory at isolation level `process`"
    elif spec.network is not NetworkMode.NONE:
        wanted = "network at isolation level `process`"
    elif any(bind.source != bind.target for bind in spec.mounts) or spec.home_source:
        wanted = "mounts at isolation level `process`"
    if wanted:
        raise Unsupported(f"backend 'namespaces' cannot provide {wanted}", hint="see what `agentkernel doctor` says about user namespaces")


def _moved(value: str, places: dict[str, str]) -> str:
    """Moves each item of a colon-separated value that lies in a place."""
    items = []
    for item in value.split(":"):
        for old, new in places.items():
            if item == old or item.startswith(f"{old}/"):
                item = new + item[len(old) :]
                break
        items.append(item)
    return ":".join(items)


def build_process_plan(spec: SandboxSpec, facts: HostFacts, cgroup_directories: tuple[tuple[int, str], ...]) -> tuple[Step, ...]:
    """The plan of a relocated spec: no namespaces, the walls only."""
    abi = facts.landlock_abi
    steps = [
        Step(op=Op.CGROUP, arguments=(version, Text(path)), description=f"open the cgroup {path}") for version, path in cgroup_directories
    ]
    steps += [
        Step(op=Op.CLONE, arguments=(0,), description="start the first process"),
        Step(op=Op.GO),
        Step(op=Op.SETID, arguments=(spec.user.uid, spec.user.gid), description=f"become uid {spec.user.uid}"),
        *([Step(op=Op.CAPABILITIES, arguments=(0,), description="drop capabilities")] if facts.uid == 0 else []),  # others have none
        Step(op=Op.NO_NEW_PRIVS, description="set no_new_privs"),
        Step(op=Op.LANDLOCK, arguments=(landlock.handled(abi), 0, landlock.scoped(abi)), description="create the Landlock ruleset"),
    ]
    places = resolved_sources(spec)
    for path, access in _rules(spec, abi):
        where = places[path] if path in places else os.path.realpath(path)
        steps.append(Step(op=Op.LANDLOCK_PATH, arguments=(Text(where), access), description=f"add the Landlock rule for {path}"))
    steps.append(Step(op=Op.LANDLOCK_APPLY, description="apply the Landlock ruleset"))
    steps.append(Step(op=Op.AGENT, arguments=(AGENT_SOCKET_FD,), description="become the agent"))
    return tuple(steps)


def _rules(spec: SandboxSpec, abi: int) -> list[tuple[str, int]]:
    write = landlock.write(abi)
    data = spec.user.home.removesuffix("/home")
    rules = [(path, write) for path in directories(data)]
    rules += [(bind.source, landlock.READ) for bind in spec.root.binds if not bind.source.startswith("/etc/")]
    rules += [(path, landlock.READ) for path, _ in spec.root.symlinks]  # /bin, /lib: their targets
    rules += [(f"/etc/{name}", landlock.READ) for name in _ETC]
    rules += [(f"/dev/{name}", landlock.READ_FILE | landlock.WRITE_FILE) for name in _DEVICES]
    rules += [(bind.source, write if bind.writable else landlock.READ) for bind in spec.mounts]
    if spec.workspace.mode is WorkspaceMode.WRITABLE:
        rules.append((spec.workspace.source, write))
    if spec.workspace.mode is WorkspaceMode.FILES:
        rules += [(f"{spec.workspace.source}/{name}", landlock.READ) for name in spec.workspace.files]
    return rules
