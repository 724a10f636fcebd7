"""What every front must do alike. A scenario takes a client and says in assertions what it must see; error codes are part of it."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from agentkernel import AgentKernelError, Chunk, CommandFailed
from agentkernel.errors import FileOperationFailed
from agentkernel.model.command import Cause

Scenario = Callable[[Any, Path], Awaitable[None]]
SCENARIOS: list[Scenario] = []
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


def scenario(function: Scenario) -> Scenario:
    """One more."""
    SCENARIOS.append(function)
    return function


@contextmanager
def fails(code: str, number: int | None = None) -> Iterator[None]:
    """The block must end with an error of that code (and errno)."""
    try:
        yield
    except AgentKernelError as error:
        assert error.code == code, repr(error)
        if number is not None:
            assert isinstance(error, FileOperationFailed)
            assert error.errno == number
    else:
        raise AssertionError(f"no error, in place of {code}")


@asynccontextmanager
async def lasting(client: Any, **options: Any) -> AsyncIterator[Any]:
    """A sandbox that lasts, removed after the block."""
    box = await client.create(**options)
    try:
        yield box
    finally:
        await box.remove(force=True)


@scenario
async def streams_are_kept_apart_and_are_bytes(client: Any, directory: Path) -> None:
    async with client.sandbox() as box:
        result = await box.exec("sh", "-c", r"printf 'out\0\377'; echo err >&2; exit 3")
        assert (result.stdout, result.stderr, result.exit_code, result.ok) == (b"out\0\xff", b"err\n", 3, False)
        assert (result.text, result.error_text) == ("out\0�", "err\n")
        assert result.status.cause is Cause.ITSELF


@scenario
async def a_failing_command_is_a_result_until_an_error_is_asked_for(client: Any, directory: Path) -> None:
    async with client.sandbox() as box:
        with fails("command_failed"):
            (await box.exec("sh", "-c", "echo why >&2; exit 5")).check()
        try:
            await box.exec("sh", "-c", "kill -9 $$", check=True)
        except CommandFailed as error:
            assert "signal 9" in str(error)
            assert error.result.exit_code == 137  # type: ignore[attr-defined]
        assert (await box.exec("true", check=True)).check().ok


@scenario
async def input_is_text_bytes_or_pieces(client: Any, directory: Path) -> None:
    async with client.sandbox() as box:
        assert (await box.exec("cat", stdin="é")).text == "é"
        assert (await box.exec("cat", stdin=b"\0")).stdout == b"\0"
        assert (await box.exec("wc", "-c", stdin=(b"x" * 100_000 for _ in range(20)))).text.split() == ["2000000"]
        assert (await box.exec("head", "-c1", stdin=(b"y" * 100_000 for _ in range(20)))).text == "y"
        assert (await box.exec("cat")).stdout == b""


@scenario
async def input_that_fails_ends_the_command_and_is_raised(client: Any, directory: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x"
        raise LookupError("the source is gone")

    async with client.sandbox() as box:
        try:
            await box.exec("cat", stdin=broken())
        except LookupError:
            pass
        else:
            raise AssertionError("no error")
        assert [each for each in await box.processes() if each.running] == []


@scenario
async def commands_that_do_not_start_say_why(client: Any, directory: Path) -> None:
    async with client.sandbox() as box:
        for start in (box.exec, box.spawn):
            with fails("command_not_found"):
                await start("no-such-program")
            with fails("command_not_executable"):
                await start("/etc/passwd")
            with fails("command_not_started"):
                await start("true", cwd="/no/such/directory")
        with fails("invalid_input"):
            await box.exec()
        with fails("unknown_key"):
            await box.exec("true", timout=3)
        with fails("invalid_input"):
            await box.exec("true", cwd="relative")


@scenario
async def a_call_that_cannot_be_right_is_invalid_input_everywhere(client: Any, directory: Path) -> None:
    async with client.sandbox() as box:
        files = box.files
        assert (await box.exec(["echo", "a list"])).text == "a list\n"
        assert (await box.exec(["cat"], stdin=bytearray(b"x"))).stdout == b"x"
        assert (await box.exec("cat", stdin=["é", b"x"])).text == "éx"
        await files.write("/tmp/data", memoryview(b"view"))
        assert await files.read(b"/tmp/data") == b"view"
        process = await box.spawn("cat", stdin=True)
        for wrong in (
            lambda: box.exec("echo", 5),
            lambda: box.exec("cat", stdin=5),
            lambda: box.exec("true", environment={"A": 1}),
            lambda: box.process("aa"),
            lambda: box.connect("80"),
            lambda: box.unpublish("80"),
            lambda: process.signal("TERM"),
            lambda: process.write(5),
            lambda: process.resize("1", "2"),
            lambda: files.write("/tmp/data", "text"),
            lambda: files.write("/tmp/data", b"", mode="644"),
            lambda: files.change_mode("/tmp/data", "644"),
            lambda: files.read("/tmp/data", length=-1),
            lambda: files.read("/tmp/data", limit_bytes=-1),
            lambda: files.read(5),
            lambda: client.get(5),
            lambda: client.list(statuses="running"),
            lambda: client.images.pull(5),
        ):
            with fails("invalid_input"):
                await wrong()
        for iterator in (client.events(kinds="exec."), client.events(since="x"), box.network_log(since="x")):
            with fails("invalid_input"):
                async for _ in iterator:
                    pass
        assert await files.read("/tmp/data") == b"view"
        await process.kill()


@scenario
async def a_timeout_ends_the_tree_and_leaves_the_sandbox(client: Any, directory: Path) -> None:
    async with client.sandbox() as box:
        with fails("timed_out"):
            await box.exec("sh", "-c", "sleep 1000 & sleep 1000", timeout=0.3)
        with fails("timed_out"):
            await box.exec("sleep", "1000", timeout="300ms", stdin=(b"x" for _ in range(1)), tty=True)
        process = await box.spawn("sleep", "1000", timeout=0.2)
        assert (await process.wait()).cause is Cause.TIMEOUT
        assert "sleep" not in (await box.exec("ps", "-e")).text.replace("ps -e", "")


@scenario
async def a_command_has_its_own_surroundings(client: Any, directory: Path) -> None:
    async with client.sandbox(environment={"BASE": "1", "BOTH": "sandbox"}) as box:
        script = "echo $BASE $BOTH $OWN; pwd; id -u"
        result = await box.exec("sh", "-c", script, environment={"BOTH": "command", "OWN": "2"}, cwd="/tmp")
        assert result.text.split() == ["1", "command", "2", "/tmp", "1000"]
        assert (await box.exec("sh", "-c", "tty >&2; stty size", tty=(33, 77))).text.split()[-2:] == ["33", "77"]


@scenario
async def output_is_bounded_and_says_so(client: Any, directory: Path) -> None:
    async with client.sandbox() as box:
        for given in ({}, {"stdin": (b"x" for _ in range(1))}):
            result = await box.exec("sh", "-c", "cat >/dev/null; yes | head -c 3000000; echo e >&2", output_limit_bytes=1000, **given)
            assert (len(result.stdout), result.stdout_truncated, result.stderr, result.stderr_truncated) == (1000, True, b"e\n", False)


@scenario
async def output_is_read_while_the_command_runs(client: Any, directory: Path) -> None:
    async with client.sandbox() as box:
        chunks = []
        stream = box.stream("sh", "-c", "echo one; read line; echo two $line >&2", stdin="hello\n")
        async for chunk in stream:
            chunks.append(chunk)
        assert chunks == [Chunk(stream=1, data=b"one\n"), Chunk(stream=2, data=b"two hello\n")]
        assert stream.exit_code == 0
        total = 0
        async for chunk in box.stream("sh", "-c", "yes | head -c 5000000"):
            total += len(chunk.data)
        assert total == 5_000_000
        with fails("timed_out"):
            async for _ in box.stream("sh", "-c", "echo x; sleep 100", timeout=0.3):
                pass


@scenario
async def a_stream_that_is_left_ends_its_command(client: Any, directory: Path) -> None:
    async with client.sandbox() as box:
        async with box.stream("sh", "-c", "yes; true") as stream:
            async for _ in stream:
                break
        assert stream.status.cause is Cause.KILLED
        assert [each for each in await box.processes() if each.running] == []


@scenario
async def a_background_command_is_talked_to_and_taken_up_again(client: Any, directory: Path) -> None:
    async with client.sandbox() as box:
        process = await box.spawn("sh", "-c", "while read line; do echo got $line; done; exit 4", stdin=True)
        await process.write("one\n")
        async for chunk in process.output():
            assert chunk.text == "got one\n"
            break
        assert [(each.exec_id, each.running, each.detached) for each in await box.processes()] == [(process.exec_id, True, True)]
        again = await box.process(process.exec_id)
        assert (again.exec_id, again.pid) == (process.exec_id, process.pid)
        await process.close_input()
        assert (await again.wait()).exit_code == 4
        with fails("not_found"):
            await box.process(12345)


@scenario
async def background_commands_are_signalled_and_killed(client: Any, directory: Path) -> None:
    async with client.sandbox() as box:
        gentle = await box.spawn("sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done")
        async for _ in gentle.output():
            break
        await gentle.signal(signal.SIGTERM)
        assert (await gentle.wait()).exit_code == 7
        other = await box.spawn("sleep", "1000")
        await other.kill()
        status = await other.wait()
        assert (status.exit_code, status.signal, status.cause) == (137, 9, Cause.KILLED)
        third = await box.spawn("sleep", "1000")
        await box.kill_commands()
        assert (await third.wait()).signal == 9
        with fails("invalid_input"):
            await third.signal(65)


@scenario
async def files_are_written_and_read(client: Any, directory: Path) -> None:
    async with client.sandbox() as box:
        files = box.files
        await files.write("/tmp/a/b/data", b"\0\xff" * 100_000, parents=True, mode=0o640)
        assert await files.read("/tmp/a/b/data", offset=199_999) == b"\xff"
        assert await files.read("/tmp/a/b/data", length=3) == b"\0\xff\0"
        assert b"".join([chunk async for chunk in files.read_stream("/tmp/a/b/data")]) == b"\0\xff" * 100_000
        await files.write_text("/tmp/a/text", "é\n")
        await files.write("/tmp/a/text", b"more", append=True)
        assert await files.read_text("/tmp/a/text") == "é\nmore"
        record = await files.stat("/tmp/a/b/data")
        assert (record.name, stat.filemode(record.mode), record.size_bytes, record.uid) == (b"data", "-rw-r-----", 200_000, 1000)
        assert [record.name for record in await files.list("/tmp/a")] == [b"b", b"text"]
        assert await files.exists("/tmp/a") and not await files.exists("/tmp/a/none")
        with fails("output_too_large"):
            await files.read("/tmp/a/b/data", limit_bytes=10)


@scenario
async def files_are_moved_linked_and_removed(client: Any, directory: Path) -> None:
    async with client.sandbox() as box:
        files = box.files
        await files.make_directory("/tmp/x/y", parents=True)
        await files.write("/tmp/x/f", b"1")
        await files.move("/tmp/x/f", "/tmp/x/g")
        await files.symlink("g", "/tmp/x/link")
        await files.change_mode("/tmp/x/g", 0o700)
        assert (await files.stat("/tmp/x/link", follow=False)).target == b"g"
        assert stat.S_IMODE((await files.stat("/tmp/x/link")).mode) == 0o700
        with fails("file_operation", errno.ENOTEMPTY):
            await files.remove("/tmp/x")
        await files.remove("/tmp/x", recursive=True)
        for operation in (files.read, files.stat, files.list, files.remove):
            with fails("file_operation", errno.ENOENT):
                await operation("/tmp/x")
        with fails("file_operation", errno.EROFS):
            await files.write("/usr/bin/new", b"")
        await files.write("/tmp/there", b"")
        with fails("file_operation", errno.EEXIST):
            await files.write("/tmp/there", b"", exclusive=True)
        with fails("invalid_input"):
            await files.read("relative")


@scenario
async def changes_of_files_are_watched(client: Any, directory: Path) -> None:
    async with client.sandbox() as box:
        seen = []
        async for event in box.files.watch("/tmp"):
            if event.mask == 0:
                await box.files.write("/tmp/new", b"x")
                continue
            seen.append(event.name)
            break
        assert seen == [b"new"]


@scenario
async def trees_go_in_and_come_back(client: Any, directory: Path) -> None:
    source = directory / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "data").write_bytes(os.urandom(400_000))
    (source / "run").write_text("#!/bin/sh\necho ran\n")
    (source / "run").chmod(0o755)
    (source / "link").symlink_to("deep/data")
    async with client.sandbox() as box:
        up = await box.files.upload(source, "/tmp/into/copy")
        assert (await box.exec("/tmp/into/copy/run")).text == "ran\n"
        down = await box.files.download("/tmp/into/copy", directory / "back")
        assert (up.files, up.symlinks, up.bytes) == (down.files, down.symlinks, down.bytes) == (2, 1, 400_019)
        with fails("file_operation", errno.ENOENT):
            await box.files.download("/tmp/none", directory / "none")
    assert (directory / "back" / "deep" / "data").read_bytes() == (source / "deep" / "data").read_bytes()
    assert stat.S_IMODE((directory / "back" / "run").stat().st_mode) == 0o755
    assert os.readlink(directory / "back" / "link") == "deep/data"


@scenario
async def ports_inside_are_connected_to(client: Any, directory: Path) -> None:
    async with client.sandbox() as box:
        server = await box.spawn("python3", "-c", LISTENER)
        async for chunk in server.output():
            assert chunk.text == "ready\n"
            break
        async with await box.connect(8000) as connection:
            await connection.send(b"hello " * 50_000)
            await connection.close_sending()
            assert await connection.receive_all() == b"HELLO " * 50_000
        async with await box.connect(8001) as refused:
            with fails("file_operation", errno.ECONNREFUSED):
                await refused.receive()
        async with await box.connect(8000):
            pass
        with fails("invalid_input"):
            await box.connect(0)
        await server.kill()


@scenario
async def numbers_come_from_inside(client: Any, directory: Path) -> None:
    async with client.sandbox(memory="256MiB", cpus=0.5) as box:
        numbers = await box.statistics()
        assert numbers.uptime_ms >= 0 and numbers.processes == 0


@scenario
async def a_block_is_the_life_of_its_sandbox(client: Any, directory: Path) -> None:
    async with client.sandbox(memory="256MiB") as box:
        assert (await box.exec("true")).ok
        assert len(box.id) == 16 and box.backend == "namespaces"
        for operation in (box.stop, box.start, box.info, box.remove):
            with fails("conflict"):
                await operation()
    with fails("sandbox_lost"):
        await box.exec("true")


@scenario
async def a_sandbox_that_lasts_keeps_its_files_over_a_stop(client: Any, directory: Path) -> None:
    async with lasting(client, name="keeper", labels={"kind": "test"}) as box:
        await box.files.write("/home/user/kept", b"here")
        assert (await box.stop()).status == "stopped"
        with fails("conflict"):
            await box.exec("true")
        assert (await box.stop()).status == "stopped"
        assert (await box.start()).status == "running"
        assert await box.files.read("/home/user/kept") == b"here"
        found = await client.get("keeper")
        assert found.id == box.id
        assert await found.files.read("/home/user/kept") == b"here"
        with fails("conflict"):
            await found.remove()
    for operation in (box.info, box.start, box.stop, box.remove):
        with fails("not_found"):
            await operation()
    with fails("not_found"):
        await client.get("keeper")


@scenario
async def sandboxes_are_listed_named_and_labelled(client: Any, directory: Path) -> None:
    async with (
        lasting(client, name="one", labels={"a": "1", "b": "2"}, start=False) as one,
        lasting(client, name="two", start=False) as two,
    ):
        with fails("conflict"):
            await client.create(name="one")
        with fails("invalid_input"):
            await client.create(name="-bad-")
        assert {box.name for box in await client.list()} == {"one", "two"}
        assert [box.name for box in await client.list(labels={"a": "1"})] == ["one"]
        assert await client.list(statuses=["running"]) == []
        assert [box.id for box in await client.list(statuses=["stopped"])] == sorted([one.id, two.id])
        with fails("unknown_key"):
            await client.list(statuses=["asleep"])
        with fails("conflict"):
            await one.rename("two")
        assert (await one.rename("uno")).name == one.name == "uno"
        assert (await two.relabel({"z": "9"})).labels == (("z", "9"),)
        info = await two.extend("1h")
        assert info.expires_at is not None and info.status == "stopped"
        assert (await two.extend(None)).expires_at is None
        with fails("not_found"):
            await client.remove("one")


@scenario
async def what_cannot_be_had_is_refused_before_anything_is_done(client: Any, directory: Path) -> None:
    refusals = {
        "unknown_key": {"profile": "lenient"},
        "invalid_input": {"memory": "much"},
        "refused": {"mounts": ["/:/host"]},
        "not_found": {"image": "/no/such/image"},
        "unsupported": {"min_isolation": "vm"},
    }
    for code, options in refusals.items():
        for make in (client.create, _entered(client)):
            with fails(code):
                await make(**options)
    with fails("unknown_key"):
        await client.create(memroy="1GiB")
    with fails("unknown_key"):
        await client.create(backend="no-such")
    assert await client.list() == []


@scenario
async def what_happens_is_in_the_trail(client: Any, directory: Path) -> None:
    async with lasting(client, name="seen") as box:
        await box.exec("true")
        await box.exec("false")
        await box.stop()
    kinds = [event.kind async for event in client.events(sandbox=box.id)]
    assert kinds[0] == "sandbox.created" and kinds[-1] == "sandbox.removed"
    assert kinds.count("exec.ended") == 2 and "sandbox.stopped" in kinds
    assert [event.kind async for event in client.events(sandbox=box.id, kinds=["exec."])] == [
        kind for kind in kinds if kind.startswith("exec.")
    ]
    assert [event async for event in client.events(kinds=["no.such"])] == []


@scenario
async def background_output_is_recorded(client: Any, directory: Path) -> None:
    async with lasting(client, name="logged") as box:
        process = await box.spawn("sh", "-c", "echo out; echo err >&2")
        await process.wait()
        found: dict[int, bytes] = {}
        while b"".join(found.values()).count(b"\n") < 2:
            found = {}
            async for entry in box.logs(exec_id=process.exec_id):
                found[entry.stream] = found.get(entry.stream, b"") + entry.data
            await asyncio.sleep(0.01)
        assert found == {1: b"out\n", 2: b"err\n"}
        assert [entry async for entry in box.logs(exec_id=1)] == []


@scenario
async def the_kernel_tells_about_itself(client: Any, directory: Path) -> None:
    fingerprints = {found.backend: found for found in await client.fingerprints()}
    assert fingerprints["namespaces"].ready
    before = await client.status()
    async with lasting(client):
        during = await client.status()
        assert (during.sandboxes, during.running) == (before.sandboxes + 1, before.running + 1)
    assert list(await client.collect_garbage(dry_run=True)) == []


@scenario
async def many_commands_at_once_do_not_wait_for_each_other(client: Any, directory: Path) -> None:
    async with client.sandbox() as box:
        await box.exec("mkfifo", "/tmp/go", check=True)
        slow = asyncio.ensure_future(box.exec("sh", "-c", "read x < /tmp/go; echo $x"))
        results = await asyncio.gather(*(box.exec("echo", str(number)) for number in range(20)))
        assert [result.text for result in results] == [f"{number}\n" for number in range(20)]
        assert not slow.done()
        await box.exec("sh", "-c", "echo now > /tmp/go")
        assert (await slow).text == "now\n"


def _entered(client: Any) -> Callable[..., Awaitable[None]]:
    async def enter(**options: Any) -> None:
        async with client.sandbox(**options):
            pass

    return enter
