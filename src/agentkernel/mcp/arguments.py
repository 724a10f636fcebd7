"""The arguments of the tools, as the model sees them: their JSON schemas are made of these classes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_TEXT = 8 * 1024 * 1024  # characters of a file or of a command's input in one call
MAX_WORDS = 4096
MAX_FILES = 256
READ_BYTES = 64 * 1024
MAX_READ_BYTES = 1024 * 1024

Seconds = Annotated[float, Field(ge=0, le=1e9)]
Name = Annotated[str, Field(description="Name or id of a sandbox", max_length=256)]
Path = Annotated[str, Field(description="Absolute path inside the sandbox, for example /workspace/main.py", max_length=4096)]
Content = Annotated[str, Field(max_length=MAX_TEXT)]
Encoding = Annotated[Literal["utf8", "base64"], Field(description="base64 for what is not text")]
CommandId = Annotated[str, Field(description="Id that sandbox_exec_detach gave", pattern="^[0-9a-f]{1,16}$")]


class Arguments(BaseModel):
    """An argument that there is not is an error, not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoArguments(Arguments):
    """Of a tool that takes none."""


class Named(Arguments):
    """One sandbox."""

    name: Name


class Surroundings(Arguments):
    """What a sandbox has; each may be tighter than what the operator allows, and never looser."""

    image: Annotated[
        str | None, Field(description="Image by name, such as python:3.12-alpine; without it the operator's, or this host's own programs")
    ] = None
    profile: Annotated[
        Literal["restrictive", "moderate", "permissive"] | None, Field(description="A tighter profile than the operator's")
    ] = None
    network: Annotated[bool | None, Field(description="false: no network at all")] = None
    deny_hosts: Annotated[
        tuple[str, ...] | None, Field(description="Hosts that it may not reach, such as *.example.com", max_length=256)
    ] = None
    min_isolation: Annotated[
        Literal["none", "process", "container", "user-kernel", "vm-emulated", "vm"] | None,
        Field(description="Refuse to run with less isolation than this"),
    ] = None
    memory_mb: Annotated[int | None, Field(description="Memory limit in MiB", ge=1)] = None
    vcpus: Annotated[float | None, Field(description="Processors, fractions too", gt=0)] = None
    pids: Annotated[int | None, Field(description="Processes and threads at once", ge=1)] = None
    disk_mb: Annotated[int | None, Field(description="Limit of all that it writes, in MiB", ge=1)] = None
    read_only: Annotated[bool | None, Field(description="true: its system's files cannot be written")] = None


class Words(Arguments):
    """One command."""

    command: Annotated[
        str | Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_WORDS)],
        Field(description="A line for sh, or a list: the program and its arguments, without a shell"),
    ]
    workdir: Annotated[str | None, Field(description="Absolute directory inside; without it /workspace or the home directory")] = None
    env: Annotated[dict[str, str] | None, Field(description="Environment variables")] = None


class Exec(Words):
    """A command that is waited for."""

    stdin: Annotated[str | None, Field(description="The command's input", max_length=MAX_TEXT)] = None
    timeout_s: Annotated[Seconds | None, Field(description="Kill it, with all that it started, after so many seconds")] = None


class RunArguments(Surroundings, Exec):
    """sandbox_run."""


class CreateArguments(Surroundings):
    """sandbox_create."""

    name: Annotated[str | None, Field(description="1-63 letters, digits, hyphens, underscores; without it a random one")] = None
    labels: Annotated[dict[str, str] | None, Field(description="Labels to remember it by")] = None
    ttl_s: Annotated[Seconds | None, Field(description="Remove it after so many seconds")] = None
    idle_s: Annotated[Seconds | None, Field(description="Stop it after so many seconds without use")] = None
    temporary: Annotated[bool, Field(description="Remove it when this server ends")] = False


class ExecArguments(Exec):
    """sandbox_exec."""

    name: Name


class DetachArguments(Words):
    """sandbox_exec_detach."""

    name: Name
    timeout_s: Annotated[Seconds | None, Field(description="Kill it after so many seconds; without it, it may run for ever")] = None


class CommandArguments(Named):
    """One background command."""

    id: CommandId


class LogArguments(CommandArguments):
    """sandbox_exec_logs."""

    stream: Annotated[Literal["stdout", "stderr", "all"], Field(description="Which output")] = "all"


class KillArguments(CommandArguments):
    """sandbox_exec_kill."""

    signal: Annotated[int, Field(description="Signal number, for all that it started, too; 15 asks to end, 9 ends", ge=1, le=64)] = 9


class PathArguments(Named):
    """One path."""

    path: Path


class ReadArguments(PathArguments):
    """sandbox_file_read."""

    offset: Annotated[int, Field(description="First byte to read", ge=0)] = 0
    limit_bytes: Annotated[int, Field(description="How much to read", ge=1, le=MAX_READ_BYTES)] = READ_BYTES


class WriteArguments(PathArguments):
    """sandbox_file_write."""

    content: Content
    encoding: Encoding = "utf8"
    append: Annotated[bool, Field(description="Add to the file in place of replacing it")] = False
    executable: Annotated[bool, Field(description="Make it a program")] = False


class WriteFilesArguments(Named):
    """sandbox_write_files."""

    files: Annotated[dict[Path, Content], Field(description="Contents (text) by absolute path", min_length=1, max_length=MAX_FILES)]


class RemoveArguments(PathArguments):
    """sandbox_file_remove."""

    recursive: Annotated[bool, Field(description="A directory with all that is in it")] = False


class MoveArguments(PathArguments):
    """sandbox_file_move."""

    target: Path


class ExtendArguments(Named):
    """sandbox_extend_ttl."""

    by: Annotated[str | Seconds, Field(description='How long it lives from now: "1h30m", or seconds; 0: for ever')] = "1h"


class NetworkArguments(Named):
    """sandbox_network."""

    deny: Annotated[tuple[str, ...], Field(description="Hosts to forbid from now on, such as *.example.com", max_length=256)] = ()
    allow: Annotated[
        tuple[str, ...], Field(description="Names to allow beyond the profile; only where the operator permits that", max_length=256)
    ] = ()


class PublishArguments(Named):
    """sandbox_port_publish."""

    port: Annotated[int, Field(description="Port inside", ge=1, le=65535)]
    host_port: Annotated[int, Field(description="Port on the host's loopback; 0: one that is free", ge=0, le=65535)] = 0


class UnpublishArguments(Named):
    """sandbox_port_unpublish."""

    port: Annotated[int, Field(description="Port inside", ge=1, le=65535)]
