"""How a command that was waited for ended, as answers tell it. That it failed, or could not be started, is no error of the API."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from agentkernel.api.kept import Kept
from agentkernel.api.lengthy import in_base64, is_text, text
from agentkernel.api.streams.course import ended, not_started
from agentkernel.errors import CommandNotStarted
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.request import Notice
from agentkernel.text.records import notice_record

SHORT: Final = Notice(
    code="output_short",
    message="the server had no memory for more of the output, which ends where it did",
    hint="ask again later, or for a stream of it, which is never cut (POST .../stream)",
)
NOWHERE: Final[dict[str, Any]] = {"backend": None, "isolation": None, "notices": []}  # a sandbox that went before anything ran in it


class Watch:
    """Measures the parts of a request, in milliseconds, from its making on."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._created: float | None = None

    def created(self) -> None:
        """The sandbox is there, and the command in it has been started."""
        self._created = time.perf_counter()

    def durations(self, wall_s: float = 0.0) -> dict[str, float]:
        """Until the sandbox was there, of the command itself, and of all so far."""
        now = time.perf_counter()
        created = now if self._created is None else self._created
        times = {"create_ms": created - self._began, "exec_ms": wall_s, "total_ms": now - self._began}
        return {name: round(value * 1000, 3) for name, value in times.items()}


def finished(result: Kept) -> dict[str, Any]:
    """A command that ended. Bytes that are no UTF-8 are U+FFFD in the text, and then there is base64 beside it."""
    said: dict[str, Any] = {
        "output": text(result.stdout, result.stderr),
        "stdout": text(result.stdout),
        "stderr": text(result.stderr),
        "stdout_truncated": result.stdout_truncated,
        "stderr_truncated": result.stderr_truncated,
        **ended(result.status),
    }
    for name, data in (("stdout", result.stdout), ("stderr", result.stderr)):
        if not is_text(data):
            said[f"{name}_base64"] = in_base64(data)
    return said


def unstarted(error: CommandNotStarted) -> dict[str, Any]:
    """A command that there is not (127), that cannot be executed (126), or not so (125)."""
    nothing = {"output": "", "stdout": "", "stderr": "", "stdout_truncated": False, "stderr_truncated": False}
    return {**nothing, **not_started(error)}


def placed(backend: str, isolation: IsolationLevel, notices: Sequence[Notice] = ()) -> dict[str, Any]:
    """Where it ran."""
    return {"backend": backend, "isolation": isolation.label, "notices": [notice_record(notice) for notice in notices]}


def noted(result: Kept) -> tuple[Notice, ...]:
    """What its client should know of an answer that could not hold what it might have."""
    return (SHORT,) if result.was_short else ()
