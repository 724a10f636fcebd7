"""Floods of what is cheap to send and dear to read end with their own connection, and others are answered meanwhile."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from api.asking import parts_with, silent
from api.served import everything, parsed, put, request, serving
from api.wired import client_of
from unit.cli_harness import SOURCE
from websockets.frames import Frame, Opcode

from agentkernel.api.limits import Limits

PROGRAM = Path(__file__).with_name("opening_server.py")
DEADLINE_S = 60.0
HUGE = Limits(header_s=60.0, body_idle_s=60.0, unread_s=60.0, accept_s=60.0, write_idle_s=60.0)
KEY = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
ASKED = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", KEY)
PING, PONG, PART = b"\x89\x80\0\0\0\0", b"\x8a\x80\0\0\0\0", b"\x00\x80\0\0\0\0"
FIRST_PART = b"\x01\x80\0\0\0\0"
CHUNK = b"1\r\na\r\n"
MOST_SENT = 64 << 20  # far more than any socket holds
MOST_GROWN_KIB = 64 << 10

REFUSED = [
    (request("/door", *ASKED, "Content-Length: 5", body=b"hello"), 400),
    (request("/door", *ASKED, "Content-Length: 5"), 400),
    (request("/door", *ASKED, "Transfer-Encoding: chunked"), 400),
    (request("/run", *ASKED, "Content-Length: 5", method="POST", body=b"hello"), 400),
    (request("/run", *ASKED, method="POST"), 400),
    (request("/door", *ASKED).replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
    (request("/door", *ASKED, "X-Long: " + "x" * 9000), 431),
    (request("/" + "x" * 9000, *ASKED), 414),
    (request("/door", *ASKED[:3], "Sec-WebSocket-Key: zz"), 400),
    (request("/door", *ASKED[:3]), 400),
    (request("/door", *ASKED[:2], KEY, "Sec-WebSocket-Version: 12"), 400),
    (request("/no/such", *ASKED), 404),
]


def test_what_is_no_request_for_a_websocket_is_answered_in_the_envelope_and_holds_no_connection() -> None:
    with serving(parts_with(silent, limits=replace(HUGE, connections=4))) as address, ExitStack() as stack:
        for content, wanted in REFUSED:
            connection = stack.enter_context(address.connected())  # which the client keeps
            put(connection, content)
            status, said = parsed(everything(connection))
            assert (status, said["success"]) == (wanted, False), content[:200]
        assert address.get("/health")[0] == 200


async def accepting(scope: Any, receive: Any, send: Any) -> None:
    """Takes a WebSocket, and answers a text with its length."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": str(len(message["text"]))})


