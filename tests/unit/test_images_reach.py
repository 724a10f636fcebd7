"""Where registries send their clients: judged by the address that is connected to, however it is spelled."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from registry_proxy import running_tunnel
from registry_world import make_authority, running_registry
from unit.images_world import World, needs_registry

from agentkernel.errors import ImageFailed
from agentkernel.images.reach import Nearness, nearness, spelled
from agentkernel.images.transport import LIMIT, ByHost, open_client
from agentkernel.model.image import PullPolicy

LOOPBACK = (
    "127.0.0.1",
    "127.1",
    "0x7f.1",
    "0177.1",
    "2130706433",
    "127.0.0.1.",
    "[::ffff:127.0.0.1]",
    "[::1]",
    "localhost",
    "localhost.",
)


@pytest.mark.parametrize(
    ("address", "level"),
    [
        ("203.0.113.9", Nearness.PUBLIC),
        ("2001:db8::1", Nearness.PUBLIC),
        ("10.1.2.3", Nearness.PRIVATE),
        ("::ffff:192.168.0.1", Nearness.PRIVATE),
        ("64:ff9b::a01:203", Nearness.PRIVATE),
        ("198.18.0.7", Nearness.PRIVATE),
        ("fd12::1", Nearness.PRIVATE),
        ("127.9.9.9", Nearness.HERE),
        ("::1", Nearness.HERE),
        ("::ffff:127.0.0.1", Nearness.HERE),
        ("0.0.0.0", Nearness.NOWHERE),
        ("169.254.169.254", Nearness.NOWHERE),
        ("fe80::1", Nearness.NOWHERE),
        ("fd00:ec2::254", Nearness.NOWHERE),
    ],
)
def test_addresses_are_near_or_far(address: str, level: Nearness) -> None:
    assert nearness(address)[0] is level


def test_both_ends_of_a_connection_are_this_host_where_they_are_the_same() -> None:
    assert nearness("203.0.113.9", "203.0.113.9")[0] is Nearness.HERE
    assert nearness("10.1.2.3", "10.1.2.3")[0] is Nearness.HERE
    assert nearness("10.1.2.3", "10.1.2.4")[0] is Nearness.PRIVATE


@pytest.mark.parametrize("host", [each for each in LOOPBACK if "localhost" not in each])
def test_addresses_are_found_in_every_spelling(host: str) -> None:
    assert nearness(spelled(host))[0] is Nearness.HERE


@pytest.mark.parametrize("host", ["localhost", "registry.example", "a1", "", "1.example"])
def test_names_are_no_addresses(host: str) -> None:
    assert spelled(host) == ""


class Listener:
    """Notes what each connection has sent by its end."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[bytes] = asyncio.Queue()
        self.port = 0
        self.conversations: list[asyncio.Task[None]] = []

    def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.conversations.append(asyncio.create_task(self._hear(reader, writer)))

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard.put_nowait(await reader.read())
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def listening(host: str) -> AsyncIterator[Listener]:
    listener = Listener()
    async with await asyncio.start_server(listener, host, 0) as server:
        listener.port = server.sockets[0].getsockname()[1]
        yield listener
        await asyncio.gather(*listener.conversations)


async def ask(url: str, limit: Nearness, environment: dict[str, str] | None = None) -> None:
    transport = ByHost(environment or {}, "/nonexistent")
    async with open_client(transport) as client:
        await client.get(url, extensions={LIMIT: limit})


@pytest.mark.parametrize("host", LOOPBACK)
async def test_no_spelling_of_this_host_is_spoken_to(host: str) -> None:
    async with listening("127.0.0.1") as listener:
        with pytest.raises((ImageFailed, httpx.ConnectError)) as caught:  # (nobody listens at ::1)
            await ask(f"https://{host}:{listener.port}/x", Nearness.PRIVATE)
        if isinstance(caught.value, ImageFailed):
            assert "loopback address" in caught.value.message
        assert listener.heard.empty() or listener.heard.get_nowait() == b""


