"""Where a result comes from: without these facts a figure means nothing."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import agentkernel


def facts() -> dict[str, str | int | float]:
    """The machine, before anything is measured."""
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpu": _field("/proc/cpuinfo", "model name") or "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "memory_kib": int(_field("/proc/meminfo", "MemTotal").split()[0]),
        "load_1_min_before": os.getloadavg()[0],
        "load_5_min_before": os.getloadavg()[1],
        "cgroups": _cgroups(),
        "user": "root" if os.geteuid() == 0 else "plain",
        "python": platform.python_version(),
        "interpreter": sys.executable,
        "agentkernel": agentkernel.__version__,
        "bwrap": _output("bwrap", "--version"),
    }


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _cgroups() -> str:
    kinds = {line.split(" ")[2] for line in Path("/proc/self/mounts").read_text().splitlines()}
    return " and ".join(name for kind, name in (("cgroup", "v1"), ("cgroup2", "v2")) if kind in kinds) or "none"


def _output(*argv: str) -> str:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not here"
