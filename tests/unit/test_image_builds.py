"""Dockerfiles: built by whoever is here, kept in the store or with the builder, and known again by all that a build may read."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from engines.docker import DockerHost
from engines.podman import podman_host

import agentkernel
from agentkernel.engine.parts import BuildPlace
from agentkernel.errors import AgentKernelError, BackendUnavailable, ImageFailed, InvalidInput, NotFound
from agentkernel.images import builders, lifeline
from agentkernel.images.build import build
from agentkernel.images.ignore import Ignored, parse
from agentkernel.images.rooms import room
from agentkernel.model.image import Image, ImageProgress, ImageStage, ImageWork, ImageWorkKind

REFERENCE = "docker.io/library/app:1"


@dataclass
class Shelf:
    """A keeper that takes archives and remembers what was in them."""

    images: dict[str, Image] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)

    async def find(self, reference: str) -> Image | None:
        return self.images.get(reference)

    async def import_image(self, path: str, reference: str, report: Callable[[ImageProgress], None]) -> Image:
        with tarfile.open(path) as archive:
            self.files[reference] = archive.getnames()
        self.images[reference] = Image(reference=reference, digest=f"sha256:{len(self.images):064x}")
        return self.images[reference]


@dataclass
class Workshop:
    """A place to build in."""

    directory: Path
    environment: dict[str, str]
    shelf: Shelf = field(default_factory=Shelf)
    steps: list[ImageProgress] = field(default_factory=list)

    @property
    def project(self) -> Path:
        return self.directory / "project"

    async def build(self, **changes: Any) -> Image:
        self.steps.clear()
        work = ImageWork(kind=ImageWorkKind.BUILD, reference=REFERENCE, path=str(self.project), **changes)
        keeper: Any = self.shelf
        place = BuildPlace(keeper=keeper, directory=str(self.directory / "images"), environment=self.environment)
        return await build(work, REFERENCE, place, self.steps.append)

    @property
    def lines(self) -> list[str]:
        return [step.item for step in self.steps if step.stage is ImageStage.BUILDING]

    def left(self) -> list[str]:
        return [path.name for path in (self.directory / "images").iterdir() if path.name != "builds"]


# -- a builder that is a script: what is asked of it, and what becomes of its answers

SCRIPT = """#!/bin/sh
echo "$@" >> "$STORAGE_LOG"
env >> "$STORAGE_LOG.env"
case "$1" in
  version) test -n "$DOCKER_HOST" && echo 20.10 ;;
  image) echo "id of $5" ;;
  save) while [ "$1" != --output ]; do shift; done; cp "$STORAGE_ARCHIVE" "$2" ;;
  build)
    while [ "$1" != --iidfile ]; do shift; done
    printf 'one\\rtwo\\r\\nthree\\n\\n'; head -c 100000 /dev/zero | tr '\\0' x; echo; printf 'last \\033[31m'
    test -e "$STORAGE_LOG.hangs" && exec sleep 1000
    test -e "$STORAGE_LOG.fails" && exit 3
    echo sha256:%064d > "$2" ;;
