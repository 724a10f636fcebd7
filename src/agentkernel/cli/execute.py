"""Runs what `run` and `exec` ask for where the hot path cannot: its output to this process's own descriptors, or as one JSON object."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from agentkernel.abc import Kernel
from agentkernel.cli.caller import local_caller
from agentkernel.cli.context import Context
from agentkernel.cli.output import say
from agentkernel.cli.place import Place
from agentkernel.cli.report import Collector, print_outcome, say_why
from agentkernel.cli.session import STDIN, Job, Outcome, Sink, run
from agentkernel.cli.streams import Writer
from agentkernel.config.invocation import Invocation
from agentkernel.model.command import DEFAULT_OUTPUT_LIMIT_BYTES
from agentkernel.model.network import PublishedPort
from agentkernel.model.request import Grant
from agentkernel.text.network import denials, listening
from agentkernel.text.said import state_directory, unsaid


def execute(wanted: Invocation, place: Place, context: Context, kernel: Kernel) -> int:
    """Runs the command in its place; returns what the process exits with."""
    if not wanted.json:
        return _run(wanted, place, context, kernel, Writer()).exit_status
    collector = Collector(DEFAULT_OUTPUT_LIMIT_BYTES)
    outcome = _run(wanted, place, context, kernel, collector)
    print_outcome(outcome, collector)
    return outcome.exit_status


def _run(wanted: Invocation, place: Place, context: Context, kernel: Kernel, sink: Sink) -> Outcome:
    def granted(grant: Grant, ports: Sequence[PublishedPort]) -> None:
        if not wanted.quiet and not wanted.json:
            for notice in (*unsaid(grant.notices, state_directory(context.environment)), *map(listening, ports)):
                say("note", notice.message, notice.hint, context.environment)

    job = Job(
        caller=local_caller(),
        place=place,
        command=wanted.command,
        raw=wanted.command.terminal is not None and os.isatty(STDIN),
        granted=granted,
        looks_after=wanted.request is not None,
    )
    outcome = asyncio.run(_closing(kernel, job, sink))
    say_why(outcome, wanted.command.timeout_s, context.environment)
    if not wanted.quiet and outcome.grant is not None:
        for line in denials(outcome.denied, outcome.grant.spec.name):
            say(line.kind, line.message, line.hint, context.environment)
    return outcome


async def _closing(kernel: Kernel, job: Job, sink: Sink) -> Outcome:
    try:
        return await run(kernel, job, sink)
    finally:
        await kernel.close()
