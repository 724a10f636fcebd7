"""Beginning to relay a command, and recording one: by START under an id of the client's, or by taking up what runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from agentkernel.channel.boundary import Boundary
from agentkernel.channel.execution import Execution
from agentkernel.channel.frames import FrameType
from agentkernel.channel.messages import DEFAULT_RING_BYTES, Failure, Start, StartFlag, encode_start
from agentkernel.channel.mux import Channel
from agentkernel.channel.process import GuestProcess, process_of
from agentkernel.channel.reader import Reader
from agentkernel.channel.relay import Client, Relay
from agentkernel.channel.replies import parse_processes
from agentkernel.channel.streams import InputWindow, OutputQueue
from agentkernel.errors import InvalidInput, NotFound, SandboxLost
from agentkernel.model.command import ExitStatus
from agentkernel.model.inspection import ProcessRecord

Sink = Callable[[int, int, bytes], None]  # stream, offset, bytes

_ADOPTED: Final = Start(argv=(b"?",), flags=StartFlag.DETACHED | StartFlag.STDIN)


def start_relay(channel: Channel, boundary: Boundary, exec_id: int, start: Start, client: Client, opening: Callable[[int], bytes]) -> Relay:
    """Starts a command for a client, whose exec id is the agent's too: a repeated START finds the command and never runs it twice."""
    relay = Relay(client, (0, 0), opening)
    detached = bool(start.flags & StartFlag.DETACHED)
    known = channel.execution(exec_id)
    if known is not None:
        relay.bind(channel, known, process_of(channel, boundary, known, replace(start, timeout_ms=0)), detached=detached)
        known.tap(relay.reader)
        return relay
    # The agent's ring decides what is dropped; whether something was, the client sees.
    output = OutputQueue(start.ring_bytes, lossy=True, reading=False)
    output.taps.append(relay.reader)
    stdin = InputWindow(wanted=bool(start.flags & StartFlag.STDIN))
    execution = channel.start(encode_start(start), output=output, stdin=stdin, ident=exec_id)
    relay.bind(channel, execution, process_of(channel, boundary, execution, start), detached=detached)
    return relay


async def resume_relay(channel: Channel, boundary: Boundary, exec_id: int, offsets: tuple[int, int], client: Client) -> Relay:
    """Takes a command up for a client, at the client's offsets; raises NotFound, and InvalidInput for offsets that it cannot have."""
    record = await _record_of(channel, exec_id)
    relay = Relay(client, offsets, None)
    start = replace(_ADOPTED, argv=record.argv, flags=StartFlag.STDIN | (StartFlag.DETACHED if record.detached else 0))
    execution = channel.execution(exec_id)
    if execution is None:
        execution = _adopt(channel, exec_id, relay.reader, offsets)
        relay.bind(channel, execution, process_of(channel, boundary, execution, start), detached=record.detached)
    elif any(offset > known for offset, known in zip(offsets, execution.output.received, strict=True)):
        raise InvalidInput("the command has not written that much")
    else:
        relay.bind(channel, execution, process_of(channel, boundary, execution, start), detached=record.detached)
        execution.tap(relay.reader)
    return relay


def record(channel: Channel, boundary: Boundary, exec_id: int, offsets: tuple[int, int], sink: Sink) -> Awaitable[ExitStatus]:
    """See `abc.Recordable`. The agent's ring keeps what was recorded, as far as it can, for whoever attaches later."""
    reader = Reader(offsets, lambda stream, offset, data: sink(stream, offset, bytes(data)), releases=False)
    execution = channel.execution(exec_id)
    if execution is None:
        execution = _adopt(channel, exec_id, reader, offsets)
    else:
        execution.tap(reader, early=True)
    return _recorded(channel, execution, process_of(channel, boundary, execution, _ADOPTED), reader)


async def _recorded(channel: Channel, execution: Execution, process: GuestProcess, reader: Reader) -> ExitStatus:
    try:
        return await _end_of(channel, execution, process)
    finally:
        execution.untap(reader)
        process.leave()


async def _end_of(channel: Channel, execution: Execution, process: GuestProcess) -> ExitStatus:
    try:
        await process.ended()
    except SandboxLost:
        channel.check()
        raise NotFound(f"the sandbox has no process {execution.ident:016x}", hint="`agentkernel ps` lists them") from None
    if execution.outcome is None:
        raise NotFound("the command ended without a result")
    return await execution.outcome.status()


def _adopt(channel: Channel, exec_id: int, reader: Reader, offsets: tuple[int, int]) -> Execution:
    output = OutputQueue(DEFAULT_RING_BYTES, lossy=True, reading=False, first=offsets)
    output.taps.append(reader)
    return channel.start(b"", output=output, stdin=InputWindow(wanted=True, adopted=True), ident=exec_id)


async def _record_of(channel: Channel, exec_id: int) -> ProcessRecord:
    answer = await channel.request(FrameType.LIST)
    if not isinstance(answer, Failure):
        for each in parse_processes(answer):
            if each.exec_id == exec_id:
                return each
    raise NotFound(f"the sandbox has no process {exec_id:016x}", hint="`agentkernel ps` lists them")
