"""What a START asks for, once its sandbox is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentkernel.abc import Caller, Host, Sandbox
from agentkernel.channel import door
from agentkernel.channel.messages import Start, StartFlag, decode_start
from agentkernel.config.invocation import check_backend
from agentkernel.daemon import words
from agentkernel.daemon.reaching import name_of, relaying
from agentkernel.daemon.words import Words
from agentkernel.errors import AgentKernelError, InvalidInput, Refused
from agentkernel.model.codec import from_json, to_json
from agentkernel.model.command import Command, ExitStatus
from agentkernel.model.decisions import decisions_of, denials_of
from agentkernel.model.network import Decision, PublishedPort, Verdict
from agentkernel.model.request import Grant, Notice, SandboxRequest
from agentkernel.model.spec import NetworkMode, first_words
from agentkernel.text.outcome import exit_status


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A sandbox and the command for it; `start` is None for a sandbox that is only to be held."""

    sandbox: Sandbox
    start: Start | None
    command: Command
    grant: Grant | None = None  # of a sandbox that was made for the command
    ports: Sequence[PublishedPort] = ()  # of such a one, as its user is told
    words: Words | None = None

    @property
    def is_audited(self) -> bool:
        """Whether it is a command; a builtin is a file operation or a connection."""
        return self.start is not None and self.start.builtin is None

    def opening(self) -> Callable[[int], bytes]:
        """Makes STARTED of the pid."""
        if self.words is None and self.grant is None:
            return door.encode_started
        notices = self._notices(() if self.grant is None else self.grant.notices)
        if self.words is not None or self.grant is None:
            return lambda pid: door.encode_started(pid, self.sandbox.sandbox_id, notices)
        backend, level = self.grant.backend, self.grant.spec.level
        return lambda pid: door.encode_started(pid, self.sandbox.sandbox_id, notices, backend, level)

    async def ending(self, host: Host, caller: Caller, status: ExitStatus) -> tuple[int | None, str]:
        """What a command that was typed exits with, and what its user is told."""
        if self.words is None:
            return None, ""
        aftermath: Sequence[Notice] = ()
        denied: Sequence[Decision] = ()
        if self.grant is not None:
            try:
                for port in self.ports:  # the sandbox goes a moment after its command, and whoever runs the next one wants its ports
                    await host.unpublish(caller, self.sandbox.sandbox_id, port.port)
                aftermath = await host.aftermath(caller, self.grant)
                if exit_status(status) and self.grant.spec.network is NetworkMode.FILTERED:
                    events = [event async for event in host.events(caller, denials_of(self.sandbox.sandbox_id))]
                    denied = [decision for event in events for decision in decisions_of(event, Verdict.DENIED)]
            except AgentKernelError as error:  # how the command ended is told in any case
                aftermath = (*aftermath, Notice(code=error.code, message=error.message, hint=error.hint))
        return exit_status(status), self.words.message(status, self.sandbox.spec, aftermath, denied)

    def _notices(self, notices: Sequence[Notice]) -> list[bytes]:
        if self.words is not None:
            return self.words.notices(notices, self.ports)
        return [json.dumps(to_json(notice)).encode() for notice in notices]


async def open_sandbox(host: Host, caller: Caller, fields: door.Fields, exec_id: int) -> Opened:
    """Finds or makes the sandbox; raises what the engine raises, and InvalidInput for fields that do not go together."""
    kinds = [key for key in (door.WORD, door.REQUEST, door.SANDBOX) if key in fields]
    if len(kinds) != 1 or (door.COMMAND in fields and door.REQUEST not in fields) or (door.INNER in fields) != (door.SANDBOX in fields):
        raise InvalidInput("a START has words, or a request (with its command), or a sandbox and what to start there")
    if kinds[0] == door.WORD:
        if caller.remote:
            raise Refused("words mean what they mean where they were typed", hint="send the request that they make")
        return await _of_words(host, caller, await words.read(fields), exec_id)
    if kinds[0] == door.REQUEST:
        return await _of_request(host, caller, fields, exec_id)
    start = decode_start(fields[door.INNER][0])
    sandbox = await host.open(caller, name_of(fields))
    return Opened(sandbox=sandbox, start=start, command=_command_of(start))


async def _of_words(host: Host, caller: Caller, typed: Words, exec_id: int) -> Opened:
    found = typed.invocation
    grant: Grant | None = None
    ports: Sequence[PublishedPort] = ()
    command = found.command
    if found.request is not None:
        sandbox, grant = await host.ephemeral(caller, found.request, exec_id, fetches=False)
        # the client returns before the sandbox is gone: nothing may run on
        command = replace(command, argv=first_words(grant.spec.root, command.argv), ends_tree=True)
        if found.request.ports:
            ports = await host.ports(caller, sandbox.sandbox_id)
    else:
        sandbox = await host.open(caller, found.sandbox)
        check_backend(found.backend, sandbox.backend, found.sandbox)
    start = relaying(sandbox).start_of(command)
    return Opened(sandbox=sandbox, start=start, command=command, grant=grant, ports=ports, words=typed)


async def _of_request(host: Host, caller: Caller, fields: door.Fields, exec_id: int) -> Opened:
    request = from_json(SandboxRequest, _json(fields[door.REQUEST][0]))
    command = from_json(Command, _json(fields[door.COMMAND][0])) if door.COMMAND in fields else None
    sandbox, grant = await host.ephemeral(caller, request, exec_id)
    if command is None:
        return Opened(sandbox=sandbox, start=None, command=Command(argv=()), grant=grant)
    command = replace(command, argv=first_words(grant.spec.root, command.argv), ends_tree=True)
    return Opened(sandbox=sandbox, start=relaying(sandbox).start_of(command), command=command, grant=grant)


def _command_of(start: Start) -> Command:
    """For the audit trail; variables are not of interest there."""
    return Command(
        argv=start.argv,
        cwd=start.cwd.decode("utf-8", "surrogateescape"),
        user=None if start.uid is None else (start.uid, start.uid if start.gid is None else start.gid),
        terminal=start.terminal,
        stdin=bool(start.flags & StartFlag.STDIN),
        timeout_s=start.timeout_ms / 1000 or None,
        detached=bool(start.flags & StartFlag.DETACHED),
    )


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("a request and its command are JSON") from error
