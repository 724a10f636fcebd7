"""Connections out of a sandbox: the whole path to a server and back, beside the same program without a sandbox."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from agentkernel.abc import Sandbox
from agentkernel.benchmark.timing import Contender, distribution, take_turns
from agentkernel.model.command import Command
from agentkernel.model.rules import parse_rule
from benchmarks.contenders import CALLER, UnmeasurableError, as_bytes, kernel, request_for
from benchmarks.figures import Figure

STREAM_BYTES = 512 * 1024 * 1024
ROUND_TRIPS = 300  # of each turn
STREAM_BAR_MB_S = 300.0
ADDED_BAR_MS = 1.0

# What it is told in a line: `down N` and `up N` are streams, anything else is sent back for ever.
SERVER = """
import socket, threading
def serve(peer):
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line = peer.makefile("rb", buffering=0).readline().split()
    buffer = memoryview(bytearray(1 << 20))
    if line[0] == b"down":
        left = int(line[1])
        while left: left -= peer.send(buffer[:left])
    elif line[0] == b"up":
        left = int(line[1])
        while left: left -= peer.recv_into(buffer)
        peer.sendall(b"x")
    else:
        while count := peer.recv_into(buffer): peer.sendall(buffer[:count])
    peer.close()
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True: threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""

# Prints the seconds that each act took, as JSON.
CLIENT = """
import json, socket, sys, time
act, count, port, proxy = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
def connect():
    peer = socket.create_connection(("127.0.0.1", proxy or port))
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if proxy:
        peer.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\\r\\nHost: 127.0.0.1:%d\\r\\n\\r\\n" % (port, port))
        head = peer.recv(4096)
        assert head.startswith(b"HTTP/1.1 200") and head.endswith(b"\\r\\n\\r\\n"), head
    return peer
def connection():
    with connect() as peer:
        peer.sendall(b"echo\\nx")
        peer.recv(1)
buffer, times = memoryview(bytearray(1 << 20)), []
if act == "new":
    for _ in range(count):
        start = time.perf_counter()
        connection()
        times.append(time.perf_counter() - start)
else:
    peer = connect()
    peer.sendall(b"%s %d\\n" % (act.encode(), count))
    if act == "echo":
        for _ in range(count):
            start = time.perf_counter()
            peer.sendall(buffer[:100])
            left = 100
            while left: left -= peer.recv_into(buffer[:left])
            times.append(time.perf_counter() - start)
    else:
        start, left = time.perf_counter(), count
        if act == "down":
            while left: left -= peer.recv_into(buffer)
        else:
            while left: left -= peer.send(buffer[:left])
            peer.recv(1)
        times.append(time.perf_counter() - start)
print(json.dumps(times))
"""


async def egress(n: int, cwd: Path) -> list[Figure]:
    """One stream in each direction, round trips on an open connection, and new connections; direct ones in turns with them."""
    python = shutil.which("python3", path="/usr/bin:/bin")
    if python is None:
        raise UnmeasurableError("there is no python3 in /usr/bin for the sandbox")
    async with _server() as port:
        wanted = replace(request_for(("true",), cwd), allow_hosts=(parse_rule(f"127.0.0.1:{port}"),))
        async with kernel().sandbox(CALLER, wanted) as (box, grant):
            proxy = _proxy_port(grant.spec.environment)
            inside = _Contender(python, port, proxy, box)
            direct = _Contender(python, port, 0, None)
            await inside.run("echo", 10)  # the egress process is started by the first connection
            figures = []
            for act, what in (("down", "into the sandbox"), ("up", "out of the sandbox")):
                rates = await _rates(act, n, inside, direct)
                figures.append(
                    Figure(
                        name=f"egress, one stream {what}",
                        value=rates["sandbox"],
                        unit="MB/s",
                        bar=STREAM_BAR_MB_S,
                        at_least=True,
                        note=f"direct {rates['direct']:,.0f} MB/s, {n} turns of {STREAM_BYTES // 1024**2} MiB each, medians",
                    )
                )
            added = {act: await _times(act, n, inside, direct) for act in ("echo", "new")}
    for act, what, bar in (("echo", "round trip", ADDED_BAR_MS), ("new", "connection with CONNECT and a round trip", None)):
        times = {name: distribution(each) for name, each in added[act].items()}
        figures.append(
            Figure(name=f"egress, added to a {what}", value=times["sandbox"].p50 - times["direct"].p50, unit="ms", bar=bar, times=times)
        )
    return figures


class _Contender:
    """The client program, in a sandbox or on the host."""

    def __init__(self, python: str, port: int, proxy: int, box: Sandbox | None) -> None:
        self._python = python
        self._where = (str(port), str(proxy))
        self._box = box

    async def run(self, act: str, count: int) -> list[float]:
        """The seconds that it tells."""
        argv = (self._python, "-I", "-c", CLIENT, act, str(count), *self._where)
        if self._box is not None:
            result = await self._box.exec(Command(argv=as_bytes(argv)))
            code, output, errors = result.exit_code, result.stdout, result.stderr
        else:
            process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
            output, errors = await process.communicate()
            code = process.returncode or 0
        if code:
            raise UnmeasurableError(f"the client ended with {code}: {errors.decode(errors='replace')[-300:]}")
        times: list[float] = json.loads(output)
        return times


async def _rates(act: str, n: int, inside: _Contender, direct: _Contender) -> dict[str, float]:
    """MB/s, the median of the turns."""
    samples = await _turns(act, STREAM_BYTES, n, inside, direct)
    return {name: STREAM_BYTES / 1e6 / (distribution(times).p50 / 1000) for name, times in samples.items()}


async def _times(act: str, n: int, inside: _Contender, direct: _Contender) -> dict[str, list[float]]:
    return await _turns(act, ROUND_TRIPS, n, inside, direct)


async def _turns(act: str, count: int, n: int, inside: _Contender, direct: _Contender) -> dict[str, list[float]]:
    """What both tell in their turns."""
    turns: dict[str, list[list[float]]] = {"sandbox": [], "direct": []}

    def turn(name: str, contender: _Contender) -> Contender:
        async def run() -> None:
            turns[name].append(await contender.run(act, count))

        return run

    await take_turns({"sandbox": turn("sandbox", inside), "direct": turn("direct", direct)}, n)
    return {name: [each for times in told[-n:] for each in times] for name, told in turns.items()}  # those before only warm up


def _proxy_port(environment: tuple[tuple[str, str], ...]) -> int:
    url = dict(environment).get("HTTP_PROXY", "")
    if not url:
        raise UnmeasurableError("sandboxes have no network here")
    return int(url.rpartition(":")[2].rstrip("/"))


@asynccontextmanager
async def _server() -> AsyncIterator[int]:
    """A process of its own, so that it does not share the engine's interpreter."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-I", "-c", SERVER, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield int(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()