esac
""".replace("%064d", "0" * 64)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("docker", "podman"):
        (programs / name).write_text(SCRIPT)
        (programs / name).chmod(0o755)
    with tarfile.open(tmp_path / "archive.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("manifest.json"), io.BytesIO())
    environment = {
        "PATH": f"relative:{programs}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "DOCKER_HOST": "unix:///x",
        "STORAGE_LOG": str(tmp_path / "log"),
        "STORAGE_ARCHIVE": str(tmp_path / "archive.tar"),
        "OPENAI_API_KEY": "not for builders",
    }
    found = Workshop(tmp_path, environment)
    found.project.mkdir()
    (found.project / "Dockerfile").write_text("FROM busybox\nARG KEY\n")
    return found


def asked(workshop: Workshop, what: str) -> list[str]:
    log = workshop.directory / "log"
    return [line for line in log.read_text().splitlines() if line.startswith(what)] if log.exists() else []


async def test_the_result_is_handed_to_the_keeper_and_nothing_else_is_left(workshop: Workshop) -> None:
    image = await workshop.build()
    assert (image.reference, workshop.shelf.files) == (REFERENCE, {REFERENCE: ["manifest.json"]})
    assert workshop.left() == []
    (words,) = asked(workshop, "build")
    assert f"--file {workshop.project}/Dockerfile --tag {REFERENCE} --iidfile " in words
    assert words.endswith(f" {workshop.project}")
    assert workshop.lines[:3] == ["one", "two", "three"]
    assert [len(line) for line in workshop.lines[3:]] == [builders.MAX_LINE, len("last \033[31m")]


async def test_what_was_built_is_known_again_until_something_changes(workshop: Workshop) -> None:
    first = await workshop.build()
    assert await workshop.build() is first
    assert len(asked(workshop, "build")) == 1
    (workshop.project / "new").touch()
    assert (await workshop.build()).digest != first.digest
    for changes in (
        {"target": "x"},
        {"arguments": (("KEY", "1"),)},
        {"arguments": (("KEY", "2"),)},
        {"platform": "linux/arm64"},
        {"fresh": True},
    ):
        before = len(asked(workshop, "build"))
        await workshop.build(**changes)
        assert len(asked(workshop, "build")) == before + 1, changes
    del workshop.shelf.images[REFERENCE]
    before = len(asked(workshop, "build"))
    await workshop.build()
    assert len(asked(workshop, "build")) == before + 1


async def test_a_base_that_is_another_image_by_now_is_noticed(workshop: Workshop) -> None:
    await workshop.build()
    script = workshop.directory / "bin" / "docker"
    script.write_text(SCRIPT.replace("id of", "another id of"))
    await workshop.build()
    assert len(asked(workshop, "build")) == 2
    assert "docker.io/library/busybox:latest" in asked(workshop, "image")[0]


async def test_values_of_arguments_are_no_words_of_a_program(workshop: Workshop) -> None:
    await workshop.build(arguments=(("TOKEN", "s3cret"), ("HOME", "/x")), target="t", platform="linux/amd64", fresh=True)
    (words,) = asked(workshop, "build")
    assert "s3cret" not in words
    assert "--build-arg=TOKEN --build-arg=HOME=/x" in words
    assert "--target=t --platform=linux/amd64 --no-cache" in words
    told = (workshop.directory / "log.env").read_text()
    assert "TOKEN=s3cret" in told
    assert "not for builders" not in told
    for name in ("", "A B", "--x", "1A"):
        with pytest.raises(InvalidInput):
            await workshop.build(arguments=((name, ""),))


async def test_a_build_that_fails_says_its_last_line_and_leaves_nothing(workshop: Workshop) -> None:
    (workshop.directory / "log.fails").touch()
    with pytest.raises(ImageFailed, match="last"):
        await workshop.build()
    assert (workshop.left(), workshop.shelf.images) == ([], {})


async def test_a_build_that_is_broken_off_ends_with_all_that_it_started(workshop: Workshop) -> None:
    (workshop.directory / "log.hangs").touch()
    task = asyncio.create_task(workshop.build())
    while not workshop.lines:
        await asyncio.sleep(0.01)
    sleeping = _processes_of(str(workshop.directory))
    assert sleeping
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert _processes_of(str(workshop.directory)) == []
    assert workshop.left() == []


ALONE = """
import asyncio, os, sys
from agentkernel.engine.parts import BuildPlace
from agentkernel.images.build import build
from agentkernel.model.image import ImageWork, ImageWorkKind

class Nobody:
    async def find(self, reference): return None

