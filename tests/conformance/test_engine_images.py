"""Images that Docker and Podman keep themselves: real engines, a real registry on loopback."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from engines.docker import docker_host
from engines.podman import podman_host
from registry_world import PASSWORD, USER, MadeImage, RunningRegistry, htpasswd, make_image, running_registry, tar_of

from agentkernel.backends.containers.docker import DockerDialect
from agentkernel.backends.containers.host import Host
from agentkernel.backends.containers.keeper import EngineImages
from agentkernel.backends.containers.podman import PodmanDialect
from agentkernel.errors import AgentKernelError, Conflict, InvalidInput, NotFound, Refused
from agentkernel.model.image import ImageConfig, ImageProgress, ImageStage, PullPolicy

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nservice:x:4321:4322::/srv:/bin/sh\nodd\n"
CONFIG = {"Env": ["A=1", "B=x=y"], "WorkingDir": "/srv", "User": "service", "Entrypoint": ["/bin/tool"], "Cmd": ["--help"]}
MISSING, ALWAYS, NEVER = PullPolicy.MISSING, PullPolicy.ALWAYS, PullPolicy.NEVER


@dataclass(kw_only=True)
class World:
    """An engine's images, and the registry that they come from."""

    keeper: EngineImages
    dialect: DockerDialect | PodmanDialect
    registry: RunningRegistry

    def name(self, tag: str) -> str:
        return f"{self.registry.address}/tests/small:{tag}"

    def push(self, tag: str, image: MadeImage) -> str:
        self.registry.push("tests/small", tag, image)
        return self.name(tag)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    if shutil.which("docker-registry") is None:
        pytest.skip("needs docker-registry (Debian: docker-registry)")
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module", params=["docker", "podman"])
def engine(request: pytest.FixtureRequest) -> Iterator[tuple[type[DockerDialect] | type[PodmanDialect], dict[str, str]]]:
    if request.param == "docker":
        with docker_host() as docker:
            yield DockerDialect, docker.environment
    else:
        with podman_host() as podman:
            yield PodmanDialect, {**os.environ, **podman.environment}


@pytest.fixture
async def world(
    engine: tuple[type[DockerDialect] | type[PodmanDialect], dict[str, str]], registry: RunningRegistry, tmp_path: Path
) -> AsyncIterator[World]:
    make, environment = engine
    dialect = make(environment)
    keeper = dialect.keeper(str(tmp_path / "data"), Host(dialect, tmp_path).momentary)
    yield World(keeper=keeper, dialect=dialect, registry=registry)
    dialect.close()


def image(text: str, **config: object) -> MadeImage:
    return make_image(
        tar_of(("etc/", b""), ("etc/passwd", PASSWD), ("bin/", b""), ("bin/tool", text.encode())), config={**CONFIG, **config}
    )


def silent(_: ImageProgress) -> None: ...


async def test_an_image_is_pulled_once_and_its_configuration_read(world: World) -> None:
    name = world.push("pulled", image("one"))
    assert await world.keeper.find(name) is None
    said: list[ImageProgress] = []
    first, again = await asyncio.gather(*(world.keeper.obtain(name, MISSING, said.append) for _ in range(2)))
    assert first == again == await world.keeper.find(name)
    assert first.reference == name
    assert first.digest.startswith("sha256:") and len(first.digest) == 71
    assert first.config == ImageConfig(
        environment=(("A", "1"), ("B", "x=y")), working_directory="/srv", user="service", entrypoint=("/bin/tool",), command=("--help",)
    )
    assert first.users == (("root", 0, 0), ("service", 4321, 4322))
    assert said and all(progress.stage in (ImageStage.RESOLVING, ImageStage.DOWNLOADING, ImageStage.UNPACKING) for progress in said)
    (record,) = [each for each in await world.keeper.images() if each.reference == name]
    assert (record.digest, record.backend, record.platform.split("/")[0]) == (first.digest, world.dialect.name, "linux")
    assert record.obtained_at > 0 and record.size_bytes > 0


