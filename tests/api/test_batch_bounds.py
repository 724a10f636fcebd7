"""POST /batch/run: however many commands print however much, the answer stays within a bound, and says what is missing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from api.asking import HOST, JSON, ask, parts_with

from agentkernel.abc import Caller
from agentkernel.api.app import build
from agentkernel.api.examples import EXAMPLES
from agentkernel.api.routes.batch import ALL_BYTES, OUTPUT_BYTES, share_of
from agentkernel.api.shapes_commands import BatchItem
from agentkernel.errors import Refused
from agentkernel.model.command import Command
from agentkernel.model.request import SandboxRequest


class Refusing:
    """A kernel that runs nothing, and remembers how much was to be kept of each command."""

    def __init__(self) -> None:
        self.limits: list[int] = []

    @asynccontextmanager
    async def run(self, caller: Caller, request: SandboxRequest, command: Command) -> AsyncIterator[Any]:
        """Notes it."""
        self.limits.append(command.output_limit_bytes)
        if command.argv:
            raise Refused("not here")
        yield

    async def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize(("count", "kept"), [(1, OUTPUT_BYTES), (8, OUTPUT_BYTES), (9, ALL_BYTES // 9), (256, 32 << 10)])
async def test_many_commands_share_what_is_kept(count: int, kept: int) -> None:
    kernel = Refusing()
    app = build(parts_with(lambda caller: kernel))
    body = json.dumps({"commands": [{"command": ["yes"]}] * count}).encode()
    answered = await ask(app, "POST", "/batch/run", [HOST, JSON], [body])
    assert [each["code"] for each in json.loads(answered.body)["data"]["results"]] == ["refused"] * count
    assert kernel.limits == [kept] * count


def test_no_batch_keeps_more_than_its_bound() -> None:
    assert all(count * share_of(count) <= ALL_BYTES for count in range(1, 257))


def test_what_is_left_out_is_told() -> None:
    for each in EXAMPLES["batch_run"].answered["results"]:
        assert set(each) == set(BatchItem.model_fields)
