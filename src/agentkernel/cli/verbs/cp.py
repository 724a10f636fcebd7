"""`agentkernel cp`: files and directories into a sandbox and out of it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import posixpath
import stat
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from agentkernel.abc import Files, Kernel, Sandbox
from agentkernel.cli.caller import local_caller
from agentkernel.cli.context import Context
from agentkernel.cli.output import say
from agentkernel.cli.show import print_json
from agentkernel.client.transfer import Copied, download, upload
from agentkernel.config.daemon_process import own_directory
from agentkernel.config.directories import runtime_directory
from agentkernel.errors import AgentKernelError, FileOperationFailed, InvalidInput
from agentkernel.model.names import validate_inside_path
from agentkernel.model.status import Status
from agentkernel.text.style import printable
from agentkernel.units import format_size

HELP = """\
Copy files and whole directories, with their permissions and symlinks, into a sandbox or out of it. NAME:/PATH is inside.

  agentkernel cp report.txt box:/tmp/               into a directory
  agentkernel cp src box:/workspace/src             a directory, under that name
  agentkernel cp box:/workspace/out .               back, as ./out
  agentkernel cp box:/workspace/. result            what is in it, into `result`

As with cp -r, a target that is a directory gets the copy into it. Files inside belong to the sandbox's user, those here to you; a
sandbox cannot make its copy land anywhere but at the target. A stopped sandbox is started for it and stopped again, unless somebody runs
commands in it then.
"""

_TURNS = "copies.lock"
_CONTENT = "/."  # at the end of a path: what is in the directory, not the directory itself


def configure(parser: ArgumentParser) -> None:
    """Declares the arguments."""
    parser.usage = "agentkernel cp SOURCE NAME:/PATH  |  agentkernel cp NAME:/PATH TARGET"
    parser.add_argument("source", metavar="SOURCE", help="path here, or NAME:/PATH")
    parser.add_argument("target", metavar="TARGET", help="path here, or NAME:/PATH")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of what was copied")
    parser.add_argument("--json", action="store_true", help="print what was copied as one JSON object")


def main(args: Namespace, context: Context) -> int:
    """Copies; returns 0."""
    source, target = split(args.source), split(args.target)
    if source is not None and target is not None:
        raise InvalidInput("Cannot copy between sandboxes. Copy to local first.")
    remote = source or target
    if remote is None:
        raise InvalidInput(
            "At least one path must be a sandbox path (sandbox:/path)", hint=f"for example: box:/tmp/{args.target.lstrip('/.')}"
        )
    local = args.target if source else args.source
    with _wakened(remote[0], context) as visit:
        try:
            copied = asyncio.run(_copy(context.client(), remote, local, is_upload=source is None, visit=visit))
        except OSError as error:
            raise AgentKernelError(f"cannot copy: {error.strerror}: {os.fsdecode(error.filename or local)}") from error
        finally:
            if visit.starts and not args.quiet:
                then = "goes on, for commands run in it" if visit.is_left_running else "stopped again"
                say("note", f"the sandbox {remote[0]} was started for this and {then}", "", context.environment)
    if copied.skipped:
        say("note", f"not copied, for they are no files, directories or symlinks: {', '.join(copied.skipped)}", "", context.environment)
    if copied.outward:
        say("note", f"symlinks that lead out of the copy: {', '.join(copied.outward)}", "", context.environment)
    _report(args, copied)
    return 0


def split(word: str) -> tuple[str, str] | None:
    """Sandbox and path of `NAME:/PATH`; None for a path of this host (which ./ marks where its name holds a colon)."""
    name, colon, path = word.partition(":")
    if not colon or not name or name[0] == "." or "/" in name:
        return None
    inside = validate_inside_path(path)
    return name, inside + _CONTENT if path.endswith(_CONTENT) and inside != "/" else inside


@dataclass(slots=True)
class _Visit:
    """How a copy finds the sandbox and leaves it."""

    starts: bool
    is_left_running: bool = False  # somebody else runs commands in it meanwhile


@contextmanager
def _wakened(name: str, context: Context) -> Iterator[_Visit]:
    """Copies of a stopped sandbox take turns, so that none stops it under another; those of one that runs do not wait for each other."""
    directory = runtime_directory(context.environment, os.geteuid())
    with context.calls("cp") as calls:
        info = calls.info(name)
        own_directory(directory)
        turns = os.open(f"{directory}/{_TURNS}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.lockf(turns, fcntl.LOCK_EX, 1, int(info.sandbox_id, 16) >> 1)  # a byte of it is the sandbox's; an offset has 63 bits
            visit = _Visit(starts=calls.info(info.sandbox_id).status is Status.STOPPED)
            if not visit.starts:
                fcntl.lockf(turns, fcntl.LOCK_UN)
            yield visit
        finally:
            os.close(turns)


async def _copy(kernel: Kernel, remote: tuple[str, str], local: str, *, is_upload: bool, visit: _Visit) -> Copied:
    name, inside = remote[0], remote[1].removesuffix(_CONTENT)
    try:
        async with _running(kernel, name, visit) as files:
            if not is_upload:
                return await download(files, inside, _local_target(local, remote[1]))
            into = _base_name(local)
            if into and not remote[1].endswith(_CONTENT) and await _is_directory(files, inside):
                inside = posixpath.join(inside, into)
            return await upload(files, local.removesuffix(_CONTENT) or "/", inside)
    finally:
        await kernel.close()


@asynccontextmanager
async def _running(kernel: Kernel, name: str, visit: _Visit) -> AsyncIterator[Files]:
    caller = local_caller()
    if visit.starts:
        await kernel.start(caller, name)
    try:
        sandbox = await kernel.open(caller, name)
        try:
            yield sandbox.files
        finally:
            visit.is_left_running = visit.starts and await _is_busy(sandbox)
            await sandbox.close()
    finally:
        if visit.starts and not visit.is_left_running:
            await kernel.stop(caller, name)


async def _is_busy(sandbox: Sandbox) -> bool:
    try:
        return any(record.running for record in await sandbox.processes())
    except AgentKernelError:
        return False


async def _is_directory(files: Files, path: str) -> bool:
    try:
        return stat.S_ISDIR((await files.stat(path)).mode)
    except FileOperationFailed:
        return False


def _base_name(source: str) -> str:
    """What a copy of it in a directory is called; empty where only what is in it is wanted."""
    return "" if source.endswith(_CONTENT) else os.path.basename(os.path.abspath(source))


def _local_target(target: str, source: str) -> str:
    if not os.path.isdir(target) or source.endswith(_CONTENT) or source == "/":
        return target
    return os.path.join(target, posixpath.basename(source))


def _report(args: Namespace, copied: Copied) -> None:
    if args.json:
        print_json(
            {
                "files": copied.files,
                "directories": copied.directories,
                "symlinks": copied.symlinks,
                "bytes": copied.bytes,
                "skipped": _texts(copied.skipped),
                "outward": _texts(copied.outward),
            }
        )
    elif not args.quiet:
        entries = copied.files + copied.directories + copied.symlinks
        count = f"{entries} {'entry' if entries == 1 else 'entries'}"
        sys.stdout.write(f"Copied {count} ({format_size(copied.bytes)}) from {printable(args.source)} to {printable(args.target)}\n")


def _texts(paths: Sequence[str]) -> list[str]:
    return [path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for path in paths]
