"""What people read goes out here: errors, hints, tables. Nothing here may be slow to import."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from agentkernel.text.style import colourful, line


def say(kind: str, message: str, hint: str, environment: Mapping[str, str]) -> None:
    """Writes `error: ...` or `note: ...` and its hint to stderr; a stderr that is gone is no reason to fail."""
    lines = line(kind, message, hint, colours=colourful(sys.stderr.isatty(), environment))
    try:
        sys.stderr.write(lines)
        sys.stderr.flush()
    except OSError:
        discard_stream(2)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligns columns with two spaces between them; the last one runs on."""
    everything = [headers, *rows]
    widths = [max(len(row[column]) for row in everything) for column in range(len(headers))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in everything]
    return "\n".join(lines) + "\n"


def discard_stream(descriptor: int) -> None:
    """Points a broken stdout or stderr at /dev/null, so that the interpreter's last flush does not fail again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def complete_streams() -> None:
    """Opens /dev/null for a closed descriptor 0-2: else the first socket that is opened would become the program's stdout."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null == descriptor:
                os.set_inheritable(descriptor, True)  # the launcher, too, counts on 0-2 being taken
            else:
                os.dup2(null, descriptor)
                os.close(null)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