work = ImageWork(kind=ImageWorkKind.BUILD, reference="app", path=sys.argv[1] + "/project")
place = BuildPlace(keeper=Nobody(), directory=sys.argv[1] + "/images", environment=dict(os.environ))
asyncio.run(build(work, "docker.io/library/app:1", place, lambda step: print(step.item[:10], flush=True)))
"""


async def test_a_build_ends_with_the_process_that_wanted_it(workshop: Workshop) -> None:
    """`kill -9` leaves no builder that goes on for nobody, and what it leaves of files goes with the next build."""
    (workshop.directory / "log.hangs").touch()
    source = str(Path(agentkernel.__file__).parents[1])
    argv = [sys.executable, "-c", ALONE, str(workshop.directory)]
    with subprocess.Popen(argv, env=workshop.environment | {"PYTHONPATH": source}, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while process.stdout.readline() != b"three\n":
            assert process.poll() is None
        process.kill()
    while _processes_of(str(workshop.directory)):
        await asyncio.sleep(0.01)
    assert any(name.startswith("build-") for name in workshop.left())
    (workshop.directory / "log.hangs").unlink()
    await workshop.build()
    assert workshop.left() == []


async def test_a_room_that_somebody_is_in_is_not_swept(tmp_path: Path) -> None:
    async with room(str(tmp_path)) as first, room(str(tmp_path)) as second:
        assert os.path.isdir(first)
        assert first != second
    assert list(tmp_path.iterdir()) == []


def test_a_programs_end_is_told_through_its_line(tmp_path: Path) -> None:
    for words, status in ((("sh", "-c", "exit 7"), 7), (("sh", "-c", "kill -TERM $$"), 128 + 15)):
        argv = [sys.executable, "-I", "-S", lifeline.__file__, str(shutil.which(words[0])), *words[1:]]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True) as process:
            assert process.wait(60) == status


def _processes_of(text: str) -> list[int]:
    """Processes that have that text in their environment."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdecimal() and int(entry) != os.getpid() and text.encode() in Path(f"/proc/{entry}/environ").read_bytes():
                found.append(int(entry))
        except OSError:
            continue
    return found


async def test_who_builds(workshop: Workshop) -> None:
    assert (await builders.found("", "", workshop.environment)).name == "docker"
    assert (await builders.found("", "podman", workshop.environment)).name == "podman"
    assert (await builders.found("podman", "docker", workshop.environment)).name == "podman"
    silent = {**workshop.environment, "DOCKER_HOST": ""}
    assert (await builders.found("", "", silent)).name == "podman"
    with pytest.raises(BackendUnavailable, match="does not answer"):
        await builders.found("docker", "", silent)
    with pytest.raises(BackendUnavailable, match="buildah is not installed"):
        await builders.found("buildah", "", {**workshop.environment, "PATH": str(workshop.directory / "bin")})
    with pytest.raises(BackendUnavailable, match="neither") as nobody:
        await builders.found("", "", {"PATH": "relative"})
    assert "buildah" in nobody.value.hint
    with pytest.raises(InvalidInput):
        await builders.found("make", "", workshop.environment)


async def test_the_dockerfile_is_where_it_is_said_to_be(workshop: Workshop) -> None:
    (workshop.project / "Dockerfile").rename(workshop.directory / "elsewhere")
    with pytest.raises(NotFound, match="no Dockerfile"):
        await workshop.build()
    with pytest.raises(NotFound, match="no other"):
        await workshop.build(dockerfile="other")
    await workshop.build(dockerfile="../elsewhere")
    assert f"--file {workshop.directory}/elsewhere " in asked(workshop, "build")[0]
    (workshop.project / "Containerfile").write_text("FROM scratch\n")
    await workshop.build()
    (workshop.project / "Dockerfile").mkdir()
    with pytest.raises(InvalidInput):
        await workshop.build()


async def test_what_a_builder_names_an_image_must_be_an_id(workshop: Workshop) -> None:
    script = workshop.directory / "bin" / "docker"
    script.write_text(SCRIPT.replace("echo sha256:", "echo --output=/etc/passwd #"))
    with pytest.raises(ImageFailed, match="which image"):
        await workshop.build()
    assert asked(workshop, "save") == []


# -- a real engine


@pytest.fixture(scope="module")
def engine(dockerd: DockerHost) -> Iterator[DockerHost]:
    yield dockerd
    dockerd.run("image", "rm", "--force", REFERENCE)
    dockerd.run("image", "prune", "--force")


