"""The same scenarios through every way to the kernel: the engine in process, the daemon's socket, the door of a server elsewhere, the HTTP
API, the command line and MCP."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
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
from remote_world import Server, serving

from agentkernel import AsyncClient

FRONTS = ("async-local", "async-daemon", "async-remote", "http", "cli", "mcp")
PLAYED = [(common, front) for common in COMMON for front in FRONTS if not common.reason_against(front)]


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    """`agentkernel serve` before the daemon of this home."""
    with serving(dict(os.environ)) as found:
        yield found


@pytest.fixture(scope="module")
def token(server: Server) -> str:
    """Its default token."""
    return server.token()


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


@asynccontextmanager
async def _opened(model: McpClient) -> AsyncIterator[McpClient]:
    yield model


@pytest.fixture
def client(front: str, home: Path, request: pytest.FixtureRequest) -> AbstractAsyncContextManager[Any]:
    """The front of that name; the servers are started for those that need them."""
    if front == "mcp":
        return _opened(request.getfixturevalue("model"))
    if front == "cli":
        directory = home / "work"
        directory.mkdir(exist_ok=True)
        return CliClient(os.environ, directory)
    if front not in ("http", "async-remote"):
        return open_front(front)
    server, token = request.getfixturevalue("server"), request.getfixturevalue("token")
    url = f"http://127.0.0.1:{server.port}"
    return HttpClient(url, token) if front == "http" else AsyncClient(url=url, token=token)


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
