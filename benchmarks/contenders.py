"""What is timed: raw programs started by posix_spawn, and sandboxes through the kernel's door. Contenders of one figure take turns."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from agentkernel.abc import Caller, Kernel, Sandbox
from agentkernel.assembly import build_engine
from agentkernel.benchmark.program import program
from agentkernel.benchmark.subject import succeed
from agentkernel.benchmark.timing import Contender
from agentkernel.model.request import Grant, SandboxRequest

DOCKER_IMAGE = "alpine:3.20"
CALLER = Caller(principal="benchmark")


class UnmeasurableError(Exception):
    """Something that a figure needs is not here; the text says what."""


def bwrap(*command: str) -> Contender:
    """The raw tool with all its namespaces and the host's /usr, but none of the limits, filters and masks of a sandbox here."""
    argv = ["bwrap", "--unshare-all", "--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib64"):
        link = Path("/", name)
        if link.is_symlink():
            argv += ["--symlink", os.readlink(link), str(link)]
        elif link.exists():
            argv += ["--ro-bind", str(link), str(link)]
    return program((*argv, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", *command))


def docker_run(*command: str) -> Contender | None:
    """The established tool, if it is here with an image that has the command."""
    if shutil.which("docker") is None or subprocess.run(["docker", "image", "inspect", DOCKER_IMAGE], capture_output=True).returncode != 0:
        return None
    return program(("docker", "run", "--rm", "--network", "none", DOCKER_IMAGE, *command))


def kernel() -> Kernel:
    """The engine in this process, as a program that embeds agentkernel has it."""
    return build_engine(os.environ)


def sandbox(door: Kernel, argv: tuple[str, ...], cwd: Path) -> AbstractAsyncContextManager[tuple[Sandbox, Grant]]:
    """A sandbox of the default profile for a command."""
    return door.sandbox(CALLER, request_for(argv, cwd))


def request_for(argv: tuple[str, ...], cwd: Path, backend: str = "namespaces", image: str | None = None) -> SandboxRequest:
    """What a user asks for who says nothing but the command, the backend and perhaps the image."""
    return SandboxRequest(argv=as_bytes(argv), cwd=str(cwd), backend=backend, image=image, host_environment=dict(os.environ))


def cold(door: Kernel, argv: tuple[str, ...], cwd: Path, backend: str = "namespaces", image: str | None = None) -> Contender:
    """Create, run, destroy."""
    request = request_for(argv, cwd, backend, image)

    async def run() -> None:
        async with door.sandbox(CALLER, request) as (made, _):
            await succeed(made, *argv)

    return run


def as_bytes(argv: tuple[str, ...]) -> tuple[bytes, ...]:
    """The words as programs get them."""
    return tuple(os.fsencode(word) for word in argv)


def static_program() -> tuple[str, ...]:
    """A program without a dynamic loader, which shows what the sandbox itself costs."""
    path = shutil.which("busybox")
    if path is None:
        raise UnmeasurableError("busybox (busybox-static) is not installed")
    return (os.path.realpath(path), "true")


def command_line() -> str:
    """The installed `agentkernel` beside this interpreter."""
    path = Path(sys.executable).parent / "agentkernel"
    if not path.exists():
        raise UnmeasurableError("agentkernel is not installed beside this interpreter: pip install . first")
    return str(path)
