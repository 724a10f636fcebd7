"""The `runsc` of this host: its release, its flags, and the platform on which it was seen to run a program.

A run of it takes 30 ms, a platform that hangs takes seconds; so what was found is kept, for that very file and this boot of the host.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from agentkernel.backends._presence import find_program
from agentkernel.backends._records import boot_id, read_file, write_file
from agentkernel.errors import BackendUnavailable

PROGRAM = "runsc"
PLATFORMS = ("systrap", "kvm", "ptrace")  # the fastest that are sure to isolate first
WHOLE_TREES_SINCE = 20230101  # child subreapers, terminals whose control keys work, statx(2) with the flags of GNU coreutils 9
_PATIENCE_S = 10.0
_DATE = re.compile(r"(20\d{6})")
_FLAG = re.compile(r"^\s+-([a-z][a-z0-9-]*)", re.MULTILINE)
SETUP_HINT = "`agentkernel setup` says how to get gVisor"
_TOO_OLD = """\
`runsc` is of {date}: it loses the daemons of a command that is killed, control keys do nothing on its terminals, and `ls -l` fails in it"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """One file, as it was looked at."""

    path: str
    identity: str  # differs once the file was replaced, or the host was started again
    version: str  # as it says itself
    flags: tuple[str, ...]
    platform: str = ""  # empty: not known yet

    @property
    def release(self) -> int:
        """The date of the release as a number (20240729); 0 where it says none, as builds from source do."""
        found = _DATE.search(self.version)
        return int(found[1]) if found else 0

    @property
    def is_old(self) -> bool:
        """Whether it is of 2022 or before: an orphan goes to the first process, and nothing tells any more whose it was."""
        return 0 < self.release < WHOLE_TREES_SINCE

    def require_new(self) -> None:
        """Raises BackendUnavailable for a release that breaks what every sandbox promises."""
        if self.is_old:
            date = str(self.release)
            raise BackendUnavailable(
                _TOO_OLD.format(date=f"{date[:4]}-{date[4:6]}"), hint=f"install a release of 2023 or later: {SETUP_HINT}"
            )


def find_runtime(memory: Path) -> Runtime:
    """What this host has; `memory` is the file of what was found before.

    Raises:
        BackendUnavailable: there is none, or it does not run.
    """
    path = find_program(PROGRAM)
    if not path:
        raise BackendUnavailable("the program `runsc` is not installed", hint=SETUP_HINT)
    identity = _identity(path)
    known = _remembered(memory)
    if known is not None and known.identity == identity:
        return known
    said = _said(path, "--version").splitlines()
    found = Runtime(
        path=os.path.realpath(path),
        identity=identity,
        version=said[0].removeprefix("runsc version ").strip()[:80] if said else "",
        flags=tuple(sorted(set(_FLAG.findall(_said(path, "flags"))))),
    )
    remember(memory, found)
    return found


def with_platform(runtime: Runtime, platform: str, memory: Path) -> Runtime:
    """Notes which platform has run a program."""
    found = replace(runtime, platform=platform)
    remember(memory, found)
    return found


def remember(memory: Path, runtime: Runtime) -> None:
    """Writes it for the next engine; a file that is cut short is as none."""
    unfinished = memory.with_name(f"{memory.name}.{os.getpid()}")
    write_file(str(unfinished), json.dumps(asdict(runtime)))
    os.replace(unfinished, memory)


def _remembered(memory: Path) -> Runtime | None:
    try:
        record = json.loads(read_file(str(memory)))
        return Runtime(**{**record, "flags": tuple(record["flags"])})
    except (ValueError, TypeError, KeyError):
        return None


def _identity(path: str) -> str:
    found = os.stat(path)
    facts = (os.path.realpath(path), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, os.uname().release, boot_id())
    return " ".join(map(str, facts))


def _said(path: str, argument: str) -> str:
    try:
        done = subprocess.run((path, argument), capture_output=True, text=True, check=False, timeout=_PATIENCE_S, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendUnavailable(f"{path} does not run: {error}", hint=SETUP_HINT) from error
    if done.returncode != 0:
        raise BackendUnavailable(f"`{path} {argument}` fails: {done.stderr.strip()[-200:]}", hint=SETUP_HINT)
    return f"{done.stdout}\n{done.stderr}"
