"""What this backend configures an agent with: all of it is enforced by the sandbox's own kernel."""

from __future__ import annotations

import resource

from agentkernel.backends._configuration import Configuration, Rlimits
from agentkernel.channel.messages import NetworkPorts
from agentkernel.model.spec import NetworkMode, SandboxSpec
from agentkernel.policy.inside import PROXY_PORT, RESOLVER_PORT
from agentkernel.policy.seccomp import compile_filter
from agentkernel.policy.syscall_tables import WITHOUT_UNMAPPED_MEMORY


def configuration_of(spec: SandboxSpec, architecture: str, *, memory_by_group: bool) -> Configuration:
    """Of a sandbox that is to be built; `memory_by_group`: a cgroup tells what memory it takes, mapped or not."""
    unseen = spec.resources.memory_bytes is not None and not memory_by_group
    table = f"{spec.seccomp}{WITHOUT_UNMAPPED_MEMORY}" if unseen else spec.seccomp
    return Configuration(
        level=spec.level.label,
        seccomp=compile_filter(table, architecture),
        rlimits=workload_limits(spec),
        network=NetworkPorts(PROXY_PORT, RESOLVER_PORT, 0) if spec.network is NetworkMode.FILTERED else None,
    )


def workload_limits(spec: SandboxSpec) -> Rlimits:
    """(resource, soft, hard) of every process of the workload."""
    limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, spec.resources.open_files)]
    if spec.resources.pids is not None:
        limits.append((resource.RLIMIT_NPROC, spec.resources.pids))
    return tuple((number, value, value) for number, value in limits)
