"""What this backend declares: the same on every Mac, for each sandbox is a machine of its own."""

from __future__ import annotations

from agentkernel.backends.containers.fingerprint import LISTENS_INSIDE
from agentkernel.model.isolation import Feature, Fingerprint, IsolationLevel, Provision, Support

BACKEND = "apple"
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
    Feature.NETWORK_FILTERED,
    Feature.PUBLISHED_PORTS,
    Feature.MEMORY_LIMIT,
    Feature.SECCOMP,
    Feature.USER_SWITCH,
)
_EMULATED = {
    Feature.WORKSPACE_COPY_ON_WRITE: "the directory is copied in when the sandbox starts",
    Feature.CPU_LIMIT: "a machine has whole processors",
    Feature.PIDS_LIMIT: "RLIMIT_NPROC of the sandbox's user, which does not hold for root inside",
    Feature.DISK_LIMIT: "each file and each place in memory has the limit, not their sum",
    Feature.DISK_STORAGE: "each file has the limit, not their sum",
    Feature.AGENT_SEPARATION: LISTENS_INSIDE,
}
_REFUSED = {
    Feature.HOST_ROOT: ("the host is no Linux", "give an image with --image"),
    Feature.IMAGE_DIRECTORY: ("it takes images by name and OCI archives only", "import it with `agentkernel image import`"),
    Feature.IMAGE_TAR: ("it takes images by name and OCI archives only", "import it with `agentkernel image import`"),
    Feature.MOUNTS: (
        "whose the files of a shared directory would be in a machine is not known",
        "copy them in and out with `agentkernel cp`",
    ),
    Feature.NETWORK_HOST: ("a machine of its own has a network of its own", "let it reach what it needs with --allow-host"),
    Feature.TRANSPARENT_NETWORK: ("it takes rights that the machine's agent does not have", "use programs that know proxies"),
    Feature.LANDLOCK: ("the machine's kernel is not asked for it: the machine is the wall", ""),
    Feature.GPUS: ("its machines have none", "use docker or podman on a host that has GPUs"),
    Feature.CHECKPOINT: ("its machines cannot be saved", ""),
}


def ready(version: tuple[int, ...]) -> Fingerprint:
    """The declaration of a Mac on which the whole plan ran."""
    features = dict.fromkeys(_ALWAYS, _NATIVE)
    features.update({feature: Provision(support=Support.EMULATED, reason=reason) for feature, reason in _EMULATED.items()})
    features.update(
        {feature: Provision(support=Support.REFUSED, reason=reason, remedy=remedy) for feature, (reason, remedy) in _REFUSED.items()}
    )
    ordered = {feature: features[feature] for feature in Feature}
    return Fingerprint(
        backend=BACKEND,
        ready=True,
        level=IsolationLevel.VM,
        features=ordered,
        details={"container": ".".join(map(str, version)), "tested": "against its documented commands, never on Apple's hardware"},
    )


def not_ready(reason: str, remedy: str) -> Fingerprint:
    """Of one on which it did not."""
    return Fingerprint(backend=BACKEND, ready=False, level=IsolationLevel.VM, reason=reason, remedy=remedy)
