"""The servers behind `internet`: a program that has a network namespace of its own, in which every address of the world is this machine.

Started by `internet.Internet`, with its directory as argument. It tells each connection by the address that it was made to, so that nothing
which a sandbox reaches stays hidden. Commands come on stdin, one JSON object a line, and each is answered by one on stdout.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import ipaddress
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

HTTP_PORTS = (80, 8080)
TLS_PORTS = (443, 8443)
BANNER_PORT = 22
ECHO_PORTS = (5432, 7)
RESOLVER_PORT = 53
BANNER = b"SSH-2.0-internet_of_tests\r\n"
PATTERN = bytes(range(256)) * 256
_WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_A, _AAAA, _IN = 1, 28, 1
_BACKLOG = 1024


class Log:
    """What came, as the harness asks for it."""

    def __init__(self) -> None:
        self.connections: Counter[str] = Counter()
        self.lookups: Counter[str] = Counter()
        self.requests: list[str] = []

    def connected(self, writer: asyncio.StreamWriter) -> None:
        """One connection, by the address that it was made to."""
        host, port = writer.get_extra_info("sockname")[:2]
        address = ipaddress.ip_address(host.partition("%")[0])
        self.connections[f"{getattr(address, 'ipv4_mapped', None) or address} {port}"] += 1


class Web:
    """An HTTP/1.1 server of a few paths; it keeps connections open."""

    def __init__(self, log: Log, repositories: Path) -> None:
        self._log = log
        self._repositories = repositories
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
            fields = {
                name.strip().lower(): value.strip()
                for name, _, value in (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:-2])
            }
            if fields.get("expect", "").lower() == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await _body(reader, fields)
            self._log.requests.append(f"{method} {fields.get('host', '')} {target}")
            if target == "/ws":
                await _websocket(reader, writer, fields)
                return
            status, more, answer = await self._answer(method, target, fields, head, body)
            length = "" if "content-length" in more.lower() else f"Content-Length: {len(answer)}\r\n"
            writer.write(f"HTTP/1.1 {status}\r\n{more}{length}\r\n".encode("latin-1"))
            if method != "HEAD":
                writer.write(answer)
            await writer.drain()
            if fields.get("connection", "").lower() == "close":
                return

    async def _answer(self, method: str, target: str, fields: dict[str, str], head: bytes, body: bytes) -> tuple[str, str, bytes]:
        path, _, query = target.partition("?")
        first, _, rest = path.lstrip("/").partition("/")
        if first == "hello":
            return "200 OK", "Content-Type: text/plain\r\n", f"hello from {fields.get('host', '')}\n".encode()
        if first == "echo":
            return "200 OK", "", body
        if first == "head":
            return "200 OK", "", head
        if first == "bytes":
            return "200 OK", "", (PATTERN * (int(rest) // len(PATTERN) + 1))[: int(rest)]
        if first == "redirect":
            return "302 Found", f"Location: {query}\r\n", b""
        if first == "together":
            await self._together(int(rest))
            return "200 OK", "", b"together\n"
        if first == "git":
            return await _git(self._repositories, method, rest, query, fields, body)
        return "404 Not Found", "", b"there is no such page\n"

    async def _together(self, count: int) -> None:
        """Answers when as many requests wait for it as were asked for."""
        waiting = self._waiting.setdefault(count, [])
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(mine)
        if len(waiting) >= count:
            for each in self._waiting.pop(count):
                if not each.done():
                    each.set_result(None)
        await mine


async def _body(reader: asyncio.StreamReader, fields: dict[str, str]) -> bytes:
    if "chunked" not in fields.get("transfer-encoding", ""):
        return await reader.readexactly(int(fields.get("content-length", "0")))
    whole = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        whole += await reader.readexactly(size)
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return bytes(whole)


async def _websocket(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fields: dict[str, str]) -> None:
    """Says back what short text and binary frames say (RFC 6455)."""
    accept = base64.b64encode(hashlib.sha1(fields["sec-websocket-key"].encode() + _WEBSOCKET).digest())  # noqa: S324 - RFC 6455
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept)
    writer.write(b"\r\n\r\n")
    while True:
        first, size = await reader.readexactly(2)
        mask = await reader.readexactly(4)
        data = bytes(byte ^ mask[place % 4] for place, byte in enumerate(await reader.readexactly(size & 0x7F)))
        writer.write(bytes((first, len(data))) + data)
        await writer.drain()
        if first & 0x0F == 8:
            return


async def _git(root: Path, method: str, path: str, query: str, fields: dict[str, str], body: bytes) -> tuple[str, str, bytes]:
    """What git's own server program answers (git-http-backend(1))."""
    environment = {
        "PATH": os.environ["PATH"],
        "GIT_PROJECT_ROOT": str(root),
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": f"/{path}",
        "QUERY_STRING": query,
        "REQUEST_METHOD": method,
        "CONTENT_TYPE": fields.get("content-type", ""),
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_CONTENT_ENCODING": fields.get("content-encoding", ""),
        "GIT_PROTOCOL": fields.get("git-protocol", ""),
        "HOME": "/nonexistent",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    pipe = asyncio.subprocess.PIPE
    server = await asyncio.create_subprocess_exec("git", "http-backend", stdin=pipe, stdout=pipe, env=environment)
    output, _ = await server.communicate(body)
    head, _, answer = output.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    status = next((line.partition(":")[2].strip() for line in lines if line.lower().startswith("status:")), "200 OK")
    return status, "".join(f"{line}\r\n" for line in lines if line and not line.lower().startswith("status:")), answer


async def _banner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As ssh servers do it says who it is, before it is asked."""
    writer.write(BANNER)
    await _echo(reader, writer)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


class Names(asyncio.DatagramProtocol):
    """A name server. Each name has a list of answers, which are given in turn; the last one stays."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._answers: dict[str, list[list[str]]] = {}
        self._transport: asyncio.DatagramTransport | None = None

    def set(self, name: str, answers: list[list[str]]) -> None:
        """From now on; no answers: there is no such name."""
        self._answers[name] = answers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """See `asyncio.DatagramProtocol`."""
        assert self._transport is not None
        self._transport.sendto(self._answer(data), addr)

    def _answer(self, query: bytes) -> bytes:
        end, labels = 12, []
        while size := query[end]:
            labels.append(query[end + 1 : end + 1 + size].decode("latin-1").lower())
            end += 1 + size
        question = query[12 : end + 5]
        kind = struct.unpack(">H", query[end + 1 : end + 3])[0]
        name = ".".join(labels)
        self._log.lookups[name] += 1
        answers = self._answers.get(name)
        known = [] if not answers else answers[0]
        version = {_A: 4, _AAAA: 6}.get(kind)
        addresses = [address for text in known if (address := ipaddress.ip_address(text)).version == version]
        if answers and kind == _A and len(answers) > 1:
            answers.pop(0)  # a resolver asks for both kinds: the turn is over with IPv4's
        records = b"".join(struct.pack(">HHHIH", 0xC00C, kind, _IN, 0, len(each.packed)) + each.packed for each in addresses)
        code = 0x8180 if answers else 0x8183
        return query[:2] + struct.pack(">HHHHH", code, 1, len(addresses), 0, 0) + question + records


def _run(*argv: str) -> bool:
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def _build(directory: Path) -> bool:
    """Makes the world: every address leads here, and only this program's names exist. Returns whether there is IPv6."""
    for argv in (("ip", "link", "set", "lo", "up"), ("ip", "route", "add", "local", "0.0.0.0/0", "dev", "lo", "table", "local")):
        subprocess.run(argv, check=True)
    _run("ip", "address", "add", "198.51.100.77/32", "dev", "lo")  # the host's own public address
    for name in ("resolv.conf", "hosts", "nsswitch.conf"):
        place = os.path.realpath(f"/etc/{name}")
        if os.path.exists(place):
            subprocess.run(("mount", "--bind", str(directory / name), place), check=True)
    with contextlib.suppress(OSError):
        Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")
    return _run("ip", "-6", "route", "add", "local", "::/0", "dev", "lo", "table", "local")


def _listening(family: socket.AddressFamily, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(("" if family == socket.AF_INET else "::", port))
    sock.listen(_BACKLOG)
    return sock


async def _serve(log: Log, handlers: dict[int, Handler], families: list[socket.AddressFamily], context: ssl.SSLContext) -> None:
    def logged(handler: Handler) -> Handler:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            log.connected(writer)
            with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError, ValueError, ssl.SSLError):
                await handler(reader, writer)
            with contextlib.suppress(OSError):
                writer.close()

        return serve

    for family in families:
        for port, handler in handlers.items():
            secured = context if port in TLS_PORTS else None
            await asyncio.start_server(logged(handler), sock=_listening(family, port), ssl=secured, backlog=_BACKLOG)


def _obey(log: Log, names: Names, command: dict[str, Any]) -> dict[str, Any]:
    operation = command["do"]
    if operation == "name":
        names.set(command["name"], command["answers"])
    elif operation == "forget":
        log.connections.clear()
        log.lookups.clear()
        log.requests.clear()
    return {"connections": dict(log.connections), "lookups": dict(log.lookups), "requests": log.requests[-1000:]}


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def main(directory: Path) -> None:
    """Runs until stdin ends."""
    has_ipv6 = _build(directory)
    loop = asyncio.get_running_loop()
    log = Log()
    names = Names(log)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem", directory / "server.key")
    web = Web(log, directory / "repositories")
    handlers: dict[int, Handler] = dict.fromkeys((*HTTP_PORTS, *TLS_PORTS), web)
    handlers |= {BANNER_PORT: _banner, **dict.fromkeys(ECHO_PORTS, _echo)}
    await _serve(log, handlers, [socket.AF_INET, *([socket.AF_INET6] if has_ipv6 else [])], context)
    await loop.create_datagram_endpoint(lambda: names, local_addr=("127.0.0.1", RESOLVER_PORT))
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    _say({"ipv6": has_ipv6})
    while line := await commands.readline():
        _say(_obey(log, names, json.loads(line)))


async def inside(port: int) -> None:
    """The web at one port of loopback and an echo at the next, where this program stands in a sandbox itself; for ever."""

    def quiet(handler: Handler) -> Handler:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, EOFError):
                await handler(reader, writer)
            writer.close()

        return serve

    await asyncio.start_server(quiet(Web(Log(), Path("/nonexistent"))), "127.0.0.1", port, backlog=_BACKLOG)
    await asyncio.start_server(quiet(_echo), "127.0.0.1", port + 1, backlog=_BACKLOG)
    _say({"port": port})
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(inside(int(sys.argv[1])) if sys.argv[1].isdecimal() else main(Path(sys.argv[1])))
