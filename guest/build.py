"""Compiles the guest binary with the system's C compiler: the one place that knows its flags.

Used by the package's build (setup.py) and by the guest's own tests; needs nothing but Python and a C compiler with the kernel's headers.

    python guest/build.py --output DIR [--compiler CC]
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
BINARY = "agentkernel-guest"

FLAGS = (
    "-std=c11", "-O2", "-Wall", "-Wextra", "-Wshadow", "-Wpointer-arith", "-Wstrict-prototypes", "-Wvla",
    "-ffreestanding", "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-ffunction-sections", "-fdata-sections",
    "-nostdlib", "-static", "-Wl,--gc-sections", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-s",
)  # fmt: skip


class BuildFailed(Exception):
    """The guest could not be compiled; the message says what is missing or what the compiler said."""


def compiler_command(requested: str | None = None) -> list[str]:
    """Returns the compiler's argv: the requested one, $CC, or the first of cc, gcc and clang that exists."""
    wanted = requested or os.environ.get("CC")
    if wanted:
        return shlex.split(wanted)
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    raise BuildFailed(
        "agentkernel's guest is built from C and no C compiler was found; "
        "install one (Debian/Ubuntu: apt-get install gcc libc6-dev; Fedora: dnf install gcc; Alpine: apk add gcc musl-dev linux-headers)"
    )


def build(output: Path, requested_compiler: str | None = None, *, strict: bool = False) -> Path:
    """Compiles the guest into `output`/agentkernel-guest and returns that path; raises BuildFailed.

    `strict` makes warnings errors: for our own checks, not for users, whose compiler may be younger than this code.
    """
    output.mkdir(parents=True, exist_ok=True)
    target = output / BINARY
    flags = (*FLAGS, "-Werror") if strict else FLAGS
    argv = [*compiler_command(requested_compiler), *flags, f"-I{SOURCES}", "-o", str(target), *sorted(str(p) for p in SOURCES.glob("*.c"))]
    try:
        done = subprocess.run(argv, capture_output=True, text=True)
    except OSError as error:
        raise BuildFailed(f"cannot run the C compiler {argv[0]!r}: {error}") from error
    if done.returncode != 0:
        raise BuildFailed(f"compiling the guest failed ({shlex.join(argv)}):\n{done.stderr}")
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description="compile the guest binary")
    parser.add_argument("--output", type=Path, required=True, help="directory for the binary")
    parser.add_argument("--compiler", help="compiler command (default: $CC, cc, gcc or clang)")
    parser.add_argument("--strict", action="store_true", help="warnings are errors")
    arguments = parser.parse_args()
    try:
        print(build(arguments.output, arguments.compiler, strict=arguments.strict))
    except BuildFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
