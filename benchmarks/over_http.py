"""The HTTP API: runs and commands by plain requests over connections that stay open, terminals and streams by WebSockets."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from agentkernel import AsyncClient, AsyncSandbox
from agentkernel.benchmark.program import program
from agentkernel.benchmark.timing import distribution, take_turns
from agentkernel.config.tokens import TokenStore
from benchmarks.contenders import UnmeasurableError, bwrap
from benchmarks.endurance import load_of
from benchmarks.figures import Figure
from benchmarks.host import resident_kib
from benchmarks.served import NO_POOLS, PASSING_POOLS, Served, served
from benchmarks.starting import TRUE
from benchmarks.yardstick import BWRAP_MS, SPAWN_MS, slowness

RUN_BAR_MS = 5.0
ABOVE_BAR_MS = 1.0  # of an exec over HTTP, above the client of the unix socket
CLIENTS = 100
TERMINALS = 200
STREAMED_BYTES = 1024**3
STREAM_BAR_MB_S = 300.0
FLAT_MIB = 32.0  # what a process may grow by while a GiB goes through it
MESSAGE_LIMIT_BYTES = 4 * 1024 * 1024


class Server:
    """An `agentkernel serve` of the benchmark's own."""

    def __init__(self, daemon: Served, pid: int, port: int, token: str) -> None:
        self.daemon = daemon
        self.pid = pid
        self.port = port
        self.token = token

    @asynccontextmanager
    async def requests(self) -> AsyncIterator[Requests]:
        """A connection that stays open."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Requests(reader, writer, self.token)
        finally:
            writer.close()
            await writer.wait_closed()

    def socket(self, path: str) -> Any:
        """A WebSocket, to be entered."""
        try:
            from websockets.asyncio.client import connect  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise UnmeasurableError(f"needs the extra `api`: {error}") from error
        headers = {"Authorization": f"Bearer {self.token}"}
        return connect(
            f"ws://127.0.0.1:{self.port}{path}", additional_headers=headers, compression=None, max_size=MESSAGE_LIMIT_BYTES, open_timeout=60
        )


class Requests:
    """One connection of HTTP/1.1, one request after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        self._reader = reader
        self._writer = writer
        self._head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: "

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The `data` of the answer; an error of the API is raised."""
        return await self._asked("POST", path, json.dumps(body).encode())

    async def remove(self, name: str) -> None:
        """Removes a sandbox, running or not."""
        await self._asked("DELETE", f"/sandboxes/{name}", b"")

    async def _asked(self, method: str, path: str, payload: bytes) -> Any:
        self._writer.write(f"{method} {path} HTTP/1.1\r\n{self._head}{len(payload)}\r\n\r\n".encode() + payload)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        answer = json.loads(await self._reader.readexactly(int(length)))
        if not answer["success"]:
            raise UnmeasurableError(f"{method} {path}: {answer['error']}")
        return answer["data"]

    async def run(self) -> None:
        """`true` in a sandbox made for it."""
        done = await self.post("/run", {"command": list(TRUE)})
        if done["exit_code"] != 0:
            raise UnmeasurableError(f"a run ended with {done['exit_code']}: {done['stderr']}")

    async def exec(self, name: str) -> None:
        """`true` in a sandbox that runs."""
        done = await self.post(f"/sandboxes/{name}/exec", {"command": list(TRUE)})
        if done["exit_code"] != 0:
            raise UnmeasurableError(f"a command ended with {done['exit_code']}: {done['stderr']}")


@asynccontextmanager
async def serving(settings: str) -> AsyncIterator[Server]:
    """Starts a daemon and `agentkernel serve` before it, at a port that is free; ends both."""
    async with served(settings) as daemon:
        token, _ = TokenStore(daemon.environment).default()
        argv = (sys.executable, "-m", "agentkernel", "serve", "--port", "0", "--rate", "0")
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE, env=dict(daemon.environment))
        assert process.stdout is not None
        try:
            url = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()
            if not url:
                raise UnmeasurableError("`agentkernel serve` does not start: is the extra `api` installed?")
            yield Server(daemon, process.pid, int(url.rpartition(":")[2].strip("/")), token)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def http_run(n: int, cwd: Path) -> list[Figure]:
    """POST /run by one client with a warm pool, with pauses in which the pool is filled again."""
    del cwd
    async with serving(PASSING_POOLS) as server, server.requests() as requests:
        for _ in range(2):
            await requests.run()
        times: list[float] = []
        raw = bwrap(*TRUE)
        raws: list[float] = []
        for _ in range(n):
            await server.daemon.with_full_pool()
            start = time.perf_counter()
            await requests.run()
            times.append(time.perf_counter() - start)
            start = time.perf_counter()
            await raw()
            raws.append(time.perf_counter() - start)
    told = {"POST /run": distribution(times), "bwrap": distribution(raws)}
    slow = slowness(told["bwrap"].p50, BWRAP_MS)
    return [
        Figure(name="POST /run, one client, warm pool", value=told["POST /run"].p50, unit="ms", bar=RUN_BAR_MS, slowness=slow, times=told)
    ]


async def http_exec(n: int, cwd: Path) -> list[Figure]:
    """`true` in a running sandbox over HTTP, and by the client of the unix socket, in turns."""
    del cwd
    async with serving(NO_POOLS) as server, server.requests() as requests:
        socket = str(server.daemon.home / "ak" / "run" / "daemon.sock")
        async with AsyncClient(socket=socket) as client:
            box = await client.create(backend="namespaces")
            try:
                name = box.name
                contenders = {"over HTTP": lambda: requests.exec(name), "unix socket": lambda: _exec(box), "bare": program(TRUE)}
                samples = await take_turns(contenders, n)
            finally:
                await box.remove(force=True)
    times = {each: distribution(taken) for each, taken in samples.items()}
    slow = slowness(times["bare"].p50, SPAWN_MS)
    above = times["over HTTP"].p50 - times["unix socket"].p50
    return [
        Figure(name="exec over HTTP", value=times["over HTTP"].p50, unit="ms", times=times),
        Figure(name="the same above the unix socket's client", value=above, unit="ms", bar=ABOVE_BAR_MS, slowness=slow),
    ]


async def _exec(box: AsyncSandbox) -> None:
    (await box.exec(*TRUE)).check()


async def terminals(n: int, cwd: Path) -> list[Figure]:
    """Shells on terminals over WebSockets, all open at once, each of which answers while all the others are open."""
    del n, cwd
    async with serving(NO_POOLS) as server, server.requests() as requests, AsyncExitStack() as stack:
        made = await requests.post("/sandboxes", {"name": "terminals"})
        pids = made.get("name", "terminals")
        before = resident_kib(server.pid)
        opened = [await stack.enter_async_context(server.socket(f"/sandboxes/{pids}/terminal")) for _ in range(TERMINALS)]
        await asyncio.gather(*(each.send(json.dumps({"command": ["sh"], "rows": 24, "columns": 80})) for each in opened))
        answers = await asyncio.gather(*(_asked(each, number) for number, each in enumerate(opened)), return_exceptions=True)
        grown = (resident_kib(server.pid) - before) / 1024
        await requests.remove(pids)
    right = sum(answer is True for answer in answers)
    wrong = next((f"first failure: {answer!r}" for answer in answers if answer is not True), "")
    return [
        Figure(name="open terminals that answer", value=right, unit="", bar=TERMINALS, at_least=True, note=wrong),
        Figure(name="growth of the server with them", value=grown, unit="MiB"),
    ]


async def _asked(websocket: Any, number: int) -> bool:
    """Whether a shell does a sum, of which its echo tells nothing."""
    await websocket.send(b"\0" + f"echo =$(({number} + 1000000))=\n".encode())
    wanted, said = f"={number + 1000000}=".encode(), b""
    async with asyncio.timeout(120):
        while wanted not in said:
            message = await websocket.recv()
            if isinstance(message, bytes):
                said = (said + message[1:])[-65536:]
    return True


async def streamed(n: int, cwd: Path) -> list[Figure]:
    """A GiB of a command's output through a WebSocket, and what the server and the daemon grow by meanwhile."""
    del n, cwd
    async with serving(NO_POOLS) as server, server.requests() as requests:
        await requests.post("/sandboxes", {"name": "stream"})
        before = {pid: resident_kib(pid) for pid in (server.pid, server.daemon.pid)}
        async with server.socket("/sandboxes/stream/exec/ws") as websocket:
            start = time.perf_counter()
            await websocket.send(json.dumps({"command": ["head", "-c", str(STREAMED_BYTES), "/dev/zero"]}))
            count = 0
            highest = dict(before)
            async for message in websocket:
                if isinstance(message, bytes):
                    count += len(message) - 1
                    if count % (64 * 1024**2) < len(message):
                        highest = {pid: max(highest[pid], resident_kib(pid)) for pid in highest}
            took = time.perf_counter() - start
        await requests.remove("stream")
    grown = max((highest[pid] - before[pid]) / 1024 for pid in before)
    if count != STREAMED_BYTES:
        raise UnmeasurableError(f"of {STREAMED_BYTES} bytes {count} came")
    return [
        Figure(name="one GiB of output over a WebSocket", value=count / took / 1e6, unit="MB/s", bar=STREAM_BAR_MB_S, at_least=True),
        Figure(name="growth of server or daemon meanwhile", value=grown, unit="MiB", bar=FLAT_MIB),
    ]


async def sustained_http(seconds: float, cwd: Path) -> list[Figure]:
    """POST /run by many clients for a while; then what is left of it."""
    del cwd
    async with serving(PASSING_POOLS) as server, AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(server.requests()) for _ in range(CLIENTS)]
        await connections[0].run()
        await server.daemon.without_pools()
        before = server.daemon.standing()
        load = await load_of([each.run for each in connections], seconds)
        return load.figures(f"POST /run, {CLIENTS} clients", seconds, await server.daemon.leaks(before))
