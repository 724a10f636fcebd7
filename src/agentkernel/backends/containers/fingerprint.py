"""What a backend declares about an engine, from its word and the proof; the conformance suite checks each declaration. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from agentkernel.backends.containers.dialect import EngineFacts
from agentkernel.errors import AgentKernelError
from agentkernel.model.isolation import Feature, Fingerprint, IsolationLevel, Provision, Support
from agentkernel.model.spec import NetworkMode, Resources, RootFilesystem, RootKind, SandboxSpec

_NATIVE = Provision(support=Support.NATIVE)
_ALWAYS = (
    Feature.EXEC,
    Feature.TERMINAL,
    Feature.FILES,
    Feature.WATCH,
    Feature.CONNECT,
    Feature.IMAGE_NAME,
    Feature.READ_ONLY_ROOT,
    Feature.NETWORK_NONE,
    Feature.NETWORK_HOST,
    Feature.NETWORK_FILTERED,
    Feature.PUBLISHED_PORTS,
    Feature.SECCOMP,
    Feature.USER_SWITCH,
    Feature.AGENT_SEPARATION,
)
_LIMITS = {Feature.MEMORY_LIMIT: "memory", Feature.PIDS_LIMIT: "pids", Feature.CPU_LIMIT: "cpu"}
PROBE_DEADLINE_S = 30.0
LISTENS_INSIDE = "the agent listens inside, on a socket of root's: a workload that is root gets to it"


def probe_spec(image: str) -> SandboxSpec:
    """A whole sandbox of the guest's own image."""
    return SandboxSpec(
        name="probe",
        profile="moderate",
        root=RootFilesystem(kind=RootKind.IMAGE, reference=image, label="probe"),
        network=NetworkMode.FILTERED,
        resources=Resources(memory_bytes=64 * 1024 * 1024, pids=64, disk_bytes=16 * 1024 * 1024, open_files=256),
    )


def ready(
    backend: str, facts: EngineFacts, *, mounts: bool, sampled: bool, inside: Callable[[IsolationLevel], bool] = lambda level: False
) -> Fingerprint:
    """The declaration of an engine in which a sandbox ran; `mounts`: with owners exchanged; `sampled`: this host sees its layers;
    `inside`: whether its agents listen inside, with a runtime of that level."""
    features = dict.fromkeys(_ALWAYS, _NATIVE)
    features[Feature.AGENT_SEPARATION] = _separation(inside=inside(facts.level))
    features.update(_roots(backend))
    features.update(_shown(facts, mounts=mounts))
    features.update(_disk(sampled=sampled))
    for feature, limit in _LIMITS.items():
        features[feature] = _limit(facts, limit, processors=mounts)
    features[Feature.TRANSPARENT_NETWORK] = _refused(
        "no container gets the right to change its own network's rules", "use the namespaces backend, or programs that obey HTTP_PROXY"
    )
    features[Feature.LANDLOCK] = _refused("container engines have none; seccomp and the mounts are the walls", "use the namespaces backend")
    features[Feature.GPUS] = (
        _NATIVE if facts.gpus else _refused("the engine has no runtime for them", "install nvidia-container-toolkit and restart the engine")
    )
    features[Feature.CHECKPOINT] = _refused("engines restore no container whose agent is attached", "snapshot its files instead")
    for name, reason in facts.lacks.items():
        features[Feature(name)] = _refused(reason, "")
    runtimes = tuple(
        replace(each, features={Feature.AGENT_SEPARATION: _separation(inside=inside(each.level))})
        if inside(each.level) != inside(facts.level)
        else each
        for each in facts.runtimes
    )
    return Fingerprint(backend=backend, ready=True, level=facts.level, features=features, runtimes=runtimes, details=dict(facts.details))


def not_ready(backend: str, obstacle: AgentKernelError) -> Fingerprint:
    """The declaration where there is no engine, or no sandbox ran in it."""
    return Fingerprint(backend=backend, ready=False, level=IsolationLevel.CONTAINER, reason=obstacle.message, remedy=obstacle.hint)


def _separation(*, inside: bool) -> Provision:
    return Provision(support=Support.EMULATED, reason=LISTENS_INSIDE, remedy="leave --user root out") if inside else _NATIVE


def _roots(backend: str) -> dict[Feature, Provision]:
    remedy = f"name an image, or import one with `agentkernel image import --backend {backend}`"
    return {
        Feature.HOST_ROOT: _refused("its sandboxes are made of images", remedy),
        Feature.IMAGE_DIRECTORY: _refused("the engine unpacks images itself", remedy),
        Feature.IMAGE_TAR: _NATIVE,  # the engine takes it up under a name that says what is in it
    }


def _shown(facts: EngineFacts, *, mounts: bool) -> dict[Feature, Provision]:
    if mounts:
        return {Feature.MOUNTS: _NATIVE, Feature.WORKSPACE_COPY_ON_WRITE: _NATIVE}
    copied = Provision(
        support=Support.EMULATED, reason="the directory is copied in at start", remedy="run agentkernel as the engine's user"
    )
    if not facts.local:
        elsewhere = _refused("the engine is not on this host", "copy files in with `agentkernel cp`, or use an engine here")
        return {Feature.MOUNTS: elsewhere, Feature.WORKSPACE_COPY_ON_WRITE: copied}
    as_caller = Provision(support=Support.EMULATED, reason="the sandbox's user is then this user", remedy="run agentkernel as root")
    return {Feature.MOUNTS: as_caller, Feature.WORKSPACE_COPY_ON_WRITE: copied}


def _disk(*, sampled: bool) -> dict[Feature, Provision]:
    apart = "each directory in memory has the limit, not their sum"
    if sampled:
        layer = "the container's own layer is sampled, so that writes can overshoot"
        return {
            Feature.DISK_LIMIT: Provision(support=Support.EMULATED, reason=f"{apart}; {layer}"),
            Feature.DISK_STORAGE: Provision(support=Support.EMULATED, reason=layer),
        }
    layer = "the container's own layer has none that this user could watch"
    return {
        Feature.DISK_LIMIT: Provision(support=Support.EMULATED, reason=f"{apart}; {layer}", remedy="use storage in memory"),
        Feature.DISK_STORAGE: Provision(support=Support.EMULATED, reason=layer, remedy="set a quota in the engine"),
    }


def _limit(facts: EngineFacts, limit: str, *, processors: bool) -> Provision:
    """`processors`: the affinity of the container's processes can be set."""
    if limit not in facts.enforced:
        affinity = "CPU affinity" if processors else ""
        how = {"memory": "sampled by the host", "pids": "RLIMIT_NPROC of the sandbox's user", "cpu": affinity}[limit]
        reason = f"the engine's host delegates no {limit} control group"
        remedy = "use cgroup version 2 with delegation (systemd: Delegate=yes)"
        if not how or not facts.local:
            return _refused(reason, remedy)
        return Provision(support=Support.EMULATED, reason=f"{reason}: {how}", remedy=remedy)
    if not facts.local and limit != "cpu":
        return Provision(
            support=Support.EMULATED, reason="the engine does not tell which command hit it", remedy="use an engine on this host"
        )
    return _NATIVE


def _refused(reason: str, remedy: str) -> Provision:
    return Provision(support=Support.REFUSED, reason=reason, remedy=remedy)
