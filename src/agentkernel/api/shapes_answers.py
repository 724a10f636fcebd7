"""What answers hold, for /openapi.json and for who reads it: answers are written by `text.records`, these models are never filled in.

The tests hold every answer against its model.
"""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from agentkernel.api.shapes import Level

T = TypeVar("T")
Stream = Literal["stdout", "stderr"]


class Answer(BaseModel):
    """An object of which every field is described."""

    model_config = ConfigDict(extra="forbid")


class Success(Answer, Generic[T]):
    """What was asked for."""

    success: Literal[True]
    data: T


class Problem(Answer):
    """What went wrong."""

    success: Literal[False]
    error: str = Field(description="What happened, in one line.")
    code: str = Field(description="Which kind of error it is; stable.")
    hint: str | None = Field(None, description="What to do now.")


class Notice(Answer):
    """Something to know about the request."""

    code: str
    message: str
    hint: str


class Durations(Answer):
    """Milliseconds."""

    create_ms: float = Field(description="Until the sandbox was there and the command started.")
    exec_ms: float = Field(description="From the command's start to its end.")
    total_ms: float


class Outcome(Answer):
    """How a command ended, and what it printed."""

    output: str = Field(description="stdout, then stderr.")
    stdout: str = Field(description="As UTF-8; what is none is U+FFFD.")
    stderr: str = Field(description="As UTF-8; what is none is U+FFFD.")
    stdout_base64: str = Field("", description="The bytes, only where they are no UTF-8.")
    stderr_base64: str = Field("", description="The bytes, only where they are no UTF-8.")
    stdout_truncated: bool = Field(description="More came than was kept.")
    stderr_truncated: bool = Field(description="More came than was kept.")
    exit_code: int = Field(
        description="The command's; 128 + n for signal n, 124 timeout, 125 not started, 126 not executable, 127 not found."
    )
    signal: int = Field(0, description="Only where one ended it.")
    timed_out: bool
    cause: str = Field("", description="itself, timeout, killed, client-lost or supervisor-lost; only of a command that ran.")
    limits: list[str] = Field([], description="Limits that ended or hindered it: memory, pids, disk.")
    survivors: bool = Field(False, description="What it had started in the background went on.")
    output_lost: bool = False
    wall_s: float = 0.0
    user_cpu_s: float = 0.0
    system_cpu_s: float = 0.0
    max_rss_bytes: int = 0
    error: str = Field("", description="Why it did not start; only then.")
    code: str = Field("", description="Likewise: command_not_found, command_not_executable, command_not_started.")
    hint: str = ""
    backend: str | None = Field(description="null where the command did not start and its sandbox has gone.")
    isolation: Level | None
    notices: list[Notice]
    durations: Durations


class BatchItem(Answer):
    """One command of a batch: what it printed, or what went wrong with its sandbox."""

    output: str | None
    error: str | None
    code: str = Field("", description="Of the error.")
    hint: str = ""
    exit_code: int | None
    stdout: str = ""
    stderr: str = ""
    timed_out: bool = False


class Batch(Answer):
    """In the order of the request."""

    results: list[BatchItem]


class PublishedPort(Answer):
    """A port that is listened on."""

    port: int = Field(description="Inside.")
    host_address: str
    host_port: int


class Sandbox(Answer):
    """A sandbox. Times are Unix seconds."""

    id: str
    name: str
    owner: str
    status: Literal["creating", "stopped", "starting", "running", "stopping", "removing", "unavailable"]
    backend: str
    isolation: Level
    image: str
    profile: str
    ephemeral: bool
    labels: dict[str, str]
    created_at: float
    started_at: float | None
    used_at: float | None
    expires_at: float | None
    idle_s: float | None
    reason: str = Field(description="Why it does not run, when that was nobody's wish.")
    network: Literal["none", "filtered", "host"]
    ports: list[PublishedPort]


class Rules(Answer):
    """Who a sandbox may talk to; each rule as it is typed."""

    default: Literal["none", "public"] = Field(description="What is allowed where no rule says anything.")
    allow: list[str]
    deny: list[str]
    private: list[str]


class DescribedSandbox(Sandbox):
    """A sandbox with its limits and rules."""

    vcpus: float | None = Field(description="null: no limit.")
    memory_mb: int | None
    disk_mb: int
    pids: int | None
    rules: Rules | None = Field(description="Where its network is filtered.")


