"""What this backend configures an agent with."""

from __future__ import annotations

import resource

from agentkernel.backends._configuration import Configuration, Rlimits
from agentkernel.channel.messages import NetworkPorts
from agentkernel.model.spec import NetworkMode, SandboxSpec
from agentkernel.policy.inside import PROXY_PORT, RESOLVER_PORT, TRANSPARENT_PORT
from agentkernel.policy.seccomp import compile_filter
from agentkernel.policy.syscall_tables import WITHOUT_UNMAPPED_MEMORY


def configuration_of(spec: SandboxSpec, architecture: str, *, memory_by_group: bool, pids_by_group: bool) -> Configuration:
    """Of a sandbox that is to be built; `..._by_group`: a cgroup enforces that limit."""
    # What a sampled memory limit would not see is refused.
    sampled = spec.resources.memory_bytes is not None and not memory_by_group
    table = f"{spec.seccomp}{WITHOUT_UNMAPPED_MEMORY}" if sampled else spec.seccomp
    return Configuration(
        level=spec.level.label,
        seccomp=compile_filter(table, architecture),
        rlimits=workload_limits(spec, pids_by_group=pids_by_group),
        network=_network(spec),
    )


def _network(spec: SandboxSpec) -> NetworkPorts | None:
    if spec.network is not NetworkMode.FILTERED:
        return None
    return NetworkPorts(PROXY_PORT, RESOLVER_PORT, TRANSPARENT_PORT if spec.transparent_network else 0)


# The kernel counts these for the sandbox's user and again for the host's user who made its namespace (user_namespaces(7)): a sandbox
# that used them up would leave that user, so as a rule root, without timers, queued signals and message queues.
_SHARED = (resource.RLIMIT_SIGPENDING, resource.RLIMIT_MSGQUEUE)


def _share(number: int) -> int:
    soft = resource.getrlimit(number)[0]
    return 4096 if soft == resource.RLIM_INFINITY else soft // 4


def workload_limits(spec: SandboxSpec, *, pids_by_group: bool) -> Rlimits:
    """The resource limits of every process of the workload: (resource, soft, hard), never above what this process may set."""
    wanted = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, spec.resources.open_files),
        (resource.RLIMIT_MEMLOCK, 8 * 1024 * 1024),
        (resource.RLIMIT_RTPRIO, 0),  # some hosts let their users have these (limits.conf of audio packages)
        (resource.RLIMIT_NICE, 0),
        *((number, _share(number)) for number in _SHARED),
    ]
    if spec.resources.pids is not None and not pids_by_group:  # it would strike first, and nobody would know
        wanted.append((resource.RLIMIT_NPROC, spec.resources.pids))
    limits = []
    for number, value in wanted:
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        limits.append((number, value, value))
    return tuple(limits)
