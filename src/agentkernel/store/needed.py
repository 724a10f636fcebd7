"""Which images the sandboxes of a durable store need, for who does not own it: an engine in process that is to remove images."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from agentkernel.errors import InvalidInput, StoreFailed
from agentkernel.store import rows
from agentkernel.store.database import FILE_NAME


def images_needed(directory: Path) -> frozenset[str]:
    """The directories and digests of all sandboxes' images; nothing where there is no store.

    Nothing too where a process has it: that one has seen to it that what its sandboxes need is not removed by others. Changes nothing.
    Raises StoreFailed where it cannot be read: then nobody knows.
    """
    path = directory / FILE_NAME
    if not path.exists():
        return frozenset()
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0.0)
        try:
            found = connection.execute("SELECT DISTINCT roots.root FROM sandboxes JOIN roots ON roots.digest = sandboxes.root").fetchall()
        finally:
            connection.close()
        roots = [rows.to_root(text) for (text,) in found]
    except (sqlite3.Error, ValueError, InvalidInput) as error:
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return frozenset()
        raise StoreFailed(f"it cannot be told which images sandboxes need: {error}", hint="`agentkernel daemon start` says more") from error
    return frozenset(each for root in roots for each in (root.directory, root.digest) if each)
