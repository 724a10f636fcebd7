"""Start-up: cold sandboxes, commands in a running one, and the whole command line."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.contenders import bwrap, cold, command_line, kernel, program, sandbox, static_program, succeed, take_turns
from benchmarks.figures import Figure, distribution

TRUE = ("/usr/bin/true",)


async def cold_dynamic(n: int, cwd: Path) -> list[Figure]:
    """Create, run /usr/bin/true, destroy; beside bwrap."""
    return await _cold("true", TRUE, n, cwd)


async def cold_static(n: int, cwd: Path) -> list[Figure]:
    """The same with a program that has no dynamic loader."""
    return await _cold("static program", static_program(), n, cwd)


async def _cold(what: str, argv: tuple[str, ...], n: int, cwd: Path) -> list[Figure]:
    samples = await take_turns({"agentkernel": cold(kernel(), argv, cwd), "bwrap": bwrap(*argv), "bare": program(argv)}, n)
    times = {name: distribution(each) for name, each in samples.items()}
    ours, raw = times["agentkernel"].p50, times["bwrap"].p50
    return [
        Figure(name=f"cold create + exec + destroy, {what}", value=ours, unit="ms", bar=8.0, times=times),
        Figure(name=f"cold over bwrap --unshare-all, {what}", value=ours / raw, unit="x", bar=3.5),
    ]


async def warm_exec(n: int, cwd: Path) -> list[Figure]:
    """A command in a running sandbox, beside the bare program on the host."""
    async with sandbox(kernel(), TRUE, cwd) as (made, _):

        async def inside() -> None:
            await succeed(made, TRUE)

        samples = await take_turns({"agentkernel": inside, "bare": program(TRUE)}, n)
    times = {name: distribution(each) for name, each in samples.items()}
    return [Figure(name="exec in a running sandbox, true", value=times["agentkernel"].p50, unit="ms", bar=2.0, times=times)]


async def shell(n: int, cwd: Path) -> list[Figure]:
    """The command line as a whole process, beside its interpreter doing nothing and the raw tool."""
    del cwd  # the command line is used where the caller stands, as a user would
    ours = command_line()
    contenders = {
        "run -- echo hello": program((ours, "run", "--", "echo", "hello")),
        "--version": program((ours, "--version")),
        "python -c pass": program((sys.executable, "-c", "pass")),
        "bwrap echo": bwrap("/usr/bin/echo", "hello"),
    }
    times = {name: distribution(each) for name, each in (await take_turns(contenders, n)).items()}
    run, version, bare = times["run -- echo hello"], times.pop("--version"), times["python -c pass"]
    return [
        Figure(name="agentkernel run -- echo hello", value=run.p50, unit="ms", bar=400.0, times=times),
        Figure(name="the same over python -c pass", value=run.p50 / bare.p50, unit="x"),
        Figure(
            name="agentkernel --version over python -c pass",
            value=version.p50 - bare.p50,
            unit="ms",
            bar=30.0,
            times={"--version": version},
        ),
    ]
