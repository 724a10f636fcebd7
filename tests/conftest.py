"""Fixtures that several kinds of tests share."""

from __future__ import annotations

import importlib.util
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from engines.docker import DockerHost, docker_host, image_of_tests

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


@pytest.fixture(scope="session")
def dockerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerHost]:
    """A Docker Engine of the tests' own, with their image: a shell, small tools, Python and the conformance suite's program."""
    from agentkernel.testing.probe import PROBE_SOURCE, compile_static  # the suite's modules are rewritten before they are imported

    place = tmp_path_factory.getbasetemp()
    with docker_host() as host:
        host.load_image(image_of_tests(place, compile_static(PROBE_SOURCE, place / "probe-of-image")))
        yield host
