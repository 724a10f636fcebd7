"""Which backend gets a sandbox, and what is said when none can."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from policy_examples import SURROUNDINGS, fingerprint, granted

from agentkernel.errors import BackendUnavailable, UnknownKey, Unsupported
from agentkernel.model.isolation import BackendKind, Feature, Fingerprint, IsolationLevel
from agentkernel.model.network import PortRule
from agentkernel.policy.choose import ORDER

LEVELS = {
    "hyperlight": IsolationLevel.VM,
    "firecracker": IsolationLevel.VM,
    "qemu": IsolationLevel.VM,
    "apple": IsolationLevel.VM,
    "gvisor": IsolationLevel.USER_KERNEL,
    "namespaces": IsolationLevel.CONTAINER,
    "docker": IsolationLevel.CONTAINER,
    "podman": IsolationLevel.CONTAINER,
}
ALL = [fingerprint(name, level) for name, level in LEVELS.items()]


def chosen(*fingerprints: Fingerprint, **changes: object) -> str:
    return granted(fingerprints=fingerprints, **changes).backend


def test_the_order_is_the_documented_one() -> None:
    assert tuple(LEVELS) == ORDER


@pytest.mark.parametrize("gone", range(len(ALL)))
def test_the_strongest_that_is_left_is_chosen_whatever_the_order_of_probing(gone: int) -> None:
    for seed in range(3):
        left = ALL[gone:]
        random.Random(seed).shuffle(left)
        grant = granted(fingerprints=left)
        assert (grant.backend, grant.chosen) == (ORDER[gone], BackendKind.CHOSEN)
        assert grant.spec.level is LEVELS[ORDER[gone]]


def test_one_that_is_not_ready_or_cannot_do_it_is_passed_over() -> None:
    wasm_only = fingerprint("hyperlight", IsolationLevel.VM, lacks=[Feature.HOST_ROOT])
    broken = fingerprint("firecracker", IsolationLevel.VM, ready=False)
    assert chosen(wasm_only, broken, fingerprint("namespaces")) == "namespaces"


def test_strangers_come_after_the_known_strongest_first() -> None:
    strangers = [fingerprint("zeta", IsolationLevel.VM), fingerprint("alpha"), fingerprint("beta", IsolationLevel.VM)]
    assert chosen(*strangers, fingerprint("podman")) == "podman"
    assert chosen(*strangers) == "beta"


@pytest.mark.parametrize("name", ["kubernetes", "nomad", "memory"])
def test_clusters_and_the_test_backend_are_only_used_when_named(name: str) -> None:
    only = fingerprint(name, IsolationLevel.VM)
    assert chosen(only, backend=name) == name
    with pytest.raises(BackendUnavailable) as refused:
        chosen(only)
    assert name in refused.value.hint


def test_a_stranger_that_isolates_nothing_is_only_used_when_named() -> None:
    nothing = fingerprint("stranger", IsolationLevel.NONE)
    assert chosen(nothing, backend="stranger") == "stranger"
    with pytest.raises(BackendUnavailable):
        chosen(nothing)


@pytest.mark.parametrize("level", [IsolationLevel.VM_EMULATED, IsolationLevel.PROCESS])
def test_an_emulated_machine_or_a_bare_process_is_only_used_when_asked_for(level: IsolationLevel) -> None:
    only = fingerprint("qemu", level)
    with pytest.raises(BackendUnavailable):
        chosen(only)
    assert chosen(only, min_isolation=level) == "qemu"


def test_naming_a_backend_accepts_emulation_but_never_a_bare_process() -> None:
    assert chosen(fingerprint("qemu", IsolationLevel.VM_EMULATED), backend="qemu") == "qemu"
    bare = fingerprint("namespaces", IsolationLevel.PROCESS)
    with pytest.raises(BackendUnavailable, match="level 'process' only") as caught:
        chosen(bare, backend="namespaces")
    assert "--min-isolation process" in caught.value.hint
    assert chosen(bare, backend="namespaces", min_isolation=IsolationLevel.PROCESS) == "namespaces"


def test_one_that_was_not_asked_for_is_still_preferred_over_an_emulated_one() -> None:
    emulated = fingerprint("qemu", IsolationLevel.VM_EMULATED)
    assert chosen(emulated, fingerprint("namespaces")) == "namespaces"
    assert chosen(emulated, fingerprint("apple", IsolationLevel.VM), min_isolation=IsolationLevel.VM_EMULATED) == "apple"
    assert chosen(fingerprint("landlock", IsolationLevel.PROCESS), fingerprint("podman"), min_isolation=IsolationLevel.PROCESS) == "podman"


def test_nothing_below_the_least_isolation_is_chosen() -> None:
    assert chosen(*ALL[4:], min_isolation=IsolationLevel.USER_KERNEL) == "gvisor"
    with pytest.raises(Unsupported) as refused:
        chosen(*ALL[4:], fingerprint("firecracker", IsolationLevel.VM, ready=False), min_isolation=IsolationLevel.VM)
    assert "--min-isolation vm" in refused.value.message
    for shown in ("gvisor (user-kernel)", "namespaces (container)", "docker (container)"):
        assert shown in refused.value.hint
    assert "firecracker" not in refused.value.hint


def test_a_named_backend_below_the_least_isolation_is_refused() -> None:
    with pytest.raises(Unsupported, match="'namespaces' isolates at level 'container', which is below --min-isolation vm"):
        chosen(*ALL, backend="namespaces", min_isolation=IsolationLevel.VM)


def test_a_named_backend_is_taken_and_recorded_as_asked() -> None:
    grant = granted(fingerprints=ALL, backend="podman")
    assert (grant.backend, grant.chosen) == ("podman", BackendKind.ASKED)


def test_a_named_backend_that_is_not_ready_says_why_and_what_helps() -> None:
    with pytest.raises(BackendUnavailable, match="docker is broken") as refused:
        chosen(fingerprint("docker", ready=False), fingerprint("namespaces"), backend="docker")
    assert refused.value.hint == "mend docker"


def test_a_known_backend_that_is_not_installed_is_not_called_unknown() -> None:
    with pytest.raises(BackendUnavailable) as refused:
        chosen(fingerprint("namespaces"), backend="firecracker")
    assert "namespaces" in refused.value.hint


def test_an_unknown_backend_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(UnknownKey) as unknown:
        chosen(*ALL, backend="namespace")
    assert unknown.value.hint == "did you mean 'namespaces'?"


def test_a_missing_feature_is_refused_and_names_who_has_it() -> None:
    weak = fingerprint("namespaces", lacks=[Feature.MEMORY_LIMIT])
    broken = fingerprint("gvisor", IsolationLevel.USER_KERNEL, ready=False)
    with pytest.raises(Unsupported, match="'namespaces' cannot provide memory-limit: no memory-limit here") as refused:
        chosen(weak, fingerprint("podman"), fingerprint("docker"), broken, backend="namespaces")
    assert refused.value.hint == "backends here that have it: docker, podman"
    with pytest.raises(Unsupported) as refused:
        chosen(weak, broken)
    assert refused.value.hint == "buy one"
    assert chosen(weak, profile="permissive") == "namespaces"


def test_the_refusal_is_about_the_backend_that_lacks_least() -> None:
    far = fingerprint("gvisor", IsolationLevel.USER_KERNEL, lacks=[Feature.HOST_ROOT, Feature.SECCOMP, Feature.EXEC])
    near = fingerprint("podman", lacks=[Feature.PIDS_LIMIT])
    with pytest.raises(Unsupported, match="'podman' cannot provide pids-limit"):
        chosen(far, near)


def test_a_feature_that_is_not_declared_is_not_there() -> None:
    silent = Fingerprint(backend="namespaces", ready=True, level=IsolationLevel.CONTAINER)
    with pytest.raises(Unsupported, match="exec, files, host-root"):
        chosen(silent)


@pytest.mark.parametrize(
    ("changes", "feature"),
    [
        ({}, Feature.EXEC),
        ({}, Feature.FILES),
        ({}, Feature.SECCOMP),
        ({}, Feature.DISK_LIMIT),
        ({}, Feature.HOST_ROOT),
        ({"network": False}, Feature.NETWORK_NONE),
        ({"network": True}, Feature.NETWORK_FILTERED),
        ({"transparent_network": True}, Feature.TRANSPARENT_NETWORK),
        ({"ports": (PortRule(port=80),)}, Feature.PUBLISHED_PORTS),
        ({}, Feature.WORKSPACE_COPY_ON_WRITE),
        ({"profile": "permissive"}, Feature.NETWORK_HOST),
        ({"profile": "permissive"}, Feature.MOUNTS),
        ({"profile": "restrictive"}, Feature.READ_ONLY_ROOT),
        ({"profile": "restrictive"}, Feature.CPU_LIMIT),
        ({"profile": "permissive"}, Feature.PIDS_LIMIT),
        ({"mount_home": True}, Feature.MOUNTS),
        ({"user": "root"}, Feature.USER_SWITCH),
        ({"profile": "permissive", "memory_bytes": 2**30}, Feature.MEMORY_LIMIT),
    ],
)
def test_what_a_request_needs_a_backend_must_have(changes: dict[str, object], feature: Feature) -> None:
    with pytest.raises(Unsupported, match=feature.value):
        chosen(fingerprint("namespaces", lacks=[feature]), **changes)
    assert chosen(fingerprint("namespaces"), **changes) == "namespaces"


@pytest.mark.parametrize(
    ("changes", "feature"),
    [
        ({}, Feature.NETWORK_HOST),
        ({}, Feature.NETWORK_NONE),
        ({}, Feature.TRANSPARENT_NETWORK),
        ({}, Feature.PUBLISHED_PORTS),
        ({}, Feature.READ_ONLY_ROOT),
        ({}, Feature.MOUNTS),
        ({}, Feature.USER_SWITCH),
        ({}, Feature.TERMINAL),
        ({"profile": "permissive"}, Feature.MEMORY_LIMIT),
        ({"profile": "permissive"}, Feature.NETWORK_NONE),
        ({"profile": "permissive"}, Feature.WORKSPACE_COPY_ON_WRITE),
    ],
)
def test_what_a_request_does_not_need_a_backend_may_lack(changes: dict[str, object], feature: Feature) -> None:
    assert chosen(fingerprint("namespaces", lacks=[feature]), **changes) == "namespaces"


def test_an_image_needs_the_feature_of_its_kind() -> None:
    directory = replace(SURROUNDINGS, image_directory="/srv/image", root=None)
    archive = replace(SURROUNDINGS, image_is_tar=True, root=None)
    with pytest.raises(Unsupported, match="image-directory"):
        granted(directory, [fingerprint("namespaces", lacks=[Feature.IMAGE_DIRECTORY])], image="/srv/image")
    with pytest.raises(Unsupported, match="image-tar"):
        granted(archive, [fingerprint("namespaces", lacks=[Feature.IMAGE_TAR])], image="/srv/i.tar")
    both = fingerprint("namespaces", lacks=[Feature.HOST_ROOT])
    assert granted(directory, [both], image="/srv/image").backend == granted(archive, [both], image="/srv/i.tar").backend == "namespaces"


def test_emulated_limits_are_granted_and_said_in_one_notice() -> None:
    weak = fingerprint("namespaces", emulates=[Feature.MEMORY_LIMIT, Feature.DISK_LIMIT, Feature.NETWORK_HOST])
    (notice,) = granted(fingerprints=[weak], network=False).notices
    assert notice.code == "limits-emulated"
    assert "memory-limit, disk-limit" in notice.message
    assert "network-host" not in notice.message  # not needed here
    assert notice.hint == "delegate it"


def test_native_limits_are_nothing_to_talk_about() -> None:
    weak = fingerprint("namespaces", emulates=[Feature.NETWORK_HOST])
    assert granted(fingerprints=[weak], network=False).notices == ()


def test_a_host_where_nothing_runs_says_why_for_each() -> None:
    with pytest.raises(BackendUnavailable) as refused:
        chosen(fingerprint("namespaces", ready=False), fingerprint("docker", ready=False))
    assert "namespaces is broken" in refused.value.message
    assert "docker is broken" in refused.value.message
    assert refused.value.hint == "mend namespaces"
    with pytest.raises(BackendUnavailable):
        chosen()