async def test_a_list_asks_about_each_image_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an image is never changes; which names it has is asked each time."""
    first, second = world.push("listed", image("one")), world.push("listed-too", image("two"))
    await asyncio.gather(*(world.keeper.obtain(name, MISSING, silent) for name in (first, second)))
    listed = await world.keeper.images()
    assert {first, second} <= {each.reference for each in listed}
    await world.keeper.remove_image(second)

    async def again(reference: str) -> None:
        pytest.fail(f"it was asked about {reference} once more")

    monkeypatch.setattr(world.keeper._calls, "inspect", again)
    assert await world.keeper.images() == [each for each in listed if each.reference != second]


async def test_policies_say_when_the_registry_is_asked(world: World) -> None:
    name = world.push("policy", image("old", User="7"))
    with pytest.raises(NotFound, match="has no image"):
        await world.keeper.obtain(name, NEVER, silent)
    old = await world.keeper.obtain(name, MISSING, silent)
    world.push("policy", image("new", User="8"))
    assert (await world.keeper.obtain(name, MISSING, silent)) == old
    new = await world.keeper.obtain(name, ALWAYS, silent)
    assert (new.config.user, new.users) == ("8", ())
    assert new.digest != old.digest
    assert (await world.keeper.obtain(name, NEVER, silent)) == new


async def test_what_is_not_there_or_cannot_be_reached_is_told_apart(world: World) -> None:
    with pytest.raises(NotFound):
        await world.keeper.obtain(world.name("absent"), MISSING, silent)
    with pytest.raises(AgentKernelError) as unreachable:
        await world.keeper.obtain("127.0.0.1:1/tests/small:x", MISSING, silent)
    assert unreachable.value.code == "image_failed"
    with pytest.raises(NotFound):
        await world.keeper.remove_image(world.name("absent"))


async def test_logins_are_passed_on(world: World, tmp_path: Path) -> None:
    (tmp_path / "guarded").mkdir()
    with running_registry(tmp_path / "guarded", **htpasswd(tmp_path)) as guarded:
        login = f"{USER}:{PASSWORD}"
        guarded.headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        guarded.push("tests/own", "1", image("secret"))
        name = f"{guarded.address}/tests/own:1"
        with pytest.raises(Refused):
            await world.keeper.obtain(name, MISSING, silent)
        asked: list[str] = []

        async def logins(reference: str) -> tuple[str, str, str] | None:
            asked.append(reference)
            return (USER, PASSWORD, "")

        world.keeper.use_logins(logins)
        assert (await world.keeper.obtain(name, MISSING, silent)).reference == name
        assert asked == [name]


async def test_archives_and_directories_are_imported_under_the_name_they_are_given(world: World, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "passwd").write_bytes(PASSWD)
    (tree / "link").symlink_to("etc/passwd")
    plain = tmp_path / "plain.tar"
    plain.write_bytes(tar_of(("etc/", b""), ("etc/passwd", PASSWD)))
    for path, name in ((tree, "localhost/tests-imported:tree"), (plain, "localhost/tests-imported:plain")):
        found = await world.keeper.import_image(str(path), name, silent)
        assert (found.reference, found.config) == (name, ImageConfig())
        assert await world.keeper.find(name) == found
    with pytest.raises(NotFound):
        await world.keeper.import_image(str(tmp_path / "absent"), "localhost/tests-imported:absent", silent)
    (tmp_path / "noise.tar").write_bytes(os.urandom(5000))
    with pytest.raises(InvalidInput):
        await world.keeper.import_image(str(tmp_path / "noise.tar"), "localhost/tests-imported:noise", silent)


async def test_a_saved_image_brings_no_other_name_with_it(world: World, tmp_path: Path) -> None:
    taken, fresh = world.push("taken", image("mine")), world.push("fresh", image("theirs"))
    theirs = await world.keeper.obtain(fresh, MISSING, silent)
    await world.dialect.api.call("POST", f"/images/{theirs.digest}/tag", query={"repo": taken.rpartition(":")[0], "tag": "taken"})
    saved = tmp_path / "saved.tar"
    with saved.open("wb") as file:
        async for chunk in world.dialect.api.download("/images/get", query={"names": taken}):
            file.write(chunk)
    for name in (taken, fresh):
        await world.keeper.remove_image(name)
    mine = await world.keeper.obtain(taken, ALWAYS, silent)
    loaded = await world.keeper.import_image(str(saved), "localhost/tests-loaded:1", silent)
    assert loaded.digest == theirs.digest
    assert loaded.config == theirs.config
    assert await world.keeper.find(taken) == mine, "the archive's own name for it was somebody's already"


def saved(*images: tuple[str, bytes]) -> bytes:
    """What `docker save` writes of several images; each is told by the digest of its configuration."""
    files, listed = [], []
    for name, content in images:
        layer = tar_of(("file", content))
        config = config_around(layer)
        files += [(f"{sha256(layer)}.tar", layer), (f"{sha256(config)}.json", config)]
        listed.append({"Config": f"{sha256(config)}.json", "RepoTags": [name], "Layers": [f"{sha256(layer)}.tar"]})
    return tar_of(*files, ("manifest.json", json.dumps(listed).encode()))


def config_around(layer: bytes) -> bytes:
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{sha256(layer)}"]}
    return json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_of_several_saved_images_the_one_that_is_named_is_taken(world: World, tmp_path: Path) -> None:
    first, second = "localhost/tests-several:first", "localhost/tests-several:second"
    archive = tmp_path / "several.tar"
    archive.write_bytes(saved((first, b"first"), (second, b"second")))
    found = await world.keeper.import_image(str(archive), first, silent)
    assert found.digest == f"sha256:{sha256(config_around(tar_of(('file', b'first'))))}"
    assert await world.keeper.find(second) is None
    with pytest.raises(InvalidInput, match="none of them"):
        await world.keeper.import_image(str(archive), "localhost/tests-several:third", silent)
    assert await world.keeper.find(first) == found
    assert await world.keeper.find(second) is None and await world.keeper.find("localhost/tests-several:third") is None


async def test_prune_takes_only_what_came_by_us_and_is_not_in_use(world: World, tmp_path: Path) -> None:
    ours, used, users = (world.push(tag, image(tag)) for tag in ("prune-ours", "prune-used", "prune-users"))
    await world.dialect.keeper(str(tmp_path / "of-somebody-else"), Host(world.dialect, tmp_path).momentary).obtain(users, MISSING, silent)
    await world.keeper.obtain(ours, MISSING, silent)
    kept = await world.keeper.obtain(used, MISSING, silent)
    await world.keeper.obtain(users, ALWAYS, silent)  # the user's stays the user's
    assert await world.keeper.prune_images(3600, ()) == []
    assert await world.keeper.prune_images(0, (kept.digest,)) == [f"{world.dialect.name}: {ours}"]
    assert await world.keeper.find(ours) is None
    assert await world.keeper.find(used) is not None and await world.keeper.find(users) is not None


async def test_an_image_in_use_is_not_removed(world: World) -> None:
    name = world.push("busy", image("busy"))
    await world.keeper.obtain(name, MISSING, silent)
    made = await world.dialect.api.call(
        "POST", "/containers/create", body={"Image": name, "Cmd": ["x"], "HostConfig": {"NetworkMode": "none"}}
    )
    with pytest.raises(Conflict, match="in use"):
        await world.keeper.remove_image(name)
    await world.dialect.api.call("DELETE", f"/containers/{made['Id']}", query={"force": True})
    await world.keeper.remove_image(name)
    assert await world.keeper.find(name) is None
