"""Calls of an engine's interface against a small server: versions, bodies, errors, streams, and calls that are given up."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agentkernel.backends.containers.api import Api, EngineRefused
from agentkernel.backends.containers.endpoint import parse_endpoint
from agentkernel.errors import BackendUnavailable

Writer = asyncio.StreamWriter


@dataclass
class Server:
    """Answers by path; remembers what it was asked."""

    version: str = "1.41"
    answers: dict[str, Callable[[Writer], Awaitable[None]]] = field(default_factory=dict)
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    serving: set[asyncio.Task[None]] = field(default_factory=set)

    def begin(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        task = asyncio.get_running_loop().create_task(self.serve(reader, writer))
        self.serving.add(task)
        task.add_done_callback(self.serving.discard)

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        try:
            await self.answer_one(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def end(self) -> None:
        """Those that would answer for ever are cancelled; every connection is closed."""
        tasks = tuple(self.serving)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def answer_one(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head.decode().split("\r\n")[1:])}
        if headers.get("transfer-encoding") == "chunked":
            content = b""
            while size := int(await reader.readline(), 16):
                content += await reader.readexactly(size)
                await reader.readline()
        else:
            content = await reader.readexactly(int(headers.get("content-length", 0)))
        self.asked.append((method, target, content))
        path = target.partition("?")[0].removeprefix(f"/v{self.version}")
        if path == "/_ping":
            writer.write(f"HTTP/1.1 200 OK\r\nApi-Version: {self.version}\r\nContent-Length: 2\r\n\r\nOK".encode())
        elif path in self.answers:
            await self.answers[path](writer)
        else:
            answer(writer, {"message": "no such\n thing"}, status=404)
        if not await reader.read(1):
            self.gone.set()


def answer(writer: Writer, content: object, *, status: int = 200) -> None:
    body = json.dumps(content).encode()
    writer.write(f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


@asynccontextmanager
async def serving(server: Server, tmp_path: Path) -> AsyncIterator[Api]:
    path = tmp_path / "engine.sock"
    listening = await asyncio.start_unix_server(server.begin, str(path))
    api = Api(lambda: parse_endpoint(str(path), source="the test"), "the engine")
    try:
        yield api
    finally:
        api.close()
        listening.close()
        await server.end()


async def test_the_version_is_the_newest_of_both(tmp_path: Path) -> None:
    for spoken, wanted in (("1.41", "/v1.41/x"), ("1.99", "/v1.44/x")):
        server = Server(version=spoken)
        directory = tmp_path / spoken
        directory.mkdir()
        async with serving(server, directory) as api:
            with pytest.raises(EngineRefused):
                await api.call("GET", "/x")
            with pytest.raises(EngineRefused):
                await api.call("GET", "/x")
        assert [target for _, target, _ in server.asked] == ["/_ping", wanted, wanted]


async def test_an_error_says_in_one_line_what_the_engine_said(tmp_path: Path) -> None:
    async with serving(Server(), tmp_path) as api:
        with pytest.raises(EngineRefused) as refused:
            await api.call("GET", "/absent")
    assert (refused.value.status, refused.value.message) == (404, "no such thing")


async def test_bodies_are_json_archives_and_streams_and_queries_are_escaped(tmp_path: Path) -> None:
    async def well(writer: Writer) -> None:
        answer(writer, [1, 2])

    server = Server(answers={"/x": well})
    async with serving(server, tmp_path) as api:
        assert await api.call("POST", "/x", query={"name": "a b&c", "all": True, "filters": {"label": ["x=y"]}}, body={"k": "v"}) == [1, 2]
        await api.call("PUT", "/x", body=b"archive")
        await api.upload("PUT", "/x", iter([b"one", b"two"]))
    assert server.asked[1] == ("POST", "/v1.41/x?name=a+b%26c&all=1&filters=%7B%22label%22%3A%5B%22x%3Dy%22%5D%7D", b'{"k":"v"}')
    assert [content for _, _, content in server.asked[2:]] == [b"archive", b"onetwo"]


async def test_lines_come_as_they_are_said_and_giving_up_ends_the_connection(tmp_path: Path) -> None:
    async def talk(writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(2):
            line = b'{"number": %d}\r\n' % number
            writer.write(b"%x\r\n%b\r\n" % (len(line), line))
        await writer.drain()

    server = Server(answers={"/events": talk})
    async with serving(server, tmp_path) as api:
        seen: list[int] = []

        async def follow() -> None:
            async for line in api.lines("GET", "/events"):
                seen.append(line["number"])

        following = asyncio.create_task(follow())
        async with asyncio.timeout(10):
            while len(seen) < 2:
                await asyncio.sleep(0)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
        await asyncio.wait_for(server.gone.wait(), 10)
    assert seen == [0, 1]


async def test_a_call_that_is_given_up_has_been_answered_when_it_ends(tmp_path: Path) -> None:
    asked, go_on, answered = asyncio.Event(), asyncio.Event(), False

    async def slowly(writer: Writer) -> None:
        nonlocal answered
        asked.set()
        await go_on.wait()
        answered = True
        answer(writer, {})

    async with serving(Server(answers={"/create": slowly}), tmp_path) as api:
        call = asyncio.create_task(api.call("POST", "/create", body={}))
        await asked.wait()
        call.cancel()
        done, _ = await asyncio.wait([call], timeout=0.05)
        assert not done, "whoever undoes it would find nothing yet"
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert answered


@pytest.mark.parametrize(
    "said", [b"", b"SSH-2.0\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", b"HTTP/1.1 200 OK\r\nApi-Version: x\r\n\r\n"]
)
async def test_what_is_no_engine_is_unavailable(tmp_path: Path, said: bytes) -> None:
    async def serve(_reader: asyncio.StreamReader, writer: Writer) -> None:
        writer.write(said)
        writer.close()

    path = tmp_path / "odd.sock"
    listening = await asyncio.start_unix_server(serve, str(path))
    async with listening:
        api = Api(lambda: parse_endpoint(str(path), source="the test"), "the engine")
        with pytest.raises(BackendUnavailable, match="the engine"):
            await api.call("GET", "/info", deadline_s=5)
        api.close()


async def test_an_engine_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    async def never(_writer: Writer) -> None:
        await asyncio.Event().wait()

    async with serving(Server(answers={"/info": never}), tmp_path) as api:
        with pytest.raises(BackendUnavailable, match="in time"):
            await api.call("GET", "/info", deadline_s=0.05)
