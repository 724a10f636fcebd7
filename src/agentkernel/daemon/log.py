"""daemon.log: one line for each event of note, bounded."""

from __future__ import annotations

import os
import time
from typing import Final

MAX_BYTES: Final = 1024 * 1024
_MODE: Final = 0o600
_LONGEST: Final = 2000  # letters of a line


class Log:
    """Appends lines to a file, and moves it to `<path>.1` when it is full. A disk that takes no lines is no reason to fail."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, text: str) -> None:
        """Writes one line, with the time (UTC) and the pid."""
        shown = "".join(letter if letter.isprintable() else "?" for letter in text.replace("\n", " | "))[:_LONGEST]
        line = f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} [{os.getpid()}] {shown}\n"
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
            try:
                os.write(descriptor, line.encode("utf-8", "replace"))
                full = os.fstat(descriptor).st_size > MAX_BYTES
            finally:
                os.close(descriptor)
            if full:
                os.replace(self._path, self._path + ".1")
        except OSError:
            return
