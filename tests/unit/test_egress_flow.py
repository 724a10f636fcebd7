"""The bytes between: flow control, slow readers, many connections at once, hostile frames."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import io
import random
import socket
import struct
from collections.abc import AsyncIterator

import pytest
from egress_world import PROXY, WAIT_S, Agent, InProcess, Program, echo, loopback_rules, names, serving, tunnelled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkernel.channel.frames import FrameType
from agentkernel.channel.wire import encode_frame
from agentkernel.egress import messages
from agentkernel.egress.server import Server
from agentkernel.model.network import EgressLimits, EgressRules


@pytest.fixture
async def proxy() -> AsyncIterator[InProcess]:
    made = InProcess(names())
    yield made
    made.close()


async def source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends as much as it is asked for, as a decimal number in a line."""
    size = int(await reader.readline())
    piece = random.Random(size).randbytes(65536)
    while size:
        writer.write(piece[: min(size, len(piece))])
        size -= min(size, len(piece))
        await writer.drain()
    writer.write_eof()


async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with the digest of everything."""
    digest = hashlib.sha256()
    while data := await reader.read(1 << 20):
        digest.update(data)
    writer.write(digest.hexdigest().encode())


async def test_much_goes_in_unchanged(proxy: InProcess) -> None:
    async with serving(source) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port))
        program = await tunnelled(agent, "127.0.0.1", port)
        size = 8_000_001
        await program.write(f"{size}\n".encode())
        received = await program.read_all()
        piece = random.Random(size).randbytes(65536)
        assert received == (piece * (size // len(piece) + 1))[:size]


async def test_much_goes_out_unchanged(proxy: InProcess) -> None:
    async with serving(sink) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port))
        program = await tunnelled(agent, "127.0.0.1", port)
        data = random.Random(1).randbytes(8_000_001)
        await program.write(data)
        program.end()
        assert await program.read_all() == hashlib.sha256(data).hexdigest().encode()


async def test_a_program_that_does_not_read_blocks_nobody(proxy: InProcess) -> None:
    async with serving(source) as port, serving(echo) as other:
        agent = Agent()
        proxy.join(agent, loopback_rules(port, other))
        slow = await tunnelled(agent, "127.0.0.1", port)
        slow.reads = False
        await slow.write(b"100000000\n")
        quick = await tunnelled(agent, "127.0.0.1", other)
        for _ in range(20):
            await quick.write(bytes(50_000))
            assert len(await quick.read(50_000)) == 50_000
        assert len(slow.received) <= 16_384
        slow.reset()


async def test_a_server_that_does_not_read_blocks_nobody_and_is_not_collected_for(proxy: InProcess) -> None:
    release = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await release.wait()

    async with serving(deaf) as port, serving(echo) as other:
        agent = Agent()
        proxy.join(agent, loopback_rules(port, other))
        slow = await tunnelled(agent, "127.0.0.1", port)
        sent = 0

        async def pour() -> None:
            nonlocal sent
            while True:
                await slow.write(bytes(65_536))
                sent += 65_536

        pouring = asyncio.ensure_future(pour())
        quick = await tunnelled(agent, "127.0.0.1", other)
        for _ in range(20):
            await quick.write(bytes(50_000))
            assert len(await quick.read(50_000)) == 50_000
        pouring.cancel()
        assert sent < 32_000_000  # the kernel's buffers and one window, however much is offered
        release.set()
        slow.reset()


async def test_five_hundred_connections_at_once(proxy: InProcess) -> None:
    async with serving(echo) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port))

        async def one(number: int) -> Program:
            program = await tunnelled(agent, "127.0.0.1", port)
            await program.write(b"%04d" % number)
            assert await program.read(4) == b"%04d" % number
            return program

        programs = await asyncio.gather(*(one(number) for number in range(500)))
        for number, program in enumerate(programs):
            await program.write(b"%04d" % number * 5000)
        for number, program in enumerate(programs):
            assert await program.read(20_000) == b"%04d" % number * 5000
            program.end()
        await asyncio.gather(*(program.read_all() for program in programs))


async def test_each_direction_ends_by_itself(proxy: InProcess) -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.write_eof()
        assert await reader.read() == b"still here"

    async with serving(half) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port))
        program = await tunnelled(agent, "127.0.0.1", port)
        assert await program.read_all() == b"bye"
        assert program.has_ended
        await program.write(b"still ")
        await program.write(b"here")
        program.end()
        assert program.error is None


async def test_a_reset_is_a_reset(proxy: InProcess) -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await reader.readexactly(1)

    async with serving(rude) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port))
        program = await tunnelled(agent, "127.0.0.1", port)
        await program.write(b"x")
        assert await program.closed() == errno.ECONNRESET


async def test_a_program_that_only_writes_learns_that_nobody_takes_it(proxy: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentkernel.egress.relay.BROKEN_S", 0.05)

    async def gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"last words")

    async with serving(gone) as port:
        agent = Agent()
        proxy.join(agent, loopback_rules(port))
        program = await tunnelled(agent, "127.0.0.1", port)
        assert await program.read_all() == b"last words"
        with pytest.raises(ConnectionResetError):
            while True:
                await program.write(bytes(1000))
                await asyncio.sleep(0)


# -- hostile frames

IDENT = (1 << 63) + 1
ACCEPTED = struct.pack("<HH16s", PROXY, 0, bytes(16))
HOSTILE = {
    "more than the credit": [(FrameType.TUNNEL_DATA, IDENT, bytes(16_385), 0)],
    "a frame that is too long": [(FrameType.TUNNEL_DATA, IDENT, bytes(65_537), 0)],
    "nothing": [(FrameType.TUNNEL_DATA, IDENT, b"", 0)],
    "an unknown flag": [(FrameType.TUNNEL_DATA, IDENT, b"x", 2)],
    "data after the end": [(FrameType.TUNNEL_DATA, IDENT, b"", 1), (FrameType.TUNNEL_DATA, IDENT, b"x", 0)],
    "a short grant": [(FrameType.TUNNEL_GRANT, IDENT, b"\1", 0)],
    "too much credit": [(FrameType.TUNNEL_GRANT, IDENT, b"\1\0\x10\0", 0)],
    "a short close": [(FrameType.TUNNEL_CLOSED, IDENT, b"", 0)],
    "the same id twice": [(FrameType.TUNNEL_ACCEPTED, IDENT, ACCEPTED, 0)],
    "an unknown listener": [(FrameType.TUNNEL_ACCEPTED, IDENT + 1, struct.pack("<HH16s", 9, 0, bytes(16)), 0)],
    "a short beginning": [(FrameType.TUNNEL_ACCEPTED, IDENT + 1, b"", 0)],
    "a frame of another type": [(FrameType.OUTPUT, IDENT, b"x", 0)],
    "a frame of the host's": [(FrameType.TUNNEL_SEND, IDENT, b"x", 0)],
}


class Stream:
    """A raw stream of a sandbox to an egress server on this loop, and one of a sandbox that behaves."""

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.setblocking(False)
        self.server = Server(theirs, asyncio.get_running_loop(), lookup=lambda _: [])
        self.hostile = self.join("b" * 16)

    def join(self, sandbox_id: str) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.control, [messages.join(sandbox_id, EgressRules(), EgressLimits())], [theirs.fileno()])
        ours.setblocking(False)
        return ours

    async def ended(self, sock: socket.socket) -> None:
        """Waits for the end of a stream."""
        async with asyncio.timeout(WAIT_S):
            try:
                while await asyncio.get_running_loop().sock_recv(sock, 65536):
                    pass
            except ConnectionResetError:
                pass

    def close(self) -> None:
        self.server.close()
        self.control.close()
        self.hostile.close()


@pytest.mark.parametrize("frames", HOSTILE.values(), ids=HOSTILE)
async def test_hostile_frames_end_their_own_stream_alone(frames: list[tuple[int, int, bytes, int]]) -> None:
    stream = Stream()
    loop = asyncio.get_running_loop()
    try:
        good = stream.join("0" * 16)
        data = encode_frame(0, FrameType.TUNNEL_ACCEPTED, IDENT, ACCEPTED)
        data += b"".join(encode_frame(0, kind, ident, payload, flags) for kind, ident, payload, flags in frames)
        await loop.sock_sendall(stream.hostile, data)
        await stream.ended(stream.hostile)
        await loop.sock_sendall(good, encode_frame(0, FrameType.TUNNEL_ACCEPTED, IDENT, ACCEPTED))
        await loop.sock_sendall(good, encode_frame(0, FrameType.TUNNEL_DATA, IDENT, b"BAD\r\n\r\n"))
        assert b"HTTP/1.1 400 " in await loop.sock_recv(good, 65536)
        good.close()
    finally:
        stream.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [FrameType.TUNNEL_ACCEPTED, FrameType.TUNNEL_DATA, FrameType.TUNNEL_GRANT, FrameType.TUNNEL_CLOSED, FrameType.QUERY]
            ),
            st.integers(IDENT, IDENT + 3),
            st.one_of(
                st.just(ACCEPTED), st.binary(max_size=40), st.sampled_from([b"\x05\x01\x00", b"\x04\x01\0\x50\x7f\0\0\1\0", b"GET "])
            ),
            st.integers(0, 1),
        ),
        max_size=30,
    ),
    st.binary(max_size=30),
)
def test_no_sequence_of_frames_breaks_the_process(frames: list[tuple[int, int, bytes, int]], garbage: bytes) -> None:
    async def run() -> None:
        stream = Stream()
        loop = asyncio.get_running_loop()
        problems: list[dict[str, object]] = []
        loop.set_exception_handler(lambda _, context: problems.append(context))
        try:
            sent = b"".join(encode_frame(0, kind, ident, payload, flags) for kind, ident, payload, flags in frames)
            await loop.sock_sendall(stream.hostile, sent + garbage)
            stream.hostile.shutdown(socket.SHUT_WR)
            await stream.ended(stream.hostile)
            assert not stream.server.over.done()
        finally:
            stream.close()
        await asyncio.sleep(0)
        assert problems == []

    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        asyncio.run(run())
    assert said.getvalue() == ""
