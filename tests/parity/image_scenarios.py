"""What fronts do alike with images."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from parity.listed import fails, lasting, of_the_client, scenario
from parity.operations import No
from registry_world import RunningRegistry, make_image, running_registry, tar_of

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nservice:x:1234:1234::/srv:/bin/sh\n"
TOOLS = ("sh", "cat", "echo", "env", "id", "ls", "pwd", "true", "touch")


def root_files() -> bytes:
    """The archive of a root file system of busybox alone."""
    busybox = shutil.which("busybox")
    if busybox is None or subprocess.run(["ldd", busybox], capture_output=True).returncode == 0:
        pytest.skip("this host has no static busybox to make an image of (Debian: busybox-static)")
    links = []
    for name in TOOLS:
        link = tarfile.TarInfo(f"bin/{name}")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        links.append(link)
    etc = (("etc/", b""), ("etc/passwd", PASSWD), ("srv/", b""), ("srv/app/", b""))
    return tar_of(("bin/", b""), ("bin/busybox", Path(busybox).read_bytes()), *links, *etc)


@contextmanager
def registry(directory: Path) -> Iterator[RunningRegistry]:
    """A registry of this scenario's own."""
    if shutil.which("docker-registry") is None:
        pytest.skip("needs docker-registry (Debian: docker-registry)")
    (directory / "registry").mkdir()
    with running_registry(directory / "registry") as running:
        yield running


CONFIG = {
    "Env": ["PATH=/opt/bin:/bin", "GREETING=hello", "HOME=/evil"],
    "WorkingDir": "/srv/app",
    "User": "service",
    "Entrypoint": ["/bin/env", "ENTERED=1"],
    "Cmd": ["sh", "-c", "echo $GREETING $ENTERED"],
}


@scenario("image_pull", "image_list", "image_remove", "create", "exec")
async def an_image_is_pulled_run_listed_and_removed(client: Any, directory: Path) -> None:
    with registry(directory) as running:
        running.push("tests/app", "1", make_image(root_files(), config=CONFIG))
        name = f"{running.address}/tests/app:1"
        with fails("not_found"):
            await client.create(image=name, pull="never", backend="namespaces")
        record = await client.images.pull(name)
        assert (record.reference, record.backend, record.digest.startswith("sha256:")) == (name, "", True)
        assert (name, record.digest) in [(each.reference, each.digest) for each in await client.images.list()]
        async with lasting(client, name="imaged", image=name, pull="never", backend="namespaces") as box:
            # exec never starts what the image says
            said = (await box.exec("sh", "-c", "id -u; id -g; pwd; echo $HOME $GREETING $PATH")).text.splitlines()
            assert said[:3] == ["1234", "1234", "/srv/app"]
            assert said[3].startswith("/home/user hello /opt/bin:/bin:")
            with fails("conflict"):
                await client.images.remove(name)
        with fails("not_found"):
            await client.images.pull(f"{running.address}/tests/absent:1")
        await client.images.remove(name)
        assert name not in [each.reference for each in await client.images.list()]
        with fails("not_found"):
            await client.images.remove(name)


@of_the_client("image_pull", why="`progress` is called with each step")
async def what_is_done_for_an_image_is_told(client: Any, directory: Path) -> None:
    with registry(directory) as running:
        running.push("tests/told", "1", make_image(root_files(), config={}))
        name = f"{running.address}/tests/told:1"
        steps: list[Any] = []
        record = await client.images.pull(name, progress=steps.append)
        assert {step.stage for step in steps} >= {"resolving", "downloading", "unpacking", "done"}
        assert record in await client.images.list()
        await client.images.remove(name)


@of_the_client("create", "image_pull", why="when the registry is asked, of blocks of `sandbox`")
async def an_image_that_is_not_here_comes_with_the_sandbox(client: Any, directory: Path) -> None:
    with registry(directory) as running:
        running.push("tests/app", "2", make_image(root_files(), config={"User": "77:88"}))
        name = f"{running.address}/tests/app:2"
        async with lasting(client, image=name, backend="namespaces", user="root") as box:
            assert (await box.exec("id", "-u", check=True)).text == "0\n"
            assert (await box.info()).image == name
            await box.exec("touch", "/srv/mine", check=True)
            await box.stop()
            await box.start()
            assert (await box.exec("ls", "/srv", check=True)).text == "app\nmine\n"
        running.push("tests/app", "2", make_image(root_files(), config={"User": "78"}))
        for pull, user in (("missing", "77\n"), ("always", "78\n"), ("missing", "78\n")):
            async with client.sandbox(image=name, backend="namespaces", pull=pull) as box:
                assert (await box.exec("id", "-u", check=True)).text == user


@of_the_client(
    "image_import",
    "image_prune",
    why="a block of `sandbox` that uses it",
    elsewhere=No("an archive of this machine is none of the server's"),
)
async def an_archive_is_imported_and_pruned(client: Any, directory: Path) -> None:
    archive = directory / "rootfs.tar"
    archive.write_bytes(root_files())
    name = f"{directory.name.replace('_', '-').lower()}:1"
    record = await client.images.import_from(archive, name)
    async with client.sandbox(image=name, backend="namespaces") as box:
        assert (await box.exec("cat", "/etc/passwd", check=True)).stdout == PASSWD
        assert record.reference not in await client.images.prune(unused=0)
    assert record.reference in await client.images.prune(unused=0)
    archive.write_bytes(json.dumps("no archive").encode())
    with fails("invalid_input"):
        await client.images.import_from(archive, name)
    for wrong in ("", "Two Words", "a@sha256:1", "UPPER"):
        with fails("invalid_input"):
            await client.images.import_from(archive, wrong)
    with fails("not_found"):
        await client.images.import_from(directory / "absent.tar", name)
