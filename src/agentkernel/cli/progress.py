"""How far work on an image is, on stderr: bars on a terminal, one line where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TextIO

from agentkernel.cli.terminal import terminal_size
from agentkernel.model.image import ImageProgress, ImageStage
from agentkernel.text.style import DIM, colourful, paint, printable
from agentkernel.units import format_size

REDRAW_S = 0.1
_BAR = 24
_SHORT = 12  # letters of a digest that people compare
_WORDS = {ImageStage.RESOLVING: "looking it up", ImageStage.UNPACKING: "unpacking", ImageStage.BUILDING: "building"}


class Progress:
    """Of one piece of work, called `title`. A context: whatever ends it, the bars are gone afterwards.

    `quietly`: nothing is shown at all.
    """

    def __init__(self, title: str, environment: Mapping[str, str], *, quietly: bool = False, stream: TextIO | None = None) -> None:
        self._title = printable(title)
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty() and environment.get("TERM", "dumb") != "dumb"
        self._colours = colourful(self._live, environment)
        self._quietly = quietly
        self._layers: dict[str, tuple[int, int]] = {}
        self._doing = ""
        self._lines = 0  # on the screen now, to be drawn over
        self._drawn_at = 0.0
        self._said = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._erase()

    def __call__(self, step: ImageProgress) -> None:
        """Takes a step."""
        if self._quietly or step.is_last:
            return
        if not self._said and not self._live:
            self._write(f"{self._title} ...\n")
        self._said = True
        if step.stage is ImageStage.BUILDING:
            self._print(step.item)
        elif step.stage is ImageStage.DOWNLOADING:
            self._doing = ""
            self._layers[step.item] = (step.done_bytes, step.total_bytes)
        else:
            self._doing = _WORDS.get(step.stage, "")
        self._draw()

    def _print(self, text: str) -> None:
        """A line of a builder, which stays."""
        self._erase()
        self._write(paint(printable(text.rstrip()), DIM, self._colours) + "\n")

    def _draw(self) -> None:
        now = time.monotonic()
        if not self._live or (now - self._drawn_at < REDRAW_S and self._lines):
            return
        self._drawn_at = now
        size = terminal_size()
        lines = [f"{self._title}{': ' + self._doing if self._doing else ''}"]
        if not self._doing:
            lines += [_layer(name, *amount) for name, amount in self._layers.items() if not _is_whole(*amount)]
        shown = [line[: size.columns - 1] for line in lines[: max(1, size.rows - 2)]]
        up = f"\x1b[{self._lines}A" if self._lines else ""
        rest = "\x1b[J"  # what was below
        self._write(up + rest + "".join(f"{line}\n" for line in shown))
        self._lines = len(shown)

    def _erase(self) -> None:
        if self._lines:
            self._write(f"\x1b[{self._lines}A\x1b[J")
            self._lines = 0

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:  # a stderr that is gone is no reason to fail
            self._quietly = True


def _layer(name: str, done: int, total: int) -> str:
    short = printable(name).rpartition(":")[2][:_SHORT]
    if total <= 0:
        return f"  {short.ljust(_SHORT)}  {format_size(done)}"
    filled = min(_BAR, _BAR * done // total)
    return f"  {short.ljust(_SHORT)}  [{'#' * filled}{' ' * (_BAR - filled)}]  {format_size(done)} of {format_size(total)}"


def _is_whole(done: int, total: int) -> bool:
    return total > 0 and done >= total
