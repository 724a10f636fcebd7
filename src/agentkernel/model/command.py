"""One command in a sandbox and its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

DEFAULT_OUTPUT_LIMIT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminalSize:
    """Rows and columns of a terminal, each 1-65535."""

    rows: int
    columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run: an argv (never a shell string) and its surroundings."""

    argv: tuple[bytes, ...]
    environment: dict[bytes, bytes] = field(default_factory=dict)  # on top of the sandbox's own
    cwd: str | None = None  # None: the sandbox's working directory
    user: tuple[int, int] | None = None  # uid, gid inside; None: the sandbox's user
    terminal: TerminalSize | None = None
    stdin: bool = False  # whether input will follow; else /dev/null
    timeout_s: float | None = None  # from process start; the whole tree is killed
    detached: bool = False  # outlives the client; a full ring drops its oldest output
    ends_tree: bool = False  # what it leaves running is killed before its end is told
    output_limit_bytes: int = DEFAULT_OUTPUT_LIMIT_BYTES  # per stream, for exec(); streams are never cut


class Cause(StrEnum):
    """Why a command ended."""

    ITSELF = "itself"
    TIMEOUT = "timeout"
    KILLED = "killed"
    CLIENT_LOST = "client-lost"
    SUPERVISOR_LOST = "supervisor-lost"


class LimitHit(StrEnum):
    """A limit that ended or hindered the command, as the host saw it."""

    MEMORY = "memory"
    PIDS = "pids"
    DISK = "disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitStatus:
    """How a command ended."""

    exit_code: int  # 0-255; 128 + signal
    signal: int | None = None
    cause: Cause = Cause.ITSELF
    limits_hit: tuple[LimitHit, ...] = ()
    survivors: bool = False  # background processes went on
    output_lost: bool = False  # a detached command's ring dropped output
    wall_s: float = 0.0
    user_cpu_s: float = 0.0
    system_cpu_s: float = 0.0
    max_rss_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecResult:
    """A finished command: each stream keeps its first `output_limit_bytes`."""

    status: ExitStatus
    stdout: bytes
    stderr: bytes
    stdout_truncated: bool = False
    stderr_truncated: bool = False

    @property
    def exit_code(self) -> int:
        """The command's exit code; 128 + n for signal n."""
        return self.status.exit_code
