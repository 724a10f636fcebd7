"""What the backend declares about this host; the conformance suite checks each declaration."""

from __future__ import annotations

from agentkernel.backends._linux.delegation import CgroupHost
from agentkernel.backends._linux.facts import HostFacts
from agentkernel.backends.gvisor.refusal import NAME
from agentkernel.backends.gvisor.runtime import Runtime
from agentkernel.model.isolation import Feature, Fingerprint, IsolationLevel, Provision, Support
from agentkernel.model.spec import NetworkMode, Resources, RootFilesystem, RootKind, SandboxSpec

_NATIVE = Provision(support=Support.NATIVE)
_ALWAYS = (
    Feature.EXEC,
    Feature.TERMINAL,
    Feature.FILES,
    Feature.WATCH,
    Feature.CONNECT,
    Feature.HOST_ROOT,
    Feature.IMAGE_DIRECTORY,
    Feature.IMAGE_TAR,
    Feature.IMAGE_NAME,
    Feature.WORKSPACE_COPY_ON_WRITE,
    Feature.MOUNTS,
    Feature.READ_ONLY_ROOT,
    Feature.NETWORK_NONE,
    Feature.NETWORK_FILTERED,
    Feature.PUBLISHED_PORTS,
    Feature.DISK_LIMIT,
    Feature.SECCOMP,
    Feature.USER_SWITCH,
    Feature.AGENT_SEPARATION,
)
_REFUSED = {
    Feature.TRANSPARENT_NETWORK: ("gVisor has no nf_tables", "programs that know proxies need none; or use --backend namespaces"),
    Feature.LANDLOCK: ("gVisor has no Landlock: its kernel is the wall", ""),
    Feature.GPUS: ("no device of the host is passed into a sandbox", "use --backend docker or podman"),
    Feature.CHECKPOINT: ("a checkpoint would carry neither the agent's stream nor what the host mounts into the sandbox", ""),
}


def probe_spec(network: NetworkMode = NetworkMode.FILTERED) -> SandboxSpec:
    """A whole sandbox with an empty root."""
    return SandboxSpec(
        name="probe",
        profile="moderate",
        network=network,
        root=RootFilesystem(kind=RootKind.HOST, label="probe"),
        resources=Resources(memory_bytes=64 * 1024 * 1024, pids=64, disk_bytes=16 * 1024 * 1024),
    )


def ready(runtime: Runtime, facts: HostFacts, cgroups: CgroupHost, *, no_host_network: str) -> Fingerprint:
    """The declaration of a host on which a sandbox was made; `no_host_network`: why one on the host's own network was not."""
    features = dict.fromkeys(_ALWAYS, _NATIVE)
    features.update(
        {feature: Provision(support=Support.REFUSED, reason=reason, remedy=remedy) for feature, (reason, remedy) in _REFUSED.items()}
    )
    features[Feature.NETWORK_HOST] = Provision(support=Support.REFUSED, reason=no_host_network) if no_host_network else _NATIVE
    features[Feature.MEMORY_LIMIT] = _emulated("sampled by the host; far above it the sandbox ends as a whole")
    features[Feature.PIDS_LIMIT] = _emulated("RLIMIT_NPROC, which counts each user's processes and threads")
    features[Feature.CPU_LIMIT] = cgroups.provision("cpu", "CPU affinity")
    features[Feature.DISK_STORAGE] = _emulated("its limit is sampled, so that writes can overshoot it")
    return Fingerprint(backend=NAME, ready=True, level=IsolationLevel.USER_KERNEL, features=features, details=_details(runtime, facts))


def not_ready(reason: str, remedy: str) -> Fingerprint:
    """The declaration of any other host."""
    return Fingerprint(backend=NAME, ready=False, level=IsolationLevel.USER_KERNEL, reason=reason, remedy=remedy)


def _emulated(reason: str) -> Provision:
    return Provision(support=Support.EMULATED, reason=reason)


def _details(runtime: Runtime, facts: HostFacts) -> dict[str, str]:
    return {"runsc": runtime.path, "release": runtime.version, "platform": runtime.platform, "kernel": facts.kernel}
