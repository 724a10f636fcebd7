"""The hostile programs: each is a file that says in its head what it claims, and how far it may be tried without a sandbox.

claim    one line: what must hold
row      the row of docs/threat-model.md that it proves
matrix   A resources, B kernel surface, C files, E input and output
control  safe: run as it is, outside; plain: outside, as a user without privileges; confined: outside, in throw-away namespaces;
         none(reason): never outside
bomb     it has no end but its deadline, and runs only under a limit of the test's own
then     operations of the files interface after it: read, write, append, list, remove, mkdir, chmod PATH
race     a path that the host reads and writes while the program runs
during   what of the host must go on working meanwhile: inotify, terminal
workspace  none, writable, writable-empty, copy-on-write: how the planted project is shared with it
judge    an extra look at the shared directory: modes, protected
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
_HEAD = re.compile(r"(?://|#) ([a-z]+): (.*)")
_CONTROL = re.compile(r"(safe|plain|confined|none)(?:\((.+)\))?")
_SINGLE = {"claim", "row", "matrix", "control", "bomb", "race", "during", "workspace", "judge", "terminal", "timeout"}
_COMPILE = ("-std=gnu11", "-O0", "-Wall", "-Wextra", "-Werror", "-include", str(PROGRAMS / "hostile.h"))
DEADLINE_S = 2.0  # of programs that have no end of their own
PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One hostile program."""

    name: str
    path: Path
    claim: str
    row: str
    matrix: str
    control: str
    control_reason: str = ""
    bomb: bool = False
    terminal: bool = False
    then: tuple[tuple[str, str], ...] = ()
    race: str = ""
    during: str = ""
    workspace: str = "none"
    judge: str = ""
    timeout_s: float = PATIENCE_S

    @property
    def compiled(self) -> bool:
        """Whether it is an entry of the compiled binary, rather than a script."""
        return self.path.suffix == ".c"

    @property
    def endless(self) -> bool:
        """Whether only its deadline ends it."""
        return self.bomb or self.row == "deadline" or bool(self.race)


def read_program(path: Path) -> Program:
    """Reads a program's head; raises ValueError for a key that is missing or unknown."""
    single: dict[str, str] = {}
    then: list[tuple[str, str]] = []
    for line in path.read_text().splitlines():
        match = _HEAD.fullmatch(line)
        if match is None:
            break
        key, value = match.groups()
        if key == "then":
            operation, _, target = value.partition(" ")
            then.append((operation, target))
        elif key in _SINGLE:
            single[key] = value
        else:
            raise ValueError(f"{path.name}: unknown key {key!r}")
    control = _CONTROL.fullmatch(single.pop("control", ""))
    if control is None or (control[1] == "none") != bool(control[2]):
        raise ValueError(f"{path.name}: `control` is safe, plain, confined or none(reason)")
    endless = "bomb" in single or single.get("row") == "deadline"
    return Program(
        name=path.stem,
        path=path,
        control=control[1],
        control_reason=control[2] or "",
        then=tuple(then),
        bomb=single.pop("bomb", "") == "yes",
        terminal=single.pop("terminal", "") == "yes",
        timeout_s=float(single.pop("timeout", DEADLINE_S if endless else PATIENCE_S)),
        **single,
    )


def programs() -> list[Program]:
    """All of them, by name."""
    return [read_program(path) for path in sorted(PROGRAMS.iterdir()) if path.suffix in (".c", ".sh", ".py")]


def compile_programs(directory: Path) -> Path | None:
    """Makes the one static binary `hostile`, whose first argument names the program; None without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    names = [program.name for program in programs() if program.compiled]
    objects = [directory / f"{name}.o" for name in names]

    def compile_one(name: str) -> None:
        _run(compiler, *_COMPILE, f"-Dmain=attack_{name}", "-c", "-o", str(directory / f"{name}.o"), str(PROGRAMS / f"{name}.c"))

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        list(pool.map(compile_one, names))
    dispatcher = directory / "dispatcher.c"
    dispatcher.write_text(_dispatcher(names))
    target = directory / "hostile"
    _run(compiler, "-static", "-pthread", "-s", "-o", str(target), str(dispatcher), *map(str, objects), "-lrt")
    target.chmod(0o755)
    return target


def _dispatcher(names: list[str]) -> str:
    lines = ["#include <string.h>"]
    lines += [f"int attack_{name}(void);" for name in names]
    lines += ["int main(int argc, char **argv)", "{", "    if (argc < 2)", "        return 2;"]
    lines += [f'    if (strcmp(argv[1], "{name}") == 0)\n        return attack_{name}();' for name in names]
    return "\n".join([*lines, "    return 2;", "}", ""])


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{argv[-1]}: {done.stderr}")
