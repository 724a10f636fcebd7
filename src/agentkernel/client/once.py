"""One command in a sandbox of its own, behind the daemon: one START over the connection that all of them share, and no other call."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from agentkernel.abc import Run
from agentkernel.channel.commands import RING_BYTES
from agentkernel.channel.dialect import OfDoor
from agentkernel.channel.door import encode_once
from agentkernel.channel.messages import Start
from agentkernel.channel.outcome import DoorOutcome
from agentkernel.channel.process import GuestProcess
from agentkernel.channel.streams import InputWindow, OutputQueue
from agentkernel.channel.wire import MAX_PAYLOAD
from agentkernel.client.connection import Connection
from agentkernel.errors import InvalidInput, ProtocolViolation
from agentkernel.model.codec import from_json, to_json
from agentkernel.model.command import Command
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.request import Notice, SandboxRequest


@asynccontextmanager
async def run_once(connection: Connection, request: SandboxRequest, command: Command) -> AsyncIterator[Run]:
    """See `abc.Kernel.run`. The daemon removes the sandbox when it learns that the command's end was taken, or that nobody wants it."""
    payload = _start_of(request, command)
    await connection.room()
    dialect = OfDoor()
    local = Start(argv=command.argv or (b"the image's command",), timeout_ms=0, ring_bytes=RING_BYTES)  # the daemon counts the time
    stdin = InputWindow(wanted=command.stdin or command.terminal is not None)
    execution = connection.start(payload, output=OutputQueue(local.ring_bytes, lossy=False), stdin=stdin, dialect=dialect)
    process = GuestProcess(connection, execution, local, DoorOutcome(execution, dialect))
    try:
        await process.started()
        yield Run(
            process=process,
            sandbox_id=dialect.sandbox_id,
            backend=dialect.backend,
            isolation=_level(dialect.isolation),
            notices=tuple(from_json(Notice, json.loads(notice)) for notice in dialect.notices),
        )
    finally:
        process.abandon()


def _start_of(request: SandboxRequest, command: Command) -> bytes:
    if command.detached:
        raise InvalidInput("a sandbox that is made for one command ends with it", hint="create a sandbox, and start the command there")
    request = request if request.argv else replace(request, argv=command.argv)
    payload = encode_once(json.dumps(to_json(request)).encode(), json.dumps(to_json(command)).encode())
    if len(payload) > MAX_PAYLOAD:
        raise InvalidInput(f"the request takes {len(payload)} bytes, at most {MAX_PAYLOAD} can be sent", hint="pass less environment")
    return payload


def _level(number: int) -> IsolationLevel:
    try:
        return IsolationLevel(number)
    except ValueError as error:
        raise ProtocolViolation(f"the daemon tells of an isolation level {number}") from error
