"""START with WORDs: what was typed, parsed here so that the command line's hot path need not; and what its user is told."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

from agentkernel.channel import door
from agentkernel.config.console import UNKNOWN_SIZE, Console
from agentkernel.config.invocation import Invocation, read_words
from agentkernel.errors import DaemonUnavailable, InvalidInput
from agentkernel.model.codec import to_json
from agentkernel.model.command import ExitStatus, TerminalSize
from agentkernel.model.network import Decision, PublishedPort
from agentkernel.model.request import Notice
from agentkernel.model.spec import SandboxSpec
from agentkernel.text.network import denials, listening
from agentkernel.text.outcome import why
from agentkernel.text.said import state_directory, unsaid
from agentkernel.text.style import colourful, line


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What was typed, where, and what it means."""

    invocation: Invocation
    console: Console

    def notices(self, notices: Sequence[Notice], ports: Sequence[PublishedPort]) -> list[bytes]:
        """Those to be shown now, as JSON, which count as shown; and where the ports of this sandbox are."""
        if self.invocation.quiet:
            return []
        said = (*unsaid(notices, state_directory(self.console.environment)), *map(listening, ports))
        return [json.dumps(to_json(notice)).encode() for notice in said]

    def message(self, status: ExitStatus, spec: SandboxSpec, aftermath: Sequence[Notice], denied: Sequence[Decision]) -> str:
        """What is said on stderr at the command's end, complete with colours."""
        colours = colourful(self.console.terminals[2], self.console.environment)
        said = [line("warning", notice.message, notice.hint, colours=colours) for notice in aftermath]
        said += [line(*each, colours=colours) for each in why(status, spec, self.invocation.command.timeout_s)]
        if not self.invocation.quiet:
            said += [line(*each, colours=colours) for each in denials(denied, spec.name)]
        return "".join(said)


async def read(fields: door.Fields) -> Words:
    """Parses the words of a START, beside everything else: files of settings may be on slow disks.

    Raises:
        InvalidInput, UnknownKey, NotTrusted: as the verbs do.
        DaemonUnavailable: the client must take its full path.
    """
    console = _console(fields)
    words = [os.fsdecode(word) for word in fields[door.WORD]]
    invocation = await asyncio.to_thread(read_words, words, console)
    if invocation.json or invocation.keep or invocation.command.detached:
        raise DaemonUnavailable("this takes more than words", hint="the command line's full path does it")
    return Words(invocation=invocation, console=console)


def _console(fields: door.Fields) -> Console:
    cwd = fields.get(door.CWD, [b""])[0]
    if not cwd.startswith(b"/"):
        raise InvalidInput("words come with an absolute working directory")
    environment = {}
    for variable in fields.get(door.ENV, []):
        name, equals, value = os.fsdecode(variable).partition("=")
        if not name or not equals or "\0" in value:
            raise InvalidInput("a variable is NAME=value")
        environment[name] = value
    ttys = door.number(fields, door.TTYS)
    size = door.size(fields)
    return Console(
        cwd=os.fsdecode(cwd),
        environment=environment,
        whole=False,
        terminals=(bool(ttys & 1), bool(ttys & 2), bool(ttys & 4)),
        has_input=bool(ttys & door.HAS_INPUT),
        size=TerminalSize(rows=size[0], columns=size[1]) if size is not None and all(size) else UNKNOWN_SIZE,
    )
