"""What this backend configures an agent with."""

from __future__ import annotations

import hashlib
import resource
from dataclasses import replace

from agentkernel.backends._configuration import Configuration, Rlimits
from agentkernel.backends.containers.dialect import EngineFacts
from agentkernel.backends.containers.plan import AGENT_FILES
from agentkernel.channel.messages import NetworkPorts
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.network import NOTHING, USUAL
from agentkernel.model.spec import NetworkMode, SandboxSpec
from agentkernel.policy.inside import PROXY_PORT, RESOLVER_PORT
from agentkernel.policy.seccomp import compile_filter
from agentkernel.policy.syscall_tables import WITHOUT_UNMAPPED_MEMORY


def configuration_of(spec: SandboxSpec, facts: EngineFacts) -> Configuration:
    """Of a sandbox that is to be built."""
    sampled = spec.resources.memory_bytes is not None and "memory" not in facts.enforced
    table = f"{spec.seccomp}{WITHOUT_UNMAPPED_MEMORY}" if sampled else spec.seccomp
    return Configuration(
        level=spec.level.label,
        seccomp=compile_filter(table, facts.architecture),
        rlimits=workload_limits(spec, facts),
        network=NetworkPorts(PROXY_PORT, RESOLVER_PORT, 0) if spec.network is NetworkMode.FILTERED else None,
    )


def agent_files(facts: EngineFacts) -> int:
    """How many descriptors the container's processes may have at most."""
    most = facts.open_files
    return AGENT_FILES if most is None or most == resource.RLIM_INFINITY else min(AGENT_FILES, most)


def workload_limits(spec: SandboxSpec, facts: EngineFacts) -> Rlimits:
    """(resource, soft, hard) for every process of the workload: only what is surely below what the container has."""
    wanted = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, min(spec.resources.open_files, agent_files(facts))),
    ]
    if spec.level is not IsolationLevel.USER_KERNEL:  # gVisor lets nobody set these
        wanted += [(resource.RLIMIT_RTPRIO, 0), (resource.RLIMIT_NICE, 0)]
    if spec.resources.pids is not None and "pids" not in facts.enforced:
        wanted.append((resource.RLIMIT_NPROC, spec.resources.pids))
    return tuple((number, value, value) for number, value in wanted)


def fingerprint_of(spec: SandboxSpec) -> str:
    """What a container was made of: equal for specs of which the same container comes. What each boot is told anew is left out."""
    root = replace(spec.root, files=(), environment=(), path_directories=(), entrypoint=(), command=(), label="")
    made_of = replace(
        spec,
        name="",
        root=root,
        egress=NOTHING,
        egress_limits=USUAL,
        ports=(),
        secrets=(),
        trust="",
        environment=(),
        linger_s=None,
        level=IsolationLevel.NONE,
        profile="",
    )
    return hashlib.sha256(repr(made_of).encode()).hexdigest()[:32]
