"""The SDK with a daemon elsewhere: the same classes, over a way that can be cut at any time."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from remote_world import DEADLINE_S, Server, Wire, answering, serving, wired

from agentkernel import AsyncClient, Client
from agentkernel.errors import AgentKernelError, Conflict, DoorMissing, NotFound, Refused, Unauthorized, Unsupported


async def _until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await true():
            await asyncio.sleep(0.02)


def test_a_client_of_threads_does_there_what_it_does_here(server: Server, token: str, tmp_path: Path) -> None:
    with Client(url=server.url, token=token) as client:
        with client.sandbox(environment={"WHERE": "there"}) as block:
            assert block.exec("sh", "-c", "echo $WHERE; pwd; exit 3").exit_code == 3
            assert block.exec("cat", stdin=b"\0\xff" * 100_000).stdout == b"\0\xff" * 100_000
            block.files.write("/tmp/note", b"written")
            assert block.files.read("/tmp/note") == b"written"
            (tmp_path / "tree").mkdir()
            (tmp_path / "tree" / "leaf").write_text("green")
            block.files.upload(tmp_path / "tree", "/tmp/tree")
            assert block.exec("cat", "/tmp/tree/leaf").text == "green"
            assert "".join(chunk.text for chunk in block.stream("seq", "5")) == "1\n2\n3\n4\n5\n"
        with client.create(name="lasts", labels={"of": "threads"}) as lasting:
            process = lasting.spawn("sh", "-c", "read line; echo got $line", stdin=True)
            process.write(b"it\n")
            assert process.wait().exit_code == 0
        assert [each.name for each in client.list(labels={"of": "threads"})] == ["lasts"]
        assert {event.kind for event in client.events(sandbox="lasts")} >= {"sandbox.created", "exec.started"}
        client.remove("lasts", force=True)
        with pytest.raises(NotFound, match="lasts"):
            client.get("lasts")


async def test_the_environments_host_and_token_count(server: Server, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTKERNEL_HOST", server.url)
    monkeypatch.setenv("AGENTKERNEL_TOKEN", token)
    async with AsyncClient() as client:
        assert (await client.status()).pid > 0


async def test_a_brought_socket_is_a_way_there_too(there: dict[str, str], server: Server, token: str) -> None:
    async with AsyncClient(url=server.url, token=token) as client:
        pid = (await client.status()).pid
    async with AsyncClient(url=f"unix://{there['AGENTKERNEL_HOME']}/run/daemon.sock") as client:
        assert (await client.status()).pid == pid
        with pytest.raises(Unsupported, match="a mount of this machine"):
            await client.create(mounts=["/usr:/mnt:ro"])


async def test_errors_have_the_class_that_their_code_names(server: Server, token: str) -> None:
    url = server.url
    async with AsyncClient(url=url, token=token) as client:
        box = await client.create(name="taken")
        with pytest.raises(Conflict) as taken:
            await client.create(name="taken")
        assert taken.value.code == "conflict"
        await box.remove(force=True)
        with pytest.raises(NotFound):
            await client.get("taken")
    async with AsyncClient(url=url, token=server.token("read-only")) as client:
        assert await client.list() == []
        with pytest.raises(Refused):
            await client.create(name="mine")
    async with AsyncClient(url=url, token="ak_" + "x" * 43) as client:
        with pytest.raises(Unauthorized, match="does not take this token"):
            await client.list()
    async with AsyncClient(url=url) as client:
        with pytest.raises(Unauthorized, match="wants a token"):
            await client.list()


async def test_a_token_may_do_from_elsewhere_what_its_scopes_say(server: Server, token: str) -> None:
    """One that may only run commands has all of the sandbox that it was given for a block; others have what they may of those that last."""
    url = server.url
    async with AsyncClient(url=url, token=token) as client, await client.create(name="lasts") as lasts:
        async with AsyncClient(url=url, token=server.token("run-only")) as runner, runner.sandbox() as block:
            assert (await block.exec("echo", "run")).text == "run\n"
            await block.files.write("/tmp/note", b"written")
            assert await block.files.read("/tmp/note") == b"written"
            for refused in (runner.get("lasts"), runner.list(), runner.create()):
                with pytest.raises(Refused):
                    await refused
        async with AsyncClient(url=url, token=server.token("sandbox:lasts")) as narrow, await narrow.get("lasts") as box:
            assert (await box.exec("echo", "in")).text == "in\n"
            with pytest.raises(Refused):
                await narrow.create()
        async with AsyncClient(url=url, token=server.token("read-only")) as looking, await looking.get("lasts") as box:
            with pytest.raises(Refused):
                await box.exec("true")
        await lasts.remove(force=True)


@pytest.mark.parametrize(
    "options", [{"mounts": ["/usr:/mnt:ro"]}, {"directory": "/usr"}, {"image": "/usr"}, {"mount_home": True}, {"pass_environment": True}]
)
async def test_files_of_this_machine_are_not_named_there(server: Server, token: str, options: dict[str, object]) -> None:
    async with AsyncClient(url=server.url, token=token) as client:
        with pytest.raises(Unsupported, match="of this machine cannot be shown"):
            await client.create(**options)  # type: ignore[arg-type]
        assert await client.list() == []


async def test_what_this_process_has_in_its_environment_stays_here(server: Server, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONLY_HERE", "a secret of this machine")
    async with AsyncClient(url=server.url, token=token) as client, client.sandbox(profile="permissive") as block:
        assert b"ONLY_HERE" not in (await block.exec("env")).stdout


async def test_a_sandbox_whose_answer_was_lost_is_made_once(server: Server, token: str, wire: Wire) -> None:
    async with AsyncClient(url=wire.url, token=token) as client, AsyncClient(url=server.url, token=token) as other:
        assert await client.list() == []
        wire.is_deaf = True
        making = asyncio.create_task(client.create(name="once"))

        async def is_made() -> bool:
            return [each.name for each in await other.list(statuses=["running"])] == ["once"]

        await _until(is_made)
        crossings = wire.crossings
        wire.is_deaf = False
        wire.cut()
        box = await making
        assert wire.crossings > crossings
        made = [event async for event in other.events(kinds=["sandbox.created"], sandbox=box.id)]
        assert len(made) == 1
        await box.remove(force=True)


async def test_a_removal_whose_answer_was_lost_is_done(server: Server, token: str, wire: Wire) -> None:
    async with AsyncClient(url=wire.url, token=token) as client, AsyncClient(url=server.url, token=token) as other:
        await client.create(name="gone")
        wire.is_deaf = True
        removing = asyncio.create_task(client.remove("gone", force=True))

        async def is_removed() -> bool:
            return await other.list() == []

        await _until(is_removed)
        wire.is_deaf = False
        wire.cut()
        await removing


async def test_a_command_whose_start_was_lost_runs_once_and_is_followed(server: Server, token: str, wire: Wire) -> None:
    direct = AsyncClient(url=server.url, token=token)
    async with direct as other, AsyncClient(url=wire.url, token=token) as client, client.sandbox() as block:
        await block.exec("true")
        async with await other.get(block.id) as sibling:
            wire.is_deaf = True
            running = asyncio.create_task(
                block.exec("sh", "-c", "echo run >> /tmp/runs; until [ -e /tmp/go ]; do sleep 0.05; done; cat /tmp/runs; exit 9")
            )

            async def has_run() -> bool:
                return (await sibling.exec("cat", "/tmp/runs")).text != ""

            await _until(has_run)
            wire.is_deaf = False
            wire.cut()
            await sibling.exec("touch", "/tmp/go")
            done = await running
            assert (done.text, done.exit_code) == ("run\n", 9)


async def test_output_over_a_way_that_is_cut_again_and_again_is_whole(token: str, wire: Wire) -> None:
    script = "i=0; while [ $i -lt 40 ]; do seq 1000; i=$((i+1)); sleep 0.02; done"
    async with AsyncClient(url=wire.url, token=token) as client, client.sandbox() as block:
        text, seen = "", 0
        async for chunk in block.stream("sh", "-c", script):
            text += chunk.text
            if len(text) - seen > 30_000 and wire.crossings < 12:
                seen = len(text)
                wire.cut()
        assert text == "".join(f"{number}\n" for number in range(1, 1001)) * 40


async def test_a_command_outlives_the_server_that_it_was_started_through(there: dict[str, str], server: Server, token: str) -> None:
    with serving(there) as first:
        port = first.port
        with wired(lambda: port) as wire:
            async with AsyncClient(url=wire.url, token=token) as client, client.sandbox() as block:
                script = "echo before; until [ -e /tmp/go ]; do sleep 0.05; done; echo after; exit 4"
                running = asyncio.create_task(block.exec("sh", "-c", script))

                async def runs() -> bool:
                    return any(record.running for record in await block.processes())

                await _until(runs)
                port = server.port  # the next one, which listens already: how long a start takes is not the question
                first.kill()
                await block.files.write("/tmp/go", b"")
                done = await running
                assert (done.text, done.exit_code) == ("before\nafter\n", 4)


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", Unauthorized, "does not take this token"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", DoorMissing, "it answered 200"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", DoorMissing, "speaks no HTTP"),
    ],
)
async def test_what_stands_in_the_place_of_the_server_now_is_not_waited_for(
    server: Server, token: str, answer: bytes, kind: type[AgentKernelError], says: str
) -> None:
    """What is under way fails with what it is; and once the server is there again, the same client goes on with it."""
    with answering(answer) as other:
        port = server.port
        with wired(lambda: port) as wire:
            direct, client = AsyncClient(url=server.url, token=token), AsyncClient(url=wire.url, token=token)
            async with direct, client, await direct.create(name="stays") as box, await client.get("stays") as mine:
                running = asyncio.create_task(mine.exec("sh", "-c", "sleep 1000; true"))

                async def runs() -> bool:
                    return any(record.running for record in await box.processes())

                await _until(runs)
                port = other
                wire.cut()
                with pytest.raises(kind, match=says):
                    await running
                with pytest.raises(kind, match=says):
                    await client.status()
                port = server.port
                assert [each.name for each in await client.list()] == ["stays"]
                await box.remove(force=True)


async def test_a_program_that_is_killed_leaves_its_background_commands_alone(server: Server, token: str, there: dict[str, str]) -> None:
    url = server.url
    program = (
        "import sys; from agentkernel import Client\n"
        "box = Client(url=sys.argv[1], token=sys.argv[2]).get('shared')\n"
        "print(box.spawn('sleep', '1000').exec_id, flush=True)\n"
        "box.exec('sh', '-c', 'sleep 1000; true')\n"
    )
    async with AsyncClient(url=url, token=token) as client:
        box = await client.create(name="shared")
        environment = {name: there[name] for name in ("PATH", "PYTHONPATH", "HOME")}
        killed = subprocess.Popen([sys.executable, "-c", program, url, token], env=environment, stdout=subprocess.PIPE, text=True)
        assert killed.stdout is not None
        background = int(await asyncio.to_thread(killed.stdout.readline))

        async def both_run() -> bool:
            return sum(record.running for record in await box.processes()) == 2

        async def one_runs() -> bool:
            return [record.exec_id for record in await box.processes() if record.running] == [background]

        await _until(both_run)
        killed.kill()
        killed.wait(DEADLINE_S)
        killed.stdout.close()
        await _until(one_runs)
        await box.remove(force=True)
