"""Boots a virtual machine with cgroup v2 and systemd and runs the checks of `checks/` in it: `python tests/vm/run.py`.

See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from image import base_image, cache_directory, find_kernel, obstacle, source_image
from machine import Machine

START = "cd /opt/agentkernel && PYTHONDONTWRITEBYTECODE=1 exec python3 -m checks {arguments}\n"
UNAVAILABLE = 77  # the exit code by which build systems know a skipped test


@dataclass(slots=True)
class Outcome:
    """What the machine told so far."""

    started: float = field(default_factory=time.monotonic)
    boot_s: float = 0.0
    expected: int = -1
    passed: int = 0
    failed: int = 0
    ended: bool = False

    def take(self, line: str) -> None:
        """Reads one line of results, and prints what it says."""
        try:
            said: dict[str, Any] = json.loads(line)
        except ValueError:
            print(f"       {line}")
            return
        if "kernel" in said:
            self.boot_s, self.expected = time.monotonic() - self.started, said["checks"]
            print(f"Linux {said['kernel']} booted in {self.boot_s:.1f} s; {self.expected} checks", flush=True)
        elif "check" in said:
            self.passed += said["passed"]
            self.failed += not said["passed"]
            detail = f"\n         {said['detail']}" if said["detail"] else ""
            print(f"{'ok    ' if said['passed'] else 'FAILED'} {said['check']}  ({said['seconds']} s){detail}", flush=True)
        elif "failures" in said:
            self.ended = True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="run only the checks with one of these parts in their names")
    parser.add_argument(
        "--kernel",
        type=Path,
        default=find_kernel(),
        help="a Debian cloud kernel: ROOT/boot/vmlinuz-..., with ROOT/usr/lib/modules (default: the newest in /boot)",
    )
    parser.add_argument("--deadline", type=float, default=600.0, help="seconds for the machine, boot included (default: %(default)s)")
    parser.add_argument("--script", type=Path, help="shell commands to run as root in place of the checks; their output is shown")
    arguments = parser.parse_args()
    missing = obstacle(arguments.kernel)
    if missing:
        print(f"cannot run here: {missing}", file=sys.stderr)
        return UNAVAILABLE
    return boot(arguments)


def boot(arguments: argparse.Namespace) -> int:
    """Builds the disks, runs the machine, prints the results; 0 when every check passed."""
    started = time.monotonic()
    base = base_image(arguments.kernel)
    with tempfile.TemporaryDirectory(dir=cache_directory()) as work:
        start = (
            arguments.script.read_text() if arguments.script else START.format(arguments=" ".join(f"'{part}'" for part in arguments.parts))
        )
        source = source_image(Path(work), start)
        print(f"disks ready in {time.monotonic() - started:.1f} s", flush=True)
        console = cache_directory() / "console.log"
        outcome = Outcome()
        try:
            for line in Machine(kernel=arguments.kernel, base=base, source=source, console=console).lines(arguments.deadline):
                outcome.take(line)
        except TimeoutError as error:
            print(f"{error} ({arguments.deadline:.0f} s)", file=sys.stderr)
    if arguments.script:
        return 0
    return summary(outcome, console)


def summary(outcome: Outcome, console: Path) -> int:
    """Prints the last lines; a machine that died says what its console did."""
    print(f"{outcome.passed} passed, {outcome.failed} failed in {time.monotonic() - outcome.started:.0f} s")
    if outcome.ended and outcome.passed + outcome.failed == outcome.expected:
        return 1 if outcome.failed else 0
    print(f"the machine ended early; the end of its console ({console}):", file=sys.stderr)
    subprocess.run(["tail", "-n", "30", str(console)], check=False)
    return 1


if __name__ == "__main__":
    sys.exit(main())
