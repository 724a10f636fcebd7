"""Work inside a sandbox beside the same work on the host: what isolation costs programs that run for longer."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentkernel.abc import Sandbox
from agentkernel.benchmark.subject import Subject, succeed
from agentkernel.benchmark.timing import Contender, Distribution, distribution, take_turns
from agentkernel.errors import CommandNotStarted, Unsupported
from agentkernel.model.command import Command

ROUNDS = 5
_TIMEOUT_S = 300.0
_MEMORY = "/dev/shm"  # noqa: S108 - where mktemp(1) works on the host: a sandbox's own files, too, are in memory
_INSIDE = "inside"
_HOST = "host"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A script for any POSIX shell, which takes a tenth of a second or more where nothing isolates it."""

    name: str
    script: str
    stdin: bytes = b""
    needs: str = ""  # a program that not every system has


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One work's times."""

    work: str
    inside: Distribution
    host: Distribution | None  # None: the host has not what it needs

    @property
    def ratio(self) -> float | None:
        """How many times longer it takes inside, by the p50."""
        return None if self.host is None else self.inside.p50 / self.host.p50


def _source(functions: int) -> bytes:
    """A C file that takes a compiler a while."""
    body = "int f{0}(int a, int b) {{ int r = {0}; while (a > b) {{ r += a % (b + 1) ? a ^ r : b | r; a -= 1 + (r & 3); }} return r; }}\n"
    return "".join(body.format(number) for number in range(functions)).encode()


def _in_directory(script: str) -> str:
    """The script in an empty directory of its own, which goes with it."""
    return f'd=$(mktemp -d) && cd "$d" && {{ {script}; }}; s=$?; cd / && rm -rf "$d"; exit $s'


WORKS = (
    Work(name="cpu", script="i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"),
    Work(name="processes", script="i=0; while [ $i -lt 100 ]; do sh -c : || exit 1; i=$((i+1)); done"),
    Work(name="syscalls", script="dd if=/dev/zero of=/dev/null bs=1 count=100000 2>/dev/null"),
    Work(
        name="small files",
        script=_in_directory("i=0; while [ $i -lt 1000 ]; do echo x >f$i && read -r line <f$i || exit 1; i=$((i+1)); done"),
    ),
    Work(
        name="large file",
        script=_in_directory("dd if=/dev/zero of=f bs=65536 count=1024 2>/dev/null && dd if=f of=/dev/null bs=65536 2>/dev/null"),
    ),
    Work(name="compile", script=_in_directory("cc -O1 -x c -c -o out.o -"), stdin=_source(100), needs="cc"),
)


async def costs(
    subject: Subject, rounds: int = ROUNDS, *, works: Sequence[Work] = WORKS, told: Callable[[str], None] = lambda name: None
) -> tuple[Cost, ...]:
    """Every work whose programs the sandbox has, in turns with the host's own programs; `told` gets the name of each before it begins.

    Raises:
        Unsupported: there is no shell inside.
    """
    found = []
    async with subject.sandbox() as (sandbox, _):
        if not await _has(sandbox, "dd"):
            raise Unsupported("the sandbox has no shell and dd, which the work is done by", hint="measure with an image that has them")
        for work in works:
            if not work.needs or await _has(sandbox, work.needs):
                told(work.name)
                found.append(await _cost(sandbox, work, rounds))
    return tuple(found)


async def _has(sandbox: Sandbox, program: str) -> bool:
    try:
        return (await sandbox.exec(Command(argv=(b"sh", b"-c", b'command -v "$0"', program.encode())))).exit_code == 0
    except CommandNotStarted:  # there is no sh
        return False


async def _cost(sandbox: Sandbox, work: Work, rounds: int) -> Cost:
    contenders = {_INSIDE: _inside(sandbox, work)}
    if not work.needs or shutil.which(work.needs) is not None:
        contenders[_HOST] = _on_host(work)
    times = {name: distribution(each) for name, each in (await take_turns(contenders, rounds, warm_up=1)).items()}
    return Cost(work=work.name, inside=times[_INSIDE], host=times.get(_HOST))


def _inside(sandbox: Sandbox, work: Work) -> Contender:
    async def run() -> None:
        await succeed(sandbox, "sh", "-c", work.script, stdin=work.stdin, timeout_s=_TIMEOUT_S)

    return run


def _on_host(work: Work) -> Contender:
    environment = {**os.environ, "TMPDIR": _MEMORY} if os.access(_MEMORY, os.W_OK) else dict(os.environ)

    async def run() -> None:
        argv = ("sh", "-c", work.script)
        done = await asyncio.to_thread(subprocess.run, argv, input=work.stdin, capture_output=True, env=environment)
        if done.returncode != 0:
            raise Unsupported(f"the work {work.name!r} fails on this host: {done.stderr[-200:].decode(errors='replace').strip()}")

    return run
