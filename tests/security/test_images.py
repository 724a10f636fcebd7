"""Hostile images: links and files in an image where a sandbox is built lead nothing out of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conformance.directories import own_temporary_directory
from conformance.roots import ENVIRONMENT, host_root
from security.oracle import Oracle
from security.planted import Planted

from agentkernel.abc import Backend, Sandbox
from agentkernel.backends.namespaces.backend import NamespacesBackend
from agentkernel.errors import AgentKernelError
from agentkernel.model.command import Command
from agentkernel.model.spec import Bind, RootFilesystem, RootKind, SandboxSpec, Workspace, WorkspaceMode

BASE = SandboxSpec(name="image", profile="moderate", root=host_root(), environment=ENVIRONMENT)
# Every place where a launch mounts or writes something.
PLACES = (
    "workspace",
    "proc",
    "dev",
    "tmp",
    "etc",
    "home",
    "sys",
    "var",
    "mnt",
    "run",
    "root",
    "home/user",
    "dev/shm",
    "etc/resolv.conf",
    "var/tmp",
    "mnt/in",
    "dev/null",
)
FORMS = ("absolute link", "climbing link", "file", "pipe", "chain")


@pytest.fixture
def backend(guest: Path, limits_missing: str) -> Iterator[Backend]:
    with own_temporary_directory() as directory:
        state = directory / "s"
        state.mkdir(mode=0o711)
        yield NamespacesBackend(state)


def _image(directory: Path, planted: Planted, place: str, form: str) -> Path:
    image = directory / "image"
    (image / "bin").mkdir(parents=True)
    shutil.copy(planted.tools / "hostile", image / "bin" / "hostile")
    at = image / place
    at.parent.mkdir(parents=True, exist_ok=True)
    if form == "absolute link":
        at.symlink_to(planted.canary)
    elif form == "climbing link":
        at.symlink_to("../" * 20 + str(planted.canary).lstrip("/"))
    elif form == "chain":
        (image / "step").symlink_to("/proc/self/root")
        at.symlink_to("/step" + str(planted.canary))
    elif form == "file":
        at.write_text("a file where a directory should be\n")
    else:
        os.mkfifo(at)
    return image


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", PLACES)
async def test_an_image_redirects_no_mount(tmp_path: Path, backend: Backend, planted: Planted, guest: Path, place: str, form: str) -> None:
    image = _image(tmp_path, planted, place, form)
    root = RootFilesystem(kind=RootKind.DIRECTORY, directory=str(image), label="hostile")
    workspace = Workspace(mode=WorkspaceMode.COPY_ON_WRITE, source=str(planted.project))
    spec = replace(BASE, root=root, workspace=workspace, mounts=(Bind(source=str(planted.tools), target="/mnt/in"),))
    oracle = Oracle(planted=planted, guest=guest)
    output = b""
    try:
        sandbox = await backend.create(spec)
    except AgentKernelError as refused:
        assert str(refused)
    else:
        try:
            output += await _look_around(sandbox, place)
        finally:
            await sandbox.destroy()
    assert await oracle.findings(output) == []


async def _look_around(live: Sandbox, place: str) -> bytes:
    """Reads and writes through the hostile place, as commands and the files interface would."""
    output = b""
    for path in (f"/{place}", f"/{place}/kept", "/workspace/kept", "/mnt/in/hostile"):
        for operation in (live.files.read(path, limit_bytes=4096), live.files.write(path, b"from inside\n")):
            try:
                output += await operation or b""
            except AgentKernelError as error:
                output += str(error).encode()
    result = await live.exec(Command(argv=(b"/bin/hostile", b"leaked_descriptors"), timeout_s=20))
    return output + result.stdout
