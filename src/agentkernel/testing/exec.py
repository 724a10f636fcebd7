"""Commands: what goes in, what comes out, how they end."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agentkernel.abc import Backend, Sandbox
from agentkernel.errors import CommandNotExecutable, CommandNotFound, CommandNotStarted, TimedOut
from agentkernel.model.command import Cause, Command
from agentkernel.model.isolation import Fingerprint
from agentkernel.testing.base import MIB, ConformanceBase, eventually, here, noise, read_until, scratch, shell
from agentkernel.testing.probe import Probe, stderr_pattern, stdout_pattern

STOPPED_OR_IGNORED = {
    signal.SIGCHLD,
    signal.SIGCONT,
    signal.SIGSTOP,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGURG,
    signal.SIGWINCH,
}
ENDING_SIGNALS = [*sorted(set(range(1, 32)) - STOPPED_OR_IGNORED), 34, 50, 64]


class InputConformance(ConformanceBase):
    """What a command is given."""

    async def test_arguments_arrive_as_the_bytes_they_are(self, probe: Probe) -> None:
        arguments = (b"", b"--", b"-e", b"a b", b"line\nline", b"\xff\xfe", "ä€😀".encode(), b"$(id)`id`;*?'\"\\", b"=" * 4096)
        result = await probe.run("argv", *arguments)
        assert [bytes.fromhex(line.decode()) for line in result.stdout.splitlines()] == list(arguments)

    async def test_the_environment_is_the_sandboxs_and_the_commands_and_nothing_of_the_host(
        self, probe: Probe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AGENTKERNEL_CONFORMANCE_SECRET", "of the host")
        command = replace(probe.command("environ"), environment={b"PLAIN": b"value", b"RAW": b"\xff =\n", b"EMPTY": b""})
        lines = (await probe.sandbox.exec(command)).stdout.splitlines()
        found = dict(bytes.fromhex(line.decode()).split(b"=", 1) for line in lines)
        assert {b"PLAIN": b"value", b"RAW": b"\xff =\n", b"EMPTY": b""}.items() <= found.items()
        assert b"AGENTKERNEL_CONFORMANCE_SECRET" not in found
        host = {value for name, value in os.environb.items() if len(value) > 8 and name not in (b"PATH", b"HOME", b"TERM", b"LANG")}
        assert not host & set(found.values()), "values of the host's environment came through"

    async def test_the_sandboxs_environment_reaches_every_command_and_a_command_may_change_it(
        self, backend: Backend, fingerprint: Fingerprint
    ) -> None:
        async with self.running(backend, environment=(*self.base_spec().environment, ("COLOUR", "blue"), ("SIZE", "9"))) as sandbox:
            result = await sandbox.exec(Command(argv=shell('echo "$COLOUR $SIZE"'), environment={b"COLOUR": b"red"}))
        assert result.stdout == b"red 9\n"

    async def test_commands_run_in_the_sandboxs_directory_unless_they_name_one(self, sandbox: Sandbox) -> None:
        assert (await sandbox.exec(Command(argv=shell("pwd -P")))).stdout.strip().decode() == scratch(sandbox)
        assert (await sandbox.exec(Command(argv=shell("pwd -P"), cwd="/"))).stdout == b"/\n"

    async def test_a_missing_working_directory_is_not_a_missing_command(self, sandbox: Sandbox) -> None:
        with pytest.raises(CommandNotStarted) as caught:
            await sandbox.exec(Command(argv=shell("true"), cwd=here(sandbox, "absent")))
        assert type(caught.value) is CommandNotStarted

    async def test_input_arrives_whole_whatever_bytes_it_holds(self, sandbox: Sandbox) -> None:
        data = noise(3 * MIB + 1)
        result = await sandbox.exec(Command(argv=(b"cat",), stdin=True), stdin=data)
        assert (result.exit_code, result.stdout == data) == (0, True)

    async def test_without_input_a_command_reads_the_end_at_once(self, sandbox: Sandbox) -> None:
        result = await sandbox.exec(Command(argv=(b"cat",), timeout_s=10))
        assert (result.exit_code, result.stdout) == (0, b"")

    async def test_input_that_nobody_reads_does_not_hold_the_command_up(self, sandbox: Sandbox) -> None:
        result = await sandbox.exec(Command(argv=shell("exec <&-; echo done"), stdin=True, timeout_s=20), stdin=bytes(4 * MIB))
        assert (result.exit_code, result.stdout) == (0, b"done\n")

    async def test_input_goes_piece_by_piece_to_a_running_command(self, sandbox: Sandbox) -> None:
        process = await sandbox.start(Command(argv=(b"cat",), stdin=True))
        output = process.output()
        for piece in (b"first\n", b"\x00second\n"):
            await process.write_stdin(piece)
            assert await asyncio.wait_for(anext(output), 10) == (1, piece)
        await process.close_stdin()
        assert [each async for each in output] == []
        assert (await process.wait()).exit_code == 0

    async def test_a_command_starts_with_nothing_but_its_three_descriptors_and_default_signals(self, probe: Probe) -> None:
        facts = await probe.facts("identity")
        assert facts["descriptor"] == [0, 1, 2]
        assert facts.get("ignored", []) == []
        assert facts["session"] == [1]
        assert facts["no_new_privs"] == [1]
        assert facts["capabilities"] == [0]


class OutputConformance(ConformanceBase):
    """What a command says."""

    async def test_both_streams_come_whole_and_apart(self, probe: Probe) -> None:
        size = 6 * MIB + 13
        result = await probe.run("spew", str(size), timeout_s=60)
        assert (len(result.stdout), len(result.stderr), result.exit_code) == (size, size, 0)
        assert _patterned(result.stdout, stdout_pattern) and _patterned(result.stderr, stderr_pattern)
        assert not result.stdout_truncated and not result.stderr_truncated

    async def test_output_beyond_the_limit_is_cut_and_said_to_be(self, probe: Probe) -> None:
        command = replace(probe.command("spew", str(2 * MIB)), output_limit_bytes=100_000)
        result = await probe.sandbox.exec(command)
        assert result.exit_code == 0
        assert (len(result.stdout), len(result.stderr)) == (100_000, 100_000)
        assert result.stdout_truncated and result.stderr_truncated
        assert _patterned(result.stdout, stdout_pattern)

    async def test_output_of_exactly_the_limit_is_not_truncated(self, sandbox: Sandbox) -> None:
        result = await sandbox.exec(Command(argv=shell("printf 12345; printf 123456 >&2"), output_limit_bytes=5))
        assert (result.stdout, result.stdout_truncated) == (b"12345", False)
        assert (result.stderr, result.stderr_truncated) == (b"12345", True)

    async def test_a_stream_is_never_cut(self, probe: Probe) -> None:
        process = await probe.sandbox.start(replace(probe.command("spew", str(3 * MIB)), output_limit_bytes=10))
        received = {1: 0, 2: 0}
        async for stream, data in process.output():
            received[stream] += len(data)
        assert received == {1: 3 * MIB, 2: 3 * MIB}
        assert (await process.wait()).exit_code == 0

    async def test_output_that_nobody_reads_holds_the_command_up_and_not_the_host(self, probe: Probe) -> None:
        process = await probe.sandbox.start(probe.command("spew", str(512 * MIB), timeout_s=None))
        await asyncio.sleep(0.5)
        assert (await probe.sandbox.exec(Command(argv=shell("echo alive")))).stdout == b"alive\n"
        records = [record for record in await probe.sandbox.processes() if record.exec_id == process.exec_id]
        assert records and records[0].running
        await process.kill()
        assert (await asyncio.wait_for(process.wait(), 10)).cause is Cause.KILLED

    async def test_fifty_commands_at_once_do_not_mix(self, sandbox: Sandbox) -> None:
        async def one(number: int) -> bool:
            result = await sandbox.exec(Command(argv=shell(f"echo out-{number}; echo err-{number} >&2; exit {number}")))
            return (result.stdout, result.stderr, result.exit_code) == (b"out-%d\n" % number, b"err-%d\n" % number, number)

        assert all(await asyncio.gather(*(one(number) for number in range(50))))


class EndConformance(ConformanceBase):
    """How a command ends."""

    async def test_every_exit_code_is_told(self, probe: Probe) -> None:
        codes = [(await probe.run("exit", str(code))).exit_code for code in range(256)]
        assert codes == list(range(256))

    @pytest.mark.parametrize("number", ENDING_SIGNALS)
    async def test_a_signals_number_plus_128_is_the_exit_code(self, probe: Probe, number: int) -> None:
        result = await probe.run("raise", str(number))
        assert (result.exit_code, result.status.signal, result.status.cause) == (128 + number, number, Cause.ITSELF)

    @pytest.mark.parametrize("name", [b"agentkernel-no-such-program", b"/agentkernel/absent", b"./absent"])
    async def test_a_program_that_is_not_there_is_not_found(self, sandbox: Sandbox, name: bytes) -> None:
        with pytest.raises(CommandNotFound) as caught:
            await sandbox.exec(Command(argv=(name,)))
        assert caught.value.exit_status == 127

    @pytest.mark.parametrize("mode, content", [(0o644, b"#!/bin/sh\n"), (0o755, b"\x7fELF but not really")])
    async def test_a_file_that_is_no_program_is_not_executable(self, sandbox: Sandbox, mode: int, content: bytes) -> None:
        path = here(sandbox, "plain")
        await sandbox.files.write(path, content, mode=mode)
        with pytest.raises(CommandNotExecutable) as caught:
            await sandbox.exec(Command(argv=(path.encode(),)))
        assert caught.value.exit_status == 126

    async def test_a_directory_is_not_executable(self, sandbox: Sandbox) -> None:
        with pytest.raises(CommandNotExecutable):
            await sandbox.exec(Command(argv=(b"/",)))

    async def test_a_program_without_a_slash_is_searched_in_the_commands_path(self, probe: Probe) -> None:
        target = probe.sandbox.spec.user.home.encode()
        command = replace(probe.command("exit", "7"), argv=(b".probe", b"exit", b"7"), environment={b"PATH": b"/absent:" + target})
        assert (await probe.sandbox.exec(command)).exit_code == 7

    async def test_a_timeout_kills_daemons_that_left_the_session(self, probe: Probe) -> None:
        path = here(probe.sandbox, "beats")
        started = time.monotonic()
        with pytest.raises(TimedOut):
            await probe.run("daemon", path, "stay", timeout_s=1.0)
        assert time.monotonic() - started < 5
        assert await _stops_growing(probe.sandbox, path)
        assert (await probe.sandbox.exec(Command(argv=shell("echo alive")))).stdout == b"alive\n"

    async def test_kill_ends_the_whole_tree(self, probe: Probe) -> None:
        path = here(probe.sandbox, "beats")
        process = await probe.sandbox.start(probe.command("daemon", path, "stay", timeout_s=None))
        assert await eventually(lambda: _exists(probe.sandbox, path))
        await process.kill()
        status = await asyncio.wait_for(process.wait(), 10)
        assert (status.exit_code, status.cause) == (128 + signal.SIGKILL, Cause.KILLED)
        assert await _stops_growing(probe.sandbox, path)

    async def test_a_cancelled_command_is_killed(self, probe: Probe) -> None:
        path = here(probe.sandbox, "beats")
        task = asyncio.create_task(probe.run("daemon", path, "stay", timeout_s=None))
        assert await eventually(lambda: _exists(probe.sandbox, path))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await _stops_growing(probe.sandbox, path)

    async def test_what_a_successful_command_leaves_running_goes_on_and_is_said(self, probe: Probe) -> None:
        path = here(probe.sandbox, "beats")
        result = await probe.run("daemon", path, "leave")
        assert (result.exit_code, result.status.survivors) == (0, True)
        size = (await probe.sandbox.files.stat(path)).size_bytes
        assert await eventually(lambda: _larger_than(probe.sandbox, path, size))
        assert not (await probe.run("exit", "0")).status.survivors

    async def test_what_a_command_leaves_running_ends_with_it_where_that_was_asked_for(self, probe: Probe) -> None:
        path = here(probe.sandbox, "beats")
        result = await probe.sandbox.exec(replace(probe.command("daemon", path, "leave"), ends_tree=True))
        assert (result.exit_code, result.status.cause, result.status.survivors) == (0, Cause.ITSELF, False)
        assert await _stops_growing(probe.sandbox, path)

    async def test_a_background_child_that_holds_the_output_does_not_hold_the_command(self, sandbox: Sandbox) -> None:
        started = time.monotonic()
        result = await sandbox.exec(Command(argv=shell("sleep 60 & echo over")))
        assert (result.stdout, result.exit_code, result.status.survivors) == (b"over\n", 0, True)
        assert time.monotonic() - started < 10

    async def test_a_signal_goes_to_the_main_process_or_to_the_tree(self, sandbox: Sandbox) -> None:
        wait = "while :; do sleep 0.05; done"
        script = f"trap 'echo main; exit 5' TERM; (trap 'echo child; exit 0' TERM; echo ready; {wait}) & {wait}"
        process = await sandbox.start(Command(argv=shell(script)))
        output = process.output()
        assert (await asyncio.wait_for(anext(output), 10))[1] == b"ready\n"
        await process.signal(signal.SIGTERM, tree=True)
        said = b"".join([data async for _, data in output])
        assert (await process.wait()).exit_code == 5
        assert b"main" in said and b"child" in said

    async def test_the_end_tells_what_the_command_used(self, probe: Probe) -> None:
        status = (await probe.run("spin", "1", "300")).status
        assert 0.25 <= status.wall_s < 30, "two clocks, one of which a kernel in user space still calibrates"
        assert 0.1 <= status.user_cpu_s + status.system_cpu_s < 30
        assert 0 < status.max_rss_bytes < 1024 * MIB

    async def test_a_detached_command_outlives_its_start_and_keeps_its_output(self, sandbox: Sandbox) -> None:
        process = await sandbox.start(Command(argv=shell("echo one; sleep 0.3; echo two; exit 9"), detached=True))
        await asyncio.sleep(0.6)
        records = [record for record in await sandbox.processes() if record.exec_id == process.exec_id]
        assert len(records) == 1
        assert (records[0].detached, records[0].running, records[0].argv[0]) == (True, False, b"sh")
        assert b"".join([data async for stream, data in process.output() if stream == 1]) == b"one\ntwo\n"
        assert (await process.wait()).exit_code == 9

    async def test_running_commands_are_listed(self, probe: Probe) -> None:
        process = await probe.sandbox.start(probe.command("sleep", timeout_s=None))
        await read_until(process, b"asleep")
        record = next(each for each in await probe.sandbox.processes() if each.exec_id == process.exec_id)
        assert (record.running, record.detached, record.pid) == (True, False, process.pid)
        assert record.argv == (probe.path.encode(), b"sleep")
        assert abs(record.started_unix_ms / 1000 - time.time()) < 60
        await process.kill()
        await process.wait()

    async def test_statistics_count_what_runs(self, probe: Probe, probe_binary: Path) -> None:
        before = await probe.sandbox.statistics()
        process = await probe.sandbox.start(probe.command("sleep", timeout_s=None))
        during = await probe.sandbox.statistics()
        assert during.processes == before.processes + 1
        assert during.uptime_ms >= before.uptime_ms
        await process.kill()
        await process.wait()


def _patterned(data: bytes, pattern: Callable[[int], bytes]) -> bool:
    """Compared apart from `assert`, which would print megabytes."""
    return data == pattern(len(data))


async def _exists(sandbox: Sandbox, path: str) -> bool:
    return await _larger_than(sandbox, path, 0)


async def _larger_than(sandbox: Sandbox, path: str, size: int) -> bool:
    parent, _, name = path.rpartition("/")
    return any(record.name == name.encode() and record.size_bytes > size for record in await sandbox.files.list(parent))


async def _stops_growing(sandbox: Sandbox, path: str) -> bool:
    """Whether a heartbeat (one byte every 10 ms) has ended."""
    before = (await sandbox.files.stat(path)).size_bytes
    await asyncio.sleep(0.3)
    return (await sandbox.files.stat(path)).size_bytes == before
