"""Directories that belong to one test, so that whatever stays in them was left by it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def own_temporary_directory() -> Iterator[Path]:
    """Makes a directory the place for temporary files. Its name is short, because paths of sockets have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ak-", dir="/tmp") as directory, pytest.MonkeyPatch.context() as patch:
        os.chmod(directory, 0o711)  # root's sandboxes walk to their mount point as ids of their own
        patch.setattr(tempfile, "tempdir", directory)
        patch.setenv("TMPDIR", directory)
        yield Path(directory)
