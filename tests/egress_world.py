"""Both ends of the egress proxy for its tests: programs in a scripted sandbox, and servers on this host's loopback."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Any

from agentkernel.channel.frames import FrameType
from agentkernel.channel.wire import FIRST_CREDIT_BYTES, MAX_TUNNEL_DATA, MAX_WINDOW_BYTES, TUNNEL_END
from agentkernel.egress import messages
from agentkernel.egress.resolving import Lookup
from agentkernel.egress.server import Server
from agentkernel.egress.session import Session
from agentkernel.model.network import Base, Decision, EgressLimits, EgressRules, Verdict
from agentkernel.model.rules import parse_rule

WAIT_S = 10.0
PROXY, RESOLVER, TRANSPARENT = 1, 2, 3
_WORD = struct.Struct("<I")


def loopback_rules(*ports: int, base: Base = Base.PUBLIC, deny: tuple[str, ...] = (), allow: tuple[str, ...] = ()) -> EgressRules:
    """Rules that declare ports of this host's loopback reachable, by any name."""
    listed = ",".join(map(str, ports))
    opened = (parse_rule(f"127.0.0.0/8:{listed}"), parse_rule(f"[::1]:{listed}")) if ports else ()
    return EgressRules(base=base, allow=(*opened, *map(parse_rule, allow)), deny=tuple(map(parse_rule, deny)))


class Program:
    """One connection of a program in the sandbox, with the agent's flow control."""

    def __init__(self, agent: Agent, ident: int) -> None:
        self.ident = ident
        self.received = bytearray()
        self.has_ended = False
        self.error: int | None = None  # the errno of a TUNNEL_CLOSE
        self.credit = FIRST_CREDIT_BYTES
        self.reads = True  # a program that does not read gives no credit
        self._agent = agent
        self._allowed = FIRST_CREDIT_BYTES
        self._window = FIRST_CREDIT_BYTES
        self._changed = asyncio.Event()

    async def write(self, data: bytes) -> None:
        """Sends as credit comes."""
        view = memoryview(data)
        while view:
            await self.until(lambda: self.credit > 0 or self.error is not None)
            if self.error is not None:
                raise ConnectionResetError(self.error, "closed")
            count = min(len(view), self.credit, MAX_TUNNEL_DATA)
            self.credit -= count
            self._agent.send(FrameType.TUNNEL_DATA, self.ident, bytes(view[:count]))
            view = view[count:]

    def end(self) -> None:
        """Sends nothing more."""
        self._agent.send(FrameType.TUNNEL_DATA, self.ident, b"", TUNNEL_END)

    def reset(self, number: int = errno.ECONNRESET) -> None:
        """Closes at once."""
        self._agent.send(FrameType.TUNNEL_CLOSED, self.ident, _WORD.pack(number))

    async def read(self, count: int) -> bytes:
        """Exactly so many bytes, fewer at the end."""
        data = bytearray()
        while len(data) < count:
            await self.until(lambda: bool(self.received) or self.is_over)
            if not self.received:
                break
            data += self._take(count - len(data))
        return bytes(data)

    async def read_all(self) -> bytes:
        """Everything to the end."""
        data = bytearray()
        while True:
            await self.until(lambda: bool(self.received) or self.is_over)
            if not self.received:
                return bytes(data)
            data += self._take(len(self.received))

    async def read_head(self) -> bytes:
        """To the empty line, with it."""
        await self.until(lambda: b"\r\n\r\n" in self.received or self.is_over)
        end = self.received.find(b"\r\n\r\n")
        return self._take(end + 4 if end >= 0 else len(self.received))

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        return self.has_ended or self.error is not None

    async def until(self, true: Callable[[], bool]) -> None:
        """Waits for something that frames change."""
        async with asyncio.timeout(WAIT_S):
            while not true():
                self._changed.clear()
                await self._changed.wait()

    async def closed(self) -> int:
        """Waits for a TUNNEL_CLOSE and returns its errno."""
        await self.until(lambda: self.error is not None)
        assert self.error is not None
        return self.error

    def took(self, kind: int, flags: int, payload: bytes) -> None:
        """A frame for this connection."""
        if kind == FrameType.TUNNEL_SEND:
            assert len(payload) <= min(self._allowed, MAX_TUNNEL_DATA), "sent without credit"
            self._allowed -= len(payload)
            self.received += payload
            self.has_ended = self.has_ended or bool(flags & TUNNEL_END)
            if self.reads and not self._agent.is_idle:
                self._give_credit(len(self.received))
        elif kind == FrameType.TUNNEL_CREDIT:
            self.credit += _WORD.unpack(payload)[0]
            assert self.credit <= MAX_WINDOW_BYTES
        else:
            assert kind == FrameType.TUNNEL_CLOSE
            self.error = _WORD.unpack(payload)[0]
        self._changed.set()

    def _take(self, count: int) -> bytes:
        data = bytes(self.received[:count])
        del self.received[:count]
        self._give_credit(len(self.received))
        return data

    def _give_credit(self, held: int) -> None:
        outstanding = self._allowed + held
        if self.reads and not self.is_over and outstanding <= self._window // 2:
            self._window = min(2 * self._window, MAX_WINDOW_BYTES)
            self._allowed += self._window - outstanding
            self._agent.send(FrameType.TUNNEL_GRANT, self.ident, _WORD.pack(self._window - outstanding))


