"""What flows, on every front that has it: output as it comes, input, terminals, files and trees; and many commands at a time."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from parity.listed import fails, lasting, run, scenario

from agentkernel import AgentKernelError


class Heard:
    """What a command says, as far as it is listened to."""

    def __init__(self, source: Any) -> None:
        self._chunks: AsyncIterator[Any] = aiter(source)
        self.said: dict[int, bytes] = {1: b"", 2: b""}

    async def until(self, stream: int, wanted: bytes) -> None:
        """Listens until that is said."""
        while wanted not in self.said[stream]:
            await self._next()

    async def rest(self) -> dict[int, bytes]:
        """Listens to the end; returns all of it."""
        try:
            while True:
                await self._next()
        except StopAsyncIteration:
            return self.said

    async def leave(self) -> None:
        """Listens no more."""
        await self._chunks.aclose()  # type: ignore[attr-defined]

    async def _next(self) -> None:
        async with asyncio.timeout(60):
            chunk = await anext(self._chunks)
        self.said[chunk.stream] += chunk.data


def talk(box: Any, *argv: str, tty: tuple[int, int] | None = None) -> AbstractAsyncContextManager[Any]:
    """A command that is written to while it runs, on a terminal where a size is given."""
    conversation: AbstractAsyncContextManager[Any] = box.talk(*argv, tty=tty) if hasattr(box, "talk") else _spawned(box, argv, tty)
    return conversation


@asynccontextmanager
async def _spawned(box: Any, argv: tuple[str, ...], tty: tuple[int, int] | None) -> AsyncIterator[Any]:
    process = await box.spawn(*argv, stdin=True, tty=tty or False)
    try:
        yield process
    finally:
        await process.kill()


@scenario("create", "exec", "exec_streamed")
async def output_comes_while_the_command_runs(client: Any, directory: Path) -> None:
    async with lasting(client, name="flowing") as box:
        await box.exec("mkfifo", "/tmp/go")
        stream = box.stream("sh", "-c", "cat; read word < /tmp/go; echo $word >&2; exit 3", stdin="one é\n")
        heard = Heard(stream)
        await heard.until(1, "one é\n".encode())
        await box.exec("sh", "-c", "echo two > /tmp/go")
        assert await heard.rest() == {1: "one é\n".encode(), 2: b"two\n"}
        assert stream.exit_code == 3
        with fails("command_not_found"):
            await Heard(box.stream("no-such-program")).rest()


@scenario("run_streamed")
async def a_run_is_heard_as_it_runs(client: Any, directory: Path) -> None:
    script = "cat; echo err >&2; exit 3"
    async with AsyncExitStack() as stack:
        if hasattr(client, "run_stream"):
            stream = client.run_stream("sh", "-c", script, stdin="in\n")
        else:
            stream = (await stack.enter_async_context(client.sandbox())).stream("sh", "-c", script, stdin="in\n")
        assert await Heard(stream).rest() == {1: b"in\n", 2: b"err\n"}
        assert stream.exit_code == 3


@scenario("create", "exec_interactive")
async def a_command_is_talked_to_while_it_runs(client: Any, directory: Path) -> None:
    script = "while read line; do echo got $line; echo heard $line >&2; done; exit 4"
    async with lasting(client, name="talking") as box, talk(box, "sh", "-c", script) as process:
        heard = Heard(process.output())
        for word in (b"one", b"two"):
            await process.write(word + b"\n")
            await heard.until(1, b"got " + word)
            await heard.until(2, b"heard " + word)
        await process.close_input()
        assert await heard.rest() == {1: b"got one\ngot two\n", 2: b"heard one\nheard two\n"}
        assert (await process.wait()).exit_code == 4


@scenario("create", "terminal")
async def a_terminal_takes_keys_and_other_sizes(client: Any, directory: Path) -> None:
    script = "trap 'stty size' WINCH; stty size; while :; do read line && echo got $line && exit 5; done"
    async with lasting(client, name="shown") as box, talk(box, "sh", "-c", script, tty=(11, 77)) as terminal:
        heard = Heard(terminal.output())
        await heard.until(1, b"11 77\r\n")
        await terminal.resize(33, 99)
        await heard.until(1, b"33 99\r\n")
        await terminal.write(b"word\r")
        await heard.until(1, b"got word\r\n")
        await heard.rest()
        assert (await terminal.wait()).exit_code == 5


@scenario("create", "exec", "detach", "attach")
async def output_is_taken_up_where_it_was_left(client: Any, directory: Path) -> None:
    async with lasting(client, name="taken") as box:
        await box.exec("mkfifo", "/tmp/go", "/tmp/end")
        process = await box.spawn("sh", "-c", "echo one; read word < /tmp/go; echo $word; read word < /tmp/end; echo last >&2")
        first = Heard(process.output())
        await first.until(1, b"one\n")
        await first.leave()
        await box.exec("sh", "-c", "echo two > /tmp/go")
        again = Heard((await box.process(process.exec_id)).output())
        await again.until(1, b"two\n")
        await box.exec("sh", "-c", "echo > /tmp/end")
        rest = await again.rest()
        assert rest[1] in (b"two\n", b"one\ntwo\n") and rest[2] == b"last\n"  # from what is still kept on
        with fails("not_found"):
            await Heard((await box.process(0xABC)).output()).rest()


@scenario("create", "file_upload", "file_download")
async def a_file_is_read_in_pieces(client: Any, directory: Path) -> None:
    data = os.urandom(3_000_000)
    async with lasting(client, name="pieces") as box:
        await getattr(box.files, "write_stream", box.files.write)("/tmp/data", data)
        assert b"".join([piece async for piece in box.files.read_stream("/tmp/data")]) == data
        with fails("file_operation", errno.ENOENT):
            _ = [piece async for piece in box.files.read_stream("/tmp/none")]


@scenario("create", "tree", "exec")
async def trees_go_in_and_come_back(client: Any, directory: Path) -> None:
    source = directory / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "data").write_bytes(os.urandom(400_000))
    (source / "run").write_text("#!/bin/sh\necho ran\n")
    (source / "run").chmod(0o755)
    (source / "link").symlink_to("deep/data")
    async with lasting(client, name="trees") as box:
        up = await box.files.upload(source, "/tmp/into/copy")
        assert (await box.exec("/tmp/into/copy/run")).text == "ran\n"
        down = await box.files.download("/tmp/into/copy", directory / "back")
        assert (up.files, up.symlinks, up.bytes) == (down.files, down.symlinks, down.bytes) == (2, 1, 400_019)
        with fails("file_operation", errno.ENOENT):
            await box.files.download("/tmp/none", directory / "none")
    assert (directory / "back" / "deep" / "data").read_bytes() == (source / "deep" / "data").read_bytes()
    assert stat.S_IMODE((directory / "back" / "run").stat().st_mode) == 0o755
    assert os.readlink(directory / "back" / "link") == "deep/data"


@scenario("run", instead=("batch",))
async def many_commands_run_side_by_side(client: Any, directory: Path) -> None:
    """As one request where there is such an operation (`batch`), and elsewhere as the reason says that the list has against it."""
    commands = (["echo", "one"], ["sh", "-c", "echo two; exit 3"], ["no-such-program"], ["cat", "/proc/sys/kernel/hostname"])
    if hasattr(client, "batch"):
        told = await client.batch(commands)
    else:
        told = await asyncio.gather(*(_result(client, argv) for argv in commands))
    assert told[:3] == [("one\n", 0), ("two\n", 3), "command_not_found"]
    assert told[3][1] == 0
    assert await client.list() == []


async def _result(client: Any, argv: list[str]) -> tuple[str, int] | str:
    try:
        done = await run(client, *argv)
    except AgentKernelError as error:
        return error.code
    return done.text, done.exit_code
