"""Limits: the profile's, unless the user says otherwise, within what any host can make sense of."""

from __future__ import annotations

from agentkernel.errors import InvalidInput
from agentkernel.model.request import SandboxRequest
from agentkernel.model.spec import Resources
from agentkernel.policy.profiles import Profile
from agentkernel.units import format_size

MIN_MEMORY_BYTES = 16 * 2**20  # less does not hold the agent and one shell
MAX_MEMORY_BYTES = 2**46
MIN_CPUS, MAX_CPUS = 0.01, 1024.0  # a quota of 1 ms in 100 ms is the kernel's least
MIN_PIDS, MAX_PIDS = 1, 4194304  # PID_MAX_LIMIT
MIN_DISK_BYTES = 2**20
MAX_DISK_BYTES = 2**50


def resources(request: SandboxRequest, profile: Profile) -> Resources:
    """The limits of a sandbox; a user's own flag may lower or raise the profile's. Raises InvalidInput out of range."""
    memory = profile.memory_bytes if request.memory_bytes is None else request.memory_bytes
    cpus = profile.cpus if request.cpus is None else request.cpus
    pids = profile.pids if request.pids is None else request.pids
    disk = profile.disk_bytes if request.disk_bytes is None else request.disk_bytes
    if memory is not None and not MIN_MEMORY_BYTES <= memory <= MAX_MEMORY_BYTES:
        raise _out_of_range("memory", format_size(memory), format_size(MIN_MEMORY_BYTES), format_size(MAX_MEMORY_BYTES))
    if cpus is not None and not MIN_CPUS <= cpus <= MAX_CPUS:
        raise _out_of_range("cpus", str(cpus), str(MIN_CPUS), f"{MAX_CPUS:g}")
    if not MIN_PIDS <= pids <= MAX_PIDS:
        raise _out_of_range("pids", str(pids), str(MIN_PIDS), str(MAX_PIDS))
    if not MIN_DISK_BYTES <= disk <= MAX_DISK_BYTES:
        raise _out_of_range("disk", format_size(disk), format_size(MIN_DISK_BYTES), format_size(MAX_DISK_BYTES))
    return Resources(memory_bytes=memory, cpus=cpus, pids=pids, disk_bytes=disk)


def _out_of_range(what: str, got: str, least: str, most: str) -> InvalidInput:
    return InvalidInput(f"the {what} limit {got} is out of range", hint=f"choose between {least} and {most}")
