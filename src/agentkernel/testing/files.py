"""Files, watches and connections."""

from __future__ import annotations

import asyncio
import errno
import stat
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentkernel.abc import Files, Sandbox
from agentkernel.errors import CommandNotStarted, FileOperationFailed, OutputTooLarge
from agentkernel.model.command import Command
from agentkernel.model.inspection import WatchEvent
from agentkernel.model.isolation import Feature, Fingerprint
from agentkernel.testing.base import MIB, ConformanceBase, here, need, noise, read_until, scratch, shell
from agentkernel.testing.probe import Probe

IN_MODIFY, IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x2, 0x40, 0x80, 0x100, 0x200


class FilesConformance(ConformanceBase):
    """Every operation on files, and what it refuses."""

    @pytest.fixture
    def files(self, sandbox: Sandbox, fingerprint: Fingerprint) -> Files:
        """The files of `sandbox`."""
        need(fingerprint, Feature.FILES)
        return sandbox.files

    @pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 5 * MIB + 3])
    async def test_what_is_written_is_read_back(self, files: Files, sandbox: Sandbox, size: int) -> None:
        data = noise(size)
        await files.write(here(sandbox, "data"), data)
        assert await files.read(here(sandbox, "data")) == data
        assert (await files.stat(here(sandbox, "data"))).size_bytes == size

    async def test_a_stream_can_be_written_and_read(self, files: Files, sandbox: Sandbox) -> None:
        pieces = [noise(100_000 + number, seed=number) for number in range(12)]

        async def source() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        await files.write(here(sandbox, "streamed"), source())
        assert b"".join([each async for each in files.read_stream(here(sandbox, "streamed"))]) == b"".join(pieces)

    async def test_commands_and_the_files_interface_see_the_same_files(self, files: Files, sandbox: Sandbox) -> None:
        await files.write(here(sandbox, "in"), b"from outside\n")
        result = await sandbox.exec(Command(argv=shell("cat in; printf inside > out; id -u")))
        assert result.stdout.startswith(b"from outside\n")
        assert await files.read(here(sandbox, "out")) == b"inside"
        owners = {(await files.stat(here(sandbox, name))).uid for name in ("in", "out")}
        assert owners == {int(result.stdout.split()[-1])}

    async def test_a_part_can_be_read(self, files: Files, sandbox: Sandbox) -> None:
        await files.write(here(sandbox, "digits"), b"0123456789")
        assert await files.read(here(sandbox, "digits"), offset=3, length=4) == b"3456"
        assert await files.read(here(sandbox, "digits"), offset=8, length=100) == b"89"
        assert await files.read(here(sandbox, "digits"), offset=50) == b""

    async def test_reading_more_than_the_limit_is_an_error_and_not_a_part(self, files: Files, sandbox: Sandbox) -> None:
        await files.write(here(sandbox, "large"), bytes(1000))
        with pytest.raises(OutputTooLarge):
            await files.read(here(sandbox, "large"), limit_bytes=999)
        assert len(await files.read(here(sandbox, "large"), limit_bytes=1000)) == 1000

    async def test_writing_replaces_appends_or_insists_on_a_new_file(self, files: Files, sandbox: Sandbox) -> None:
        path = here(sandbox, "text")
        await files.write(path, b"a long first text")
        await files.write(path, b"short")
        assert await files.read(path) == b"short"
        await files.write(path, b" and more", append=True)
        assert await files.read(path) == b"short and more"
        await _fails(errno.EEXIST, files.write(path, b"", exclusive=True))
        assert await files.read(path) == b"short and more"

    async def test_the_mode_is_what_was_asked_for(self, files: Files, sandbox: Sandbox) -> None:
        await files.write(here(sandbox, "tool"), b"#!/bin/sh\nexit 4\n", mode=0o755)
        assert stat.S_IMODE((await files.stat(here(sandbox, "tool"))).mode) == 0o755
        assert (await sandbox.exec(Command(argv=(here(sandbox, "tool").encode(),)))).exit_code == 4
        await files.change_mode(here(sandbox, "tool"), 0o600)
        assert stat.S_IMODE((await files.stat(here(sandbox, "tool"))).mode) == 0o600

    async def test_parents_are_made_only_when_asked_for(self, files: Files, sandbox: Sandbox) -> None:
        await _fails(errno.ENOENT, files.write(here(sandbox, "a/b/file"), b"x"))
        await files.write(here(sandbox, "a/b/file"), b"x", parents=True)
        await _fails(errno.ENOENT, files.make_directory(here(sandbox, "c/d")))
        await files.make_directory(here(sandbox, "c/d"), mode=0o700, parents=True)
        assert stat.S_IMODE((await files.stat(here(sandbox, "c/d"))).mode) == 0o700
        await files.make_directory(here(sandbox, "c/d"), parents=True)
        await _fails(errno.EEXIST, files.make_directory(here(sandbox, "c/d")))

    async def test_names_are_bytes_as_they_are(self, files: Files, sandbox: Sandbox) -> None:
        await files.make_directory(here(sandbox, "names"))
        script = "cd names && : > \"$(printf 'a\\377b')\" && : > 'new\nline' && : > ' ' && : > '-rf' && : > 'ä'"
        assert (await sandbox.exec(Command(argv=shell(script)))).exit_code == 0
        names = {record.name for record in await files.list(here(sandbox, "names"))}
        assert names == {b"a\xffb", b"new\nline", b" ", b"-rf", "ä".encode()}
        path = here(sandbox, "names/") + b"a\xffb".decode(errors="surrogateescape")
        await files.write(path, b"raw")
        assert await files.read(path) == b"raw"
        await files.remove(path)
        assert b"a\xffb" not in {record.name for record in await files.list(here(sandbox, "names"))}

    async def test_a_directory_of_thousands_is_listed_whole(self, files: Files, sandbox: Sandbox) -> None:
        assert (
            await sandbox.exec(Command(argv=shell("mkdir many; cd many; i=0; while [ $i -lt 3000 ]; do : > f$i; i=$((i+1)); done")))
        ).exit_code == 0
        assert {record.name for record in await files.list(here(sandbox, "many"))} == {b"f%d" % number for number in range(3000)}

    async def test_stat_tells_kind_size_and_links(self, files: Files, sandbox: Sandbox) -> None:
        await sandbox.exec(Command(argv=shell("printf 12345 > file; ln file other; ln -s file link; mkdir directory; mkfifo fifo")))
        file = await files.stat(here(sandbox, "file"))
        assert (file.name, stat.S_ISREG(file.mode), file.size_bytes, file.links) == (b"file", True, 5, 2)
        assert file.inode == (await files.stat(here(sandbox, "other"))).inode
        link = await files.stat(here(sandbox, "link"), follow=False)
        assert (stat.S_ISLNK(link.mode), link.target) == (True, b"file")
        assert stat.S_ISREG((await files.stat(here(sandbox, "link"))).mode)
        assert stat.S_ISDIR((await files.stat(here(sandbox, "directory"))).mode)
        assert stat.S_ISFIFO((await files.stat(here(sandbox, "fifo"))).mode)

    async def test_links_are_made_moved_and_removed_as_links(self, files: Files, sandbox: Sandbox) -> None:
        await files.write(here(sandbox, "kept"), b"kept")
        await files.symlink("kept", here(sandbox, "link"))
        assert await files.read(here(sandbox, "link")) == b"kept"
        await files.move(here(sandbox, "link"), here(sandbox, "moved"))
        assert (await files.stat(here(sandbox, "moved"), follow=False)).target == b"kept"
        await files.remove(here(sandbox, "moved"))
        assert await files.read(here(sandbox, "kept")) == b"kept"
        await _fails(errno.EEXIST, files.symlink("kept", here(sandbox, "kept")))

    async def test_removal_takes_a_tree_only_when_asked_to_and_never_follows_links(self, files: Files, sandbox: Sandbox) -> None:
        await sandbox.exec(Command(argv=shell("mkdir -p tree/a/b outside; : > tree/a/b/f; : > outside/kept; ln -s ../outside tree/link")))
        await _fails(errno.ENOTEMPTY, files.remove(here(sandbox, "tree")))
        await files.remove(here(sandbox, "tree"), recursive=True)
        await _fails(errno.ENOENT, files.stat(here(sandbox, "tree")))
        assert [record.name for record in await files.list(here(sandbox, "outside"))] == [b"kept"]

    async def test_a_very_deep_tree_is_removed(self, files: Files, sandbox: Sandbox) -> None:
        half = "/".join(["dddddddddddd"] * 200)  # two halves, each of which a system call can name
        script = f"mkdir -p {half} other/{half} && : > other/{half}/leaf && mv other {half}/other"
        assert (await sandbox.exec(Command(argv=shell(script)))).exit_code == 0
        await files.remove(here(sandbox, "dddddddddddd"), recursive=True)
        assert b"dddddddddddd" not in {record.name for record in await files.list(scratch(sandbox))}

    async def test_errors_carry_the_kernels_number(self, files: Files, sandbox: Sandbox) -> None:
        await files.write(here(sandbox, "file"), b"x")
        await files.symlink("loop", here(sandbox, "loop"))
        await _fails(errno.ENOENT, files.read(here(sandbox, "absent")))
        await _fails(errno.ENOTDIR, files.read(here(sandbox, "file/below")))
        await _fails(errno.ENOTDIR, files.list(here(sandbox, "file")))
        await _fails(errno.ELOOP, files.read(here(sandbox, "loop")))
        await _fails(errno.ENOENT, files.move(here(sandbox, "absent"), here(sandbox, "other")))
        await _fails(errno.ENOENT, files.remove(here(sandbox, "absent")))
        await _fails(errno.ENOENT, files.change_mode(here(sandbox, "absent"), 0o600))
        await _fails(errno.ENAMETOOLONG, files.stat(here(sandbox, "n" * 300)))

    @pytest.mark.parametrize("path", ["fifo", "directory", "/dev/zero", "link-to-fifo", "zero"])
    async def test_only_regular_files_are_read_and_nothing_hangs(self, files: Files, sandbox: Sandbox, path: str) -> None:
        await sandbox.exec(Command(argv=shell("mkfifo fifo; mkdir directory; ln -s fifo link-to-fifo; ln -s /dev/zero zero")))
        full = path if path.startswith("/") else here(sandbox, path)
        with pytest.raises(FileOperationFailed):
            await asyncio.wait_for(files.read(full, limit_bytes=1000), 10)
        assert (await sandbox.exec(Command(argv=shell("echo alive")))).stdout == b"alive\n"

    async def test_a_directory_is_not_written(self, files: Files, sandbox: Sandbox) -> None:
        with pytest.raises(FileOperationFailed) as caught:
            await files.write(scratch(sandbox), b"x")
        assert caught.value.errno in (errno.EISDIR, errno.EINVAL)

    async def test_writing_to_a_fifo_does_not_hang(self, files: Files, sandbox: Sandbox) -> None:
        await sandbox.exec(Command(argv=shell("mkfifo fifo")))
        with pytest.raises(FileOperationFailed):
            await asyncio.wait_for(files.write(here(sandbox, "fifo"), b"x"), 10)


