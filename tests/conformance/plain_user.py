"""Runs tests again as a user without any privilege, in a process of its own with copies of the package and the tests that it may read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import agentkernel

PLAIN_UID = 61234  # belongs to nobody
NAME, FIRST_ID = "ak-rootless", 700_000  # of `subordinate_ids`
WORKS = 'import pytest, subprocess, sys; subprocess.run([sys.executable, "-c", ""], check=True)'
FIRST_TO_GO = ("choom", "-n", "500", "--")  # should a bomb meet the outer limit, this process is not the one to end
ROOT = Path(__file__).parent.parent.parent


def run_as_plain_user(
    test_file: str, *, deadline_s: float, before: tuple[str, ...] = (), may_map_ids: bool = False, select: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs one test file; needs root, and skips where a plain user may not execute this Python.

    `before` is the argv that starts it; `may_map_ids`: programs like newuidmap(1) keep the privileges that they have on the host;
    `select`: pytest's -k, for tests that cost more than they tell again.
    """
    with tempfile.TemporaryDirectory(prefix="ak-plain-", dir="/var/tmp") as name:
        own = Path(name)
        own.chmod(0o755)
        home, temporary = own / "home", own / "tmp"
        guest = Path(shutil.copy(os.environ["AGENTKERNEL_GUEST"], own / "agentkernel-guest"))
        guest.chmod(0o755)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "tests", own / "tests", ignore=ignored)
        shutil.copytree(ROOT / "docs", own / "docs", ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", own)
        shutil.copytree(Path(agentkernel.__file__).parent, own / "package" / "agentkernel", ignore=ignored)
        for directory in (home, temporary):
            directory.mkdir(mode=0o700)
            os.chown(directory, PLAIN_UID, PLAIN_UID)
        for part in ("tests", "docs", "package"):
            subprocess.run(["chmod", "-R", "a+rX", str(own / part)], check=True)
        return _run(own, guest, (f"tests/{test_file}", "-k", select), deadline_s, (*before, *FIRST_TO_GO, *_identity(may_map_ids)))


@contextmanager
def subordinate_ids() -> Iterator[tuple[str, ...]]:
    """What a program is started with so that the plain user has a name and 65,536 further ids: in a mount namespace of its own, so that
    the host's files stay as they are."""
    with tempfile.TemporaryDirectory(prefix="ak-ids-", dir="/var/tmp") as name:
        own = Path(name)
        own.chmod(0o755)
        lines = {
            "passwd": f"{NAME}:x:{PLAIN_UID}:{PLAIN_UID}::/nonexistent:/bin/sh\n",
            "group": f"{NAME}:x:{PLAIN_UID}:\n",
            "subuid": f"{NAME}:{FIRST_ID}:65536\n",
            "subgid": f"{NAME}:{FIRST_ID}:65536\n",
        }
        script = []
        for file, line in lines.items():
            before = Path("/etc", file).read_text() if Path("/etc", file).exists() else ""
            Path("/etc", file).touch()
            (own / file).write_text(before + line)
            (own / file).chmod(0o644)
            script.append(f"mount --bind {own / file} /etc/{file}")
        yield ("unshare", "--mount", "--propagation", "private", "sh", "-c", f'{" && ".join(script)} && exec "$@"', "sh")


def _identity(may_map_ids: bool) -> tuple[str, ...]:
    dropped = () if may_map_ids else ("--bounding-set=-all",)
    return ("setpriv", f"--reuid={PLAIN_UID}", f"--regid={PLAIN_UID}", "--clear-groups", "--inh-caps=-all", *dropped)


def _run(own: Path, guest: Path, wanted: tuple[str, ...], deadline_s: float, before: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    temporary = own / "tmp"
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(own / "home"),
        "TMPDIR": str(temporary),
        "AGENTKERNEL_GUEST": str(guest),
        "PYTHONPATH": os.pathsep.join([str(own / "package"), *_libraries()]),
        "PYTHONDONTWRITEBYTECODE": "1",
        **{name: os.environ[name] for name in ("AGENTKERNEL_CAPABILITIES",) if name in os.environ},
    }
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={temporary}/pytest", *wanted]
    argv = [*before, _interpreter(), *arguments]
    return subprocess.run(argv, cwd=own, env=environment, capture_output=True, text=True, timeout=deadline_s)


def _interpreter() -> str:
    """A Python of this version that a plain user may execute: root's own can be in root's home."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        if Path(candidate).exists() and _works(candidate):
            return candidate
    pytest.skip(f"this host has no Python {version} that a plain user may execute")


def _works(interpreter: str) -> bool:
    argv = ["setpriv", f"--reuid={PLAIN_UID}", f"--regid={PLAIN_UID}", "--clear-groups", interpreter, "-c", WORKS]
    environment = {"PYTHONPATH": os.pathsep.join(_libraries())}
    return subprocess.run(argv, env=environment, capture_output=True, cwd="/").returncode == 0


def _libraries() -> list[str]:
    """Where this process finds pytest and its friends."""
    return [path for path in sys.path if path.endswith("site-packages")]
