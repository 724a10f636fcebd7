"""A sandbox for a block, behind the daemon: held, or visited, by an exec id under which no command runs.

It goes with the hold, and is left with the visit: when the block ends, and when the client is gone for good. A client whose daemon is
replaced takes either up again.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from agentkernel.channel.dialect import OfDoor
from agentkernel.channel.door import REQUEST, encode_visit
from agentkernel.channel.messages import Start
from agentkernel.channel.outcome import DoorOutcome
from agentkernel.channel.process import GuestProcess
from agentkernel.channel.streams import InputWindow, OutputQueue
from agentkernel.channel.wire import MAX_PAYLOAD, encode_fields
from agentkernel.client.connection import Connection, Daemon
from agentkernel.errors import CommandNotStarted, InvalidInput, NotFound, SandboxLost
from agentkernel.failpoints import failpoint
from agentkernel.model.codec import from_json, to_json
from agentkernel.model.request import Notice, SandboxRequest

GOES_ON: Final = 1  # exit code of a visit
_HELD = Start(argv=())


@asynccontextmanager
async def held(daemon: Daemon, request: SandboxRequest) -> AsyncIterator[tuple[str, tuple[Notice, ...]]]:
    """Id and notices of a running sandbox that is removed at the end of the block; raises what a grant and a launch raise.

    The end of the block waits for that; when even the waiting is cancelled, the daemon finishes by itself.
    """
    payload = encode_fields([(REQUEST, json.dumps(to_json(request)).encode())])
    if len(payload) > MAX_PAYLOAD:
        raise InvalidInput(f"the request takes {len(payload)} bytes, at most {MAX_PAYLOAD} can be sent", hint="pass less environment")
    async with _begun(daemon, payload, OfDoor()) as hold:
        yield hold.sandbox_id, hold.notices


@asynccontextmanager
async def visited(daemon: Daemon, name: str) -> AsyncIterator[Hold]:
    """A sandbox that runs for the block, see `abc.Kernel.visit`; raises what a start raises.

    The end of the block waits for its stop, where it is stopped; when even the waiting is cancelled, the daemon finishes by itself.
    """
    async with _begun(daemon, encode_visit(name), OfDoor(name, visits=True)) as hold:
        failpoint("client.visit.begun")
        yield hold
        failpoint("client.visit.ending")
    failpoint("client.visit.ended")


@dataclass(slots=True)
class Hold:
    """What the daemon has told."""

    sandbox_id: str
    notices: tuple[Notice, ...]
    goes_on: bool = False  # the sandbox runs on after the visit


@asynccontextmanager
async def _begun(daemon: Daemon, payload: bytes, dialect: OfDoor) -> AsyncIterator[Hold]:
    connection = Connection(daemon)
    await connection.open()
    try:
        output = OutputQueue(_HELD.ring_bytes, lossy=False)
        execution = connection.start(payload, output=output, stdin=InputWindow(wanted=False), dialect=dialect)
        process = GuestProcess(connection, execution, _HELD, DoorOutcome(execution, dialect))
        await process.started()
        hold = Hold(dialect.sandbox_id, tuple(from_json(Notice, json.loads(notice)) for notice in dialect.notices))
        try:
            yield hold
        finally:
            await process.kill()
            with suppress(SandboxLost, NotFound, CommandNotStarted):  # it is gone already, which is all that is wanted
                hold.goes_on = (await process.wait()).exit_code == GOES_ON
    finally:
        await connection.close()
