"""Commands that are waited for: their output within a bound, told as it comes; who stops waiting ends them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Final

from agentkernel.abc import Process
from agentkernel.channel.gather import fed, finish
from agentkernel.config.options import command_of
from agentkernel.errors import InvalidInput
from agentkernel.mcp.answer import Answer, said
from agentkernel.mcp.arguments import Exec, ExecArguments, RunArguments, Surroundings, Words
from agentkernel.mcp.clip import Clip
from agentkernel.mcp.desk import Desk, Tell
from agentkernel.mcp.fetching import fetched
from agentkernel.mcp.shapes import Finished, timed_out
from agentkernel.model.command import Command, ExitStatus
from agentkernel.model.names import validate_inside_path
from agentkernel.model.request import Notice
from agentkernel.text.outcome import exit_status

DEFAULT_TIMEOUT_S: Final = 120.0  # where neither the model nor the operator says
TELL_EVERY_S: Final = 0.25
TOLD_CHARACTERS: Final = 200
_WISHES: Final = tuple(Surroundings.model_fields)


def wishes_of(arguments: Surroundings) -> dict[str, object]:
    """What of the arguments is about the sandbox, by name."""
    return {name: getattr(arguments, name) for name in _WISHES}


def command_for(words: Words, *, stdin: bool, timeout_s: float | None, detached: bool = False) -> Command:
    """The command; raises InvalidInput for a word, variable or directory that cannot be."""
    argv: Sequence[str] = ("sh", "-c", words.command) if isinstance(words.command, str) else words.command
    if not argv[0]:
        raise InvalidInput("the command is empty", hint='for example: "ls -l", or ["python3", "-c", "print(1)"]')
    if any("\0" in word for word in argv):
        raise InvalidInput("a word of the command contains a NUL byte", hint="remove the NUL byte")
    options: dict[str, object] = {"environment": words.env, "timeout": timeout_s}
    if words.workdir is not None:
        options["cwd"] = validate_inside_path(words.workdir)
    return command_of(argv, options, stdin=stdin, detached=detached)


async def run(desk: Desk, arguments: RunArguments, tell: Tell) -> Answer:
    """One command in a sandbox of its own."""
    request = desk.request(wishes_of(arguments))
    command = _waited(desk, arguments)
    await tell("making a sandbox")
    request = await fetched(desk, request, tell)
    began = time.monotonic()
    async with desk.kernel.run(desk.caller, request, command) as made:
        await tell(f"running, in a sandbox of {made.backend}")
        return await _ended(made.process, arguments, tell, _Place(made.backend, made.isolation.label, made.notices, began))


async def execute(desk: Desk, arguments: ExecArguments, tell: Tell) -> Answer:
    """One command in a sandbox that is there."""
    command = _waited(desk, arguments)
    info = await desk.find(arguments.name)
    began = time.monotonic()
    async with desk.opened(info.sandbox_id) as sandbox:
        process = await sandbox.start(command)
        return await _ended(process, arguments, tell, _Place(info.backend, info.isolation.label, (), began))


class _Place:
    """Where a command ran, and since when."""

    def __init__(self, backend: str, isolation: str, notices: Sequence[Notice], began: float) -> None:
        self.backend = backend
        self.isolation = isolation
        self.notices = notices
        self.began = began


def _waited(desk: Desk, arguments: Exec) -> Command:
    timeout_s = desk.timeout_s(arguments.timeout_s, DEFAULT_TIMEOUT_S)
    return command_for(arguments, stdin=arguments.stdin is not None, timeout_s=timeout_s)


async def _ended(process: Process, arguments: Exec, tell: Tell, place: _Place) -> Answer:
    """Its output and end; killed, with all that it started, when nobody waits for that any more."""
    clips, both = (Clip(), Clip()), Clip()
    output = process.output()
    try:
        async with fed(process, arguments.stdin):
            await _heard(output, clips, both, tell)
            status = await process.wait()
    except BaseException:
        await finish(process, output)
        raise
    return said(_shape(status, clips, place), both.text() + _ending_words(status))


async def _heard(output: AsyncIterator[tuple[int, bytes]], clips: tuple[Clip, Clip], both: Clip, tell: Tell) -> None:
    last_told = -TELL_EVERY_S
    async for stream, data in output:
        clips[stream - 1].add(data)
        both.add(data)
        now = time.monotonic()
        if now - last_told >= TELL_EVERY_S:
            last_told = now
            await tell(_last_line(data))


def _shape(status: ExitStatus, clips: tuple[Clip, Clip], place: _Place) -> Finished:
    stdout, stderr = clips
    return Finished(
        stdout=stdout.text(),
        stderr=stderr.text(),
        exit_code=exit_status(status),
        signal=status.signal,
        timed_out=timed_out(status),
        truncated=bool(stdout.missing or stderr.missing),
        stdout_bytes=stdout.total,
        stderr_bytes=stderr.total,
        duration_ms=round((time.monotonic() - place.began) * 1000, 3),
        limits_hit=[limit.value for limit in status.limits_hit],
        backend=place.backend,
        isolation=place.isolation,
        notices=[notice.message for notice in place.notices],
    )


def _ending_words(status: ExitStatus) -> str:
    """What its output does not tell; nothing for a command that went well."""
    words = []
    if timed_out(status):
        words.append("its time was up, and it was killed with all that it had started")
    words += [f"it met its limit of {limit.value}" for limit in status.limits_hit]
    if exit_status(status):
        words.append(f"exit code {exit_status(status)}")
    return f"\n[{'; '.join(words)}]" if words else ""


def _last_line(data: bytes) -> str:
    """The last line of a piece of output, safe to show in one line."""
    lines = data[-4 * TOLD_CHARACTERS :].decode("utf-8", "replace").split("\n")
    line = next((line for line in reversed(lines) if line.strip()), "")
    return "".join(character if character.isprintable() else " " for character in line)[-TOLD_CHARACTERS:].strip() or "output"
