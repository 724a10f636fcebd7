"""Fixtures that several kinds of tests share."""

from __future__ import annotations

import importlib.util
import signal
from pathlib import Path
from types import ModuleType

import pytest

# A shell that starts a job in the background has it ignore SIGINT and SIGQUIT, nohup(1) SIGHUP, and so would every program of the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)
for ignored in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(ignored, signal.SIG_DFL)

GUEST_BUILD = Path(__file__).parent.parent / "guest" / "build.py"


def _guest_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("guest_build", GUEST_BUILD)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def guest_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest binary, compiled once per run from the sources of this tree."""
    build = _guest_build()
    return Path(build.build(tmp_path_factory.mktemp("guest")))