@pytest.fixture
def real(engine: DockerHost, tmp_path: Path) -> Workshop:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("this host has no busybox to build an image of")
    found = Workshop(tmp_path, {**engine.environment, "HOME": str(tmp_path)})
    found.project.mkdir()
    shutil.copy(busybox, found.project / "busybox")
    return found


async def _listed(engine: DockerHost) -> set[str]:
    container = engine.run("create", REFERENCE, "x").strip()
    exported = await asyncio.to_thread(lambda: _exported(engine, container))
    engine.run("rm", container)
    return exported


def _exported(engine: DockerHost, container: str) -> set[str]:
    path = engine.directory / "exported.tar"
    engine.run("export", "--output", str(path), container)
    with tarfile.open(path) as archive:
        return {member.name.removeprefix("context/") for member in archive if member.name.startswith("context/")}


async def test_a_real_build(engine: DockerHost, real: Workshop) -> None:
    (real.project / "Dockerfile").write_text(
        'FROM scratch AS first\nARG WHO=nobody\nCOPY busybox /bin/busybox\nENV WHO=$WHO\nRUN ["/bin/busybox", "true"]\n'
        'FROM first\nENTRYPOINT ["/bin/busybox"]\nCMD ["echo", "hi"]\n'
    )
    image = await real.build(arguments=(("WHO", "me"),))
    assert image.reference == REFERENCE
    assert "manifest.json" in real.shelf.files[REFERENCE]
    assert "WHO=me" in engine.run("image", "inspect", "--format", "{{json .Config.Env}}", REFERENCE)
    assert any("WHO" in line for line in real.lines)
    assert await real.build(arguments=(("WHO", "me"),)) is image
    with pytest.raises(ImageFailed):
        await real.build(target="absent")


async def test_a_real_build_by_podman(tmp_path: Path) -> None:
    with podman_host() as host:
        environment = {name: value for name, value in host.environment.items() if name != "CONTAINER_HOST"}
        found = Workshop(tmp_path, environment)
        found.project.mkdir()
        (found.project / "file").write_text("x")
        (found.project / "Containerfile").write_text("FROM scratch\nARG A\nLABEL a=$A\nCOPY . /context/\n")
        (found.project / ".containerignore").write_text("Containerfile\n")
        image = await found.build(builder="podman", arguments=(("A", "mine"),))
        assert "manifest.json" in found.shelf.files[image.reference]
        assert host.run("image", "inspect", "--format", "{{.Labels.a}}", REFERENCE) == "mine\n"
        assert await found.build(builder="podman", arguments=(("A", "mine"),)) is image


@pytest.mark.parametrize("text", ["*\n!a/keep", "**/*.log\n!a/b/x.log", "a\n!a/b\na/b/x.log", "/a/*\nd*e", "a**\n?.txt", "[ac]\n*/b"])
async def test_what_is_left_out_is_what_docker_leaves_out(text: str, engine: DockerHost, real: Workshop) -> None:
    paths = ["a/keep", "a/b/x.log", "a/b/c/deep", "a/y.txt", "b.txt", "c/b/z", "x.log", "de/f", "dxe"]
    for path in paths:
        (real.project / path).parent.mkdir(parents=True, exist_ok=True)
        (real.project / path).write_text(path)
    (real.project / "Dockerfile").write_text('FROM scratch\nCOPY . /context/\nENTRYPOINT ["x"]\n')
    (real.project / ".dockerignore").write_text(text)
    try:
        await real.build(backend="docker", builder="docker")
    except AgentKernelError:
        pytest.fail(f"{text!r}: {real.lines[-3:]}")
    copied = await _listed(engine)
    ignored = Ignored(parse(text))
    for path in paths:
        below = ignored
        for name in path.split("/"):
            below = below.below(name)
        assert not (below.is_left_out and path in copied), f"{path} counts, and was taken to be left out by {text!r}"
        if "[" not in text and "a**" not in text:
            assert below.is_left_out == (path not in copied), path
