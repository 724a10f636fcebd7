"""The store of images: what names stand for, what is removed and what is not, several processes, archives that are handed over."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from registry_world import INDEX, MANIFEST, MadeImage, RunningRegistry, digest_of, make_image, make_index, running_registry, tar_of
from unit.images_world import World, needs_registry, tree

import agentkernel
from agentkernel.errors import Conflict, InvalidInput, NotFound
from agentkernel.images import roots
from agentkernel.images.library import Library
from agentkernel.model.image import Image, PullPolicy

BASE, TOP = tar_of("etc/", ("etc/passwd", b"root:x:0:0::/:/\n")), tar_of(("hello", b"hello"))
DAY_S = 24 * 3600.0


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        running.push("one", "1", make_image(BASE, TOP))
        running.push("two", "1", make_image(BASE, tar_of(("two", b"2"))))
        yield running


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    world.library.close()


def blob_names(world: World) -> set[str]:
    return {f"sha256:{name.rpartition('/')[2]}" for name in world.files() if name.startswith("blobs/")}


def roots_of(world: World) -> list[str]:
    return sorted(f"sha256:{each.name}" for each in (world.directory / "rootfs").glob("*") if each.is_dir())


async def obtain(library: Library, world: World, reference: str) -> Image:
    return await library.obtain(reference, PullPolicy.MISSING, world.report)


@needs_registry
class TestKeeping:
    """What is pulled, used and removed."""

    async def test_the_list_says_what_is_here(self, world: World, registry: RunningRegistry) -> None:
        assert await world.library.images() == []
        before = time.time()
        one = await obtain(world.library, world, f"{registry.address}/one:1")
        await obtain(world.library, world, f"{registry.address}/two:1")
        first, second = await world.library.images()
        made = make_image(BASE, TOP)
        assert (first.reference, first.digest) == (one.reference, one.digest)
        assert first.size_bytes == sum(len(made.blobs[digest]) for digest in made.layers)
        assert first.platform.startswith("linux/")
        assert before <= first.obtained_at <= time.time()
        assert second.reference == f"{registry.address}/two:1"

    async def test_removing_an_image_leaves_what_others_need(self, world: World, registry: RunningRegistry) -> None:
        one, two = make_image(BASE, TOP), make_image(BASE, tar_of(("two", b"2")))
        await obtain(world.library, world, f"{registry.address}/one:1")
        await obtain(world.library, world, f"{registry.address}/two:1")
        await world.library.remove_image(f"{registry.address}/one:1")
        assert blob_names(world) == {*two.blobs, two.digest}
        assert one.layers[0] in blob_names(world), "the layer of both"
        assert roots_of(world) == [two.digest]
        assert await world.library.find(f"{registry.address}/one:1") is None
        await world.library.remove_image(f"{registry.address}/two:1")
        assert world.files() == []

    async def test_the_last_name_of_an_image_takes_it_along(self, world: World, registry: RunningRegistry) -> None:
        made = make_image(BASE, TOP)
        await obtain(world.library, world, f"{registry.address}/one:1")
        by_digest = await obtain(world.library, world, f"{registry.address}/one@{made.digest}")
        await world.library.remove_image(f"{registry.address}/one:1")
        assert tree(by_digest.directory)["hello"] == "hello"
        await world.library.remove_image(f"{registry.address}/one@{made.digest}")
        assert world.files() == []

    async def test_an_image_that_is_not_here_cannot_be_removed(self, world: World) -> None:
        with pytest.raises(NotFound, match="there is no image"):
            await world.library.remove_image("docker.io/library/alpine:3.20")

    @pytest.mark.parametrize("by", ["digest", "directory"])
    async def test_an_image_of_a_sandbox_is_not_removed(self, world: World, registry: RunningRegistry, by: str) -> None:
        image = await obtain(world.library, world, f"{registry.address}/one:1")
        world.needed = {getattr(image, by)}
        with pytest.raises(Conflict, match="sandboxes use the image"):
            await world.library.remove_image(image.reference)
        assert await world.library.prune_images(0, ()) == []
        assert await world.library.find(image.reference) == image
        world.needed = ()
        assert await world.library.prune_images(0, (image.digest,)) == []
        await world.library.remove_image(image.reference)

    async def test_an_image_that_another_process_may_use_is_not_removed(self, world: World, registry: RunningRegistry) -> None:
        other = world.another()
        image = await obtain(other, world, f"{registry.address}/one:1")
        with pytest.raises(Conflict, match="another process"):
            await world.library.remove_image(image.reference)
        assert await world.library.prune_images(0, ()) == []
        assert await other.find(image.reference) == image
        other.close()
        await world.library.remove_image(image.reference)
        assert world.files() == []

    async def test_pruning_takes_what_was_not_used_for_so_long(self, world: World, registry: RunningRegistry) -> None:
        for name in ("one", "two"):
            await obtain(world.library, world, f"{registry.address}/{name}:1")
        for file in (world.directory / "names").iterdir():
            fields = json.loads(file.read_text())
            file.write_text(json.dumps({**fields, "obtained_at": time.time() - 3 * DAY_S}))
            os.utime(file, (0, time.time() - 2 * DAY_S))
        assert await world.library.find(f"{registry.address}/two:1") is not None  # this is use
        lines = await world.library.prune_images(DAY_S, ())
        assert lines[0] == f"{registry.address}/one:1"
        assert "layers that no image needs" in lines[1]
        assert [each.reference for each in await world.library.images()] == [f"{registry.address}/two:1"]

    async def test_pruning_takes_transfers_that_nobody_goes_on_with(self, world: World) -> None:
        part = world.directory / "blobs/sha256" / ("a" * 64 + ".part")
        part.parent.mkdir(parents=True)
        part.write_bytes(b"x" * 1000)
        assert await world.library.prune_images(DAY_S, ()) == []
        os.utime(part, (0, time.time() - 2 * DAY_S))
        assert await world.library.prune_images(DAY_S, ()) == ["layers that no image needs: 1000B"]
        assert world.files() == []

    async def test_nothing_is_collected_while_an_image_comes(self, world: World, registry: RunningRegistry) -> None:
        """Its blobs are there before its name is."""
        ready, go_on = asyncio.Event(), asyncio.Event()

        async def slow(*_: Any) -> None:
            ready.set()
            await go_on.wait()

        other = world.another()
        other._roots._unpack = slow
        task = asyncio.create_task(obtain(other, world, f"{registry.address}/one:1"))
        await ready.wait()
        await obtain(world.library, world, f"{registry.address}/two:1")
        await world.library.remove_image(f"{registry.address}/two:1")
        assert set(make_image(BASE, TOP).blobs) <= blob_names(world)
        go_on.set()
        assert (await task).reference == f"{registry.address}/one:1"
        other.close()
        await world.library.prune_images(DAY_S, ())
        assert blob_names(world) == {*make_image(BASE, TOP).blobs, make_image(BASE, TOP).digest}

    async def test_what_a_name_no_longer_stands_for_goes_when_nobody_uses_it(
        self, world: World, registry: RunningRegistry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        registry.push("moving", "1", make_image(TOP))
        old = await obtain(world.library, world, f"{registry.address}/moving:1")
        new_image = make_image(BASE)
        registry.push("moving", "1", new_image)
        new = await world.library.obtain(f"{registry.address}/moving:1", PullPolicy.ALWAYS, world.report)
        await world.library.prune_images(DAY_S, ())
        assert os.path.isdir(old.directory), "a sandbox may be being made of it"
        monkeypatch.setattr(roots, "GRACE_S", 0.0)
        await world.library.prune_images(DAY_S, (old.directory,))
        assert os.path.isdir(old.directory)
        await world.library.prune_images(DAY_S, ())
        assert roots_of(world) == [new.digest]

    async def test_a_root_that_is_gone_is_unpacked_again_without_a_registry(self, world: World, registry: RunningRegistry) -> None:
        image = await obtain(world.library, world, f"{registry.address}/one:1")
        for path in (world.directory / "rootfs").iterdir():
            os.rename(path, world.directory.parent / path.name)
        assert await world.library.find(image.reference) is None
        again = await world.library.obtain(image.reference, PullPolicy.NEVER, world.report)
        assert again == image
        assert tree(again.directory)["hello"] == "hello"

    async def test_what_a_crash_left_does_not_disturb_and_goes(self, world: World, registry: RunningRegistry) -> None:
        made = make_image(BASE, TOP)
        half = world.directory / "rootfs" / (made.digest.removeprefix("sha256:") + ".new") / "rootfs"
        half.mkdir(parents=True)
        (half / "half").write_text("x")
        (world.directory / "rootfs/import-abc.new").mkdir()
        image = await obtain(world.library, world, f"{registry.address}/one:1")
        assert "half" not in tree(image.directory)
        await world.library.remove_image(image.reference)
        assert world.files() == []
        assert roots_of(world) == []

    async def test_a_damaged_record_is_no_image(self, world: World, registry: RunningRegistry) -> None:
        image = await obtain(world.library, world, f"{registry.address}/one:1")
        (record,) = (world.directory / "names").iterdir()
        record.write_text('{"reference": ')
        assert await world.library.find(image.reference) is None
        assert await world.library.images() == []
        assert (await obtain(world.library, world, image.reference)) == image

    async def test_a_password_file_that_leads_out_is_not_read(self, world: World, registry: RunningRegistry) -> None:
        for name, layer in {
            "absolute": tar_of("etc/", link("etc/passwd", "/etc/shadow")),
            "upwards": tar_of("etc/", link("etc/passwd", "../" * 30 + "etc/passwd")),
            "directory": tar_of("etc/passwd/"),
            "parent": tar_of(link("etc", "/etc")),
        }.items():
            registry.push(name, "1", make_image(layer))
            assert (await obtain(world.library, world, f"{registry.address}/{name}:1")).users == (), name

    async def test_a_password_file_behind_links_of_the_image_is_read(self, world: World, registry: RunningRegistry) -> None:
        content = b"web:x:33:44:::\nodd:x:-1:0::\nlong:x:99999999999:0\n# comment\nbroken\n\xff:x:1:2\n"
        layer = tar_of("nix/store/", ("nix/store/passwd", content), link("etc/passwd", "/nix/store/passwd"))
        registry.push("nix", "1", make_image(layer))
        assert (await obtain(world.library, world, f"{registry.address}/nix:1")).users == (("web", 33, 44), ("\ufffd", 1, 2))

    async def test_sandboxes_may_walk_to_their_files_whatever_the_umask_is(self, world: World, registry: RunningRegistry) -> None:
        before = os.umask(0o077)
        try:
            image = await obtain(world.library, world, f"{registry.address}/one:1")
        finally:
            os.umask(before)
        root = Path(image.directory)
        assert [stat.S_IMODE(each.stat().st_mode) for each in (root, *root.parents[:3])] == [0o755, 0o711, 0o711, 0o711]
        assert stat.S_IMODE((world.directory / "blobs/sha256").stat().st_mode) == 0o700

    async def test_an_image_without_layers_is_empty(self, world: World, registry: RunningRegistry) -> None:
        registry.push("scratch", "1", make_image(config={"Cmd": ["/x"]}))
        image = await obtain(world.library, world, f"{registry.address}/scratch:1")
        assert (tree(image.directory), image.config.command) == ({}, ("/x",))


def test_nothing_of_http_is_imported_before_a_registry_is_asked() -> None:
    code = "import sys, agentkernel.images.library; assert not {'httpx', 'h11', 'anyio'} & sys.modules.keys()"
    source = Path(agentkernel.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(source)}, check=True)


def link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


# -- archives and directories ---------------------------------------------------------------------------------------------------------

NAME = "docker.io/library/mine:1"


def oci_layout(directory: Path, *entries: tuple[MadeImage, dict[str, Any]]) -> Path:
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)
    listed = []
    for image, more in entries:
        for digest, data in {**image.blobs, image.digest: image.manifest}.items():
            (blobs / digest.removeprefix("sha256:")).write_bytes(data)
        listed.append({"mediaType": MANIFEST, "digest": image.digest, "size": len(image.manifest), **more})
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}))
    return directory


def docker_saved(directory: Path, images: dict[str, list[bytes]]) -> Path:
    """As docker wrote it up to version 24: layers decompressed, and a layer of two images once, with links to it."""
    listed, seen = [], {}
    for number, (tag, layers) in enumerate(images.items()):
        names = []
        for index, data in enumerate(layers):
            name = f"{number}{index}" * 32 + "/layer.tar"
            (directory / name).parent.mkdir(parents=True)
            if data in seen:
                (directory / name).symlink_to(f"../{seen[data]}")
            else:
                (directory / name).write_bytes(data)
            seen.setdefault(data, name)
            names.append(name)
        config = make_image(*layers, config={"Cmd": [tag]})
        data = config.blobs[json.loads(config.manifest)["config"]["digest"]]
        (directory / f"config{number}.json").write_bytes(data)
        listed.append({"Config": f"config{number}.json", "RepoTags": [tag], "Layers": names})
    (directory / "manifest.json").write_text(json.dumps(listed))
    return directory


def packed(directory: Path) -> Path:
    """The directory as an archive beside it."""
    path = directory.with_suffix(".tar")
    with tarfile.open(path, "w") as tar:
        tar.add(directory, arcname=".")
    return path


async def take(world: World, path: Path, reference: str = NAME) -> Image:
    return await world.library.import_image(str(path), reference, world.report)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    made.mkdir()
    return made


@pytest.mark.parametrize("form", [Path, packed], ids=["directory", "archive"])
async def test_an_oci_layout_is_taken_up(world: World, source: Path, form: Any) -> None:
    made = make_image(BASE, TOP, config={"Cmd": ["hello"]})
    image = await take(world, form(oci_layout(source, (made, {}))))
    assert (image.reference, image.digest, image.config.command) == (NAME, made.digest, ("hello",))
    assert tree(image.directory)["hello"] == "hello"
    assert await world.library.find(NAME) == image
    assert [each.reference for each in await world.library.images()] == [NAME]
    await world.library.remove_image(NAME)
    assert world.files() == []


@pytest.mark.parametrize("form", [Path, packed], ids=["directory", "archive"])
async def test_what_docker_saved_is_taken_up(world: World, source: Path, form: Any) -> None:
    image = await take(world, form(docker_saved(source, {"mine:1": [BASE, TOP], "other:2": [BASE, BASE]})))
    assert image.config.command == ("mine:1",)
    assert tree(image.directory)["hello"] == "hello"
    other = await take(world, form(source), "docker.io/library/other:2")
    assert other.config.command == ("other:2",)
    assert (await take(world, form(source))).digest == image.digest, "equal images have equal digests"


async def test_a_layout_for_several_platforms_gives_this_hosts(world: World, source: Path) -> None:
    here = make_image(TOP)
    machine = json.loads(here.blobs[json.loads(here.manifest)["config"]["digest"]])["architecture"]
    entries = [(make_image(BASE, architecture="s390x"), "s390x"), (here, machine)]
    layout = oci_layout(source, *((image, {"platform": {"os": "linux", "architecture": name}}) for image, name in entries))
    assert (await take(world, layout)).digest == here.digest


async def test_an_index_within_a_layout_is_followed(world: World, source: Path) -> None:
    here = make_image(TOP)
    machine = json.loads(here.blobs[json.loads(here.manifest)["config"]["digest"]])["architecture"]
    index = make_index((here, f"linux/{machine}"))
    oci_layout(source, (here, {}))
    (source / "blobs/sha256" / digest_of(index).removeprefix("sha256:")).write_bytes(index)
    top = {"schemaVersion": 2, "manifests": [{"mediaType": INDEX, "digest": digest_of(index), "size": len(index)}]}
    (source / "index.json").write_text(json.dumps(top))
    assert (await take(world, source)).digest == here.digest


async def test_the_image_of_that_name_is_taken_of_several(world: World, source: Path) -> None:
    key = "io.containerd.image.name"
    mine, other = make_image(TOP), make_image(BASE)
    oci_layout(source, (other, {"annotations": {key: "docker.io/library/other:1"}}), (mine, {"annotations": {key: NAME}}))
    assert (await take(world, source)).digest == mine.digest
    with pytest.raises(InvalidInput, match="there are 2 images in it") as caught:
        await take(world, source, "docker.io/library/third:1")
    assert "docker.io/library/other:1" in caught.value.hint


@pytest.mark.parametrize("form", [Path, packed], ids=["directory", "archive"])
async def test_a_root_file_system_is_taken_up(world: World, source: Path, form: Any) -> None:
    (source / "etc").mkdir()
    (source / "etc/passwd").write_text("web:x:33:44::\n")
    (source / "manifest.json").write_text("some program's own")
    image = await take(world, form(source))
    assert tree(image.directory) == {"etc": "/", "etc/passwd": "web:x:33:44::\n", "manifest.json": "some program's own"}
    assert image.users == (("web", 33, 44),)
    (record,) = await world.library.images()
    assert record.size_bytes == len("web:x:33:44::\n") + len("some program's own")
    assert (await take(world, form(source))).directory == image.directory
    await world.library.remove_image(NAME)
    assert world.files() == []


async def test_equal_directories_have_equal_digests(world: World, tmp_path: Path) -> None:
    digests = []
    for number, content in enumerate(["same", "same", "other"]):
        directory = tmp_path / str(number)
        (directory / "bin").mkdir(parents=True)
        (directory / "bin/x").write_text(content)
        digests.append((await take(world, directory)).digest)
    assert digests[0] == digests[1] != digests[2]


async def test_a_link_in_a_layout_leads_nowhere_out_of_it(world: World, source: Path, tmp_path: Path) -> None:
    made = make_image(TOP)
    oci_layout(source, (made, {}))
    secret = tmp_path / "secret"
    layer = source / "blobs/sha256" / made.layers[0].removeprefix("sha256:")
    os.rename(layer, secret)
    layer.symlink_to(secret)
    with pytest.raises(InvalidInput, match="is not in it"):
        await take(world, source)
    docker_saved(tmp_path / "saved", {"mine:1": [BASE]})
    config = tmp_path / "saved/config0.json"
    os.rename(config, tmp_path / "stolen.json")
    config.symlink_to("../stolen.json")
    with pytest.raises(InvalidInput, match="cannot be read"):
        await take(world, tmp_path / "saved")


async def test_a_layout_that_lies_is_refused(world: World, source: Path) -> None:
    made = make_image(TOP)
    oci_layout(source, (made, {}))
    layer = source / "blobs/sha256" / made.layers[0].removeprefix("sha256:")
    data = bytearray(layer.read_bytes())
    data[5] ^= 1
    layer.write_bytes(data)
    with pytest.raises(Exception, match="is something else"):
        await take(world, source)
    assert await world.library.images() == []


@pytest.mark.parametrize(
    "content",
    ["", "{}", "7", '[{"Config": "a"}]', '[{"Config": "/etc/passwd", "Layers": []}]', '[{"Config": "../../x", "Layers": []}]', "[]"],
)
async def test_a_list_that_docker_did_not_write_is_refused(world: World, source: Path, content: str) -> None:
    (source / "manifest.json").write_text(content)
    with pytest.raises((InvalidInput, NotFound)):
        await take(world, source)
    assert await world.library.images() == []


async def test_what_is_no_image_is_said_so(world: World, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="cannot read the image"):
        await take(world, tmp_path / "missing.tar")
    (tmp_path / "text").write_text("hello" * 1000)
    with pytest.raises(InvalidInput, match="not a tar archive"):
        await take(world, tmp_path / "text")
    evil = tmp_path / "evil.tar"
    evil.write_bytes(tar_of(("../escape", b"x")))
    with pytest.raises(InvalidInput, match="outside of its root"):
        await take(world, evil)
    assert world.files() == []
    assert not (tmp_path / "escape").exists()


async def test_a_descriptor_of_another_type_is_no_image(world: World, source: Path) -> None:
    made = make_image(TOP)
    manifest = json.dumps({**json.loads(made.manifest), "config": {"mediaType": "application/x-helm", "digest": digest_of(b""), "size": 0}})
    other = MadeImage(manifest=manifest.encode(), blobs={**made.blobs, digest_of(b""): b""}, layers=made.layers)
    with pytest.raises(Exception, match="this is no image but"):
        await take(world, oci_layout(source, (other, {})))
