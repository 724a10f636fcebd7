"""What this host allows, read without changing anything; `probe` then proves it by running a whole plan."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from agentkernel.config.privilege import has_id_ranges

_NR_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_CREATE_RULESET_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """The facts that a plan depends on."""

    uid: int
    gid: int
    privileged: bool  # real root with the whole id space: id ranges, id-mapped mounts
    architecture: str
    kernel: str
    landlock_abi: int  # 0: none
    sys_binds: tuple[str, ...]  # what of /sys is shown, as far as it exists here
    devices: tuple[str, ...]
    cgroup_namespace: bool
    sysctl_writable: bool  # /proc/sys is not mounted read-only, as container engines do


# CPU topology (thread pools size themselves by it), NUMA nodes, and huge pages (allocators, JVM); nothing else of /sys is shown.
SYS_BINDS = ("/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/kernel/mm/transparent_hugepage")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def read_facts() -> HostFacts:
    """Reads the facts of this host for the current user."""
    uid, gid, host = os.geteuid(), os.getegid(), os.uname()
    return HostFacts(
        uid=uid,
        gid=gid,
        privileged=has_id_ranges(),
        architecture=host.machine,
        kernel=host.release,
        landlock_abi=landlock_abi(),
        sys_binds=tuple(path for path in SYS_BINDS if Path(path).is_dir()),
        devices=tuple(name for name in DEVICES if Path("/dev", name).is_char_device()),
        cgroup_namespace=Path("/proc/self/ns/cgroup").exists(),
        sysctl_writable=not os.statvfs("/proc/sys").f_flag & os.ST_RDONLY,
    )


def landlock_abi() -> int:
    """The kernel's Landlock ABI version, 0 where there is none (landlock_create_ruleset(2), "LANDLOCK_CREATE_RULESET_VERSION")."""
    libc = ctypes.CDLL(None, use_errno=True)
    version: int = libc.syscall(_NR_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_LANDLOCK_CREATE_RULESET_VERSION))
    return max(version, 0)


def user_namespace_obstacle() -> tuple[str, str]:
    """Why user namespaces may be refused here, and the remedy; two empty strings when nothing is known to forbid them."""
    for name, allowed, remedy in (
        ("/proc/sys/kernel/unprivileged_userns_clone", "1", "sysctl -w kernel.unprivileged_userns_clone=1"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "0", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
    ):
        try:
            value = Path(name).read_text().strip()
        except OSError:
            continue
        if value != allowed:
            return f"{name} is {value}", f"ask the administrator for `{remedy}`"
    try:
        if Path("/proc/sys/user/max_user_namespaces").read_text().strip() == "0":
            return "/proc/sys/user/max_user_namespaces is 0", "ask the administrator for `sysctl -w user.max_user_namespaces=15000`"
    except OSError:
        return "this kernel has no user namespaces", "use another backend"
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return (
            "this looks like a container, whose runtime may forbid namespaces or mask /proc",
            "run the container with `--security-opt seccomp=unconfined --security-opt systempaths=unconfined`, or --min-isolation process",
        )
    return "", ""
