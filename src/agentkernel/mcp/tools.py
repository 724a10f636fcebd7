"""The table of tools: name, what the model is told, arguments, answer and what it does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

import mcp_types
from pydantic import BaseModel

from agentkernel.mcp import arguments as a
from agentkernel.mcp import background, connections, lasting, paths, running
from agentkernel.mcp import shapes as s
from agentkernel.mcp.answer import Answer, schema_of
from agentkernel.mcp.desk import Desk, Tell

Act = Callable[[Desk, Any, Tell], Awaitable[Answer]]


class Kind(NamedTuple):
    """What a client may conclude before it asks its user (ToolAnnotations)."""

    reads: bool = False  # changes nothing
    destroys: bool = False
    repeats: bool = False  # doing it twice is as doing it once
    reaches: bool = False  # talks to the world outside


LOOKS: Final = Kind(reads=True, repeats=True)
RUNS: Final = Kind(reaches=True)
MAKES: Final = Kind()
SETS: Final = Kind(repeats=True)
ENDS: Final = Kind(destroys=True, repeats=True)


class Tool(NamedTuple):
    """One row."""

    title: str
    description: str
    arguments: type[BaseModel]
    shape: type[BaseModel]
    act: Act
    kind: Kind


TOOLS: Final[Mapping[str, Tool]] = {
    "sandbox_run": Tool(
        "Run a command in a fresh sandbox",
        "Runs one command in a new sandbox that is removed afterwards, and returns its output and exit code. Nothing is kept between runs: "
        "make a sandbox with sandbox_create for work of several steps. Long output is cut in the middle.",
        a.RunArguments,
        s.Finished,
        running.run,
        RUNS,
    ),
    "sandbox_create": Tool(
        "Make a sandbox",
        "Makes a sandbox that runs until it is stopped, removed or expires; commands in it share its files.",
        a.CreateArguments,
        s.Sandbox,
        lasting.create,
        MAKES,
    ),
    "sandbox_exec": Tool(
        "Run a command in a sandbox",
        "Runs one command in a running sandbox, waits for its end, and returns its output and exit code. Long output is cut in the middle.",
        a.ExecArguments,
        s.Finished,
        running.execute,
        RUNS,
    ),
    "sandbox_list": Tool("List sandboxes", "Lists the sandboxes, running or not.", a.NoArguments, s.Sandboxes, lasting.listed, LOOKS),
    "sandbox_info": Tool("Describe a sandbox", "Describes one sandbox as it is now.", a.Named, s.Sandbox, lasting.info, LOOKS),
    "sandbox_start": Tool(
        "Start a sandbox", "Starts a stopped sandbox, with its files; one that runs is fine.", a.Named, s.Sandbox, lasting.start, SETS
    ),
    "sandbox_stop": Tool(
        "Stop a sandbox",
        "Ends everything in a sandbox and keeps its files; one that is stopped is fine.",
        a.Named,
        s.Sandbox,
        lasting.stop,
        ENDS,
    ),
    "sandbox_remove": Tool("Remove a sandbox", "Removes a sandbox with its files, even if it runs.", a.Named, s.Done, lasting.remove, ENDS),
    "sandbox_extend_ttl": Tool(
        "Let a sandbox live longer", "Sets how long a sandbox lives from now.", a.ExtendArguments, s.Sandbox, lasting.extend_ttl, SETS
    ),
    "sandbox_exec_detach": Tool(
        "Start a background command",
        "Starts a command in a running sandbox and does not wait for it, such as a server; returns its id.",
        a.DetachArguments,
        s.Started,
        background.detach,
        RUNS,
    ),
    "sandbox_exec_status": Tool(
        "Look at a background command",
        "Tells whether a background command runs, and how it ended.",
        a.CommandArguments,
        s.BackgroundCommand,
        background.status,
        LOOKS,
    ),
    "sandbox_exec_logs": Tool(
        "Read a background command's output",
        "What a background command has printed so far; long output is cut in the middle.",
        a.LogArguments,
        s.Logs,
        background.logs,
        LOOKS,
    ),
    "sandbox_exec_kill": Tool(
        "End a background command",
        "Sends a signal to a background command and all that it started; SIGKILL by default.",
        a.KillArguments,
        s.Done,
        background.kill,
        ENDS,
    ),
    "sandbox_exec_list": Tool(
        "List background commands", "Lists a sandbox's background commands.", a.Named, s.BackgroundCommands, background.listed, LOOKS
    ),
    "sandbox_file_read": Tool(
        "Read a file",
        "Reads a file of a running sandbox, or a piece of it: text as text, PNG, JPEG, GIF and WebP as an image, all else in base64.",
        a.ReadArguments,
        s.FileContent,
        paths.read,
        LOOKS,
    ),
    "sandbox_file_write": Tool(
        "Write a file",
        "Makes or replaces a file in a running sandbox, with the directories above it.",
        a.WriteArguments,
        s.Written,
        paths.write,
        Kind(destroys=True),
    ),
    "sandbox_write_files": Tool(
        "Write several files",
        "Makes or replaces several text files in a running sandbox at once.",
        a.WriteFilesArguments,
        s.Written,
        paths.write_files,
        ENDS,
    ),
    "sandbox_file_list": Tool(
        "List a directory", "Lists a directory of a running sandbox.", a.PathArguments, s.Directory, paths.listed, LOOKS
    ),
    "sandbox_file_stat": Tool("Describe a file", "Describes one path of a running sandbox.", a.PathArguments, s.File, paths.stat, LOOKS),
    "sandbox_file_remove": Tool(
        "Remove a file", "Removes a file or directory of a running sandbox.", a.RemoveArguments, s.Done, paths.remove, Kind(destroys=True)
    ),
    "sandbox_file_move": Tool(
        "Move a file",
        "Renames a file of a running sandbox, replacing one that is there.",
        a.MoveArguments,
        s.Done,
        paths.move,
        Kind(destroys=True),
    ),
    "sandbox_make_directory": Tool(
        "Make a directory",
        "Makes a directory in a running sandbox, with those above it.",
        a.PathArguments,
        s.Done,
        paths.make_directory,
        SETS,
    ),
    "sandbox_network": Tool(
        "Show or tighten a sandbox's network",
        "Shows who a sandbox may talk to, and forbids hosts; to allow more is the operator's decision.",
        a.NetworkArguments,
        s.Network,
        connections.network,
        SETS,
    ),
    "sandbox_ports": Tool(
        "Show published ports",
        "Shows which ports of a sandbox are published on the host's loopback.",
        a.Named,
        s.Ports,
        connections.ports,
        LOOKS,
    ),
    "sandbox_port_publish": Tool(
        "Publish a port",
        "Publishes a port of a running sandbox on the host's loopback; only where the operator permits that.",
        a.PublishArguments,
        s.Ports,
        connections.publish,
        RUNS,
    ),
    "sandbox_port_unpublish": Tool(
        "Unpublish a port", "Ends the publishing of a port.", a.UnpublishArguments, s.Ports, connections.unpublish, ENDS
    ),
}


def listing() -> list[mcp_types.Tool]:
    """The tools as the protocol lists them."""
    return [_described(name, tool) for name, tool in TOOLS.items()]


def _described(name: str, tool: Tool) -> mcp_types.Tool:
    return mcp_types.Tool(
        name=name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.arguments.model_json_schema(),
        output_schema=schema_of(tool.shape),
        annotations=mcp_types.ToolAnnotations(
            title=tool.title,
            read_only_hint=tool.kind.reads,
            destructive_hint=tool.kind.destroys,
            idempotent_hint=tool.kind.repeats,
            open_world_hint=tool.kind.reaches,
        ),
    )
