"""Background commands: started, looked at, read and ended. They go on when the client has gone."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from agentkernel.errors import NotFound
from agentkernel.mcp.answer import Answer, said
from agentkernel.mcp.arguments import CommandArguments, DetachArguments, KillArguments, LogArguments, Named
from agentkernel.mcp.clip import Clip
from agentkernel.mcp.desk import Desk, Tell
from agentkernel.mcp.running import command_for
from agentkernel.mcp.shapes import BackgroundCommand, BackgroundCommands, Done, Logs, Started, background_of
from agentkernel.model.command import Cause
from agentkernel.model.inspection import ProcessRecord
from agentkernel.model.record import Event, EventFilter
from agentkernel.model.status import Status
from agentkernel.text.outcome import EXIT_TIMEOUT
from agentkernel.text.records import exec_text, parse_exec

_STREAMS: Final = {"stdout": (1,), "stderr": (2,), "all": (1, 2)}
_EVENTS: Final = 1000  # at a time, which is the most


async def detach(desk: Desk, arguments: DetachArguments, tell: Tell) -> Answer:
    """Started, and left to itself."""
    timeout_s = desk.timeout_s(arguments.timeout_s, 0.0) or None
    command = command_for(arguments, stdin=False, timeout_s=timeout_s, detached=True)
    async with desk.opened(arguments.name) as sandbox:
        process = await sandbox.start(command)
        started = Started(name=arguments.name, id=exec_text(process.exec_id), pid=process.pid)
    return said(started, f"Started in the background, with the id {started.id}.")


async def status(desk: Desk, arguments: CommandArguments, tell: Tell) -> Answer:
    """One, as it is now."""
    found = await _commands(desk, arguments.name, parse_exec(arguments.id))
    if not found:
        raise NotFound(f"there is no background command {arguments.id}", hint="sandbox_exec_list shows those that are remembered")
    return said(found[0], _line(found[0]))


async def listed(desk: Desk, arguments: Named, tell: Tell) -> Answer:
    """All that the sandbox remembers."""
    found = await _commands(desk, arguments.name)
    shape = BackgroundCommands(name=arguments.name, commands=found)
    return said(shape, "\n".join(map(_line, found)) if found else "There are no background commands.")


async def logs(desk: Desk, arguments: LogArguments, tell: Tell) -> Answer:
    """What it has printed so far."""
    info = await desk.find(arguments.name)
    clip = Clip()
    async for entry in desk.kernel.logs(desk.caller, info.sandbox_id, exec_id=parse_exec(arguments.id)):
        if entry.stream in _STREAMS[arguments.stream]:
            clip.add(entry.data)
    if not clip.total and info.status is Status.RUNNING:
        await status(desk, CommandArguments(name=arguments.name, id=arguments.id), tell)  # raises for one that there is not
    shape = Logs(id=arguments.id, output=clip.text(), bytes=clip.total, truncated=bool(clip.missing))
    return said(shape, shape.output or "It has printed nothing so far.")


async def kill(desk: Desk, arguments: KillArguments, tell: Tell) -> Answer:
    """Signalled, with all that it started; one that has ended is none to signal."""
    await status(desk, CommandArguments(name=arguments.name, id=arguments.id), tell)
    async with desk.opened(arguments.name) as sandbox:
        process = await sandbox.attach(parse_exec(arguments.id))
        await process.signal(arguments.signal, tree=True)
    done = f"signal {arguments.signal} was sent to {arguments.id}"
    return said(Done(name=arguments.name, done=done), f"Done: {done}.")


async def _commands(desk: Desk, name: str, exec_id: int = 0) -> list[BackgroundCommand]:
    """What the sandbox knows of its background commands, and the audit trail of their ends."""
    info = await desk.find(name)
    sandbox = await desk.kernel.open(desk.caller, info.sandbox_id)
    try:
        records = await sandbox.processes()
    finally:
        await sandbox.close()
    wanted = [each for each in records if each.detached and exec_id in (0, each.exec_id)]
    ended = await _ends(desk, info.sandbox_id, wanted)
    return [background_of(each, ended.get(each.exec_id)) for each in wanted]


async def _ends(desk: Desk, sandbox_id: str, records: list[ProcessRecord]) -> dict[int, tuple[int, str]]:
    """How those that have ended did, by id."""
    over = {each.exec_id: each for each in records if not each.running}
    if not over:
        return {}
    since = min(each.started_unix_ms for each in over.values()) / 1e3 - 1.0
    wanted = EventFilter(sandbox=sandbox_id, kinds=("exec.ended",), since=since, limit=_EVENTS)
    found: dict[int, tuple[int, str]] = {}
    while True:
        count = 0
        async for event in desk.kernel.events(desk.caller, wanted):
            count += 1
            wanted = replace(wanted, after=event.event_id)
            if event.exec_id in over and (end := _end(event)) is not None:
                found[event.exec_id] = end
        if count < _EVENTS:
            return found


def _end(event: Event) -> tuple[int, str] | None:
    details = dict(event.details)
    code, cause = details.get("exit_code", ""), details.get("cause", "")
    if not (code.isascii() and code.isdecimal()):
        return None
    return (EXIT_TIMEOUT if cause == Cause.TIMEOUT.value else int(code)), cause


def _line(command: BackgroundCommand) -> str:
    ending = "has ended" if command.exit_code is None else f"ended with exit code {command.exit_code}"
    state = "runs" if command.running else ending
    return f"{command.id}\t{state}\t{' '.join(command.command)[:200]}"
