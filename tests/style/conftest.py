"""What the checks of style read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from style import metrics


@pytest.fixture(scope="session")
def tracked_texts() -> dict[Path, str]:
    """Every text file of the repository."""
    if shutil.which("git") is None or not (metrics.ROOT / ".git").exists():
        pytest.skip("needs git and a checkout: what belongs to the tree is what git says")
    texts = {}
    for path in metrics.tracked_files():
        data = path.read_bytes()
        if b"\0" not in data:
            texts[path] = data.decode(errors="replace")
    return texts
