"""Unpacks archives in a sandbox: they are hostile, so they are parsed where nothing is seen but them, the destination and the code."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import agentkernel
from agentkernel.abc import Backend
from agentkernel.engine.ending import LINGER_S, to_the_end
from agentkernel.engine.owners import give_owners
from agentkernel.engine.parts import Parts
from agentkernel.errors import InvalidInput, Unsupported
from agentkernel.model.command import Command, ExecResult
from agentkernel.model.names import random_name
from agentkernel.model.spec import Bind, Resources, RootFilesystem, SandboxSpec

MAX_UNPACKED_BYTES: Final = 16 * 1024**3
UNPACK_TIMEOUT_S: Final = 1800.0
_MEMORY_BYTES: Final = 512 * 1024**2
_MAX_SAID_BYTES: Final = 4096
_ARCHIVES_INSIDE, _DESTINATION_INSIDE, _PACKAGE_INSIDE = "/mnt/archives", "/mnt/rootfs", "/mnt/python/agentkernel"


class Unpacking:
    """Implements `parts.Unpack`. `choose` gives the backend whose sandbox does it."""

    def __init__(self, parts: Parts, choose: Callable[[], Awaitable[Backend]]) -> None:
        self._parts = parts
        self._choose = choose

    async def __call__(self, options: Sequence[str], archives: Sequence[str], destination: str) -> None:
        """See `parts.Unpack`. Paths are absolute; links in them are followed here, because backends follow none."""
        inside = [f"{_ARCHIVES_INSIDE}/{number}" for number in range(len(archives))]
        argv = self._parts.images.unpack_argv(options, inside, _DESTINATION_INSIDE, MAX_UNPACKED_BYTES)
        shown = [Bind(source=source, target=target) for source, target in zip(map(_real, archives), inside, strict=True)]
        result = await self._run(argv, [*shown, Bind(source=_real(destination), target=_DESTINATION_INSIDE, writable=True)])
        if result.exit_code != 0:
            raise _failed(result)
        await to_the_end(_give_owners(destination))

    async def _run(self, argv: tuple[str, ...], shown: Sequence[Bind]) -> ExecResult:
        python = os.fsencode(_real(sys.executable))  # without its virtual environment: the standard library is all it needs
        root = self._parts.images.host_root(argv=(python,), environment=self._parts.environment, home=self._parts.home, uid=self._parts.uid)
        if root is None:
            raise Unsupported("images cannot be unpacked: the Python that runs agentkernel cannot be shown in a sandbox")
        sandbox = await (await self._choose()).create(_spec(root, shown))
        try:
            words = tuple(os.fsencode(word) for word in argv)
            return await sandbox.exec(Command(argv=(python, *words), timeout_s=UNPACK_TIMEOUT_S))
        finally:
            await to_the_end(sandbox.destroy())


async def _give_owners(directory: str) -> None:
    """Nobody removes the tree, or unpacks another one in its place, while its files are given away."""
    await asyncio.to_thread(give_owners, directory)


def _real(path: str) -> str:
    return os.path.realpath(path)


def _spec(root: RootFilesystem, shown: Sequence[Bind]) -> SandboxSpec:
    package = os.path.realpath(os.path.dirname(agentkernel.__file__))
    return SandboxSpec(
        name=random_name("unpack"),
        root=root,
        profile="restrictive",
        mounts=(*shown, Bind(source=package, target=_PACKAGE_INSIDE)),
        resources=Resources(memory_bytes=_MEMORY_BYTES, cpus=None),
        linger_s=LINGER_S,
        environment=(
            *root.environment,
            ("PATH", ":".join(root.path_directories)),
            ("PYTHONPATH", os.path.dirname(_PACKAGE_INSIDE)),
            ("PYTHONDONTWRITEBYTECODE", "1"),
        ),
    )


def _failed(result: ExecResult) -> InvalidInput:
    """What the unpacker said in its one line of JSON. It parsed hostile bytes, so its words are text to show and nothing else."""
    said, hint = f"exit status {result.exit_code}", ""
    try:
        record = json.loads(result.stdout[:_MAX_SAID_BYTES])
        said, hint = str(record["error"]), str(record["hint"])
    except (ValueError, KeyError, TypeError):
        lines = result.stderr[-_MAX_SAID_BYTES:].decode(errors="replace").strip().splitlines()
        said = lines[-1] if lines else said
    return InvalidInput(said[:300], hint=hint[:300])
