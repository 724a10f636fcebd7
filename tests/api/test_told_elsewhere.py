"""What callers elsewhere are told of the server's host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from api.asking import HOST, Silent, ask, bearer, parts_with

from agentkernel.abc import Caller
from agentkernel.api.app import build
from agentkernel.config.tokens import TokenStore


class Asked(Silent):
    """A kernel that lets everybody ask how it is."""

    async def status(self, caller: Caller) -> None:
        """Nothing is wrong."""


async def agents(tmp_path: Path, scopes: list[str]) -> list[dict[str, Any]]:
    """What a token is told of a host where one agent is, and a key."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "claude").symlink_to("/bin/true")
    environment = {"AGENTKERNEL_HOME": str(tmp_path), "PATH": str(programs), "ANTHROPIC_API_KEY": "set"}
    store = TokenStore(environment)
    app = build(parts_with(lambda caller: Asked(), tokens=store, environment=environment))
    said = await ask(app, "GET", "/agents", [HOST, bearer(store.create("ci", scopes))])
    return list(json.loads(said.body)["data"])


@pytest.mark.parametrize("scope", ["full", "run-only", "read-only"])
async def test_which_keys_the_operator_has_is_not_told_elsewhere(tmp_path: Path, scope: str) -> None:
    found = await agents(tmp_path, [scope])
    assert not any("api_key_set" in each for each in found)
    assert {each["id"]: each["status"] for each in found}["claude"] == "installed"
    assert {each["status"] for each in found} == {"installed", "not installed"}


async def test_a_token_of_the_host_is_told_all(tmp_path: Path) -> None:
    found = {each["id"]: each for each in await agents(tmp_path, ["full", "host"])}
    assert (found["claude"]["status"], found["claude"]["api_key_set"]) == ("ready", True)
    assert found["gemini"]["api_key_set"] is False
