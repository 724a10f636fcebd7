"""`agentkernel cp`: files and directories into a sandbox and out of it."""

from __future__ import annotations

import asyncio
import os
import posixpath
import stat
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentkernel.abc import Files, Kernel, Visit
from agentkernel.cli.caller import local_caller
from agentkernel.cli.context import Context
from agentkernel.cli.interrupts import cancelled_by_signals
from agentkernel.cli.output import say
from agentkernel.cli.show import print_json
from agentkernel.client.transfer import Copied, download, upload
from agentkernel.errors import AgentKernelError, Conflict, FileOperationFailed, InvalidInput
from agentkernel.model.names import validate_inside_path
from agentkernel.text.style import printable
from agentkernel.units import format_size

HELP = """\
Copy files and whole directories, with their permissions and symlinks, into a sandbox or out of it. NAME:/PATH is inside.

  agentkernel cp report.txt box:/tmp/               into a directory
  agentkernel cp src box:/workspace/src             a directory, under that name
  agentkernel cp box:/workspace/out .               back, as ./out
  agentkernel cp box:/workspace/. result            what is in it, into `result`

As with cp -r, a target that is a directory gets the copy into it. Files inside belong to the sandbox's user, those here to you; a
sandbox cannot make its copy land anywhere but at the target. A stopped sandbox is started for it and stopped again, also when the copy is
interrupted or killed, unless it is in use by then.
"""

_TRANSIENT = ("/tmp/", "/dev/", "/run/", "/proc/", "/sys/")  # noqa: S108 - inside, where no file outlives a stop
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
    outcome = _Outcome()
    try:
        asyncio.run(_interruptible(_copy(context.client_of("cp"), remote, local, outcome, is_upload=source is None), outcome))
    except OSError as error:
        raise AgentKernelError(f"cannot copy: {error.strerror}: {os.fsdecode(error.filename or local)}") from error
    finally:
        if outcome.visit is not None and outcome.visit.is_started and not args.quiet:
            then = "goes on, for it is in use" if outcome.visit.goes_on else "stopped again"
            say("note", f"the sandbox {remote[0]} was started for this and {then}", "", context.environment)
    if outcome.interrupted_by is not None:
        say("note", "interrupted: what had been copied by then stays", "", context.environment)
        return 128 + outcome.interrupted_by
    copied = outcome.copied
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
class _Outcome:
    """What has become of a copy so far."""

    copied: Copied = field(default_factory=Copied)
    visit: Visit | None = None
    interrupted_by: int | None = None


async def _interruptible(copying: Coroutine[Any, Any, None], outcome: _Outcome) -> None:
    """Copies, until a signal ends that in good order."""
    work = asyncio.ensure_future(copying)
    with cancelled_by_signals(work) as arrived:
        try:
            await work
        except asyncio.CancelledError:
            if not arrived:
                raise
            outcome.interrupted_by = arrived[0]


async def _copy(kernel: Kernel, remote: tuple[str, str], local: str, outcome: _Outcome, *, is_upload: bool) -> None:
    name, inside = remote[0], remote[1].removesuffix(_CONTENT)
    try:
        async with kernel.visit(local_caller(), name) as outcome.visit:
            files = outcome.visit.sandbox.files
            if not is_upload:
                outcome.copied = await download(files, inside, _local_target(local, remote[1]))
                return
            if outcome.visit.is_started and f"{inside}/".startswith(_TRANSIENT):
                place = f"/{inside.split('/')[1]}"
                raise Conflict(f"{name} is stopped, and what is in {place} ends with its next stop", hint=f"agentkernel start {name}")
            into = _base_name(local)
            if into and not remote[1].endswith(_CONTENT) and await _is_directory(files, inside):
                inside = posixpath.join(inside, into)
            outcome.copied = await upload(files, local.removesuffix(_CONTENT) or "/", inside)
    finally:
        await kernel.close()


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
