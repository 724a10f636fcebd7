"""Procfiles: one `type: command` per line. They come with code that somebody else wrote; only the programs' names are read."""

from __future__ import annotations

import os
import stat

MAX_BYTES = 64 * 1024


def commands_of(path: str) -> tuple[str, ...]:
    """The first word of each command, in the file's order; nothing for a file that is missing, a link, special, or not text."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return ()
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ()
        content = file.read(MAX_BYTES)
    return parse(content.decode("utf-8", "replace"))


def parse(text: str) -> tuple[str, ...]:
    """Comments, blank lines and lines without a command are skipped, and so are assignments before a command (`PORT=1 node x`)."""
    found = []
    for line in text.splitlines():
        kind, colon, command = line.partition(":")
        if not colon or kind.lstrip().startswith("#"):
            continue
        words = [word for word in command.split() if "=" not in word]
        if words:
            found.append(words[0])
    return tuple(found)
