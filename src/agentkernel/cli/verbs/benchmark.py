"""`agentkernel benchmark`: how fast each backend is here, and what it costs."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agentkernel.abc import Caller, Kernel
from agentkernel.benchmark.machine import facts
from agentkernel.benchmark.measure import Measured, Table, measure
from agentkernel.benchmark.program import program
from agentkernel.benchmark.subject import GREETING, Subject
from agentkernel.cli.benchmark_tables import report
from agentkernel.cli.caller import local_caller
from agentkernel.cli.context import Context
from agentkernel.cli.fetching import fetching
from agentkernel.cli.output import say
from agentkernel.cli.show import print_json
from agentkernel.errors import AgentKernelError
from agentkernel.model.request import SandboxRequest
from agentkernel.text.style import printable

HELP = """\
Measure the backends that are ready here, by real sandboxes of the default profile: how long their lives take, commands in them,
many at once, memory, and work inside beside the same work on the host. Minutes for each backend; a busy machine makes figures worthless.

  agentkernel benchmark                                  every backend that is ready
  agentkernel benchmark -B namespaces -B gvisor --n 50
  agentkernel benchmark -B docker --image alpine:3.20 --only life --only exec
  agentkernel benchmark --json > here.json

Tables: run (the whole command line `agentkernel run -- echo hello`, through the daemon and its warm pools), life (boot, ready, exec,
shutdown), exec (50 commands in one sandbox), parallel (10, 50 and 100 sandboxes at once), memory, cost. All but run use an engine in
this process, without pools. docs/benchmarks.md has the details. Exit status 1 when something could not be measured.
"""
_ROUNDS = 10
_MOST_ROUNDS = 10_000


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument(
        "-B", "--backend", action="append", default=[], metavar="NAME", help="this backend (repeatable); else all ready ones"
    )
    parser.add_argument("--image", metavar="IMAGE", help="the image of the sandboxes, fetched first; else as `run` chooses")
    parser.add_argument("--only", action="append", default=[], choices=[table.value for table in Table], help="this table (repeatable)")
    parser.add_argument("--n", type=_rounds, default=_ROUNDS, metavar="N", help="rounds of run and life; default %(default)s")
    parser.add_argument("-q", "--quiet", action="store_true", help="do not tell on stderr what is being measured")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _rounds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_ROUNDS:
        raise ArgumentTypeError(f"{text!r} is no number from 1 to {_MOST_ROUNDS}")
    return int(text)


def main(args: Namespace, context: Context) -> int:
    """Measures and tells."""
    if url := context.elsewhere():
        say("note", "this is about the machine here", f"not about {url}", context.environment)
    machine, begun_at = facts(), time.time()
    measured, others = asyncio.run(_measured(args, context))
    if args.json:
        backends = [each.to_json() for each in measured]
        print_json({"machine": machine, "at": begun_at, "rounds": args.n, "backends": backends, "not_ready": others})
    else:
        sys.stdout.write(report(machine, measured, others))
    return 0 if measured and all(each.is_whole for each in measured) else 1


async def _measured(args: Namespace, context: Context) -> tuple[list[Measured], dict[str, str]]:
    """The backends that were measured, and why others were not."""
    kernel, caller = context.kernel(), local_caller()
    measured = []
    try:
        with tempfile.TemporaryDirectory(prefix="agentkernel-benchmark-") as empty:
            request = SandboxRequest(
                argv=tuple(os.fsencode(word) for word in GREETING),
                cwd=empty,
                image=args.image,
                host_environment=dict(context.environment),
            )
            names, others = await _backends(kernel, caller, request, args.backend)
            for name in names:
                measured.append(await _one(Subject(kernel=kernel, caller=caller, request=replace(request, backend=name)), args, context))
    finally:
        await kernel.close()
    return measured, others


async def _backends(kernel: Kernel, caller: Caller, request: SandboxRequest, asked: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Those that were asked for, or all that are ready; and of the others why they are not. Raises what the door says to one asked for."""
    for name in asked:
        await kernel.grant(caller, replace(request, backend=name))
    if asked:
        return list(dict.fromkeys(asked)), {}
    found = await kernel.fingerprints(caller)
    return [one.backend for one in found if one.ready], {one.backend: one.reason for one in found if not one.ready}


async def _one(subject: Subject, args: Namespace, context: Context) -> Measured:
    name = subject.request.backend or ""
    tables = [Table(word) for word in args.only] or list(Table)

    def told(text: str) -> None:
        if not args.quiet:
            sys.stderr.write(f"{printable(text)} ...\n")

    fetch = fetching(context.environment, quietly=args.quiet)
    try:
        request = await fetch(subject.kernel, subject.caller, subject.request)
        grant = await subject.kernel.grant(subject.caller, request)
    except AgentKernelError as error:
        return Measured(backend=name, isolation=subject.kernel.isolation_of(name).label, failures={"all": str(error)})
    into = Measured(backend=name, isolation=grant.spec.level.label, image=grant.spec.root.label if grant.spec.root.reference else "")
    ready = Subject(kernel=subject.kernel, caller=subject.caller, request=request)
    run = program(_command_line(name, args.image), context.environment, Path(request.cwd)) if Table.RUN in tables else None
    await measure(into, ready, tables, args.n, told, run=run)
    return into


def _command_line(backend: str, image: str | None) -> tuple[str, ...]:
    """The command line that this one is, for a greeting."""
    ours = os.path.abspath(sys.argv[0])
    start = (ours,) if os.path.basename(ours) == "agentkernel" and shutil.which(ours) else (sys.executable, "-m", "agentkernel")
    image_words = ("--image", image) if image is not None else ()
    return (*start, "run", "--quiet", "--profile", "moderate", "--backend", backend, *image_words, "--", *GREETING)