async def undecided(scope: Any, receive: Any, send: Any) -> None:
    """Neither takes a WebSocket nor refuses it."""
    await receive()
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def counting(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the number of bytes of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message["body"]), message["more_body"]
    said = str(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
    await send({"type": "http.response.body", "body": said})


async def test_a_handshake_that_comes_to_no_end_is_cut_off() -> None:
    async with client_of(undecided, replace(HUGE, accept_s=0.1)) as (reader, writer, _):
        writer.write(request("/", *ASKED))
        assert await reader.read() == b""


async def test_frames_before_the_handshake_is_answered_are_not_read() -> None:
    async with client_of(undecided, replace(HUGE, accept_s=0.5)) as (reader, writer, _):
        writer.write(request("/", *ASKED))
        with suppress(ConnectionError):
            writer.write(PING * 10)
            assert await reader.read() == b""  # no pong, which would stand before the answer


async def opened(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Is accepted."""
    writer.write(request("/", *ASKED))
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")


@pytest.mark.parametrize("flood", [PING, PONG, FIRST_PART + PART * 299])
async def test_too_many_frames_that_say_nothing_close_with_1008(flood: bytes) -> None:
    async with client_of(accepting, replace(HUGE, idle_frames=100)) as (reader, writer, _):
        await opened(reader, writer)
        writer.write(flood * (300 // (len(flood) // 6)))
        assert b"\x03\xf0too many frames" in await reader.read()


async def test_messages_among_pings_are_heard_and_parts_of_any_number_that_say_something_too() -> None:
    async with client_of(accepting, replace(HUGE, idle_frames=100, idle_frames_rate=0.0)) as (reader, writer, _):
        await opened(reader, writer)
        part = bytes(1024).replace(b"\0", b"x")
        parts = [Frame(Opcode.TEXT, part, fin=False), *[Frame(Opcode.CONT, part, fin=False) for _ in range(500)], Frame(Opcode.CONT, part)]
        writer.write(b"".join(frame.serialize(mask=True, extensions=[]) for frame in parts) + PING * 99)
        said = str(502 * 1024).encode()
        pongs = await reader.readuntil(bytes((0x81, len(said))) + said)
        hello = Frame(Opcode.TEXT, b"hello").serialize(mask=True, extensions=[])
        writer.write(hello * 3000)  # more than is parsed in one go
        await reader.readexactly(99 * 2 - pongs.count(b"\x8a\0") * 2)
        assert await reader.readexactly(3000 * 3) == b"\x81\x015" * 3000


async def test_who_takes_no_answer_to_pings_is_not_read_and_then_cut_off() -> None:
    limits = replace(HUGE, idle_frames=1 << 40, write_idle_s=0.5)
    async with client_of(accepting, limits) as (reader, writer, _):
        await opened(reader, writer)
        writer.transport.pause_reading()
        frames = Frame(Opcode.PING, b"p" * 125).serialize(mask=True, extensions=[]) * 500
        with pytest.raises(ConnectionError):
            for _ in range(MOST_SENT // len(frames)):
                writer.write(frames)
                await writer.drain()


async def test_a_body_of_very_many_pieces_in_one_read_is_a_body() -> None:
    async with client_of(counting, HUGE) as (reader, writer, _):
        writer.write(request("/", "Transfer-Encoding: chunked", method="POST") + CHUNK * 20_000 + b"0\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n20000")).startswith(b"HTTP/1.1 200 ")
        writer.write(request("/", "Transfer-Encoding: chunked", method="POST") + CHUNK * 3 + b"0\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n3")).startswith(b"HTTP/1.1 200 ")


class Server:
    """A server in a process of its own, whose sandboxes do nothing."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.pid = process.pid
        self.port = int(process.stdout.readline())

    def connected(self) -> socket.socket:
        """A connection to it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)

    def answers(self) -> bool:
        """Whether somebody else is served."""
        with self.connected() as connection:
            connection.sendall(request("/health", "Connection: close"))
            return parsed(everything(connection))[0] == 200

    def resident_kib(self) -> int:
        """Its memory."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    def ends(self, connection: socket.socket, piece: bytes) -> None:
        """It ends a connection on which this comes again and again; others are answered all the while, and it holds nothing of it."""
        before, flood, sent = self.resident_kib(), memoryview(piece * (262144 // len(piece))), 0
        connection.setblocking(False)
        with pytest.raises(ConnectionError):
            while sent < MOST_SENT:
                with suppress(BlockingIOError):
                    sent += connection.send(flood[sent % len(flood) :])
                assert self.answers()
        assert self.resident_kib() - before < MOST_GROWN_KIB


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if not Path("/proc/self/status").exists():
        pytest.skip("takes Linux's /proc")
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    process = subprocess.Popen([sys.executable, str(PROGRAM)], stdout=subprocess.PIPE, env=environment)
    with process:
        try:
            yield Server(process)
        finally:
            process.kill()


@pytest.mark.parametrize("frame", [PING, b"\x89\xfd\0\0\0\0" + b"p" * 125, PONG, PART])
def test_a_flood_of_frames_is_ended_and_others_are_answered(server: Server, frame: bytes) -> None:
    with server.connected() as connection:
        connection.sendall(request("/sandboxes/box/exec/ws", *ASKED))
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(1)
        assert b" 101 " in head
        connection.sendall(FIRST_PART if frame == PART else b"")
        server.ends(connection, frame)


def test_a_flood_of_chunks_behind_a_refusal_is_ended_and_others_are_answered(server: Server) -> None:
    with server.connected() as connection:
        connection.sendall(request("/no/such", "Transfer-Encoding: chunked", method="POST"))
        server.ends(connection, CHUNK)
