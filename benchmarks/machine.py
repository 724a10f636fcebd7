"""Where a result comes from: the machine, and the raw tools beside which was measured."""

from __future__ import annotations

import os
import subprocess

from agentkernel.benchmark import machine

_TOOLS = {
    "bwrap": ("bwrap", "--version"),
    "docker": ("docker", "version", "--format", "{{.Server.Version}}"),
    "podman": ("podman", "--version"),
    "runsc": (os.environ.get("AGENTKERNEL_RUNSC") or "runsc", "--version"),
}


def facts() -> dict[str, str | int | float]:
    """The machine, before anything is measured, and each tool's version."""
    return machine.facts() | {name: _output(*argv) for name, argv in _TOOLS.items()}


def _output(*argv: str) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip().partition("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        return "not here"
