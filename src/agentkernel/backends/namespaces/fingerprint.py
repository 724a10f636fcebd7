"""What the backend declares about this host, from the facts and the proof; the conformance suite checks each declaration."""

from __future__ import annotations

from dataclasses import replace

from agentkernel.backends._linux.delegation import CgroupHost
from agentkernel.backends._linux.facts import HostFacts, user_namespace_obstacle
from agentkernel.backends._linux.launch import STEP_HINT
from agentkernel.errors import SandboxFailed
from agentkernel.model.isolation import Feature, Fingerprint, IsolationLevel, Provision, Support
from agentkernel.model.spec import NetworkMode, Resources, RootFilesystem, RootKind, SandboxSpec, StorageKind
from agentkernel.policy import landlock

BACKEND = "namespaces"
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
    Feature.IMAGE_NAME,  # by the engine's own store, which unpacks it to a directory
    Feature.WORKSPACE_COPY_ON_WRITE,
    Feature.MOUNTS,
    Feature.READ_ONLY_ROOT,
    Feature.NETWORK_NONE,
    Feature.NETWORK_HOST,
    Feature.PUBLISHED_PORTS,
    Feature.SECCOMP,
)
_NEVER = {
    Feature.GPUS: Provision(
        support=Support.REFUSED, reason="no device of the host is shown to a sandbox", remedy="use --backend docker or podman"
    ),
    Feature.CHECKPOINT: Provision(support=Support.REFUSED, reason="processes that share the host's kernel cannot be saved"),
}


def probe_spec(network: NetworkMode = NetworkMode.FILTERED, *, transparent: bool = False) -> SandboxSpec:
    """A whole sandbox with an empty root: every kind of step that a launch plan has."""
    return SandboxSpec(
        name="probe",
        profile="moderate",
        network=network,
        transparent_network=transparent,
        root=RootFilesystem(kind=RootKind.HOST, label="probe"),
        resources=Resources(memory_bytes=64 * 1024 * 1024, pids=64, disk_bytes=16 * 1024 * 1024),
    )


def ready(
    facts: HostFacts, cgroups: CgroupHost, *, opaque: SandboxFailed | None = None, unfiltered: SandboxFailed | None = None
) -> Fingerprint:
    """The declaration of a host on which the plan ran; `opaque`, `unfiltered`: why it failed with redirected, with filtered network."""
    features = dict.fromkeys(_ALWAYS, _NATIVE) | _NEVER
    features[Feature.NETWORK_FILTERED] = _proven(unfiltered, "make /proc/sys writable (in Docker: --security-opt systempaths=unconfined)")
    features[Feature.TRANSPARENT_NETWORK] = _proven(opaque, "as an administrator: `modprobe -a nf_tables nft_redir`")
    features[Feature.MEMORY_LIMIT] = cgroups.provision("memory", "sampled by the host")
    features[Feature.PIDS_LIMIT] = cgroups.provision("pids", "RLIMIT_NPROC of the sandbox's user namespace")
    features[Feature.CPU_LIMIT] = cgroups.provision("cpu", "CPU affinity")
    features[Feature.DISK_LIMIT] = _NATIVE
    features[Feature.DISK_STORAGE] = Provision(support=Support.EMULATED, reason="its limit is sampled, so that writes can overshoot it")
    features[Feature.LANDLOCK] = _landlock(facts)
    features[Feature.AGENT_SEPARATION] = features[Feature.USER_SWITCH] = _separation(facts)
    return Fingerprint(backend=BACKEND, ready=True, level=IsolationLevel.CONTAINER, features=features, details=_details(facts, cgroups))


def _proven(failure: SandboxFailed | None, remedy: str) -> Provision:
    if failure is None:
        return _NATIVE
    return Provision(support=Support.REFUSED, reason=failure.message, remedy=remedy if failure.hint == STEP_HINT else failure.hint)


def process_probe_spec() -> SandboxSpec:
    """The same at isolation level `process`."""
    return replace(probe_spec(NetworkMode.NONE), level=IsolationLevel.PROCESS, storage=StorageKind.DISK)


def process_only(facts: HostFacts, cgroups: CgroupHost, obstacle: SandboxFailed) -> Fingerprint:
    """The declaration of a host that forbids user namespaces but has Landlock: usable only where level `process` is asked for."""
    full = ready(facts, cgroups)
    gone = (
        Feature.IMAGE_DIRECTORY,
        Feature.IMAGE_TAR,
        Feature.IMAGE_NAME,
        Feature.WORKSPACE_COPY_ON_WRITE,
        Feature.NETWORK_HOST,
        Feature.NETWORK_FILTERED,
        Feature.TRANSPARENT_NETWORK,
        Feature.PUBLISHED_PORTS,
        Feature.READ_ONLY_ROOT,
        Feature.USER_SWITCH,
    )
    refused = Provision(support=Support.REFUSED, reason="there is no namespace of its own", remedy=_remedy(obstacle))
    features = {feature: refused if feature in gone else provision for feature, provision in full.features.items()}
    emulated = Provision(support=Support.EMULATED, reason="by Landlock and seccomp alone", remedy=_remedy(obstacle))
    features.update(
        dict.fromkeys((Feature.HOST_ROOT, Feature.MOUNTS, Feature.NETWORK_NONE, Feature.AGENT_SEPARATION, Feature.DISK_LIMIT), emulated)
    )
    return replace(full, level=IsolationLevel.PROCESS, features=features, reason=_reason(obstacle), remedy=_remedy(obstacle))


def _reason(failure: SandboxFailed) -> str:
    known = _obstacle(failure)[0]
    return f"{failure.message} ({known})" if known else failure.message


def _remedy(failure: SandboxFailed) -> str:
    return _obstacle(failure)[1] or failure.hint


def _obstacle(failure: SandboxFailed) -> tuple[str, str]:
    """What is known to make the kernel refuse a step; a failure that knows its own remedy needs no guess."""
    return user_namespace_obstacle() if failure.hint == STEP_HINT else ("", "")


def not_ready(facts: HostFacts, failure: SandboxFailed) -> Fingerprint:
    """The declaration of a host on which the plan failed."""
    return Fingerprint(
        backend=BACKEND,
        ready=False,
        level=IsolationLevel.CONTAINER,
        reason=_reason(failure),
        remedy=_remedy(failure),
        details={"kernel": facts.kernel},
    )


def _landlock(facts: HostFacts) -> Provision:
    if facts.landlock_abi >= landlock.MINIMUM_ABI:
        return _NATIVE
    return Provision(
        support=Support.REFUSED,
        reason=f"the kernel's Landlock ABI is {facts.landlock_abi}, {landlock.MINIMUM_ABI} is needed",
        remedy="use kernel 5.19 or newer with CONFIG_SECURITY_LANDLOCK and `landlock` in its lsm= list",
    )


def _separation(facts: HostFacts) -> Provision:
    if facts.privileged:
        return _NATIVE
    return Provision(
        support=Support.EMULATED,
        reason="a plain user has one id only, so agent and workload share it; the agent is non-dumpable",
        remedy="run as root for an id range per sandbox",
    )


def _details(facts: HostFacts, cgroups: CgroupHost) -> dict[str, str]:
    return {
        "kernel": facts.kernel,
        "landlock_abi": str(facts.landlock_abi),
        "cgroups": f"v{cgroups.version}: {', '.join(cgroups.parents)}" if cgroups.parents else "none",
        "ids": "a range per sandbox" if facts.privileged else "one id",
    }
