"""Requests that are made once for many bodies: what a body says, the operator's settings and the environment all count each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkernel.abc import Caller
from agentkernel.api.remembered import Remembered
from agentkernel.api.shapes import RunBody
from agentkernel.api.wishes import run_of
from agentkernel.config.load import Settings
from agentkernel.errors import InvalidInput
from agentkernel.model.request import SandboxRequest

ME = Caller(principal="ann", scopes=frozenset({"full"}))
NOTHING = Settings(layers=())


def requested(environment: dict[str, str], **said: object) -> SandboxRequest:
    return run_of(RunBody.model_validate({"command": ["true"], **said}), environment, ME)[0]


def test_a_change_of_the_operators_file_counts_for_the_next_request(tmp_path: Path) -> None:
    file = tmp_path / "agentkernel" / "config.toml"
    file.parent.mkdir()
    environment = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    assert requested(environment).memory_bytes is None
    for mib in (64, 96):
        file.write_text(f'[resources]\nmemory = "{mib}M"\n')
        assert requested(environment).memory_bytes == requested(environment).memory_bytes == mib << 20
    file.chmod(0o666)
    with pytest.raises(InvalidInput):
        requested(environment)


def test_bodies_and_environments_are_told_apart(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path)}
    assert requested(environment, memory_mb=8).memory_bytes == 8 << 20
    assert requested(environment, memory_mb=9).memory_bytes == 9 << 20
    assert requested(environment, memory_mb=8, profile="restrictive").profile != requested(environment, memory_mb=8).profile
    assert requested(environment | {"AGENTKERNEL_BACKEND": "gvisor"}, memory_mb=8).backend == "gvisor"
    assert requested(environment, memory_mb=8).backend is None


def test_what_failed_is_made_again_and_little_is_kept() -> None:
    remembered, made = Remembered(most=2), []

    def make(number: int) -> SandboxRequest:
        made.append(number)
        if number < 0:
            raise InvalidInput("no")
        return SandboxRequest(argv=(), pids=number)

    for number in (1, 1, 2, 2, 3, 3, 1):
        assert remembered.request({"pids": number}, NOTHING, {}, lambda number=number: make(number)).pids == number
    assert made == [1, 2, 3, 1]
    for _ in range(2):
        with pytest.raises(InvalidInput):
            remembered.request({"pids": -1}, NOTHING, {}, lambda: make(-1))
    assert made[-2:] == [-1, -1]
