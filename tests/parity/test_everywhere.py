"""The same scenarios through every way to the kernel: the engine in process, the daemon's socket, the door of a server elsewhere, the HTTP
API, the command line and MCP."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

pytest.importorskip("uvicorn", reason="needs the extra `api`")
pytest.importorskip("mcp", reason="needs the extra `mcp`")

from parity.common_scenarios import COMMON, Common
from parity.fronts import open_front
from parity.fronts_cli import CliClient
from parity.fronts_http import HttpClient
from parity.fronts_mcp import McpClient, mcp_client
from parity.operations import OPERATIONS

from agentkernel import AsyncClient

FRONTS = ("async-local", "async-daemon", "async-remote", "http", "cli", "mcp")
_SHARED = {"async-local": "engine", "mcp": "model"}  # which fixture it is
PLAYED = [(common, front) for common in COMMON for front in FRONTS if not common.reason_against(front)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(home: Path) -> AsyncIterator[McpClient]:
    """One server of MCP for all. Its client is entered and left by one task, as it must be."""
    ready: asyncio.Future[McpClient] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def hold() -> None:
        async with mcp_client(dict(os.environ)) as client:
            ready.set_result(client)
            await over.wait()

    holding = asyncio.create_task(hold())
    await asyncio.wait({holding, ready}, return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        holding.result()
    yield ready.result()
    over.set()
    await holding


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(home: Path) -> AsyncIterator[AsyncClient]:
    """One engine in this process for all, which tries the backends of this host once."""
    async with AsyncClient(local=True) as client:
        yield client


@pytest.fixture
def client(front: str, home: Path, request: pytest.FixtureRequest) -> AbstractAsyncContextManager[Any]:
    """The front of that name; what it needs is started with the first scenario through it."""
    if front in _SHARED:
        return nullcontext(request.getfixturevalue(_SHARED[front]))
    if front == "cli":
        directory = home / "work"
        directory.mkdir(exist_ok=True)
        return CliClient(os.environ, directory)
    if front == "async-daemon":
        return open_front(front)
    elsewhere = request.getfixturevalue("elsewhere")
    return HttpClient(*elsewhere) if front == "http" else open_front(front, elsewhere)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("common", "front"), PLAYED, ids=lambda value: value if isinstance(value, str) else value.play.__name__)
async def test_a_scenario(common: Common, client: AbstractAsyncContextManager[Any], tmp_path: Path) -> None:
    async with client as opened:
        await common.play(opened, tmp_path)


def test_who_is_left_out_is_left_out_for_a_reason_that_is_written() -> None:
    for common in COMMON:
        assert set(common.operations) <= OPERATIONS.keys() and set(common.but) <= set(FRONTS), common.play.__name__
        assert not any(common.reason_against(front) for front in FRONTS if front.startswith("async"))
    assert {front for _, front in PLAYED} == set(FRONTS)
