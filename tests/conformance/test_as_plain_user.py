"""Root runs the namespaces suite once more as a user without any privilege, in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import agentkernel

PLAIN_UID = 61234  # belongs to nobody
ROOT = Path(__file__).parent.parent.parent
DEADLINE_S = 280


@pytest.mark.skipif(os.geteuid() != 0, reason="the suite itself runs as a plain user")
def test_the_namespaces_backend_conforms_for_a_plain_user() -> None:
    with tempfile.TemporaryDirectory(prefix="ak-plain-", dir="/tmp") as name:
        own = Path(name)
        own.chmod(0o755)
        home, temporary = own / "home", own / "tmp"
        guest = Path(shutil.copy(os.environ["AGENTKERNEL_GUEST"], own / "agentkernel-guest"))
        guest.chmod(0o755)
        shutil.copytree(ROOT / "tests", own / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", own)
        shutil.copytree(Path(agentkernel.__file__).parent, own / "package" / "agentkernel", ignore=shutil.ignore_patterns("__pycache__"))
        for directory in (home, temporary):
            directory.mkdir(mode=0o700)
            os.chown(directory, PLAIN_UID, PLAIN_UID)
        for path in (own / "tests", own / "package"):
            subprocess.run(["chmod", "-R", "a+rX", str(path)], check=True)
        done = _as_plain_user(own, home, temporary, guest)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "passed" in done.stdout, f"nothing ran: {done.stdout}"
    print(done.stdout)


def _as_plain_user(own: Path, home: Path, temporary: Path, guest: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "AGENTKERNEL_GUEST": str(guest),
        "PYTHONPATH": os.pathsep.join([str(own / "package"), *_libraries()]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    pytest_arguments = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--basetemp={temporary}/pytest",
        "tests/conformance/test_namespaces.py",
    ]
    identity = ["setpriv", f"--reuid={PLAIN_UID}", f"--regid={PLAIN_UID}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    argv = [*identity, _interpreter(), *pytest_arguments]
    return subprocess.run(argv, cwd=own, env=environment, capture_output=True, text=True, timeout=DEADLINE_S)


def _interpreter() -> str:
    """A Python of this version that a plain user may execute: root's own can be in root's home."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        if Path(candidate).exists() and _works(candidate):
            return candidate
    pytest.skip(f"this host has no Python {version} that a plain user may execute")


def _works(interpreter: str) -> bool:
    argv = ["setpriv", f"--reuid={PLAIN_UID}", f"--regid={PLAIN_UID}", "--clear-groups", interpreter, "-c", "import pytest"]
    environment = {"PYTHONPATH": os.pathsep.join(_libraries())}
    return subprocess.run(argv, env=environment, capture_output=True, cwd="/").returncode == 0


def _libraries() -> list[str]:
    """Where this process finds pytest and its friends."""
    return [path for path in sys.path if path.endswith("site-packages")]
