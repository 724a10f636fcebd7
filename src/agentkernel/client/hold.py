"""A sandbox for a block, behind the daemon: held by an exec id under which no command runs.

It goes with the hold: when the block ends, and when the client is gone for good. A client whose daemon is replaced takes the hold up again.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from agentkernel.channel.dialect import OfDoor
from agentkernel.channel.door import REQUEST
from agentkernel.channel.messages import Start
from agentkernel.channel.outcome import DoorOutcome
from agentkernel.channel.process import GuestProcess
from agentkernel.channel.streams import InputWindow, OutputQueue
from agentkernel.channel.wire import MAX_PAYLOAD, encode_fields
from agentkernel.client.connection import Connection, Daemon
from agentkernel.errors import CommandNotStarted, InvalidInput, NotFound, SandboxLost
from agentkernel.model.codec import from_json, to_json
from agentkernel.model.request import Notice, SandboxRequest

_HELD = Start(argv=())


@asynccontextmanager
async def held(daemon: Daemon, request: SandboxRequest) -> AsyncIterator[tuple[str, tuple[Notice, ...]]]:
    """Id and notices of a running sandbox that is removed at the end of the block; raises what a grant and a launch raise.

    The end of the block waits for that; when even the waiting is cancelled, the daemon finishes by itself.
    """
    payload = encode_fields([(REQUEST, json.dumps(to_json(request)).encode())])
    if len(payload) > MAX_PAYLOAD:
        raise InvalidInput(f"the request takes {len(payload)} bytes, at most {MAX_PAYLOAD} can be sent", hint="pass less environment")
    connection = Connection(daemon)
    await connection.open()
    try:
        dialect = OfDoor()
        output = OutputQueue(_HELD.ring_bytes, lossy=False)
        execution = connection.start(payload, output=output, stdin=InputWindow(wanted=False), dialect=dialect)
        process = GuestProcess(connection, execution, _HELD, DoorOutcome(execution, dialect))
        await process.started()
        try:
            yield dialect.sandbox_id, tuple(from_json(Notice, json.loads(notice)) for notice in dialect.notices)
        finally:
            await process.kill()
            with suppress(SandboxLost, NotFound, CommandNotStarted):  # it is gone already, which is all that is wanted
                await process.wait()
    finally:
        await connection.close()
