"""Which features of a backend a sandbox needs."""

from __future__ import annotations

from agentkernel.model.isolation import Feature
from agentkernel.model.spec import NetworkMode, RootKind, SandboxSpec, StorageKind, WorkspaceMode
from agentkernel.policy.inside import CERTIFICATES

_NETWORKS = {
    NetworkMode.NONE: Feature.NETWORK_NONE,
    NetworkMode.FILTERED: Feature.NETWORK_FILTERED,
    NetworkMode.HOST: Feature.NETWORK_HOST,
}
LIMITS = (Feature.MEMORY_LIMIT, Feature.CPU_LIMIT, Feature.PIDS_LIMIT, Feature.DISK_LIMIT)


def needs(spec: SandboxSpec, *, from_tar: bool, user_asked: bool) -> tuple[Feature, ...]:
    """The features that building and using `spec` takes, in the order of their declaration.

    `from_tar`: its image is still a tar file; `user_asked`: the request names a user, rather than leaving that to the backend.
    """
    wanted = {Feature.EXEC, Feature.FILES, Feature.SECCOMP, Feature.DISK_LIMIT}
    roots = {RootKind.HOST: Feature.HOST_ROOT, RootKind.IMAGE: Feature.IMAGE_NAME, RootKind.DIRECTORY: Feature.IMAGE_DIRECTORY}
    wanted.add(Feature.IMAGE_TAR if from_tar else roots[spec.root.kind])
    if spec.workspace.mode is WorkspaceMode.COPY_ON_WRITE:
        wanted.add(Feature.WORKSPACE_COPY_ON_WRITE)
    mounts = any(bind.target != CERTIFICATES for bind in spec.mounts)  # that small file can also be copied in
    binds = mounts or spec.home_source or spec.workspace.mode in (WorkspaceMode.WRITABLE, WorkspaceMode.FILES)
    wanted.add(_NETWORKS[spec.network])
    limits = spec.resources
    optional = {
        Feature.MOUNTS: bool(binds),
        Feature.TRANSPARENT_NETWORK: spec.transparent_network,
        Feature.PUBLISHED_PORTS: bool(spec.ports),
        Feature.READ_ONLY_ROOT: spec.read_only_root,
        Feature.MEMORY_LIMIT: limits.memory_bytes is not None,
        Feature.CPU_LIMIT: limits.cpus is not None,
        Feature.PIDS_LIMIT: limits.pids is not None,
        Feature.USER_SWITCH: user_asked,
        Feature.DISK_STORAGE: spec.storage is StorageKind.DISK,
        Feature.GPUS: bool(spec.gpus),
    }
    wanted.update(feature for feature, is_wanted in optional.items() if is_wanted)
    return tuple(feature for feature in Feature if feature in wanted)
