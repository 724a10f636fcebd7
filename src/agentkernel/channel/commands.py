"""From a `Command` to START, and from the agent's answers to results and errors. Pure."""

from __future__ import annotations

import errno
import math
import os
import shlex
from typing import Final

from agentkernel.channel.messages import Exited, Failure, Stage, Start, StartFlag
from agentkernel.errors import CommandNotExecutable, CommandNotFound, CommandNotStarted, InvalidInput
from agentkernel.model.command import Cause, Command, ExitStatus, LimitHit, TerminalSize
from agentkernel.model.spec import SandboxSpec, WorkspaceMode

RING_BYTES: Final = 262_144

_CAUSES = (Cause.ITSELF, Cause.TIMEOUT, Cause.KILLED, Cause.CLIENT_LOST, Cause.SUPERVISOR_LOST)
_STAGES = {
    Stage.REQUEST: "the agent refused the request",
    Stage.FORK: "no process could be made",
    Stage.CGROUP: "it could not be put into its control group",
    Stage.LIMITS: "its limits could not be set",
    Stage.USER: "its user could not be set",
    Stage.DIRECTORY: "its working directory could not be entered",
    Stage.TERMINAL: "no terminal could be made",
    Stage.SECCOMP: "its system call filter could not be installed",
    Stage.EXEC: "it cannot be executed",
}
_STAGE_HINTS = {
    Stage.DIRECTORY: "name an existing directory inside the sandbox",
    Stage.FORK: "wait until other processes in the sandbox have ended, or raise its process limit",
}


def working_directory(spec: SandboxSpec) -> str:
    """Where commands run that name no directory: the workspace, else what the image says, else HOME."""
    if spec.workspace.mode is not WorkspaceMode.NONE:
        return spec.workspace.target
    return spec.root.working_directory or spec.user.home


def base_environment(spec: SandboxSpec) -> dict[bytes, bytes]:
    """What every command of the sandbox gets."""
    return {os.fsencode(name): os.fsencode(value) for name, value in spec.environment}


def start_of(spec: SandboxSpec, environment: dict[bytes, bytes], command: Command, *, stdin: bool) -> Start:
    """The START of a command; raises InvalidInput for what no sandbox can run."""
    if not command.argv:
        raise InvalidInput("a command needs at least one word")
    cwd = command.cwd if command.cwd is not None else working_directory(spec)
    if not cwd.startswith("/"):
        raise InvalidInput(f"the working directory {cwd!r} is not absolute", hint="paths inside a sandbox start with /")
    uid, gid = command.user if command.user is not None else (spec.user.uid, spec.user.gid)
    if not (0 <= uid < 2**32 - 1 and 0 <= gid < 2**32 - 1):
        raise InvalidInput(f"no user can be {uid}:{gid}")
    _check_names(command.environment)
    flags = (
        (StartFlag.STDIN if stdin or command.terminal is not None else 0)
        | (StartFlag.DETACHED if command.detached else 0)
        | (StartFlag.ENDS_TREE if command.ends_tree else 0)
    )
    return Start(
        argv=command.argv,
        environment=tuple(b"%b=%b" % pair for pair in {**environment, **command.environment}.items()),
        cwd=os.fsencode(cwd),
        uid=uid,
        gid=gid,
        terminal=checked_size(command.terminal) if command.terminal is not None else None,
        flags=flags,
        ring_bytes=RING_BYTES,
        timeout_ms=_milliseconds(command.timeout_s),
    )


def checked_size(size: TerminalSize) -> TerminalSize:
    """The size, if a terminal can have it."""
    if not (0 < size.rows < 65536 and 0 < size.columns < 65536):
        raise InvalidInput(f"no terminal has {size.rows} rows and {size.columns} columns")
    return size


def start_error(failure: Failure, argv: tuple[bytes, ...]) -> CommandNotStarted:
    """Why a command did not start, as an error."""
    name = shlex.quote(argv[0].decode("utf-8", "backslashreplace"))
    if failure.stage == Stage.EXEC and failure.errno == errno.ENOENT:
        return CommandNotFound(f"{name}: no such command in the sandbox", hint="check the name, or use an image that has it")
    reason = os.strerror(failure.errno)
    if failure.stage == Stage.EXEC:
        return CommandNotExecutable(f"{name}: {_STAGES[Stage.EXEC]}: {reason}")
    stage = Stage(failure.stage)
    detail = f" ({failure.text})" if failure.text else ""
    return CommandNotStarted(f"{name} was not started: {_STAGES[stage]}: {reason}{detail}", hint=_STAGE_HINTS.get(stage, ""))


def exit_status(exited: Exited, limits_hit: tuple[LimitHit, ...]) -> ExitStatus:
    """The end of a command as the agent tells it."""
    return ExitStatus(
        exit_code=exit_code(exited),
        signal=exited.value if exited.signalled else None,
        cause=_CAUSES[exited.cause],
        limits_hit=limits_hit,
        survivors=exited.survivors,
        output_lost=exited.output_lost,
        wall_s=exited.wall_us / 1e6,
        user_cpu_s=exited.user_us / 1e6,
        system_cpu_s=exited.system_us / 1e6,
        max_rss_bytes=exited.max_rss_bytes,
    )


def exit_code(exited: Exited) -> int:
    """0-255; 128 + signal."""
    return 128 + exited.value if exited.signalled else exited.value


def _check_names(environment: dict[bytes, bytes]) -> None:
    for name in environment:
        if not name or b"=" in name:
            raise InvalidInput(f"no environment variable can be named {name!r}")


def _milliseconds(timeout_s: float | None) -> int:
    if timeout_s is None:
        return 0
    if not 0 < timeout_s < 1e12:
        raise InvalidInput(f"a timeout of {timeout_s:g} seconds is impossible")
    return max(1, math.ceil(timeout_s * 1000))