async def test_a_name_is_judged_by_where_it_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, "blobs.example", "127.0.0.1")
    async with listening("127.0.0.1") as listener:
        with pytest.raises(ImageFailed, match=r"blobs\.example, loopback address 127\.0\.0\.1, where they must not go"):
            await ask(f"https://blobs.example:{listener.port}/x", Nearness.PRIVATE)
        assert await listener.heard.get() == b"", "not even the beginning of TLS"


async def test_another_address_of_this_host_is_this_host() -> None:
    address = own_address()
    async with listening(address) as listener:
        with pytest.raises(ImageFailed, match="own address of the host"):
            await ask(f"https://{address}:{listener.port}/x", Nearness.PRIVATE)
        assert await listener.heard.get() == b""


async def test_addresses_are_judged_in_front_of_a_proxy_too() -> None:
    """It would look them up in its own place; names are its to judge."""
    async with listening("127.0.0.1") as listener:
        environment = {"HTTPS_PROXY": f"http://127.0.0.1:{listener.port}"}
        for host in ("2130706433", "169.254.169.254", "10.1"):
            with pytest.raises(ImageFailed, match="where they must not go"):
                await ask(f"https://{host}/x", Nearness.PUBLIC, environment)
        assert listener.heard.empty()


async def test_neighbours_are_reached_where_no_proxy_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, "blobs.example", "10.1.2.3")
    monkeypatch.setattr("agentkernel.images.transport.TIMEOUT", httpx.Timeout(0.01))
    with pytest.raises(ImageFailed, match="private address") as caught:
        await ask("https://10.1.2.3:9/x", Nearness.PUBLIC)
    assert "NO_PROXY" in caught.value.hint
    with pytest.raises(httpx.TransportError):
        await ask("https://10.1.2.3:9/x", Nearness.PUBLIC, {"NO_PROXY": "10.0.0.0/8"})
    with pytest.raises(ImageFailed, match="metadata address"):
        await ask("https://169.254.169.254:9/x", Nearness.PUBLIC, {"NO_PROXY": "*"})


async def test_what_is_not_this_host_is_not_spoken_to_without_tls() -> None:
    with pytest.raises(ImageFailed, match="without TLS"):
        await ask("http://10.1.2.3:9/x", Nearness.NOWHERE)


@needs_registry
@pytest.mark.parametrize("host", ["tokens.example", "127.1", "2130706433"])
async def test_a_registry_elsewhere_names_no_token_server_on_this_host(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, "tokens.example", "127.0.0.1")
    certificate, key = make_authority("registry.test").write(tmp_path)
    async with listening("127.0.0.1") as listener:
        realm = f"https://{host}:{listener.port}/token"
        token = {"realm": realm, "service": "s", "issuer": "i", "rootcertbundle": str(certificate)}
        tls = {"tls": {"certificate": str(certificate), "key": str(key)}}
        with ExitStack() as stack:
            registry = stack.enter_context(running_registry(tmp_path, http=tls, auth={"token": token}))
            tunnel, asked = stack.enter_context(running_tunnel({"registry.test:443": registry.address}))
            world = World(tmp_path, {"SSL_CERT_FILE": str(certificate), "HTTPS_PROXY": tunnel, "NO_PROXY": "tokens.example"})
            world.log_in("registry.test", auth=base64.b64encode(b"ali:secret").decode())
            with pytest.raises(ImageFailed, match="loopback address"):
                await world.library.obtain("registry.test/team/app:1", PullPolicy.MISSING, world.report)
            world.library.close()
        assert set(asked) == {"registry.test:443"}
        assert listener.heard.empty() or listener.heard.get_nowait() == b""


def resolve(monkeypatch: pytest.MonkeyPatch, name: str, address: str) -> None:
    """Has a name lead to an address, as whoever owns the name can."""
    genuine = socket.getaddrinfo

    def found(host: Any, *more: Any, **named: Any) -> Any:
        return genuine(address if host in {name, name.encode()} else host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", found)


def own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect(("203.0.113.1", 9))  # sends nothing
        except OSError:
            pytest.skip("needs a network besides loopback")
        return str(asked.getsockname()[0])
