"""How gVisor comes to this host: by the package manager where that has a release which is new enough, else by exact steps for a person."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

OLDEST = 20230101  # the gVisor backend needs child subreapers
_DATE = re.compile(r"(20\d{6})")
_RELEASE = "https://storage.googleapis.com/gvisor/releases/release/latest"
_PATIENCE_S = 60.0

Ask = Callable[[tuple[str, ...]], str]  # what a program prints; empty when it fails


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to get it."""

    commands: tuple[tuple[str, ...], ...] = ()  # what `agentkernel setup gvisor` runs itself; empty: there is nothing that it may run
    steps: tuple[str, ...]  # the same, or more, for a shell


def ask(argv: tuple[str, ...]) -> str:
    """Runs a program that changes nothing."""
    try:
        environment = {**os.environ, "LC_ALL": "C"}
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_PATIENCE_S, env=environment, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def way_to_gvisor(*, asked: Ask = ask, system: Mapping[str, str] | None = None) -> Way:
    """The way on this host; `system`: its os-release(5)."""
    release = _system() if system is None else system
    version = _newest_of_apt(asked(("apt-cache", "madison", "runsc"))) if shutil.which("apt-get") else ""
    if version:
        install = ("apt-get", "install", "-y", "--no-install-recommends", f"runsc={version}")
        return Way(commands=(install,), steps=(_as_root(" ".join(install)),))
    if shutil.which("apt-get") and release.get("VERSION_CODENAME") == "bookworm":
        line = "deb http://deb.debian.org/debian bookworm-backports main"
        return Way(
            steps=(
                f"echo '{line}' | {_as_root('tee /etc/apt/sources.list.d/bookworm-backports.list')}",
                _as_root("apt-get update"),
                _as_root("apt-get install -t bookworm-backports runsc"),
            )
        )
    url = f"{_RELEASE}/{os.uname().machine}"
    return Way(
        steps=(
            f"curl -fLO {url}/runsc -fLO {url}/runsc.sha512",
            "sha512sum -c runsc.sha512",
            _as_root("install -m 755 runsc /usr/local/bin/runsc"),
        )
    )


def install(way: Way) -> bool:
    """Runs the commands, which say for themselves what they do; false when one fails."""
    return all(subprocess.run(argv, check=False).returncode == 0 for argv in way.commands)


def _newest_of_apt(madison: str) -> str:
    """Of what `apt-cache madison` lists the newest that is new enough."""
    versions = [fields[1].strip() for line in madison.splitlines() if len(fields := line.split("|")) >= 3]
    dated = [(int(found[1]), version) for version in versions if (found := _DATE.search(version)) and int(found[1]) >= OLDEST]
    return max(dated)[1] if dated else ""


def _as_root(command: str) -> str:
    return command if os.geteuid() == 0 else f"sudo {command}"


def _system() -> dict[str, str]:
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip("\"'") for name, _, value in (line.partition("=") for line in lines)}