class CreatedSandbox(DescribedSandbox):
    """A sandbox that was made just now."""

    notices: list[Notice]


class Started(Answer):
    """A command that goes on by itself."""

    id: str = Field(description="16 hexadecimal digits.")
    sandbox: str
    command: list[str]
    pid: int
    status: Literal["running", "completed", "failed"]
    exit_code: int | None = Field(description="Once it has ended and as long as that is known.")
    started_at: float


class Recorded(Answer):
    """Recorded output of one stream, or of both."""

    stdout: str | None = None
    stderr: str | None = None


class LogEntry(Answer):
    """A piece of recorded output."""

    at: float
    exec_id: str
    stream: Stream
    data: str
    encoding: Literal["utf-8", "base64"]


class Log(Answer):
    """A page."""

    entries: list[LogEntry]
    next_since: float | None = Field(description="Ask for `since` this, while more may be there.")


class File(Answer):
    """A file's content."""

    content: str
    encoding: Literal["utf8", "base64"]
    size: int


class Written(Answer):
    """How many files."""

    written: int


class Uploaded(Answer):
    """A file that was written."""

    path: str
    bytes: int


class Unpacked(Answer):
    """What an archive came to."""

    path: str
    files: int
    directories: int
    symlinks: int
    bytes: int
    skipped: list[str] = Field(description="Devices and FIFOs; the first 100.")
    outward: list[str] = Field(description="Symlinks that lead out of the directory; the first 100.")


class Entry(Answer):
    """A file, directory, symlink, ..."""

    name: str
    type: str
    mode: int
    size_bytes: int
    modified_at: float
    uid: int
    gid: int
    links: int
    target: str


class Process(Answer):
    """A command that the sandbox's agent knows."""

    exec_id: str
    pid: int
    running: bool
    detached: bool
    terminal: bool
    started_at: float
    argv: list[str]


class Statistics(Answer):
    """Numbers from inside."""

    uptime_s: float
    commands: int
    processes: int
    rss_bytes: int
    cpu_s: float


class Decision(Answer):
    """An attempt to reach something."""

    at: float
    verdict: Literal["allowed", "denied", "failed"]
    protocol: str
    host: str
    port: int | None
    address: str
    rule: str
    reason: str


class Attempts(Answer):
    """A page."""

    attempts: list[Decision]
    next_after: int | None = Field(description="Ask for `after` this, while more may be there.")


class Event(Answer):
    """A line of the audit trail."""

    event_id: int
    at: float
    kind: str
    principal: str
    sandbox_id: str
    sandbox: str
    backend: str
    isolation: str
    outcome: str
    exec_id: str
    details: dict[str, str]


class Trail(Answer):
    """A page."""

    events: list[Event]
    next_after: int | None = Field(description="Ask for `after` this, while more may be there.")


class Image(Answer):
    """An image."""

    reference: str
    digest: str
    backend: str = Field(description="The engine that keeps it; empty: agentkernel's own store.")
    platform: str
    size_bytes: int
    obtained_at: float | None
    used_at: float | None


class ImageJob(Answer):
    """Work on an image, and where it stands."""

    id: str
    stage: Literal["resolving", "downloading", "unpacking", "building", "done", "failed"]
    item: str
    done_bytes: int
    total_bytes: int
    image: Image | None
    error: str
    code: str
    hint: str


class Backend(Answer):
    """A way to isolate."""

    name: str
    ready: bool
    isolation: Level
    reason: str
    remedy: str
    runtimes: list[dict[str, str]]
    features: dict[str, dict[str, str]]
    details: dict[str, str]


class Backends(Answer):
    """In the order of the choice."""

    default_backend: str | None = Field(description="The first that is ready.")
    backends: list[Backend]


class Agent(Answer):
    """A coding agent, and whether the server's host has it."""

    id: str
    name: str
    aliases: list[str]
    command: str
    installed: bool
    api_key: str
    api_key_set: bool
    status: Literal["ready", "api key missing", "not installed"]
    install: str


class Status(Answer):
    """The engine at a glance."""

    running: Literal[True]
    version: str
    pid: int
    started_at: float
    sandboxes: int
    sandboxes_running: int
    clients: int
    busy: int
    queued: int
    rss_bytes: int
    pools: list[dict[str, Any]]


class Version(Answer):
    """Which server it is."""

    version: str


def said(data: Any, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with `data`."""
    return {status: {"model": Success[data], "description": "What was asked for."}}
