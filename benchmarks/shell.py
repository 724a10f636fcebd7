"""The command line as whole processes, beside its interpreter doing nothing and the raw tools."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from agentkernel.benchmark.program import program
from agentkernel.benchmark.timing import Distribution, distribution, take_turns
from benchmarks.contenders import CALLER, UnmeasurableError, bwrap, command_line, docker_run
from benchmarks.figures import Figure
from benchmarks.served import own_home, served

NAME = "bench"
HELLO = ("run", "--", "echo", "hello")
DOCKER_SHARE = 0.2
DOCKER_REFERENCE_MS = 184.0  # `docker run --rm --network none alpine echo hello` on the machine of the first figures


async def shell(n: int, cwd: Path) -> list[Figure]:
    """`run` and `exec` with the daemon up, `run` in its own process, and what the interpreter takes for nothing."""
    ours, bare = command_line(), (sys.executable, "-c", "pass")
    async with served() as daemon:
        _once(ours, "create", "--start", NAME, environment=dict(daemon.environment), cwd=cwd)
        contenders = {
            "exec -- true": program((ours, "exec", NAME, "--", "true"), daemon.environment, cwd),
            "run -- echo hello": program((ours, *HELLO), daemon.environment, cwd),
            "run --no-daemon -- echo hello": program((ours, "run", "--no-daemon", "--", "echo", "hello"), daemon.environment, cwd),
            "--version": program((ours, "--version"), daemon.environment, cwd),
            "python -c pass": program(bare),
            "bwrap echo": bwrap("/usr/bin/echo", "hello"),
        }
        docker = docker_run("echo", "hello")
        if docker is not None:
            contenders["docker run"] = docker
        times = {name: distribution(each) for name, each in (await take_turns(contenders, n)).items()}
        await daemon.door.remove(CALLER, NAME, force=True)
    return _figures(times)


def _figures(times: dict[str, Distribution]) -> list[Figure]:
    bare = times["python -c pass"].p50
    run, within = times["run -- echo hello"].p50, times["run --no-daemon -- echo hello"].p50
    here = times["docker run"].p50 if "docker run" in times else None
    docker_ms = DOCKER_REFERENCE_MS if here is None else here
    note = f"{DOCKER_SHARE:g} x {docker_ms:.0f} ms of docker run" + (
        "" if here is not None else ", which is not here: of the reference machine"
    )
    return [
        Figure(name="agentkernel exec over python -c pass", value=times["exec -- true"].p50 / bare, unit="x", bar=2.2, times=times),
        Figure(name="agentkernel run -- echo hello, daemon up", value=run, unit="ms", bar=DOCKER_SHARE * docker_ms, note=note),
        Figure(name="the same over python -c pass", value=run / bare, unit="x"),
        Figure(name="agentkernel run -- echo hello, in its own process", value=within, unit="ms", bar=400.0),
        Figure(name="agentkernel --version over python -c pass", value=times["--version"].p50 - bare, unit="ms", bar=30.0),
    ]


async def not_up(n: int, cwd: Path) -> list[Figure]:
    """`run` when it has to start the daemon first."""
    ours = command_line()
    samples = []
    with own_home() as (_, environment):
        for _ in range(n):
            start = time.perf_counter()
            _once(ours, *HELLO, environment=environment, cwd=cwd)
            samples.append(time.perf_counter() - start)
            _once(ours, "daemon", "stop", environment=environment, cwd=cwd)
    times = {"run -- echo hello": distribution(samples)}
    value = times["run -- echo hello"].p50
    return [Figure(name="agentkernel run -- echo hello, daemon not yet up", value=value, unit="ms", bar=400.0, times=times)]


def _once(*argv: str, environment: dict[str, str], cwd: Path) -> None:
    done = subprocess.run(argv, env=environment, cwd=cwd, capture_output=True)
    if done.returncode != 0:
        raise UnmeasurableError(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-300:]}")
