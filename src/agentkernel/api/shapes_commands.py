"""What is answered about commands; see `shapes_answers`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agentkernel.api.shapes import Level
from agentkernel.api.shapes_answers import Answer, Notice

Stream = Literal["stdout", "stderr"]


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
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    timed_out: bool = False


class Batch(Answer):
    """In the order of the request."""

    results: list[BatchItem]


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
    truncated: bool = Field(description="Older output is left out here, or some was not recorded.")


class LogEntry(Answer):
    """A piece of recorded output."""

    at: float
    exec_id: str
    stream: Stream
    data: str = ""
    encoding: Literal["utf-8", "base64"] = "utf-8"
    missing: int = Field(0, description="So many bytes were not recorded here; then there is no data.")


class Log(Answer):
    """A page."""

    entries: list[LogEntry]
    next_since: float | None = Field(description="Ask for `since` this, while more may be there.")


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
