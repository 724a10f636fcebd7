"""Talks that a sandbox has with the network, as the suite writes them, and what came of them."""

from __future__ import annotations

import base64
import ipaddress
import json
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from agentkernel.abc import Sandbox
from agentkernel.errors import CommandNotFound
from agentkernel.model.command import Command

CALLER = Path(__file__).with_name("caller.py")
PROXY = ("127.0.0.1", 3128)
RESOLVER = ("127.0.0.1", 53)
HEAD_END = b"\r\n\r\n"
OUTPUT_BYTES = 64 * 1024 * 1024
WEBSOCKET_FRAME = b"\x82\x85\0\0\0\0hello"  # masked with zeros
WEBSOCKET_ECHO = b"\x82\x05hello"
Step = tuple[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """One connection from inside: where to, and what is done on it; `count` of them at once."""

    to: tuple[str, int] | str = PROXY
    steps: tuple[Step, ...] = ()
    count: int = 1
    timeout_s: float = 10.0
    udp: bool = False
    name: str = ""  # instead of all that: looks this up

    def then(self, *steps: Step) -> Talk:
        """The same with more to do."""
        return replace(self, steps=(*self.steps, *steps))

    def json(self) -> dict[str, Any]:
        """As the caller reads it."""
        if self.name:
            return {"resolve": self.name}
        return {"to": self.to, "steps": self.steps, "count": self.count, "timeout_s": self.timeout_s, "udp": self.udp}


@dataclass(frozen=True, slots=True, kw_only=True)
class Talked:
    """What came of one connection."""

    data: bytes
    error: str  # empty: every step was done

    @property
    def head(self) -> bytes:
        """The first HTTP head."""
        return self.data.partition(HEAD_END)[0]

    @property
    def body(self) -> bytes:
        """What follows it."""
        return self.data.partition(HEAD_END)[2]

    @property
    def status(self) -> int:
        """Of the first HTTP response; 0 where there is none."""
        words = self.data.split(b" ", 2)
        return int(words[1]) if len(words) > 2 and words[0].startswith(b"HTTP/1.") and words[1].isdigit() else 0

    def refusal(self) -> dict[str, str]:
        """What a refusal of the proxy's says."""
        found: dict[str, str] = json.loads(self.body)["error"]
        return found


@dataclass(slots=True, kw_only=True)
class Inside:
    """The caller, in a sandbox."""

    sandbox: Sandbox
    path: str = field(init=False)

    def __post_init__(self) -> None:
        self.path = f"{self.sandbox.spec.user.home.rstrip('/')}/.caller.py"

    async def install(self, *files: Path) -> Inside:
        """Puts the caller, and these files, into HOME."""
        await self.sandbox.files.write(self.path, CALLER.read_bytes())
        for file in files:
            await self.sandbox.files.write(self.home(file.name), file.read_bytes())
        return self

    def home(self, name: str) -> str:
        """The path inside of a file that was installed."""
        return f"{self.sandbox.spec.user.home.rstrip('/')}/{name}"

    def command(self, timeout_s: float = 60.0) -> Command:
        """What runs the caller."""
        return Command(argv=(b"python3", self.path.encode()), stdin=True, timeout_s=timeout_s, output_limit_bytes=OUTPUT_BYTES)

    async def talk(self, *talks: Talk) -> list[Talked]:
        """Has these talks one after the other; one `Talked` for each connection."""
        text = json.dumps([talk.json() for talk in talks]).encode()
        try:
            result = await self.sandbox.exec(self.command(), stdin=text)
        except CommandNotFound:
            pytest.skip("the sandbox's root has no python3")
        assert result.exit_code == 0, result.stderr[-2000:]
        return read_talked(result.stdout)

    async def one(self, talk: Talk) -> Talked:
        """Has one talk with one connection."""
        (talked,) = await self.talk(talk)
        return talked


def read_talked(output: bytes) -> list[Talked]:
    """Reads what the caller printed."""
    return [Talked(data=base64.b64decode(each["data"]), error=each["error"]) for talk in json.loads(output) for each in talk]


def send(data: bytes | str) -> Step:
    """Says this."""
    return "send", base64.b64encode(data.encode("latin-1") if isinstance(data, str) else data).decode()


def until(marker: bytes = HEAD_END) -> Step:
    """Reads until this has come."""
    return "until", base64.b64encode(marker).decode()


REST: Step = ("rest", None)
END: Step = ("end", None)
RESET: Step = ("reset", None)


def say(data: bytes | str, to: tuple[str, int] = PROXY) -> Talk:
    """Says something and listens until the other end closes."""
    return Talk(to=to, steps=(send(data), REST))


def get(url: str, *fields: str, method: str = "GET", body: str = "") -> Talk:
    """An HTTP request in absolute form, as programs send it to a proxy."""
    host = url.split("/")[2]
    lines = [f"{method} {url} HTTP/1.1", f"Host: {host}", "Connection: close", *fields]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return say("\r\n".join((*lines, "", body)))


def connect(host: str, port: int, *steps: Step) -> Talk:
    """CONNECT, and then more; without steps it listens until the other end closes."""
    shown = f"[{host}]" if ":" in host else host
    asked = send(f"CONNECT {shown}:{port} HTTP/1.1\r\nHost: {shown}:{port}\r\n\r\n")
    return Talk(steps=(asked, until(), *steps) if steps else (asked, REST))


def socks(host: str, port: int, *steps: Step) -> Talk:
    """SOCKS5 without a password, by name or (for an IPv6 address) by address, and then more."""
    return Talk(steps=(send(b"\x05\x01\x00"), ("read", 2), send(b"\x05\x01\x00" + _destination(host) + struct.pack(">H", port)), *steps))


def socks_address(address: str, port: int, *steps: Step) -> Talk:
    """SOCKS5 by address."""
    packed = ipaddress.ip_address(address).packed
    kind = b"\x01" if len(packed) == 4 else b"\x04"
    return Talk(steps=(send(b"\x05\x01\x00"), ("read", 2), send(b"\x05\x01\x00" + kind + packed + struct.pack(">H", port)), *steps))


SOCKS_REPLY: Step = ("read", 10)


def _destination(host: str) -> bytes:
    name = host.encode("latin-1")
    return b"\x03" + bytes((len(name),)) + name


def plain(path: str, host: str, *fields: str) -> bytes:
    """An HTTP request in origin form, the last one of its connection."""
    return "\r\n".join((f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close", *fields, "", "")).encode("latin-1")


def websocket_request(target: str, host: str) -> bytes:
    """A request for a WebSocket (RFC 6455)."""
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
    lines = (f"GET {target} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade", key, "Sec-WebSocket-Version: 13")
    return "\r\n".join((*lines, "", "")).encode("latin-1")


def lookup(name: str, kind: int = 1) -> bytes:
    """A DNS query."""
    labels = b"".join(bytes((len(label),)) + label for label in name.encode("latin-1").rstrip(b".").split(b"."))
    return struct.pack(">HHHHHH", 0x1234, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)
