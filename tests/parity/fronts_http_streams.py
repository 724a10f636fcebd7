"""What flows over HTTP: output as events, conversations over a WebSocket, trees as archives."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import httpx
from parity import told
from websockets.asyncio.client import ClientConnection, connect

_STREAMS = {"stdout": 1, "stderr": 2}


class HttpStream:
    """The events of one command, from behind the event `last` on."""

    def __init__(self, http: httpx.AsyncClient, method: str, path: str, body: object = None, last: str = "") -> None:
        self._http, self._method, self._path, self._body, self.last = http, method, path, body, last
        self.exit_code: int | None = None

    async def __aiter__(self) -> AsyncIterator[SimpleNamespace]:
        headers = {"Last-Event-ID": self.last} if self.last else {}
        async with self._http.stream(self._method, self._path, json=self._body, headers=headers) as answer:
            if answer.status_code != 200:
                raise refused(await answer.aread())
            assert answer.headers["content-type"].startswith("text/event-stream")
            async for name, ident, data in _events(answer):
                if name in _STREAMS:
                    self.last = ident
                    yield SimpleNamespace(stream=_STREAMS[name], data=told.ran({**_OF_OUTPUT, **_output(data)}).stdout)
                elif name == "error":
                    raise told.error_of(data["code"], data["error"])
                elif name == "exit":
                    told.ran({"stdout": "", "stderr": "", **data})  # raises what kept it from ending by itself
                    self.exit_code = data["exit_code"]


_OF_OUTPUT = {"stderr": "", "exit_code": 0}


def _output(data: Mapping[str, str]) -> dict[str, str]:
    return {"stdout_base64": data["base64"]} if "base64" in data else {"stdout": data["data"]}


async def _events(answer: httpx.Response) -> AsyncIterator[tuple[str, str, dict[str, Any]]]:
    """Name, id and data of each event; comments are passed over."""
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
        elif not line and "data" in fields:
            yield fields.get("event", "message"), fields.get("id", ""), json.loads(fields["data"])
            fields = {}


def refused(body: bytes) -> Exception:
    """The error that an answer tells."""
    said = json.loads(body)
    return told.error_of(said["code"], said["error"])


@asynccontextmanager
async def talk(http: httpx.AsyncClient, path: str, argv: Sequence[str], tty: tuple[int, int] | None) -> AsyncIterator[HttpTalk]:
    """A command over a WebSocket, on a terminal where a size is given; it ends with the block."""
    url = str(http.base_url.copy_with(scheme="ws")).rstrip("/") + path + ("/terminal" if tty else "/exec/ws")
    headers = {"Authorization": http.headers["Authorization"]}
    async with connect(url, additional_headers=headers, proxy=None, compression=None, max_size=None) as socket:
        size = {} if tty is None else {"rows": tty[0], "columns": tty[1]}
        await socket.send(json.dumps({"command": argv, **size}))
        assert "started" in json.loads(await socket.recv())
        yield HttpTalk(socket)


class HttpTalk:
    """What is said to a command and what it says."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._end: dict[str, Any] = {}

    async def write(self, data: bytes) -> None:
        await self._socket.send(b"\0" + data)

    async def close_input(self) -> None:
        await self._socket.send(json.dumps({"eof": True}))

    async def resize(self, rows: int, columns: int) -> None:
        await self._socket.send(json.dumps({"resize": {"rows": rows, "columns": columns}}))

    async def output(self) -> AsyncIterator[SimpleNamespace]:
        async for message in self._socket:
            if isinstance(message, bytes):
                yield SimpleNamespace(stream=message[0], data=message[1:])
                continue
            self._end = json.loads(message)
            if "exit_code" in self._end:
                return

    async def wait(self) -> SimpleNamespace:
        """After the output."""
        return SimpleNamespace(exit_code=self._end["exit_code"])


async def upload(http: httpx.AsyncClient, path: str, source: Path, target: str) -> SimpleNamespace:
    """A directory as an archive of what is in it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in sorted(os.listdir(source)):
            archive.add(source / name, arcname=name)
    answer = await http.put(f"{path}/archive{quote(target)}", content=packed.getvalue())
    if answer.status_code != 200:
        raise refused(answer.content)
    return SimpleNamespace(**answer.json()["data"])


async def download(http: httpx.AsyncClient, path: str, source: str, target: Path) -> SimpleNamespace:
    """The same the other way."""
    answer = await http.get(f"{path}/archive{quote(source)}")
    if answer.status_code != 200:
        raise refused(answer.content)
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        members = archive.getmembers()
        archive.extractall(target, filter="tar")
    files = [each for each in members if each.isfile()]
    return SimpleNamespace(files=len(files), symlinks=sum(each.issym() for each in members), bytes=sum(each.size for each in files))
