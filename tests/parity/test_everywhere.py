"""The same scenarios through every way to the kernel: the engine in process, the daemon's socket and the door of a server elsewhere, each
through the classes of the SDK, async and from threads; the HTTP API, the command line and MCP."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

pytest.importorskip("uvicorn", reason="needs the extra `api`")
pytest.importorskip("mcp", reason="needs the extra `mcp`")

from parity import client_scenarios, common_scenarios, image_scenarios, network_scenarios, stream_scenarios
from parity.fronts import FromThreads, open_front
from parity.fronts_cli import CliClient
from parity.fronts_http import HttpClient
from parity.fronts_mcp import McpClient, mcp_client
from parity.listed import FRONTS, SCENARIOS, Scenario
from parity.operations import OPERATIONS

from agentkernel import AsyncClient, Client

MODULES = (client_scenarios, common_scenarios, image_scenarios, network_scenarios, stream_scenarios)  # each puts its own into the list
_SHARED = {"async-local": "engine", "sync-local": "engine_for_threads", "mcp": "model"}  # which fixture it is
PLAYED = [(scenario, front) for scenario in SCENARIOS for front in FRONTS if not scenario.reason_against(front)]


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


@pytest.fixture(scope="module")
def engine_for_threads(home: Path) -> Iterator[FromThreads]:
    """Another one, behind the classes for threads."""
    with Client(local=True) as client:
        yield FromThreads(client)


@pytest.fixture
def client(scenario: Scenario, front: str, home: Path, request: pytest.FixtureRequest) -> AbstractAsyncContextManager[Any]:
    """The front of that name; what it needs is started with the first scenario through it."""
    if front in _SHARED:
        return nullcontext(request.getfixturevalue(_SHARED[front]))
    if front == "cli":
        directory = home / "work"
        directory.mkdir(exist_ok=True)
        return CliClient(os.environ, directory)
    if front in ("async-daemon", "sync-daemon"):
        return open_front(front)
    elsewhere = request.getfixturevalue("elsewhere_with_host" if scenario.of_the_host else "elsewhere")
    return HttpClient(*elsewhere) if front == "http" else open_front(front, elsewhere)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("scenario", "front"), PLAYED, ids=lambda value: value if isinstance(value, str) else value.name)
async def test_a_scenario(scenario: Scenario, client: AbstractAsyncContextManager[Any], tmp_path: Path) -> None:
    async with client as opened:
        await scenario.play(opened, tmp_path)


ELSEWHERE = {  # operations that no scenario goes through, for only one or two fronts have them, and the tests that do
    "agents": "api/test_sandboxes.py",
    "benchmark": "unit/test_benchmark.py",
    "completions": "unit/test_cli_completions.py",
    "daemon": "e2e/test_daemon.py",
    "doctor": "unit/test_cli_verbs.py",
    "door": "api/test_stream_sockets.py",
    "events": "api/test_stream_files.py",
    "file_write_many": "api/test_exec.py",
    "health": "api/test_serve.py",
    "image_build": "unit/test_image_builds.py",
    "mcp": "mcp/test_stdio.py",
    "metrics": "api/test_metrics.py",
    "openapi": "api/test_openapi.py",
    "serve": "api/test_serve.py",
    "settings": "unit/test_config_load.py",
    "tokens": "api/test_tokens.py",
    "trust": "unit/test_trust.py",
    "version": "api/test_serve.py",
}


def test_every_operation_is_played_or_tested_elsewhere() -> None:
    played = {name for scenario in SCENARIOS for name in (*scenario.operations, *scenario.instead)}
    assert sorted([*played, *ELSEWHERE]) == sorted(OPERATIONS)
    assert [name for name in ELSEWHERE.values() if not (Path(__file__).parents[1] / name).is_file()] == []


def test_each_scenario_is_in_the_list_once() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    assert {scenario.play.__module__ for scenario in SCENARIOS} == {module.__name__ for module in MODULES}


def test_who_is_left_out_is_left_out_for_a_reason_that_is_written() -> None:
    for scenario in SCENARIOS:
        assert set(scenario.operations) <= OPERATIONS.keys() and set(scenario.but) <= set(FRONTS), scenario.name
        assert all(reason.why.strip() for reason in scenario.but.values()), scenario.name
        assert not any(
            scenario.reason_against(front) for front in FRONTS if front.startswith(("async", "sync")) and front != "async-remote"
        )
    assert {front for _, front in PLAYED} == set(FRONTS)