class WatchConformance(ConformanceBase):
    """Changes told as they happen."""

    async def test_a_directorys_changes_are_told_in_order(self, sandbox: Sandbox, fingerprint: Fingerprint) -> None:
        need(fingerprint, Feature.WATCH)
        await sandbox.files.make_directory(here(sandbox, "watched"))
        events = sandbox.files.watch(here(sandbox, "watched"))
        assert (await asyncio.wait_for(anext(events), 10)).mask == 0
        assert (await sandbox.exec(Command(argv=shell("cd watched; echo x > a; mv a b; rm b")))).exit_code == 0
        seen: list[WatchEvent] = []
        while not any(event.mask & IN_DELETE for event in seen):
            seen.append(await asyncio.wait_for(anext(events), 10))
        await _close(events)
        steps = [(mask, event.name) for event in seen for mask in (IN_CREATE, IN_MOVED_FROM, IN_MOVED_TO, IN_DELETE) if event.mask & mask]
        assert steps == [(IN_CREATE, b"a"), (IN_MOVED_FROM, b"a"), (IN_MOVED_TO, b"b"), (IN_DELETE, b"b")]
        cookies = {event.cookie for event in seen if event.mask & (IN_MOVED_FROM | IN_MOVED_TO)}
        assert len(cookies) == 1 and 0 not in cookies

    async def test_one_file_can_be_watched(self, sandbox: Sandbox, fingerprint: Fingerprint) -> None:
        need(fingerprint, Feature.WATCH)
        await sandbox.files.write(here(sandbox, "file"), b"")
        events = sandbox.files.watch(here(sandbox, "file"))
        await asyncio.wait_for(anext(events), 10)
        await sandbox.files.write(here(sandbox, "file"), b"more", append=True)
        while not (await asyncio.wait_for(anext(events), 10)).mask & IN_MODIFY:
            pass
        await _close(events)

    async def test_what_is_not_there_cannot_be_watched(self, sandbox: Sandbox, fingerprint: Fingerprint) -> None:
        need(fingerprint, Feature.WATCH)
        await _fails(errno.ENOENT, anext(sandbox.files.watch(here(sandbox, "absent"))))


