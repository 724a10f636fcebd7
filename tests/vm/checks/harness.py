"""Running agentkernel as root or as the plain user `dev`, and reporting a check's outcome as one line of JSON."""

from __future__ import annotations

import fnmatch
import json
import os
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CGROUP = Path("/sys/fs/cgroup")
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONPATH": "/opt/agentkernel/src",
    "AGENTKERNEL_GUEST": "/opt/agentkernel/guest/agentkernel-guest",
    "LC_ALL": "C.UTF-8",
}
AGENTKERNEL = ("python3", "-m", "agentkernel")
DEV = {"HOME": "/home/dev", "USER": "dev", "LOGNAME": "dev", "XDG_RUNTIME_DIR": "/run/user/1000"}
ROOT = {"HOME": "/root"}
DEADLINE_S = 90.0

Check = Callable[[], str | None]
CHECKS: list[tuple[str, Check]] = []


def check(function: Check) -> Check:
    """Registers a check: it raises AssertionError, or returns a figure worth reporting."""
    CHECKS.append((f"{function.__module__.rpartition('.')[2]}: {function.__name__.replace('_', ' ')}", function))
    return function


def report(file: Any) -> int:
    """Runs every check, one line each; returns how many failed."""
    failures = 0
    for name, function in CHECKS:
        started = time.monotonic()
        detail, passed = "", True
        try:
            detail = function() or ""
        except Exception as error:
            passed, failures = False, failures + 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            detail = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {error or where.line}"
        line = {"check": name, "passed": passed, "detail": detail, "seconds": round(time.monotonic() - started, 1)}
        print(json.dumps(line), file=file, flush=True)
    return failures


def start(*argv: str, prefix: tuple[str, ...] = (), variables: dict[str, str] = ROOT, cwd: str = "") -> subprocess.Popen[str]:
    """Starts `agentkernel argv` behind a prefix (`systemd-run ...`), as the user whose variables these are."""
    user = ("runuser", "-u", "dev", "--") if variables.get("USER") == "dev" else ()
    return subprocess.Popen(
        [*user, *prefix, *AGENTKERNEL, *argv],
        env=ENVIRONMENT | variables,
        cwd=cwd or variables["HOME"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*argv: str, prefix: tuple[str, ...] = (), variables: dict[str, str] = ROOT, cwd: str = "") -> subprocess.CompletedProcess[str]:
    """The same, to its end."""
    process = start(*argv, prefix=prefix, variables=variables, cwd=cwd)
    out, err = process.communicate(timeout=DEADLINE_S)
    return subprocess.CompletedProcess(argv, process.returncode, out, err)


def run_json(*argv: str, **how: Any) -> dict[str, Any]:
    """`agentkernel run --json`: the result."""
    done = run("run", "--json", *argv, **how)
    assert done.stdout.strip(), f"no result, exit {done.returncode}: {done.stderr.strip()[-300:]}"
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def notices(result: dict[str, Any]) -> set[str]:
    """The codes of what the policy said."""
    return {notice["code"] for notice in result["notices"]}


def command(*argv: str, **how: Any) -> str:
    """Runs a program of the machine and returns its output."""
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=DEADLINE_S, **how)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr.strip()[-300:]}"
    return done.stdout


def kernel_release() -> tuple[int, int]:
    """The kernel's version."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor)


def groups(pattern: str = "agentkernel-*") -> list[Path]:
    """The cgroups of this name, anywhere."""
    found = [Path(directory, name) for directory, names, _ in os.walk(CGROUP) for name in fnmatch.filter(names, pattern)]
    return sorted(found)  # os.walk does not mind what vanishes meanwhile


def sandbox_groups() -> list[Path]:
    """The cgroups of sandboxes: their names end in 16 hexadecimal digits."""
    return groups("agentkernel-" + "[0-9a-f]" * 16)


def members(group: Path) -> list[int]:
    """The processes in a group."""
    return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]


def is_asleep(group: Path) -> bool:
    """Whether `sleep` runs in it: a probe's sandbox may come and go before."""
    try:
        return any(Path(f"/proc/{pid}/comm").read_text() == "sleep\n" for pid in members(group))
    except OSError:
        return False


def group_of(pid: int) -> Path:
    """A process's cgroup, as a directory."""
    return CGROUP / Path(f"/proc/{pid}/cgroup").read_text().strip().split(":", 2)[2].lstrip("/")


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """Polls until the condition holds, and returns its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)
    return value


@contextmanager
def sleeping(*argv: str, **how: Any) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A sandbox in which `sleep 1000` runs: its engine's process, its cgroup."""
    process = start("run", *argv, "--", "sleep", "1000", **how)
    try:
        yield process, wait_for(lambda: next((group for group in sandbox_groups() if is_asleep(group)), None), "a sandbox's cgroup")
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE_S)


def process_named(name: str) -> list[int]:
    """Processes whose command line contains this."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                line = Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if name in line:
                found.append(int(entry))
    return found


def assert_nothing_left() -> None:
    """No group, state directory, id range, mount or process of any sandbox."""
    assert not sandbox_groups(), sandbox_groups()
    for base in (
        Path("/run/agentkernel"),
        Path("/run/user/1000/agentkernel"),
        Path("/tmp/agentkernel-1000"),
        *Path("/dev/shm").glob("agentkernel-*"),
    ):
        for part in ("sandboxes", "ranges"):
            left = list((base / part).iterdir()) if (base / part).is_dir() else []
            assert not left, left
        assert str(base) not in Path("/proc/self/mounts").read_text()
    assert not process_named("agentkernel-guest"), process_named("agentkernel-guest")