@dataclass
class Agent:
    """The sandbox's side: an `abc_network.TunnelPeer` for the egress session, and the programs behind it."""

    session: Session | None = None
    programs: dict[int, Program] = field(default_factory=dict)
    answers: dict[int, asyncio.Future[bytes]] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    is_idle: bool = True  # gives credit only for what is taken out of `received`
    _last: int = 1 << 63
    _told: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, kind: int, flags: int, ident: int, payload: bytes | memoryview) -> None:
        """See `abc_network.TunnelPeer`."""
        if kind == FrameType.ANSWER:
            self.answers.pop(ident).set_result(bytes(payload))
        else:
            self.programs[ident].took(kind, flags, bytes(payload))

    def reset(self) -> None:
        """See `abc_network.TunnelPeer`."""

    def send(self, kind: int, ident: int, payload: bytes = b"", flags: int = 0) -> None:
        """A frame to the proxy."""
        assert self.session is not None
        self.session.take(kind, flags, ident, payload)

    def connect(self, kind: int = PROXY, address: str = "::", port: int = 0) -> Program:
        """A program connects to a listener, or with TRANSPARENT to an address."""
        self._last += 1
        program = self.programs[self._last] = Program(self, self._last)
        where = ip_address(address)
        packed = (where if where.version == 6 else IPv6Address(f"::ffff:{where}")).packed
        self.send(FrameType.TUNNEL_ACCEPTED, program.ident, struct.pack("<HH16s", kind, port, packed))
        return program

    async def ask(self, message: bytes) -> bytes:
        """A DNS query by UDP."""
        self._last += 1
        answer = self.answers[self._last] = asyncio.get_running_loop().create_future()
        self.send(FrameType.QUERY, self._last, message)
        async with asyncio.timeout(WAIT_S):
            return await answer

    def decided(self, decision: Decision) -> None:
        """What the engine is told."""
        self.decisions.append(decision)
        self._told.set()

    async def decision(self, verdict: Verdict, **wanted: object) -> Decision:
        """Waits for a decision with these attributes."""
        async with asyncio.timeout(WAIT_S):
            while True:
                for each in self.decisions:
                    if each.verdict is verdict and all(getattr(each, name) == value for name, value in wanted.items()):
                        return each
                self._told.clear()
                await self._told.wait()


class InProcess:
    """A `session.Gate` to an egress server on this very loop, whose names the test resolves."""

    def __init__(self, lookup: Lookup, *, upstream: str = "") -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        loop = asyncio.get_running_loop()
        self.server = Server(theirs, loop, lookup=lookup)
        self._control.send(messages.configure(upstream))
        self._sessions: dict[str, Session] = {}
        loop.add_reader(self._control.fileno(), self._readable)

    def join(self, agent: Agent, rules: EgressRules, limits: EgressLimits | None = None, sandbox_id: str = "0" * 16) -> Session:
        """A session of a sandbox."""
        session = Session(self, sandbox_id, rules, limits or EgressLimits(), agent, agent.decided)
        agent.session = self._sessions[sandbox_id] = session
        return session

    def admit(self, session: Session) -> socket.socket | None:
        """See `session.Gate`."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [session.joining()], [theirs.fileno()])
        return ours

    def tell_rules(self, session: Session) -> None:
        """See `session.Gate`."""
        self._control.send(messages.rules_of(session.sandbox_id, session.rules))

    def leave(self, session: Session, *, for_good: bool) -> None:
        """See `session.Gate`."""

    def close(self) -> None:
        """Ends everything."""
        asyncio.get_running_loop().remove_reader(self._control.fileno())
        for session in self._sessions.values():
            session.close()
        self.server.close()
        self._control.close()

    def _readable(self) -> None:
        message: dict[str, Any] = json.loads(self._control.recv(1 << 17))
        if "sandbox" in message:
            self._sessions[message["sandbox"]].told(message)


def names(**addresses: str) -> Lookup:
    """A resolver that knows these names (`_` stands for a dot), each with addresses separated by spaces."""
    known = {name.replace("_", "."): listed.split() for name, listed in addresses.items()}

    def lookup(host: str) -> list[str]:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return known[host]

    return lookup


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """A server on loopback; yields its port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, host, 0, limit=1 << 24)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends back what comes, to the end."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def tunnelled(agent: Agent, host: str, port: int) -> Program:
    """A program's connection by CONNECT, which must work."""
    program = agent.connect()
    await program.write(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    head = await program.read_head()
    assert head.startswith(b"HTTP/1.1 200 "), head
    return program
