"""Where a result comes from: without these facts a figure means nothing."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from agentkernel import __version__


def facts() -> dict[str, str | int | float]:
    """The machine, before anything is measured. What only Linux tells is empty or 0 elsewhere."""
    return {
        "system": platform.system(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or "unknown",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_kib": int((_field("/proc/meminfo", "MemTotal") or "0").split()[0]),
        "load_1_min_before": os.getloadavg()[0],
        "load_5_min_before": os.getloadavg()[1],
        "cgroups": _cgroups(),
        "user": "root" if os.geteuid() == 0 else "plain",
        "python": platform.python_version(),
        "interpreter": sys.executable,
        "agentkernel": __version__,
    }


def _field(path: str, name: str) -> str:
    for line in _lines(path):
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _cgroups() -> str:
    kinds = {line.split(" ")[2] for line in _lines("/proc/self/mounts")}
    return " and ".join(name for kind, name in (("cgroup", "v1"), ("cgroup2", "v2")) if kind in kinds) or "none"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except FileNotFoundError:
        return []
