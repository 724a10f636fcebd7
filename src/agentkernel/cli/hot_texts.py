"""What the hot path has to say beside the command's output: notices, and why a command was not started."""

from __future__ import annotations

import json
import os
import sys

from agentkernel.text.style import colourful, line

_AGENTS_WORDS = 8  # errno and stage stand before the text of FAILED
_REFUSED = 255  # the stage: its text is JSON


def say_notices(notices: list[bytes]) -> None:
    """Writes notices (JSON of `Notice`) to stderr."""
    for notice in notices:
        said = json.loads(notice)
        _say("note", said["message"], said.get("hint", ""))


def refusal(payload: bytes, *, may_decline: bool) -> int | None:
    """Says a FAILED and returns the exit status; None, unsaid, where nothing was done and the full path can do without this daemon."""
    text = payload[_AGENTS_WORDS:]
    if int.from_bytes(payload[4:8], "little") != _REFUSED:
        _say("error", f"the command could not be started: {text.decode(errors='replace')}", "")
        return 125
    error = json.loads(text)
    if may_decline and error["code"] == "daemon_unavailable":
        return None
    _say("error", error["message"], error.get("hint", ""))
    return int(error["exit_status"])


def _say(kind: str, message: str, hint: str) -> None:
    try:
        sys.stderr.write(line(kind, message, hint, colours=colourful(sys.stderr.isatty(), os.environ)))
        sys.stderr.flush()
    except OSError:  # a stderr that is gone is no reason to fail
        return
