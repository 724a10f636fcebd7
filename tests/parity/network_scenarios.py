"""What the classes of the SDK do alike with a sandbox's network and its ports, beyond what every front does; and what both are tried with."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from parity.listed import fails, lasting, of_the_client

from agentkernel.model.network import Base, Verdict

LISTENER = """
import socket
server = socket.create_server(("127.0.0.1", 8000))
print("ready", flush=True)
while True:
    connection, _ = server.accept()
    with connection:
        data = b""
        while piece := connection.recv(65536):
            data += piece
        connection.sendall(data.upper())
"""
# CONNECT through the proxy inside, to HOST:PORT of argv[1]; prints the status, and what the server says.
THROUGH_PROXY = """
import socket, sys
proxy = socket.create_connection(("127.0.0.1", 3128))
proxy.sendall(f"CONNECT {sys.argv[1]} HTTP/1.1\\r\\nHost: {sys.argv[1]}\\r\\n\\r\\n".encode())
answer = b""
while b"\\r\\n\\r\\n" not in answer:
    answer += proxy.recv(1) or b"\\r\\n\\r\\n"
print(answer.split()[1].decode(), end=" ")
if b" 200 " in answer:
    print(proxy.recv(100).decode())
"""


@contextmanager
def greeter() -> Iterator[int]:
    """A server of the host that greets whoever comes; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            connection.sendall(b"hello")
            connection.close()

        loop = asyncio.get_running_loop()
        server.setblocking(False)
        loop.add_reader(server, greet)
        try:
            yield server.getsockname()[1]
        finally:
            loop.remove_reader(server)


@asynccontextmanager
async def listening(box: Any) -> AsyncIterator[None]:
    """In the sandbox something listens on port 8000 and answers in capitals."""
    server = await box.spawn("python3", "-c", LISTENER)
    async for chunk in server.output():
        assert chunk.data == b"ready\n"
        break
    yield
    await server.kill()


async def ask(port: Any, text: bytes = b"text") -> bytes:
    """What the server behind a published port answers."""
    reader, writer = await asyncio.open_connection(port.host_address, port.host_port)
    try:
        writer.write(text)
        writer.write_eof()
        return await reader.read()
    finally:
        writer.close()


async def connect(box: Any, destination: str) -> list[str]:
    """Status and greeting of a connection from inside, through the proxy."""
    result = await box.exec("python3", "-c", THROUGH_PROXY, destination, check=True)
    text: str = result.text
    return text.split()


def written(rules: Any) -> tuple[Base, list[str], list[str]]:
    """Rules as they are typed."""
    return rules.base, [str(rule) for rule in rules.allow], [str(rule) for rule in rules.deny]


@of_the_client(
    "network", "network_allow", "network_deny", "network_forget", why="rules of a block's sandbox, and of the host's networks", host=True
)
async def rules_are_shown_and_changed_while_it_runs(client: Any, directory: Path) -> None:
    async with client.sandbox(allow_hosts=["Example.com", "10.0.0.0/8:22"], deny_hosts=["*.bad.example"]) as box:
        assert written(await box.network()) == (Base.PUBLIC, ["example.com", "10.0.0.0/8:22"], ["*.bad.example"])
        assert written(await box.allow("b.example:8443"))[1][-1] == "b.example:8443"
        assert written(await box.deny("c.example"))[2] == ["*.bad.example", "c.example"]
        after = written(await box.forget("example.com", "10.0.0.0/8:22", "*.bad.example", "unknown.example"))
        assert after == (Base.PUBLIC, ["b.example:8443"], ["c.example"]) == written(await box.network())
        for change in (box.allow, box.deny, box.forget):
            with fails("invalid_input"):
                await change("http://example.com/")


@of_the_client(
    "create",
    "network",
    "network_allow",
    "network_deny",
    "start",
    "stop",
    why="a sandbox that has nothing but its rules, as options say them",
)
async def rules_stay_with_a_sandbox_that_lasts(client: Any, directory: Path) -> None:
    async with lasting(client, only_hosts=True, allow_hosts=["a.example"], start=False) as box:
        assert written(await box.network()) == (Base.NONE, ["a.example"], [])
        await box.allow("example.com")
        await box.start()
        await box.deny("other.example")
        await box.stop()
        await box.start()
        assert written(await box.network()) == (Base.NONE, ["a.example", "example.com"], ["other.example"])


@of_the_client("create", "network", why="options in kinds that JSON and words do not have")
async def without_a_filtered_network_there_are_no_rules(client: Any, directory: Path) -> None:
    for options in ({"network": False}, {"only_hosts": True}):
        async with client.sandbox(**options) as box:
            for call in (box.network, lambda: box.allow("example.com"), lambda: box.deny("example.com")):
                with fails("unsupported"):
                    await call()
    for options in ({"network": False, "allow_hosts": ["a b"]}, {"allow_hosts": "example.com"}, {"ports": [0]}, {"ports": ["x"]}):
        with fails("invalid_input"):
            await client.create(**options)
    with fails("refused"):
        await client.create(ports=["0.0.0.0:80:80"])


@of_the_client("network_allow", "network_deny", "network_log", why="following is the iterator's; the host's networks", host=True)
async def attempts_go_by_the_rules_and_are_told(client: Any, directory: Path) -> None:
    with greeter() as port:
        here = f"127.0.0.1:{port}"
        async with client.sandbox(only_hosts=True, allow_hosts=["a.example"]) as box:
            assert await connect(box, here) == ["403"]
            await box.allow(here)
            assert await connect(box, here) == ["200", "hello"]
            await box.deny(here)
            assert await connect(box, here) == ["403"]
            seen = []
            async for decision in box.network_log(follow=True):
                seen.append((decision.verdict, decision.protocol, decision.host, decision.port))
                if len(seen) == 3:
                    break
            told = [(verdict, "connect", "127.0.0.1", port) for verdict in (Verdict.DENIED, Verdict.ALLOWED, Verdict.DENIED)]
            assert seen == told
            assert [(each.rule, bool(each.reason)) async for each in box.network_log()][2] == (f"deny 127.0.0.1/32:{port}", True)


@of_the_client("publish", "ports", why="ports in kinds that JSON and words do not have")
async def a_port_that_cannot_be_published_says_why(client: Any, directory: Path) -> None:
    with greeter() as taken:
        async with lasting(client) as box:
            with fails("conflict"):
                await box.publish(8000, taken)
            for wrong in (0, -1, 65536, "80/tcp", True):
                with fails("invalid_input"):
                    await box.publish(wrong)
            with fails("refused"):
                await box.publish("0.0.0.0:8080:80")
            await box.stop()
            with fails("conflict"):
                await box.publish(8000)
            assert list(await box.ports()) == []


@of_the_client("create", "ports", "start", "stop", why="a background command that is read")
async def ports_of_a_sandbox_are_published_whenever_it_runs(client: Any, directory: Path) -> None:
    async with lasting(client, ports=[8000]) as box:
        for _ in range(2):
            async with listening(box):
                (published,) = await box.ports()
                assert (await box.info()).ports == (published,)
                assert await ask(published) == b"TEXT"
            await box.stop()
            assert list(await box.ports()) == list((await box.info()).ports) == []
            await box.start()
    async with client.sandbox(ports=["8000"]) as box, listening(box):
        (published,) = await box.ports()
        assert await ask(published) == b"TEXT"
