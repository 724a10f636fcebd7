"""The three security profiles, as data: the five columns that users were promised, and the limits that go with them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agentkernel.errors import UnknownKey
from agentkernel.model.names import suggest
from agentkernel.model.spec import WorkspaceMode

MIB = 2**20
GIB = 2**30


class Reach(StrEnum):
    """What a profile lets a sandbox reach when its network is on."""

    FILTERED = "filtered"  # through the egress policy only
    HOST = "host"  # the host's own network


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One row of the table. The first five are its columns, which a request may switch one by one."""

    name: str
    network: bool
    mount_cwd: bool  # yes: the working directory itself, writable
    mount_home: bool  # yes: read-only, without credentials
    pass_environment: bool  # yes: without secrets
    read_only_root: bool
    reach: Reach
    unmounted: WorkspaceMode  # how the working directory is seen where `mount_cwd` says no
    memory_bytes: int | None  # None: unlimited
    cpus: float | None
    pids: int  # never unlimited: a fork bomb stops the host, not only the sandbox
    disk_bytes: int
    seccomp: str


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="permissive",
            network=True, mount_cwd=True, mount_home=True, pass_environment=True, read_only_root=False,
            reach=Reach.HOST, unmounted=WorkspaceMode.COPY_ON_WRITE,
            memory_bytes=None, cpus=None, pids=4096, disk_bytes=8 * GIB,
            seccomp="moderate",  # what it leaves out no build or test needs, whatever the user trusts
        ),
        Profile(
            name="moderate",
            network=True, mount_cwd=False, mount_home=False, pass_environment=False, read_only_root=False,
            reach=Reach.FILTERED, unmounted=WorkspaceMode.COPY_ON_WRITE,
            memory_bytes=512 * MIB, cpus=1.0, pids=512, disk_bytes=GIB,
            seccomp="moderate",
        ),
        Profile(
            name="restrictive",
            network=False, mount_cwd=False, mount_home=False, pass_environment=False, read_only_root=True,
            reach=Reach.FILTERED, unmounted=WorkspaceMode.FILES,
            memory_bytes=256 * MIB, cpus=0.5, pids=256, disk_bytes=256 * MIB,
            seccomp="restrictive",
        ),
    )
}  # fmt: skip


def profile(name: str) -> Profile:
    """The profile of that name; raises UnknownKey, never falls back to another."""
    try:
        return PROFILES[name]
    except KeyError:
        raise UnknownKey(f"there is no profile {name!r}", hint=suggest(name, PROFILES)) from None
