"""What is timed: raw programs started by posix_spawn, and sandboxes through the kernel's door. Contenders of one figure take turns."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from agentkernel.abc import Caller, Kernel, Sandbox
from agentkernel.assembly import build_engine
from agentkernel.model.command import Command
from agentkernel.model.request import Grant, SandboxRequest

WARM_UP_ROUNDS = 3
DOCKER_IMAGE = "alpine:3.20"
CALLER = Caller(principal="benchmark")
Contender = Callable[[], Awaitable[None]]


class UnmeasurableError(Exception):
    """Something that a figure needs is not here; the text says what."""


async def take_turns(contenders: Mapping[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Times each contender once per round, so that a busy moment of the machine hits all of them; seconds."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-WARM_UP_ROUNDS, rounds):
        for name, contender in contenders.items():
            start = time.perf_counter()
            await contender()
            if number >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def program(argv: tuple[str, ...], environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> Contender:
    """Starts a program in a directory (this one), its output thrown away, and waits for its end."""
    path = shutil.which(argv[0])
    if path is None:
        raise UnmeasurableError(f"{argv[0]} is not installed")
    surroundings = dict(os.environ if environment is None else environment)

    async def run() -> None:
        null = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
        with contextlib.chdir(cwd or "."):
            pid = os.posix_spawn(path, argv, surroundings, file_actions=[null])
        _, status = os.waitpid(pid, 0)
        if status != 0:
            raise UnmeasurableError(f"{' '.join(argv)} ended with status {status}")

    return run


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


def request_for(argv: tuple[str, ...], cwd: Path) -> SandboxRequest:
    """What a user asks for who says nothing but the command."""
    return SandboxRequest(argv=as_bytes(argv), cwd=str(cwd), backend="namespaces", host_environment=dict(os.environ))


async def succeed(target: Sandbox, argv: tuple[str, ...]) -> None:
    """Runs a command that must succeed."""
    result = await target.exec(Command(argv=as_bytes(argv)))
    if result.exit_code != 0:
        raise UnmeasurableError(f"{' '.join(argv)} ended with {result.exit_code} in the sandbox: {result.stderr[:200]!r}")


def cold(door: Kernel, argv: tuple[str, ...], cwd: Path) -> Contender:
    """Create, run, destroy."""

    async def run() -> None:
        async with sandbox(door, argv, cwd) as (made, _):
            await succeed(made, argv)

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
