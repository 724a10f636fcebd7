"""What the classes of the SDK do alike beyond what every front does: each says what of it the other fronts do not have."""

from __future__ import annotations

import asyncio
import errno
import signal
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from parity.listed import fails, lasting, of_the_client
from parity.network_scenarios import LISTENER
from parity.operations import No

from agentkernel import Chunk, CommandFailed
from agentkernel.model.command import Cause


@of_the_client("run", "exec", why="`check` and `Result` are the SDK's")
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


@of_the_client("exec", why="input in pieces, as an iterable gives them")
async def input_is_text_bytes_or_pieces(client: Any, directory: Path) -> None:
    async with client.sandbox() as box:
        assert (await box.exec("cat", stdin="é")).text == "é"
        assert (await box.exec("cat", stdin=b"\0")).stdout == b"\0"
        assert (await box.exec("wc", "-c", stdin=(b"x" * 100_000 for _ in range(20)))).text.split() == ["2000000"]
        assert (await box.exec("head", "-c1", stdin=(b"y" * 100_000 for _ in range(20)))).text == "y"
        assert (await box.exec("cat")).stdout == b""


@of_the_client("exec", "processes", why="an exception of the caller's own input")
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


@of_the_client("exec", "file_write", "file_read", "processes", why="values of a kind that JSON and words do not have")
async def a_call_that_cannot_be_right_is_invalid_input_everywhere(client: Any, directory: Path) -> None:
    async with client.sandbox() as box:
        files = box.files
        assert (await box.exec(["echo", "a list"])).text == "a list\n"
        assert (await box.exec(["cat"], stdin=bytearray(b"x"))).stdout == b"x"
        assert (await box.exec("cat", stdin=["é", b"x"])).text == "éx"
        await files.write("/tmp/data", memoryview(b"view"))
        assert await files.read(b"/tmp/data") == b"view"
        process, deaf = await box.spawn("cat", stdin=True), await box.spawn("sleep", "1000")
        for wrong in (
            lambda: box.exec(),
            lambda: box.exec("true", cwd="relative"),
            lambda: files.read("relative"),
            lambda: box.connect(0),
            lambda: process.signal(65),
            lambda: deaf.write(b"x"),
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
        with fails("unknown_key"):
            await box.exec("true", timout=3)
        assert await files.read("/tmp/data") == b"view"
        await box.kill_commands()


@of_the_client("exec", "detach", "process_info", why="`wait` tells a timeout, with `ExitStatus`")
async def a_timeout_ends_the_tree_and_leaves_the_sandbox(client: Any, directory: Path) -> None:
    async with client.sandbox() as box:
        with fails("timed_out"):
            await box.exec("sh", "-c", "sleep 1000 & sleep 1000", timeout=0.3)
        with fails("timed_out"):
            await box.exec("sleep", "1000", timeout="300ms", stdin=(b"x" for _ in range(1)), tty=True)
        process = await box.spawn("sleep", "1000", timeout=0.2)
        assert (await process.wait()).cause is Cause.TIMEOUT
        assert "sleep" not in (await box.exec("ps", "-e")).text.replace("ps -e", "")


@of_the_client("exec", why="a terminal whose output is wanted whole")
async def a_command_has_its_own_surroundings(client: Any, directory: Path) -> None:
    async with client.sandbox(environment={"BASE": "1", "BOTH": "sandbox"}) as box:
        script = "echo $BASE $BOTH $OWN; pwd; id -u"
        result = await box.exec("sh", "-c", script, environment={"BOTH": "command", "OWN": "2"}, cwd="/tmp")
        assert result.text.split() == ["1", "command", "2", "/tmp", "1000"]
        assert (await box.exec("sh", "-c", "tty >&2; stty size", tty=(33, 77))).text.split()[-2:] == ["33", "77"]


@of_the_client("exec", why="the limit is the caller's; the other fronts have bounds of their own, with tests of their own")
async def output_is_bounded_and_says_so(client: Any, directory: Path) -> None:
    async with client.sandbox() as box:
        for given in ({}, {"stdin": (b"x" for _ in range(1))}):
            result = await box.exec("sh", "-c", "cat >/dev/null; yes | head -c 3000000; echo e >&2", output_limit_bytes=1000, **given)
            assert (len(result.stdout), result.stdout_truncated, result.stderr, result.stderr_truncated) == (1000, True, b"e\n", False)


@of_the_client("exec_streamed", why="`Chunk`, and errors that an iterator raises")
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


@of_the_client("exec_streamed", "processes", why="a reader that leaves within its own process")
async def a_stream_that_is_left_ends_its_command(client: Any, directory: Path) -> None:
    async with client.sandbox() as box:
        async with box.stream("sh", "-c", "yes; true") as stream:
            async for _ in stream:
                break
        assert stream.status.cause is Cause.KILLED
        assert [each for each in await box.processes() if each.running] == []


@of_the_client("detach", "exec_interactive", "process_info", why="two `Process` objects of one command")
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


@of_the_client("detach", "signal", "kill", "kill_all", "process_info", why="`wait` tells the end, with `ExitStatus`")
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


@of_the_client("file_read", "file_download", "file_write", "file_stat", "file_list", why="offsets, appending and owners in one call")
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


@of_the_client("file_symlink", "file_mode", "file_stat", "file_write", why="of symlinks and modes the other fronts have none")
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


@of_the_client("file_watch", why="an iterator of `WatchEvent`")
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


@of_the_client("connect", "detach", why="the operation is the client's alone")
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


@of_the_client("statistics", why="`SandboxStatistics`")
async def numbers_come_from_inside(client: Any, directory: Path) -> None:
    async with client.sandbox(memory="256MiB", cpus=0.5) as box:
        numbers = await box.statistics()
        assert numbers.uptime_ms >= 0 and numbers.processes == 0


@of_the_client("run", "release", why="a block of the program")
async def a_block_is_the_life_of_its_sandbox(client: Any, directory: Path) -> None:
    async with client.sandbox(memory="256MiB") as box:
        assert (await box.exec("true")).ok
        assert len(box.id) == 16 and box.backend == "namespaces"
        for operation in (box.stop, box.start, box.info, box.remove):
            with fails("conflict"):
                await operation()
    with fails("sandbox_lost"):
        await box.exec("true")


@of_the_client("list", "create", "rename", "relabel", "extend", why="filters by status, and a time that is taken back")
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


@of_the_client(
    "create",
    why="a block of `sandbox`, and what is of this machine",
    elsewhere=No("a mount of this machine is `unsupported` there, before any policy is asked"),
)
async def a_block_that_cannot_be_had_is_refused_before_anything_is_done(client: Any, directory: Path) -> None:
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


@of_the_client("exec", why="calls side by side within one client")
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
