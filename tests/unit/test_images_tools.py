"""Images as the programs write them that people have: docker and podman save and push, and the store takes it up."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines.docker import DockerHost, docker_host
from registry_world import RunningRegistry, running_registry, tar_of
from unit.images_world import World, needs_registry, tree

from agentkernel.model.image import Image, PullPolicy

DOCKERFILE = """FROM scratch
ADD base.tar /
COPY hello /etc/hello
ENV A=1 B="two words"
WORKDIR /srv
USER web
ENTRYPOINT ["/bin/x", "--"]
CMD ["y"]
"""
BASE = tar_of("bin/", ("bin/x", b"x"), "etc/", ("etc/passwd", b"root:x:0:0:::\nweb:x:33:44:::\n"))


def context(directory: Path) -> Path:
    """What a Dockerfile is built of."""
    directory.mkdir()
    (directory / "Dockerfile").write_text(DOCKERFILE)
    (directory / "base.tar").write_bytes(BASE)
    (directory / "hello").write_text("hello")
    return directory


def assert_is_that(image: Image) -> None:
    found = tree(image.directory)
    assert {name: found[name] for name in ("bin/x", "etc/hello")} == {"bin/x": "x", "etc/hello": "hello"}
    assert dict(image.config.environment).items() >= {"A": "1", "B": "two words"}.items()
    assert (image.config.working_directory, image.config.user) == ("/srv", "web")
    assert (image.config.entrypoint, image.config.command) == (("/bin/x", "--"), ("y",))
    assert image.users == (("root", 0, 0), ("web", 33, 44))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.library.close()


class Podman:
    """podman with a store of the test's own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._program = ["podman", "--root", str(directory / "root"), "--runroot", str(directory / "run"), "--storage-driver", "vfs"]
        self.run("build", "--quiet", "--tag", "localhost/app:1", str(context(directory / "context")))

    def run(self, *words: str) -> None:
        done = subprocess.run([*self._program, *words], capture_output=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr.decode()


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    if shutil.which("podman") is None:
        pytest.skip("needs podman (Debian: podman)")
    return Podman(tmp_path_factory.mktemp("podman"))


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerHost]:
    with docker_host() as host:
        host.run("build", "--quiet", "--tag", "app:1", str(context(tmp_path_factory.mktemp("docker") / "context")))
        yield host


@pytest.mark.parametrize("form", ["oci-archive", "oci-dir", "docker-archive"])
async def test_what_podman_saves_is_taken_up(world: World, podman: Podman, tmp_path: Path, form: str) -> None:
    podman.run("save", "--format", form, "--output", str(tmp_path / "saved"), "localhost/app:1")
    assert_is_that(await world.library.import_image(str(tmp_path / "saved"), "localhost/app:1", world.report))


@needs_registry
@pytest.mark.parametrize(("form", "compression"), [("oci", "gzip"), ("oci", "zstd"), ("oci", "zstd:chunked"), ("v2s2", "gzip")])
async def test_what_podman_pushes_is_pulled(world: World, podman: Podman, registry: RunningRegistry, form: str, compression: str) -> None:
    name = f"{registry.address}/{form}/{compression.replace(':', '-')}:1"
    podman.run("push", "--tls-verify=false", "--format", form, "--compression-format", compression, "localhost/app:1", name)
    assert_is_that(await world.library.obtain(name, PullPolicy.MISSING, world.report))


async def test_what_docker_saves_is_taken_up(world: World, docker: DockerHost, tmp_path: Path) -> None:
    docker.run("tag", "app:1", "app:2")
    docker.run("save", "--output", str(tmp_path / "saved.tar"), "app:1", "app:2")
    image = await world.library.import_image(str(tmp_path / "saved.tar"), "docker.io/library/app:2", world.report)
    assert_is_that(image)
    again = await world.library.import_image(str(tmp_path / "saved.tar"), "docker.io/library/another:1", world.report)
    assert again.digest == image.digest, "the only image, by whatever names"


@needs_registry
async def test_what_docker_pushes_is_pulled(world: World, docker: DockerHost, registry: RunningRegistry) -> None:
    name = f"{registry.address}/docker/app:1"
    docker.run("tag", "app:1", name)
    docker.run("push", name)
    assert_is_that(await world.library.obtain(name, PullPolicy.MISSING, world.report))
