"""Commands on a terminal."""

from __future__ import annotations

import asyncio
import signal

import pytest

from agentkernel.abc import Sandbox
from agentkernel.model.command import Command, TerminalSize
from agentkernel.model.isolation import Feature, Fingerprint
from agentkernel.testing.base import ConformanceBase, need, read_until, shell

SIZE = TerminalSize(rows=31, columns=97)
INTERRUPT, END_OF_FILE, SUSPEND = b"\x03", b"\x04", b"\x1a"


class TerminalConformance(ConformanceBase):
    """What a person at a terminal expects."""

    @pytest.fixture
    def host(self, sandbox: Sandbox, fingerprint: Fingerprint) -> Sandbox:
        """A sandbox that has terminals."""
        need(fingerprint, Feature.TERMINAL)
        return sandbox

    async def test_every_standard_descriptor_is_the_terminal(self, host: Sandbox) -> None:
        result = await host.exec(Command(argv=shell("test -t 0 && test -t 1 && test -t 2 && echo all; echo err >&2"), terminal=SIZE))
        assert result.stdout == b"all\r\nerr\r\n"
        assert result.stderr == b""

    async def test_it_has_the_size_that_was_asked_for(self, host: Sandbox) -> None:
        assert (await host.exec(Command(argv=(b"stty", b"size"), terminal=SIZE))).stdout == b"31 97\r\n"

    async def test_a_new_size_reaches_the_running_command_with_a_signal(self, host: Sandbox) -> None:
        script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done"
        process = await host.start(Command(argv=shell(script), terminal=SIZE, timeout_s=20))
        output = process.output()
        assert (await asyncio.wait_for(anext(output), 10))[1].startswith(b"ready")
        await process.resize(TerminalSize(rows=5, columns=240))
        rest = b"".join([data async for _, data in output])
        assert b"5 240\r\n" in rest
        assert (await process.wait()).exit_code == 0

    async def test_typing_the_interrupt_character_interrupts_the_foreground(self, host: Sandbox) -> None:
        process = await host.start(Command(argv=shell("echo ready; exec sleep 60"), terminal=SIZE, stdin=True))
        await read_until(process, b"ready")
        await asyncio.sleep(0.1)
        await process.write_stdin(INTERRUPT)
        status = await asyncio.wait_for(process.wait(), 10)
        assert (status.exit_code, status.signal) == (128 + signal.SIGINT, signal.SIGINT)

    async def test_closing_the_input_types_the_end_of_file(self, host: Sandbox) -> None:
        process = await host.start(Command(argv=shell("stty -echo; echo ready; cat; echo over"), terminal=SIZE, stdin=True, timeout_s=20))
        output = process.output()
        assert (await asyncio.wait_for(anext(output), 10))[1].startswith(b"ready")
        await process.write_stdin(b"typed\n")
        await process.close_stdin()
        assert b"".join([data async for _, data in output]).replace(b"^D\b\b", b"") == b"typed\r\nover\r\n"
        assert (await process.wait()).exit_code == 0

    async def test_an_interactive_shell_has_job_control(self, host: Sandbox) -> None:
        process = await host.start(
            Command(argv=(b"sh", b"-i"), terminal=SIZE, stdin=True, environment={b"PS1": b"prompt> ", b"ENV": b""}, timeout_s=30)
        )
        seen = bytearray()

        async def follow() -> None:
            async for _, data in process.output():
                seen.extend(data)

        follower = asyncio.create_task(follow())

        async def typed(text: bytes, answer: bytes) -> None:
            start = len(seen)
            await process.write_stdin(text)
            for _ in range(500):
                if answer in seen[start:]:
                    return
                await asyncio.sleep(0.02)
            raise AssertionError(f"after {text!r} the shell did not say {answer!r} but {bytes(seen)!r}")

        await typed(b"sleep 61\n", b"sleep 61\r\n")
        await asyncio.sleep(0.3)
        await typed(SUSPEND, b"prompt> ")
        await typed(b"\n", b"prompt> ")  # some terminals leave the character in the shell's line
        await typed(b"jobs\n", b"Stopped")
        await typed(b"kill -9 %1; wait; echo $((40 + 2))\n", b"\n42\r\n")
        await process.write_stdin(b"exit 3\nexit 3\n")  # dash wants it twice when a job was stopped
        assert (await asyncio.wait_for(process.wait(), 10)).exit_code == 3
        await follower

    async def test_the_list_of_processes_says_which_are_on_one(self, host: Sandbox) -> None:
        on_it = await host.start(Command(argv=(b"cat",), terminal=SIZE, stdin=True))
        beside = await host.start(Command(argv=(b"cat",), stdin=True))
        found = {record.exec_id: record.terminal for record in await host.processes() if record.running}
        assert (found[on_it.exec_id], found[beside.exec_id]) == (True, False)
        for process in (on_it, beside):
            await process.kill()
            await process.wait()

    async def test_a_command_without_a_terminal_has_no_controlling_one(self, host: Sandbox) -> None:
        result = await host.exec(Command(argv=shell("test -t 0 || test -t 1 || test -t 2; echo $?; (: < /dev/tty) 2>/dev/null; echo $?")))
        first, second = result.stdout.split()
        assert first == b"1"
        assert second != b"0"

    async def test_hanging_up_ends_what_runs_on_the_terminal(self, host: Sandbox) -> None:
        process = await host.start(Command(argv=shell("sleep 60 & echo ready; sleep 61"), terminal=SIZE))
        await read_until(process, b"ready")
        await process.kill()
        assert (await asyncio.wait_for(process.wait(), 10)).exit_code == 128 + signal.SIGKILL
