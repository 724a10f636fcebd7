"""The one list of what agentkernel can do, and of the four ways to have it done: a route, a call of the client, a verb, a tool.

Where one of them is missing, the row says why. `test_operations` holds the list against the application, the classes, the verbs and the
tools themselves, in both directions; docs/parity.md is this list as a table. What the scenarios go through is named by these rows.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class No(NamedTuple):
    """There is no such way, for this reason."""

    why: str


Ways = tuple[str, ...] | No


class Operation(NamedTuple):
    """One row: operation ids of routes, `Class.method` of the client, verbs with the words and options that belong to it, and tools."""

    name: str
    what: str
    routes: Ways
    client: Ways
    verbs: Ways
    tools: Ways


_MESSAGE: Final = No("an answer is one message; progress tells the last line")
_WHOLE: Final = No("a model reads output when it is there: sandbox_exec_logs")
_PIECES: Final = No("an answer is one message of bounded size; sandbox_file_read reads in pieces")
_HOST: Final = No("about the host and its other users, not about a sandbox")
_OPERATOR: Final = No("the operator's decision, not a model's")
_UNNEEDED: Final = No("nothing a model needs: it names what it makes")
_ASKS: Final = No("sandbox_exec does it")
_EXEC: Final = No("`exec` does it")
_HERE: Final = No("of the machine where it is typed")
_HANDLE: Final = No("nothing is held for a client between requests")
_PROCESS: Final = No("each verb is a process of its own")

_RUN: Final = (
    Operation("run", "one command in a sandbox of its own", ("run",), ("AsyncClient.sandbox",), ("run",), ("sandbox_run",)),
    Operation("run_streamed", "its output while it runs", ("run_stream",), ("AsyncSandbox.stream",), ("run",), _MESSAGE),
    Operation(
        "batch",
        "many such commands in one request",
        ("batch_run",),
        No("`asyncio.gather`, or threads"),
        No("a shell runs several verbs side by side"),
        No("calls go on side by side"),
    ),
)
_LIFE: Final = (
    Operation("create", "makes a sandbox that lasts", ("sandbox_create",), ("AsyncClient.create",), ("create",), ("sandbox_create",)),
    Operation("list", "finds sandboxes", ("sandbox_list",), ("AsyncClient.list",), ("list",), ("sandbox_list",)),
    Operation("info", "describes one", ("sandbox_info",), ("AsyncClient.get", "AsyncSandbox.info"), ("info",), ("sandbox_info",)),
    Operation("start", "boots it with its files", ("sandbox_start",), ("AsyncSandbox.start",), ("start",), ("sandbox_start",)),
    Operation("stop", "ends everything in it, keeps its files", ("sandbox_stop",), ("AsyncSandbox.stop",), ("stop",), ("sandbox_stop",)),
    Operation(
        "remove",
        "removes it and its files",
        ("sandbox_remove",),
        ("AsyncClient.remove", "AsyncSandbox.remove"),
        ("remove", "remove --force"),
        ("sandbox_remove",),
    ),
    Operation("extend", "when it expires", ("sandbox_extend",), ("AsyncSandbox.extend",), ("extend-ttl",), ("sandbox_extend_ttl",)),
    Operation("rename", "another name", ("sandbox_patch",), ("AsyncSandbox.rename",), ("rename",), _UNNEEDED),
    Operation(
        "relabel",
        "other labels",
        ("sandbox_patch",),
        ("AsyncSandbox.relabel",),
        No("people give labels with `create --label`; changing them is for programs"),
        _UNNEEDED,
    ),
    Operation("statistics", "numbers from inside", ("sandbox_statistics",), ("AsyncSandbox.statistics",), _EXEC, _ASKS),
    Operation("release", "lets go of it", _HANDLE, ("AsyncSandbox.close", "AsyncClient.close"), _PROCESS, _HANDLE),
)
_COMMANDS: Final = (
    Operation("exec", "a command that is waited for", ("exec",), ("AsyncSandbox.exec",), ("exec",), ("sandbox_exec",)),
    Operation(
        "exec_streamed", "its output while it runs", ("exec_stream",), ("AsyncSandbox.stream", "AsyncStream.close"), ("exec",), _MESSAGE
    ),
    Operation(
        "exec_interactive",
        "input while it runs",
        ("exec_socket",),
        ("AsyncProcess.write", "AsyncProcess.close_input"),
        ("exec", "attach"),
        No("a model gives the input with the command"),
    ),
    Operation(
        "terminal",
        "a command on a terminal",
        ("terminal",),
        ("AsyncSandbox.spawn", "AsyncProcess.resize"),
        ("run --tty", "exec --tty", "attach --shell"),
        No("a terminal is for people"),
    ),
    Operation(
        "detach",
        "a command that goes on by itself",
        ("exec_detach",),
        ("AsyncSandbox.spawn",),
        ("exec --detach",),
        ("sandbox_exec_detach",),
    ),
    Operation(
        "processes",
        "the commands in a sandbox",
        ("process_list", "exec_detached_list"),
        ("AsyncSandbox.processes",),
        ("ps",),
        ("sandbox_exec_list",),
    ),
    Operation(
        "process_info",
        "one of them, and how it ended",
        ("exec_detached_info",),
        ("AsyncSandbox.process", "AsyncProcess.wait"),
        ("attach",),
        ("sandbox_exec_status",),
    ),
    Operation("attach", "its output from what is kept on", ("exec_attach",), ("AsyncProcess.output",), ("attach",), _WHOLE),
    Operation(
        "logs",
        "what background commands have printed",
        ("sandbox_logs", "exec_detached_logs"),
        ("AsyncSandbox.logs",),
        ("logs",),
        ("sandbox_exec_logs",),
    ),
    Operation("signal", "signals a command", ("process_signal",), ("AsyncProcess.signal",), ("kill --signal",), ("sandbox_exec_kill",)),
    Operation(
        "kill",
        "ends a command and all that it started",
        ("exec_detached_kill",),
        ("AsyncProcess.kill",),
        ("kill",),
        ("sandbox_exec_kill",),
    ),
    Operation(
        "kill_all",
        "ends every command",
        ("process_kill_all",),
        ("AsyncSandbox.kill_commands",),
        ("kill --all",),
        No("one at a time, or sandbox_stop"),
    ),
)
_FILES: Final = (
    Operation("file_read", "reads a file", ("file_read",), ("AsyncFiles.read", "AsyncFiles.read_text"), ("cp",), ("sandbox_file_read",)),
    Operation("file_download", "reads one of any length", ("file_download",), ("AsyncFiles.read_stream",), ("cp",), _PIECES),
    Operation(
        "file_write", "writes a file", ("file_write",), ("AsyncFiles.write", "AsyncFiles.write_text"), ("cp",), ("sandbox_file_write",)
    ),
    Operation("file_upload", "writes one of any length", ("file_upload",), ("AsyncFiles.write",), ("cp",), _PIECES),
    Operation(
        "file_write_many", "writes several", ("file_write_many",), No("one `write` after another"), ("cp",), ("sandbox_write_files",)
    ),
    Operation("file_stat", "describes a path", ("file_stat",), ("AsyncFiles.stat", "AsyncFiles.exists"), _EXEC, ("sandbox_file_stat",)),
    Operation("file_list", "lists a directory", ("file_list",), ("AsyncFiles.list",), _EXEC, ("sandbox_file_list",)),
    Operation("file_mkdir", "makes a directory", ("file_mkdir",), ("AsyncFiles.make_directory",), _EXEC, ("sandbox_make_directory",)),
    Operation("file_move", "renames", ("file_move",), ("AsyncFiles.move",), _EXEC, ("sandbox_file_move",)),
    Operation("file_remove", "removes", ("file_remove",), ("AsyncFiles.remove",), _EXEC, ("sandbox_file_remove",)),
    Operation("file_symlink", "makes a symlink", No("`exec` does it"), ("AsyncFiles.symlink",), _EXEC, _ASKS),
    Operation("file_mode", "sets permission bits", No("`mode` of file_write; `exec` else"), ("AsyncFiles.change_mode",), _EXEC, _ASKS),
    Operation(
        "file_watch",
        "tells changes as they happen",
        ("file_watch",),
        ("AsyncFiles.watch",),
        No("for programs that react to changes"),
        No("nothing can be told a model between its calls"),
    ),
    Operation(
        "tree",
        "copies trees in and out",
        ("archive_upload", "archive_download"),
        ("AsyncFiles.upload", "AsyncFiles.download"),
        ("cp",),
        No("files of the host are not a model's"),
    ),
)
_NETWORK: Final = (
    Operation("network", "its rules", ("network_rules",), ("AsyncSandbox.network",), ("network show",), ("sandbox_network",)),
    Operation("network_allow", "allows hosts", ("network_change",), ("AsyncSandbox.allow",), ("network allow",), ("sandbox_network",)),
    Operation("network_deny", "forbids hosts", ("network_change",), ("AsyncSandbox.deny",), ("network deny",), ("sandbox_network",)),
    Operation("network_forget", "drops rules", ("network_change",), ("AsyncSandbox.forget",), ("network forget",), _OPERATOR),
    Operation("network_log", "what it tried to reach", ("network_log",), ("AsyncSandbox.network_log",), ("network log",), _HOST),
    Operation("ports", "what is published", ("port_list",), ("AsyncSandbox.ports",), ("ports",), ("sandbox_ports",)),
    Operation("publish", "publishes a port", ("port_publish",), ("AsyncSandbox.publish",), ("ports",), ("sandbox_port_publish",)),
    Operation("unpublish", "ends that", ("port_unpublish",), ("AsyncSandbox.unpublish",), ("ports --remove",), ("sandbox_port_unpublish",)),
    Operation(
        "connect",
        "a connection to a port inside, nothing opened on the host",
        No("a published port is reached by any client"),
        (
            "AsyncSandbox.connect",
            "AsyncConnection.send",
            "AsyncConnection.receive",
            "AsyncConnection.receive_all",
            "AsyncConnection.close_sending",
            "AsyncConnection.close",
        ),
        No("`ports` publishes it"),
        No("sandbox_exec connects from inside"),
    ),
)
_IMAGES: Final = (
    Operation("image_list", "the images that are here", ("image_list",), ("AsyncImages.list",), ("image list",), _HOST),
    Operation(
        "image_pull",
        "fetches one",
        ("image_pull", "image_job"),
        ("AsyncImages.pull",),
        ("image pull",),
        No("an image is fetched when a sandbox names it"),
    ),
    Operation(
        "image_import",
        "takes up an archive or a directory",
        No("it names files of the server's host"),
        ("AsyncImages.import_from",),
        ("image import",),
        _HOST,
    ),
    Operation(
        "image_build",
        "builds one of a Dockerfile",
        No("it names files of the server's host, and runs a builder there"),
        ("AsyncImages.build",),
        ("image build",),
        _HOST,
    ),
    Operation("image_remove", "forgets one", ("image_remove",), ("AsyncImages.remove",), ("image remove",), _HOST),
    Operation("image_prune", "removes what nobody needs", ("image_prune",), ("AsyncImages.prune",), ("image prune",), _HOST),
)
_ENGINE: Final = (
    Operation("backends", "what isolates here", ("backends",), ("AsyncClient.fingerprints",), ("backends", "doctor"), _HOST),
    Operation("audit", "what was done", ("audit",), ("AsyncClient.events",), ("audit",), _HOST),
    Operation("events", "what is done, as it happens", ("events_stream",), ("AsyncClient.events",), ("audit --follow",), _HOST),
    Operation("status", "the engine at a glance", ("status",), ("AsyncClient.status",), ("daemon status",), _HOST),
    Operation("gc", "removes what has expired", ("gc",), ("AsyncClient.collect_garbage",), ("gc",), _HOST),
    Operation(
        "agents",
        "which coding agents the host has",
        ("agents",),
        No("about programs that use the SDK, not for them"),
        No("people know what they have installed"),
        _HOST,
    ),
)
_SERVER: Final = (
    Operation(
        "health", "whether the server answers", ("health",), No("every call finds out"), No("every verb finds out"), No("`ping` of MCP")
    ),
    Operation("version", "which one it is", ("version",), ("AsyncClient.status",), ("daemon status",), No("the handshake of MCP says it")),
    Operation("metrics", "numbers for Prometheus", ("metrics",), No("they are of the server"), No("they are of the server"), _HOST),
    Operation("openapi", "the description of the API", ("openapi",), No("types say it"), No("`--help` says it"), No("`tools/list` of MCP")),
    Operation(
        "door",
        "the daemon's own protocol, for clients elsewhere",
        ("door_tunnel",),
        No("every call goes through it where `url` names a server"),
        No("every verb goes through it where AGENTKERNEL_HOST names a server"),
        No("MCP has an HTTP transport of its own"),
    ),
    Operation("serve", "serves the HTTP API", No("it is the server"), No("the SDK is a client"), ("serve",), _HOST),
    Operation("mcp", "serves MCP", No("a server of its own"), No("the SDK is a client"), ("mcp",), No("it is the server")),
    Operation(
        "tokens",
        "who may ask the server",
        No("a token makes no tokens"),
        No("a client is given one"),
        ("token create", "token list", "token remove", "config token"),
        _OPERATOR,
    ),
)
_MACHINE: Final = (
    Operation("daemon", "starts and ends the daemon", _HERE, No("it is started on demand"), ("daemon start", "daemon stop"), _HOST),
    Operation("doctor", "what would make the host better", _HERE, _HERE, ("doctor", "setup", "setup gvisor"), _HOST),
    Operation("benchmark", "how quick it is on the host", _HERE, _HERE, ("benchmark",), _HOST),
    Operation("settings", "settings, and where they come from", _HERE, _HERE, ("config show", "config explain", "config check"), _HOST),
    Operation("trust", "lets a project's file loosen the policy", _HERE, _HERE, ("trust",), _OPERATOR),
    Operation("completions", "what a shell completes", _HERE, _HERE, ("completions",), _HOST),
)
SECTIONS: Final = {
    "Commands in sandboxes of their own": _RUN,
    "Sandboxes": _LIFE,
    "Commands in sandboxes": _COMMANDS,
    "Files": _FILES,
    "Network and ports": _NETWORK,
    "Images": _IMAGES,
    "The engine": _ENGINE,
    "Servers": _SERVER,
    "The machine": _MACHINE,
}
OPERATIONS: Final = {operation.name: operation for rows in SECTIONS.values() for operation in rows}
KERNEL: Final = {  # what of the door behind all four ways each row goes through
    "fingerprints": "backends",
    "grant": "run",
    "sandbox": "run",
    "run": "run",
    "aftermath": "run",
    "isolation_of": "backends",
    "create": "create",
    "start": "start",
    "stop": "stop",
    "remove": "remove",
    "sandboxes": "list",
    "info": "info",
    "spec": "info",
    "open": "exec",
    "visit": "tree",
    "rename": "rename",
    "extend": "extend",
    "relabel": "relabel",
    "network": "network",
    "change_network": "network_deny",
    "publish": "publish",
    "unpublish": "unpublish",
    "ports": "ports",
    "image_begin": "image_pull",
    "image_follow": "image_pull",
    "images": "image_list",
    "image_remove": "image_remove",
    "image_prune": "image_prune",
    "logs": "logs",
    "collect_garbage": "gc",
    "events": "audit",
    "status": "status",
    "close": "release",
}
