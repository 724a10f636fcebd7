"""What a command gave: frozen data, the same for the sync and the async API."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass

from agentkernel.errors import CommandFailed
from agentkernel.model.command import ExecResult, ExitStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished command. A non-zero exit is a result, not an error, until `check` is asked for it."""

    argv: tuple[bytes, ...]
    status: ExitStatus
    stdout: bytes  # its first `output_limit_bytes`
    stderr: bytes
    stdout_truncated: bool = False  # more came than was kept
    stderr_truncated: bool = False

    @classmethod
    def of(cls, argv: tuple[bytes, ...], result: ExecResult) -> Result:
        """From what the channel gave."""
        return cls(
            argv=argv,
            status=result.status,
            stdout=result.stdout,
            stderr=result.stderr,
            stdout_truncated=result.stdout_truncated,
            stderr_truncated=result.stderr_truncated,
        )

    @property
    def exit_code(self) -> int:
        """0-255; 128 + n when signal n ended it."""
        return self.status.exit_code

    @property
    def ok(self) -> bool:
        """Whether it exited with 0."""
        return self.status.exit_code == 0

    @property
    def text(self) -> str:
        """stdout as UTF-8; what is none becomes U+FFFD."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        """stderr as UTF-8; what is none becomes U+FFFD."""
        return self.stderr.decode("utf-8", "replace")

    def check(self) -> Result:
        """Returns itself, as in `exec(...).check().text`; raises CommandFailed, with this as `result`, unless it exited with 0."""
        if self.ok:
            return self
        last = "".join(letter if letter.isprintable() else "?" for letter in self.error_text.strip().rpartition("\n")[2])
        name = shlex.quote(os.fsdecode(self.argv[0]))
        how = f"was ended by signal {self.status.signal}" if self.status.signal else f"exited with {self.exit_code}"
        raise CommandFailed(f"{name} {how}" + (f": {last[:200]}" if last else ""), result=self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a running command's output."""

    stream: int  # 1 stdout, or the terminal; 2 stderr
    data: bytes

    @property
    def text(self) -> str:
        """As UTF-8. A character that is cut by the end of a chunk becomes U+FFFD: decode the whole for exact text."""
        return self.data.decode("utf-8", "replace")
