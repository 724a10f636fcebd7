"""A container's plan as arguments of `container create`, and the session that leads to its agent. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from agentkernel.backends.containers.plan import AGENT_FILES, GUEST, RUN_DIRECTORY, ContainerPlan, Tmpfs

_MIB: Final = 1024 * 1024
SOCKET: Final = f"{RUN_DIRECTORY}/agent.sock"
_ROOT: Final = ("--uid", "0", "--gid", "0")


def create_arguments(plan: ContainerPlan, guest_directory: str) -> tuple[str, ...]:
    """Everything after `container`. Nothing of the host is shown but the guest; see `furnish` for the plan's mounts."""
    entrypoint, *words = plan.argv
    return (
        "create",
        *("--name", plan.name),
        *_pairs("--label", (f"{name}={value}" for name, value in sorted(plan.labels.items()))),
        *("--entrypoint", entrypoint, *_ROOT, "--workdir", "/"),
        *_limits(plan),
        *("--cap-drop", "ALL", *_pairs("--cap-add", (f"CAP_{name}" for name in plan.capabilities))),
        *("--network", "none", *(("--dns", plan.resolver) if plan.resolver else ("--no-dns",))),
        *(("--read-only",) if plan.read_only_root else ()),
        *_pairs("--mount", _mounts(plan, guest_directory)),
        plan.image,
        *words,
    )


def session_arguments(name: str) -> tuple[str, ...]:
    """A session whose standard streams are a connection to the agent; it ends with the connection, and nothing else does."""
    return ("exec", "--interactive", *_ROOT, "--workdir", "/", name, GUEST, "relay", SOCKET)


_RUN: Final = Tmpfs(target=RUN_DIRECTORY, size_bytes=_MIB, mode=0o700)


def _limits(plan: ContainerPlan) -> tuple[str, ...]:
    """Machines have whole processors and whole mebibytes."""
    memory = () if plan.memory_bytes is None else ("--memory", f"{math.ceil(plan.memory_bytes / _MIB)}M")
    cpus = () if plan.cpus is None else ("--cpus", str(max(1, math.ceil(plan.cpus))))
    return (*memory, *cpus, "--shm-size", f"{max(1, plan.shm_bytes // _MIB)}M", "--ulimit", f"nofile={AGENT_FILES}:{AGENT_FILES}")


def _mounts(plan: ContainerPlan, guest_directory: str) -> list[str]:
    """Outer places before those in them."""
    places = {each.target: _memory(each) for each in (_RUN, *plan.tmpfs)}
    places |= {target: f"type=bind,source={guest_directory},target={target},readonly" for target in plan.guest_directories}
    return [places[target] for target in sorted(places, key=lambda target: (target.count("/"), target))]


def _memory(tmpfs: Tmpfs) -> str:
    """The program knows no owners: what belongs to the workload is open to everybody, of whom there is nobody else."""
    mode = 0o1777 if tmpfs.uid else tmpfs.mode
    size = f"size={max(1, tmpfs.size_bytes // _MIB)}M"
    return f"type=tmpfs,target={tmpfs.target},{size},mode={mode:o}{'' if tmpfs.writable else ',readonly'}"


def _pairs(flag: str, values: Iterable[str]) -> tuple[str, ...]:
    return tuple(word for value in values for word in (flag, value))
