"""Images by name: which root a request comes to, what an image's configuration adds, and which backend is taken for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from policy_examples import NAMESPACES, SURROUNDINGS, codes, fingerprint, granted

from agentkernel.errors import BackendUnavailable, CommandNotFound, InvalidInput, UnknownKey, Unsupported
from agentkernel.model.image import Image, ImageConfig
from agentkernel.model.isolation import BackendKind, Feature, IsolationLevel, Runtime
from agentkernel.model.request import Grant
from agentkernel.model.spec import RootFilesystem, RootKind, User, first_words
from agentkernel.policy.image import MAX_ENVIRONMENT_BYTES, MAX_WORDS_BYTES
from agentkernel.policy.root import OF_COMMAND, PICKED
from agentkernel.policy.surroundings import ImageName, Surroundings

APP = ImageName(text="app:1", reference="registry.example/app:1")
PYTHON = ImageName(text="python:3.12-alpine", reference="docker.io/library/python:3.12-alpine")
DIGEST = "sha256:" + "a" * 64
NAMED = replace(SURROUNDINGS, root=None, image_name=APP)
ENGINE_LACKS = (Feature.HOST_ROOT, Feature.IMAGE_DIRECTORY, Feature.IMAGE_TAR)
DOCKER = replace(
    fingerprint("docker", lacks=ENGINE_LACKS),
    runtimes=(Runtime(name="runc", level=IsolationLevel.CONTAINER), Runtime(name="runsc", level=IsolationLevel.USER_KERNEL)),
)
PODMAN = replace(
    fingerprint("podman", lacks=ENGINE_LACKS),
    runtimes=(Runtime(name="crun", level=IsolationLevel.CONTAINER), Runtime(name="kata-qemu", level=IsolationLevel.VM)),
)
GVISOR = fingerprint("gvisor", IsolationLevel.USER_KERNEL)


def image(directory: str = "", users: tuple[tuple[str, int, int], ...] = (), **config: Any) -> Image:
    return Image(reference=APP.reference, digest=DIGEST, directory=directory, users=users, config=ImageConfig(**config))


def with_image(found: Image, **changes: Any) -> Grant:
    return granted(replace(NAMED, image=found), image=APP.text, **changes)


# -- which root


def test_an_image_by_name_is_first_granted_without_what_it_says() -> None:
    grant = granted(NAMED, image=APP.text)
    root = grant.spec.root
    assert (root.kind, root.reference, root.digest, root.label) == (RootKind.IMAGE, APP.reference, "", "app:1")
    assert grant.fetches


def test_once_it_is_here_its_directory_is_the_root() -> None:
    grant = with_image(image("/srv/images/app"))
    root = grant.spec.root
    assert (root.kind, root.directory, root.reference, root.digest) == (RootKind.DIRECTORY, "/srv/images/app", APP.reference, DIGEST)
    assert not grant.fetches


def test_an_engine_gets_the_digest_of_what_it_keeps_itself() -> None:
    grant = granted(replace(NAMED, image=image()), (DOCKER,), image=APP.text, backend="docker")
    assert (grant.spec.root.kind, grant.spec.root.digest, grant.spec.root.directory) == (RootKind.IMAGE, DIGEST, "")


def test_an_archive_that_an_engine_has_taken_up_is_an_image_of_its() -> None:
    surroundings = replace(SURROUNDINGS, root=None, image_is_tar=True, image=image())
    grant = granted(surroundings, (DOCKER,), image="/srv/app.tar", backend="docker")
    assert (grant.tar_image, grant.spec.root.kind, grant.spec.root.label) == (None, RootKind.IMAGE, "app.tar")


def test_a_command_that_only_the_table_of_languages_knows_gets_that_image() -> None:
    grant = granted(replace(SURROUNDINGS, root=None, command_image=PYTHON, picked_image=PYTHON))
    assert (grant.spec.root.reference, codes(grant)) == (PYTHON.reference, [OF_COMMAND])
    assert "python:3.12-alpine" in grant.notices[0].message


def test_an_unknown_command_takes_no_image_where_the_host_could_be_shown() -> None:
    with pytest.raises(CommandNotFound):
        granted(replace(SURROUNDINGS, root=None, picked_image=PYTHON))
    grant = granted(replace(SURROUNDINGS, root=None, picked_image=PYTHON), (DOCKER,))
    assert (grant.spec.root.reference, codes(grant)) == (PYTHON.reference, [PICKED])


def test_an_engine_that_cannot_show_the_host_gets_the_image_of_the_table() -> None:
    surroundings = replace(SURROUNDINGS, picked_image=PYTHON)
    grant = granted(surroundings, (NAMESPACES, DOCKER), backend="docker")
    assert (grant.backend, grant.chosen, grant.spec.root.reference) == ("docker", BackendKind.ASKED, PYTHON.reference)
    assert PICKED in codes(grant)
    assert granted(surroundings, (NAMESPACES, DOCKER)).spec.root is SURROUNDINGS.root


def test_the_reason_that_is_told_is_that_of_the_host_root() -> None:
    with pytest.raises(BackendUnavailable, match="docker is broken"):
        granted(replace(SURROUNDINGS, picked_image=PYTHON), (fingerprint("docker", ready=False),), backend="docker")
    with pytest.raises(Unsupported, match="host-root"):
        granted(SURROUNDINGS, (DOCKER,), backend="docker")


def test_an_entrypoint_without_an_image_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="entrypoint"):
        granted(entrypoint=("sh",))


# -- what its configuration adds


def test_its_variables_lose_against_ours_and_against_those_given() -> None:
    said = (
        ("PATH", "/opt/app/bin:relative::/usr/bin"),
        ("HOME", "/evil"),
        ("HTTP_PROXY", "http://evil"),
        ("A", "1"),
        ("B", "2"),
        ("=", ""),
    )
    environment = dict(with_image(image("/i", environment=said), environment={"B": "mine"}).spec.environment)
    assert environment["PATH"].startswith("/opt/app/bin:/usr/bin:/home/user/.local/bin:")
    assert (environment["HOME"], environment["A"], environment["B"]) == ("/home/user", "1", "mine")
    assert "evil" not in "".join(environment.values())


def test_its_directory_is_where_commands_start() -> None:
    assert with_image(image("/i", working_directory="/srv//app/")).spec.root.working_directory == "/srv/app"
    for wrong in ("relative", "/a/../b", "/a\0"):
        with pytest.raises(InvalidInput):
            with_image(image("/i", working_directory=wrong))


@pytest.mark.parametrize(
    ("said", "user"),
    [
        ("", User()),
        ("root", User()),
        ("0", User()),
        ("0:0", User()),
        ("toor", User()),
        ("node", User(uid=1001, gid=1002, name="node")),
        ("1001", User(uid=1001, gid=1002, name="node")),
        ("1001:0", User(uid=1001, gid=0, name="node")),
        ("node:other", User(uid=1001, gid=77, name="node")),
        ("65532:65532", User(uid=65532, gid=65532, name="uid65532")),
        ("5", User(uid=5, gid=5, name="uid5")),
    ],
)
def test_its_user_is_the_workloads_unless_it_is_root(said: str, user: User) -> None:
    users = (("toor", 0, 0), ("node", 1001, 1002), ("other", 76, 77))
    assert with_image(image("/i", users, user=said)).spec.user == user


@pytest.mark.parametrize("said", ["nobody-there", "-1", "70000", "1:70000", "99999999999999", "a b", "٣"])
def test_a_user_that_cannot_be_is_an_error_until_another_is_asked_for(said: str) -> None:
    with pytest.raises(InvalidInput) as wrong:
        with_image(image("/i", user=said))
    assert "--user" in wrong.value.hint
    assert with_image(image("/i", user=said), user="1000").spec.user == User()
    assert with_image(image("/i", user=said), user="root").spec.user.uid == 0


def test_a_group_that_is_not_known_is_told_of() -> None:
    grant = with_image(image("/i", (("node", 1001, 1002),), user="node:docker"))
    assert (grant.spec.user.gid, codes(grant)) == (1002, ["image-group"])


def test_a_user_of_an_image_must_be_one_that_the_backend_can_switch_to() -> None:
    with pytest.raises(Unsupported, match="user-switch"):
        granted(replace(NAMED, image=image("/i", user="5")), (fingerprint("namespaces", lacks=[Feature.USER_SWITCH]),), image=APP.text)


def test_words_that_no_command_could_be_given_are_refused() -> None:
    for config in (
        {"entrypoint": ("x" * MAX_WORDS_BYTES,)},
        {"command": ("a\0b",)},
        {"environment": (("A", "x" * MAX_ENVIRONMENT_BYTES),)},
    ):
        with pytest.raises(InvalidInput):
            with_image(image("/i", **config))
    assert with_image(image("/i", environment=(("A", "\0"), ("B C", "x")))).spec.root.environment == ()


# -- what is started


def words(entrypoint: tuple[str, ...] = (), command: tuple[str, ...] = (), *, asked: tuple[str, ...] | None = None, typed: str = "") -> str:
    found = image("/i", entrypoint=entrypoint, command=command)
    argv = tuple(typed.encode().split())
    grant = with_image(found, argv=argv, entrypoint=asked)
    return b" ".join(first_words(grant.spec.root, argv)).decode()


def test_the_entrypoint_stands_before_what_was_typed() -> None:
    assert words(("/entry", "-v"), ("serve",), typed="do it") == "/entry -v do it"
    assert words(("/entry",), ("serve",)) == "/entry serve"
    assert words((), ("serve", "8080")) == "serve 8080"
    assert words((), (), typed="ls") == "ls"


def test_another_entrypoint_replaces_the_command_too() -> None:
    assert words(("/entry",), ("serve",), asked=("sh", "-c"), typed="x") == "sh -c x"
    assert words(("/entry",), ("serve",), asked=(), typed="ls") == "ls"
    assert words(("/entry",), ("serve",), asked=("sh",)) == "sh"
    for asked in ((), ("",)):
        with pytest.raises(InvalidInput, match="names none"):
            words(("/entry",), ("serve",), asked=asked)


def test_an_image_that_nobody_asked_for_has_no_entrypoint_before_the_command() -> None:
    found = replace(image("/i", entrypoint=("python3",), command=("-V",)), reference=PYTHON.reference)
    grant = granted(replace(SURROUNDINGS, root=None, command_image=PYTHON, image=found))
    assert (grant.spec.root.entrypoint, grant.spec.root.command) == ((), ())
    assert first_words(grant.spec.root, (b"python3", b"x.py")) == (b"python3", b"x.py")


def test_the_host_starts_what_was_typed() -> None:
    assert first_words(RootFilesystem(kind=RootKind.HOST), (b"ls",)) == (b"ls",)


# -- which backend


def chosen(*holders: str, among: tuple[Any, ...] = (GVISOR, NAMESPACES, DOCKER, PODMAN), **changes: Any) -> str:
    return granted(replace(NAMED, image_holders=frozenset(holders)), among, image=APP.text, **changes).backend


def test_who_has_the_image_comes_before_who_would_have_to_fetch_it() -> None:
    assert chosen() == "gvisor"
    assert chosen("docker") == "docker"
    assert chosen("podman") == "podman"
    assert chosen("docker", "podman") == "docker"
    assert chosen("gvisor", "namespaces") == "gvisor"


def test_among_those_that_have_it_the_strongest_wins_and_engines_come_before_namespaces() -> None:
    assert chosen("gvisor", "namespaces", "docker") == "gvisor"
    assert chosen("namespaces", "docker", among=(NAMESPACES, DOCKER)) == "docker"
    assert chosen("namespaces", among=(NAMESPACES, DOCKER)) == "namespaces"
    assert chosen("docker", min_isolation=IsolationLevel.USER_KERNEL) == "gvisor"


def test_holders_count_for_images_by_name_only() -> None:
    surroundings: Surroundings = replace(SURROUNDINGS, image_holders=frozenset({"docker"}))
    assert granted(surroundings, (NAMESPACES, DOCKER)).backend == "namespaces"


# -- runtimes and GPUs


def with_runtime(name: str, **changes: Any) -> Grant:
    return granted(NAMED, (GVISOR, NAMESPACES, DOCKER, PODMAN), image=APP.text, runtime=name, **changes)


@pytest.mark.parametrize(
    ("asked", "backend", "runtime", "level"),
    [
        ("runc", "docker", "runc", IsolationLevel.CONTAINER),
        ("runsc", "docker", "runsc", IsolationLevel.USER_KERNEL),
        ("gvisor", "docker", "runsc", IsolationLevel.USER_KERNEL),
        ("kata", "podman", "kata-qemu", IsolationLevel.VM),
        ("kata-qemu", "podman", "kata-qemu", IsolationLevel.VM),
        ("crun", "podman", "crun", IsolationLevel.CONTAINER),
    ],
)
def test_a_runtime_chooses_the_engine_and_the_level(asked: str, backend: str, runtime: str, level: IsolationLevel) -> None:
    grant = with_runtime(asked)
    assert (grant.backend, grant.spec.runtime, grant.spec.level) == (backend, runtime, level)


def test_without_one_the_engine_takes_its_own() -> None:
    assert granted(NAMED, (DOCKER,), image=APP.text).spec.runtime == ""


@pytest.mark.parametrize(
    ("name", "install"), [("sysbox-runc", "sysbox-ce"), ("kata", "Kata Containers"), ("runsc-kvm", "runsc"), ("x", "install x")]
)
def test_a_runtime_that_no_engine_has_is_refused_with_what_to_install(name: str, install: str) -> None:
    with pytest.raises(Unsupported) as refused:
        with_runtime(name, backend="docker")
    assert "docker has runc, runsc" in refused.value.message
    assert install in refused.value.hint
    assert "daemon.json" in refused.value.hint


def test_a_runtime_is_for_engines() -> None:
    for name in ("namespaces", "gvisor"):
        with pytest.raises(Unsupported, match="no runtimes"):
            with_runtime("runsc", backend=name)
    with pytest.raises(UnknownKey):
        with_runtime("runsc", backend="dokcer")
    with pytest.raises(BackendUnavailable):
        granted(NAMED, (fingerprint("docker", ready=False),), image=APP.text, runtime="runsc", backend="docker")
    for name in ("", "a\nb", "x" * 129):
        with pytest.raises(InvalidInput):
            with_runtime(name)


def test_gpus_go_to_who_has_them_and_are_refused_elsewhere() -> None:
    without = fingerprint("namespaces", lacks=[Feature.GPUS])
    assert granted(NAMED, (without, DOCKER), image=APP.text, gpus="all").backend == "docker"
    assert granted(NAMED, (DOCKER,), image=APP.text, gpus="GPU-1,GPU-2").spec.gpus == "GPU-1,GPU-2"
    with pytest.raises(Unsupported, match="gpus") as refused:
        granted(NAMED, (without, DOCKER), image=APP.text, gpus="2", backend="namespaces")
    assert "docker" in refused.value.hint
    for wrong in ("", "-1", "a b", "all;x", "0", ",", "x,", "a" * 80):
        with pytest.raises(InvalidInput):
            granted(NAMED, (DOCKER,), image=APP.text, gpus=wrong)