class ConnectConformance(ConformanceBase):
    """Connections to servers inside."""

    async def test_a_server_inside_is_reached(self, probe: Probe, fingerprint: Fingerprint) -> None:
        need(fingerprint, Feature.CONNECT)
        server = await probe.sandbox.start(probe.command("serve", "18765", timeout_s=60))
        await read_until(server, b"ready")
        for number in range(3):
            connection = await probe.sandbox.connect(18765)
            await connection.write_stdin(b"hello %d" % number)
            await connection.close_stdin()
            said = b"".join([data async for _, data in connection.output()])
            assert said == b"HELLO %d" % number
            assert (await connection.wait()).exit_code == 0
        await server.kill()
        await server.wait()

    async def test_megabytes_pass_through_a_connection(self, probe: Probe, fingerprint: Fingerprint) -> None:
        need(fingerprint, Feature.CONNECT)
        server = await probe.sandbox.start(probe.command("serve", "18766", timeout_s=60))
        await read_until(server, b"ready")
        connection = await probe.sandbox.connect(18766)
        data = bytes(range(256)) * (8 * 1024)

        async def send() -> None:
            await connection.write_stdin(data)
            await connection.close_stdin()

        sending = asyncio.create_task(send())
        received = b"".join([piece async for _, piece in connection.output()])
        await sending
        assert received == data.upper()
        await server.kill()
        await server.wait()

    async def test_a_port_without_a_server_refuses(self, sandbox: Sandbox, fingerprint: Fingerprint) -> None:
        need(fingerprint, Feature.CONNECT)
        try:
            connection = await sandbox.connect(18767)
        except (FileOperationFailed, CommandNotStarted):
            return
        assert (await asyncio.wait_for(connection.wait(), 10)).exit_code == errno.ECONNREFUSED


async def _close(events: AsyncIterator[WatchEvent]) -> None:
    close: Any = getattr(events, "aclose", None)
    if close is not None:
        await close()


async def _fails(number: int, operation: Any) -> None:
    with pytest.raises(FileOperationFailed) as caught:
        await operation
    assert caught.value.errno == number, caught.value
