"""Apple's containers without a machine: what the program is asked, what its answers mean, and what is said when it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engines.apple import DIGEST, REFERENCE, AppleStandIn

from agentkernel.backends.containers.apple.arguments import create_arguments, session_arguments
from agentkernel.backends.containers.apple.backend import AppleBackend
from agentkernel.backends.containers.apple.program import Program
from agentkernel.backends.containers.plan import Naming, Stream, plan_of
from agentkernel.errors import Conflict, ImageFailed, InvalidInput, NotFound, Refused, Unsupported
from agentkernel.model.image import PullPolicy
from agentkernel.model.spec import Bind, NetworkMode, Resources, RootFilesystem, RootKind, SandboxSpec, StorageKind

NAMING = Naming(sandbox_id="0" * 16, owner="process", version="1", guest_volume="", stream=Stream.SOCKET)
ROOT = RootFilesystem(kind=RootKind.IMAGE, reference=REFERENCE, label="system")
MIB = 1024 * 1024


@pytest.fixture
def stand_in(tmp_path: Path) -> AppleStandIn:
    return AppleStandIn(tmp_path)


@pytest.fixture
def backend(stand_in: AppleStandIn, tmp_path: Path, guest_binary: Path, monkeypatch: pytest.MonkeyPatch) -> AppleBackend:
    monkeypatch.setenv("AGENTKERNEL_GUEST", str(guest_binary))
    return AppleBackend(tmp_path / "own", str(stand_in.program))


def _spec(**changes: Any) -> SandboxSpec:
    return SandboxSpec(name="s", profile="moderate", root=ROOT, **changes)


def _values(arguments: tuple[str, ...], flag: str) -> list[str]:
    return [arguments[number + 1] for number, word in enumerate(arguments) if word == flag]


def test_a_machine_has_no_network_no_rights_and_nothing_of_the_host_but_the_guest() -> None:
    arguments = create_arguments(plan_of(_spec(), NAMING), "/data/guest/1")
    assert arguments[:3] == ("create", "--name", "agentkernel-" + "0" * 16)
    assert _values(arguments, "--network") == ["none"] and "--no-dns" in arguments
    assert _values(arguments, "--cap-drop") == ["ALL"]
    assert [mount for mount in _values(arguments, "--mount") if "source=" in mount] == [
        "type=bind,source=/data/guest/1,target=/.agentkernel/bin,readonly"
    ]
    assert _values(arguments, "--entrypoint") == ["/.agentkernel/bin/agentkernel-guest"]
    assert arguments[-3:] == ("agent", "--listen", "/.agentkernel/closed/run/agent.sock")


def test_limits_are_whole_and_never_below_what_was_asked() -> None:
    limits = Resources(memory_bytes=100 * MIB + 1, cpus=1.5)
    arguments = create_arguments(plan_of(_spec(resources=limits), NAMING), "/g")
    assert (_values(arguments, "--memory"), _values(arguments, "--cpus")) == (["101M"], ["2"])
    none = create_arguments(plan_of(_spec(resources=Resources(memory_bytes=None, cpus=None)), NAMING), "/g")
    assert (_values(none, "--memory"), _values(none, "--cpus")) == ([], [])


def test_a_read_only_root_and_a_filtered_network_are_asked_for() -> None:
    arguments = create_arguments(plan_of(_spec(read_only_root=True, network=NetworkMode.FILTERED), NAMING), "/g")
    assert "--read-only" in arguments
    assert _values(arguments, "--dns") == ["127.0.0.1"] and "--no-dns" not in arguments
    assert "type=tmpfs,target=/home/user,size=1024M,mode=1777,readonly" in _values(arguments, "--mount")


def test_files_that_are_kept_are_not_in_memory() -> None:
    arguments = create_arguments(plan_of(_spec(storage=StorageKind.DISK), NAMING), "/g")
    targets = [mount.partition("target=")[2].partition(",")[0] for mount in _values(arguments, "--mount")]
    assert not {"/home/user", "/workspace", "/var/tmp"} & set(targets)
    assert targets == sorted(targets, key=lambda target: target.count("/")), "outer places come first"


def test_a_session_is_roots_whatever_user_the_image_names() -> None:
    assert session_arguments("n")[:8] == ("exec", "--interactive", "--uid", "0", "--gid", "0", "--workdir", "/")


async def test_what_it_does_not_have_is_refused_before_the_program_is_asked(backend: AppleBackend, stand_in: AppleStandIn) -> None:
    for changes in (
        {"network": NetworkMode.HOST},
        {"mounts": (Bind(source="/usr", target="/x"),)},
        {"gpus": "all"},
        {"runtime": "kata"},
        {"root": RootFilesystem(kind=RootKind.HOST)},
    ):
        with pytest.raises(Unsupported):
            await backend.create(SandboxSpec(**{"name": "s", "profile": "moderate", "root": ROOT, **changes}))  # type: ignore[arg-type]
    assert stand_in.calls() == []


async def test_a_service_that_does_not_run_says_how_it_is_started(backend: AppleBackend, stand_in: AppleStandIn) -> None:
    (stand_in.state / "stopped").touch()
    found = await backend.probe()
    assert (found.ready, "service does not run" in found.reason, found.remedy) == (False, True, "container system start")


async def test_a_release_that_is_too_old_is_not_used(backend: AppleBackend, stand_in: AppleStandIn) -> None:
    (stand_in.state / "version").write_text("0.12.3")
    found = await backend.probe()
    assert not found.ready
    assert "0.12.3" in found.reason


async def test_without_the_program_it_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTKERNEL_CONTAINER", "")
    found = await AppleBackend(tmp_path).probe()
    assert (found.ready, "not installed" in found.reason) == (False, True)


async def test_a_guest_of_another_architecture_is_told(backend: AppleBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = tmp_path / "guest"
    guest.write_bytes(b"\x7fELF" + bytes(14) + b"\x28\x00" + bytes(40))  # ARM of 32 bits
    guest.chmod(0o755)
    monkeypatch.setenv("AGENTKERNEL_GUEST", str(guest))
    found = await backend.probe()
    assert (found.ready, "something else" in found.reason) == (False, True)


async def test_the_status_is_read_as_old_and_new_releases_write_it(tmp_path: Path) -> None:
    program = tmp_path / "container"
    old = '{"configuration": {"id": "a", "labels": {"x": "y"}}, "status": "running"}'
    new = '{"id": "b", "configuration": {"id": "b", "labels": {}}, "status": {"state": "stopped"}}'
    program.write_text(f"#!/bin/sh\necho '[{old}, {new}]'\n")
    program.chmod(0o755)
    found = await Program(str(program)).containers()
    assert {name: each.runs for name, each in found.items()} == {"a": True, "b": False}
    assert found["a"].labels == {"x": "y"}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ('notFound: "manifest unknown"', NotFound),
        ("internalError: 401 Unauthorized", Refused),
        ("internalError: connection refused", ImageFailed),
    ],
)
async def test_what_a_registry_says_no_to(answer: str, error: type[Exception], backend: AppleBackend, stand_in: AppleStandIn) -> None:
    stand_in.serve({REFERENCE: answer})
    with pytest.raises(error):
        await backend.keeper.obtain(REFERENCE, PullPolicy.MISSING, lambda _: None)


async def test_images_are_pulled_once_listed_and_removed(backend: AppleBackend, stand_in: AppleStandIn) -> None:
    keeper = backend.keeper
    with pytest.raises(NotFound):
        await keeper.obtain(REFERENCE, PullPolicy.NEVER, lambda _: None)
    for policy in (PullPolicy.MISSING, PullPolicy.MISSING, PullPolicy.NEVER):
        image = await keeper.obtain(REFERENCE, policy, lambda _: None)
    assert (image.reference, image.digest, image.config.command) == (REFERENCE, DIGEST, ("sh",))
    assert len(stand_in.calls("image", "pull")) == 1
    (listed,) = await keeper.images()
    assert (listed.reference, listed.digest, listed.size_bytes, listed.backend) == (REFERENCE, DIGEST, 1234, "apple")
    assert listed.obtained_at > 0
    assert await keeper.prune_images(0.0, [DIGEST]) == []
    assert await keeper.prune_images(0.0, []) == [f"apple: {REFERENCE}"]
    assert await keeper.find(REFERENCE) is None
    with pytest.raises(NotFound):
        await keeper.remove_image(REFERENCE)


async def test_an_image_of_the_users_own_is_never_pruned(backend: AppleBackend, stand_in: AppleStandIn) -> None:
    await Program(str(stand_in.program)).call("image", "pull", REFERENCE)
    await backend.keeper.obtain(REFERENCE, PullPolicy.ALWAYS, lambda _: None)
    assert await backend.keeper.prune_images(0.0, []) == []


async def test_an_image_that_a_machine_uses_is_kept(backend: AppleBackend, stand_in: AppleStandIn, tmp_path: Path) -> None:
    await backend.keeper.obtain(REFERENCE, PullPolicy.MISSING, lambda _: None)
    (tmp_path / "g").mkdir()
    await Program(str(stand_in.program)).call(*create_arguments(plan_of(_spec(), NAMING), str(tmp_path / "g")))
    with pytest.raises(Conflict):
        await backend.keeper.remove_image(REFERENCE)


async def test_only_archives_of_images_are_imported(backend: AppleBackend, tmp_path: Path) -> None:
    (tmp_path / "file.tar").write_bytes(b"no archive")
    for path in (tmp_path, tmp_path / "file.tar"):
        with pytest.raises(InvalidInput):
            await backend.keeper.import_image(str(path), "localhost/x:1", lambda _: None)
    with pytest.raises(NotFound):
        await backend.keeper.import_image(str(tmp_path / "absent"), "localhost/x:1", lambda _: None)
