"""What tests of the store of images share: a library on a directory of the test's, with the unpacker run as a plain process."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import agentkernel
from agentkernel.errors import InvalidInput
from agentkernel.images.library import Library
from agentkernel.images.registry import Registry
from agentkernel.images.unpack import program_arguments
from agentkernel.model.image import ImageProgress

LIMIT_BYTES = 1 << 30

needs_registry = pytest.mark.skipif(shutil.which("docker-registry") is None, reason="needs docker-registry (Debian: docker-registry)")


async def unpack(options: Sequence[str], archives: Sequence[str], destination: str) -> None:
    """What the engine does in a sandbox."""
    environment = {"PYTHONPATH": str(Path(agentkernel.__file__).parents[1])}
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *program_arguments(options, archives, destination, LIMIT_BYTES),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await child.communicate()
    if child.returncode != 0:
        assert said, complained.decode()
        answer = json.loads(said)
        raise InvalidInput(answer["error"], hint=answer["hint"])


class World:
    """A library, and all that it was told and has told."""

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None) -> None:
        self.directory = directory / "images"
        self.home = directory / "home"
        self.home.mkdir(exist_ok=True)
        self.environment = dict(environment or {})
        self.needed: Collection[str] = ()
        self.told: list[ImageProgress] = []
        self.unpacked: list[str] = []
        self.library = self.another()

    def another(self) -> Library:
        """A library on the same directory, as another process has it."""

        async def counted(options: Sequence[str], archives: Sequence[str], destination: str) -> None:
            self.unpacked.append(destination)
            await unpack(options, archives, destination)

        async def in_use() -> Collection[str]:
            return self.needed

        return Library(
            str(self.directory),
            unpack=counted,
            registry=Registry,
            environment=self.environment,
            home=str(self.home),
            in_use=in_use,
        )

    def report(self, progress: ImageProgress) -> None:
        self.told.append(progress)

    def log_in(self, registry: str, **login: Any) -> None:
        """As `docker login` leaves it."""
        file = self.home / ".docker/config.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"auths": {registry: login}}))

    def files(self) -> list[str]:
        """All files of the store, but locks."""
        found = [str(path.relative_to(self.directory)) for path in self.directory.rglob("*") if not path.is_dir() or path.is_symlink()]
        return sorted(name for name in found if not name.endswith((".lock", ".used", "lock")))


def tree(directory: str | os.PathLike[str]) -> dict[str, str]:
    """What is beneath a directory: name -> content, `->` target, or `/`."""
    root = Path(directory)
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        found[name] = f"-> {os.readlink(path)}" if path.is_symlink() else "/" if path.is_dir() else path.read_text()
    return found
