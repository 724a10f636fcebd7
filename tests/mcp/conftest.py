"""The server as clients have it: a process, talked to by the official client; with a daemon, and with an engine in the server itself."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import pytest_asyncio
from e2e.host import Host
from mcp import Client, StdioServerParameters
from mcp_types import CallToolResult

SOURCE = Path(__file__).parents[2] / "src"
DEADLINE_S = 60.0


@dataclass
class Answer:
    """What a tool answered, and what was told meanwhile."""

    result: CallToolResult
    told: list[str] = field(default_factory=list)

    @property
    def error(self) -> str:
        """The code of the error; empty for none."""
        return str(self.result.structured_content["code"]) if self.result.is_error else ""

    @property
    def text(self) -> str:
        """The blocks of text."""
        return "".join(block.text for block in self.result.content if block.type == "text")

    def __getitem__(self, key: str) -> Any:
        assert not self.result.is_error, self.text
        return self.result.structured_content[key]


class Model:
    """A client in the place of a language model."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._schemas: dict[str, jsonschema.Draft202012Validator] = {}

    async def __call__(self, tool: str, *, on_progress: Callable[[str], None] | None = None, **arguments: object) -> Answer:
        """Calls a tool."""
        told: list[str] = []

        async def progress(_count: float, _total: float | None, message: str | None) -> None:
            told.append(message or "")
            if on_progress is not None:
                on_progress(message or "")

        async with asyncio.timeout(DEADLINE_S):
            answer = Answer(await self.client.call_tool(tool, dict(arguments), progress_callback=progress), told)
            await self._validate(tool, answer)
        return answer

    async def _validate(self, tool: str, answer: Answer) -> None:
        """Errors too: clients made with the SDK for TypeScript hold every structured answer against the schema, and show no other."""
        if not self._schemas:
            tools = (await self.client.list_tools()).tools
            self._schemas = {each.name: jsonschema.Draft202012Validator(each.output_schema or {}) for each in tools}
        if tool in self._schemas:
            self._schemas[tool].validate(answer.result.structured_content)


@dataclass
class Servers:
    """Starts servers with a home of their own."""

    environment: dict[str, str]
    directory: Path

    @property
    def argv(self) -> list[str]:
        """How the command line is called."""
        return [sys.executable, "-m", "agentkernel"]

    @asynccontextmanager
    async def stdio(self, *options: str, mode: str = "auto", **environment: str) -> AsyncIterator[Model]:
        """A client and the server that it has started."""
        parameters = StdioServerParameters(
            command=self.argv[0], args=[*self.argv[1:], "mcp", *options], env=self.environment | environment, cwd=self.directory
        )
        async with Client(parameters, mode=mode) as client:
            yield Model(client)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts the command line with pipes at stdin and stdout."""
        return subprocess.Popen(
            [*self.argv, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self.environment, cwd=self.directory
        )

    def run(self, *arguments: str) -> str:
        """Runs the command line to its end and returns what it prints."""
        done = subprocess.run([*self.argv, *arguments], env=self.environment, cwd=self.directory, capture_output=True, timeout=DEADLINE_S)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()


Stdio = Callable[..., AbstractAsyncContextManager[Model]]


@pytest.fixture(scope="session")
def alone_environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One home for all tests, so that the host is probed once; the engine is in the server."""
    if subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True).returncode != 0:
        pytest.skip("this host forbids user namespaces")
    return {
        "HOME": str(tmp_path_factory.mktemp("home")),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(SOURCE),
        "LANG": "C.UTF-8",
        "AGENTKERNEL_GUEST": os.environ.get("AGENTKERNEL_GUEST") or str(request.getfixturevalue("guest_binary")),
        "AGENTKERNEL_DAEMON": "off",
        "AGENTKERNEL_RUNSC": "",  # gVisor would be chosen where it is installed
        "AGENTKERNEL_BACKEND": "namespaces",
    }


@pytest.fixture
def servers(alone_environment: dict[str, str], tmp_path: Path) -> Servers:
    """Servers with an engine of their own."""
    return Servers(environment=dict(alone_environment), directory=tmp_path)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(alone_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Model]:
    """One server for the tests of a module, each of which has names of its own. Its client is entered and left by one task, as it must be."""
    servers = Servers(environment=dict(alone_environment), directory=tmp_path_factory.mktemp("server"))
    ready: asyncio.Future[Model] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def hold() -> None:
        async with servers.stdio() as model:
            ready.set_result(model)
            await over.wait()

    holding = asyncio.create_task(hold())
    await asyncio.wait({holding, ready}, return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        holding.result()
    yield ready.result()
    over.set()
    await holding


@pytest.fixture(scope="session")
def daemon_environment(alone_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The same with a daemon, which is stopped after the last test; without pools, so that what is left was left over."""
    base = tmp_path_factory.mktemp("ak")
    configuration = base / "configuration"
    (configuration / "agentkernel").mkdir(parents=True)
    (configuration / "agentkernel" / "config.toml").write_text("[pool]\nenabled = false\n")
    more = {"AGENTKERNEL_HOME": str(base), "AGENTKERNEL_DAEMON": "on", "XDG_CONFIG_HOME": str(configuration)}
    environment = alone_environment | more
    yield environment
    stop = [sys.executable, "-m", "agentkernel", "daemon", "stop"]
    assert subprocess.run(stop, env=environment, capture_output=True, timeout=DEADLINE_S).returncode == 0
    assert Host(base / "run").lasting() == []


@pytest.fixture
def behind_daemon(daemon_environment: dict[str, str], tmp_path: Path) -> Iterator[Servers]:
    """Servers of a daemon; after the test no sandbox is left."""
    found = Servers(environment=dict(daemon_environment), directory=tmp_path)
    yield found
    names = found.run("list", "--all", "--quiet").split()
    if names:
        found.run("remove", "--force", *names)


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Polls a function until what it returns is true."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, "it never came true"
            time.sleep(0.02)

    return wait
