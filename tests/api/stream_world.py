"""A real server on loopback with its streams, over a daemon or over an engine in process, and what its clients see."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from unit.cli_harness import SOURCE
from websockets.sync.client import ClientConnection, connect

from agentkernel import assembly
from agentkernel.abc import Caller, Kernel
from agentkernel.api.limits import Limits
from agentkernel.api.listening import at_address
from agentkernel.api.parts import Parts, Tunnel
from agentkernel.api.serve import server
from agentkernel.cli.caller import local_caller
from agentkernel.model.record import CreateOptions
from agentkernel.model.request import SandboxRequest

DEADLINE_S = 60.0
T = TypeVar("T")


class Served:
    """A server and its address."""

    def __init__(self, port: int, kernel: Callable[[], Kernel], caller: Caller) -> None:
        self._kernel = kernel
        self._caller = caller
        self.loop: asyncio.AbstractEventLoop | None = None
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self.http = httpx.Client(base_url=self.url, timeout=DEADLINE_S, trust_env=False)

    def begin(self) -> None:
        """The server takes connections, in this loop."""
        self.loop = asyncio.get_running_loop()

    def create(self, name: str) -> str:
        """A running sandbox; returns its name."""
        request = SandboxRequest(argv=(), profile="moderate", mount_cwd=False, host_environment={"PATH": os.environ["PATH"]})
        self.ask(self._kernel().create(self._caller, replace(request, name=name), CreateOptions(name=name, start=True)))
        return name

    def stop(self, name: str) -> None:
        """Ends everything in it and keeps its files."""
        self.ask(self._kernel().stop(self._caller, name))

    def remove(self, name: str) -> None:
        """Ends it."""
        self.ask(self._kernel().remove(self._caller, name, force=True))

    def ask(self, call: Coroutine[Any, Any, T]) -> T:
        """The result of a call, made in the server's loop."""
        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(call, self.loop).result(DEADLINE_S)

    def data(self, method: str, path: str, **more: Any) -> Any:
        """The data of an answer."""
        said = self.http.request(method, path, **more).json()
        assert said["success"], said
        return said["data"]

    def socket(self, path: str) -> ClientConnection:
        """A WebSocket, which takes messages of any size and answers nothing by itself."""
        return connect(f"ws://127.0.0.1:{self.port}{path}", max_size=None, compression=None, open_timeout=DEADLINE_S, proxy=None)

    def raw(self, method: str, path: str, body: Any = None) -> socket.socket:
        """A connection with a request sent and nothing read; its receive buffer is small."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content)
        return connection


def events_of(text: str) -> list[tuple[str, str, Any]]:
    """Server-Sent Events as (name, id, data), comments left out."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if "data" in fields:
            found.append((fields.get("event", ""), fields.get("id", ""), json.loads(fields["data"])))
    return found


def following(response: httpx.Response) -> Iterator[tuple[str, str, Any]]:
    """The events of an answer as they come."""
    text = ""
    for piece in response.iter_text():
        text += piece
        while "\n\n" in text:
            block, text = text.split("\n\n", 1)
            yield from events_of(block)


def sh(script: str, **more: object) -> dict[str, object]:
    """The body of a command."""
    return {"command": ["sh", "-c", script], **more}


def whole(events: list[tuple[str, str, Any]], stream: str) -> bytes:
    """What a stream's events tell, as bytes."""
    return b"".join(
        said["data"].encode() if "data" in said else base64.b64decode(said["base64"]) for name, _, said in events if name == stream
    )


def told(served: Served, box: str, script: str) -> bytes:
    """What a script inside prints."""
    return whole(events_of(served.http.post(f"/sandboxes/{box}/exec/stream", json=sh(script)).text), "stdout")


def until(condition: Callable[[], Any]) -> Any:
    """Waits for something that is sure to come, and returns it."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)
    return found


@contextmanager
def serving(environment: dict[str, str], *, daemon: bool, limits: Limits | None = None) -> Iterator[Served]:
    """A server in a thread with a loop of its own."""
    caller = local_caller()
    kernels: list[Kernel] = []

    def kernel() -> Kernel:
        if not kernels:  # made in the server's loop
            kernels.append(assembly.build_client(environment) if daemon else assembly.build_engine(environment, backends=("namespaces",)))
        return kernels[0]

    async def tunnel(asked: Any) -> Any:
        return await assembly.open_door(environment, asked)

    opened: Tunnel | None = tunnel if daemon else None
    bounds = limits or Limits()
    parts = Parts(doors=lambda _: kernel(), caller=caller, version="0", environment=environment, tunnel=opened, limits=bounds)
    with at_address("127.0.0.1", 0) as listener:
        served = Served(listener.getsockname()[1], kernel, caller)
        running = server(parts, listener, served.begin)
        thread = threading.Thread(target=lambda: running.run(sockets=[listener]), name="server")
        thread.start()
        try:
            until(lambda: served.loop is not None or not thread.is_alive())
            yield served
        finally:
            served.http.close()
            running.should_exit = True
            thread.join()


@contextmanager
def environment_in(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """A home and state for a block, in a short path, because sockets lie in it; a daemon that was started there is ended."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode != 0:
        pytest.skip("this host forbids user namespaces")
    path = Path(tempfile.mkdtemp(prefix="ak-api-", dir="/tmp"))
    path.chmod(0o755)
    environment = {
        "HOME": str(path),
        "AGENTKERNEL_HOME": str(path / "ak"),
        "AGENTKERNEL_GUEST": os.environ.get("AGENTKERNEL_GUEST") or str(request.getfixturevalue("guest_binary")),
        "AGENTKERNEL_RUNSC": "",  # gVisor would be chosen where it is installed; these tests are of namespaces
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(SOURCE),
    }
    yield environment
    if (path / "ak" / "run" / "daemon.sock").exists():
        stop = [sys.executable, "-m", "agentkernel", "daemon", "stop"]
        subprocess.run(stop, check=True, capture_output=True, timeout=60, env=environment)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module", params=["daemon", "engine"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A server with a home and state of its own."""
    with environment_in(request) as environment, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTKERNEL_GUEST", environment["AGENTKERNEL_GUEST"])  # an engine in process reads its own
        with serving(environment, daemon=request.param == "daemon") as found:
            yield found
