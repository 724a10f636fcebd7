"""MCP as a front: the official client and a server that it starts, with the surface of `agentkernel.AsyncClient` that scenarios use."""

from __future__ import annotations

import base64
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from mcp import Client, StdioServerParameters
from parity import told

_ARGUMENTS = {"environment": "env", "cwd": "workdir", "timeout": "timeout_s"}


@asynccontextmanager
async def mcp_client(environment: dict[str, str]) -> AsyncIterator[McpClient]:
    """A client of a server that ends with the block, and whose operator allows what the other fronts are allowed."""
    options = ["--may", "publish", "--may", "allow-hosts"]
    server = StdioServerParameters(command=sys.executable, args=["-m", "agentkernel", "mcp", *options], env=environment, cwd="/")
    async with Client(server) as client:
        yield McpClient(client)


class McpClient:
    """Calls tools."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def call(self, tool: str, **arguments: Any) -> Any:
        """The structured content; raises the error that it tells."""
        result = await self._client.call_tool(tool, arguments)
        said = result.structured_content
        assert said is not None
        if result.is_error:
            raise told.error_of(said["code"], said["error"])
        return said

    async def run(self, *argv: str, **options: Any) -> told.Ran:
        return told.ran(await self.call("sandbox_run", **_command(argv, options)))

    async def create(self, *, ttl: float | None = None, **options: Any) -> McpSandbox:
        given = options | ({} if ttl is None else {"ttl_s": ttl})
        return McpSandbox(self, told.sandbox(await self.call("sandbox_create", **given)))

    async def get(self, name: str) -> McpSandbox:
        return McpSandbox(self, told.sandbox(await self.call("sandbox_info", name=name)))

    async def list(self) -> list[McpSandbox]:
        return [McpSandbox(self, told.sandbox(each)) for each in (await self.call("sandbox_list"))["sandboxes"]]


class McpSandbox:
    """One sandbox."""

    def __init__(self, client: McpClient, info: SimpleNamespace) -> None:
        self._client, self.id, self.name = client, info.id, info.name
        self.files = McpFiles(self.call)

    async def call(self, tool: str, **arguments: Any) -> Any:
        return await self._client.call(tool, name=self.id, **arguments)

    async def exec(self, *argv: str, **options: Any) -> told.Ran:
        return told.ran(await self.call("sandbox_exec", **_command(argv, options)))

    async def spawn(self, *argv: str, **options: Any) -> McpProcess:
        return McpProcess(self.call, (await self.call("sandbox_exec_detach", **_command(argv, options)))["id"])

    async def processes(self) -> list[SimpleNamespace]:
        return [told.process(each) for each in (await self.call("sandbox_exec_list"))["commands"]]

    async def logs(self, *, exec_id: int) -> AsyncIterator[SimpleNamespace]:
        for number, stream in ((1, "stdout"), (2, "stderr")):
            found = await self.call("sandbox_exec_logs", id=f"{exec_id:016x}", stream=stream)
            if found["output"]:
                yield SimpleNamespace(stream=number, data=found["output"].encode())

    async def info(self) -> SimpleNamespace:
        return told.sandbox(await self.call("sandbox_info"))

    async def start(self) -> SimpleNamespace:
        return told.sandbox(await self.call("sandbox_start"))

    async def stop(self) -> SimpleNamespace:
        return told.sandbox(await self.call("sandbox_stop"))

    async def remove(self, *, force: bool = False) -> None:
        await self.call("sandbox_remove")

    async def extend(self, ttl: str) -> SimpleNamespace:
        return told.sandbox(await self.call("sandbox_extend_ttl", by=ttl))

    async def network(self) -> SimpleNamespace:
        return told.rules(await self.call("sandbox_network"))

    async def allow(self, *hosts: str) -> SimpleNamespace:
        return told.rules(await self.call("sandbox_network", allow=hosts))

    async def deny(self, *hosts: str) -> SimpleNamespace:
        return told.rules(await self.call("sandbox_network", deny=hosts))

    async def publish(self, port: int, host_port: int = 0) -> SimpleNamespace:
        found = (await self.call("sandbox_port_publish", port=port, host_port=host_port))["ports"]
        return next(told.port(each) for each in found if each["port"] == port)

    async def unpublish(self, port: int) -> None:
        await self.call("sandbox_port_unpublish", port=port)

    async def ports(self) -> list[SimpleNamespace]:
        return [told.port(each) for each in (await self.call("sandbox_ports"))["ports"]]


class McpProcess:
    """A background command."""

    def __init__(self, call: Any, ident: str) -> None:
        self._call, self._ident, self.exec_id = call, ident, int(ident, 16)

    async def kill(self) -> None:
        await self._call("sandbox_exec_kill", id=self._ident)

    async def signal(self, number: int) -> None:
        await self._call("sandbox_exec_kill", id=self._ident, signal=int(number))


class McpFiles:
    """Files."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def read(self, path: str) -> bytes:
        found = await self._call("sandbox_file_read", path=path, limit_bytes=1 << 20)
        assert not found["truncated"]
        return told.decoded(found["content"], found["encoding"])

    async def write(self, path: str, data: bytes) -> None:
        await self._call("sandbox_file_write", path=path, content=base64.b64encode(data).decode(), encoding="base64")

    async def stat(self, path: str) -> SimpleNamespace:
        return told.file(await self._call("sandbox_file_stat", path=path))

    async def list(self, path: str) -> list[SimpleNamespace]:
        return [told.file(each) for each in (await self._call("sandbox_file_list", path=path))["entries"]]

    async def make_directory(self, path: str, *, parents: bool) -> None:
        assert parents  # a model's directories come with those above them
        await self._call("sandbox_make_directory", path=path)

    async def move(self, source: str, target: str) -> None:
        await self._call("sandbox_file_move", path=source, target=target)

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        await self._call("sandbox_file_remove", path=path, recursive=recursive)


def _command(argv: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
    return {"command": argv, **{_ARGUMENTS.get(name, name): value for name, value in options.items()}}
