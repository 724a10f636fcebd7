"""What the oracle plants on the host for the programs to find: a secret, a canary, a project, a victim."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SECRET_PREFIX = "agentkernel-secret-"
PROTECTED = (".git/hooks", ".git/config", ".envrc", ".vscode", "agentkernel.toml", ".claude", ".mcp.json")
_SOME = 1 << 1 | 1 << 18  # CAP_DAC_OVERRIDE, CAP_SYS_CHROOT: even a container's root has them
_CAPABILITIES = struct.pack("<5I", 0x02000001, _SOME, 0, 0, 0)  # vfs_cap_data of capabilities(7): permitted and effective


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """Everything that was planted; open to every user of the host, so that only a boundary keeps a program from it."""

    directory: Path
    secret: str
    environment: dict[str, str]
    victim: subprocess.Popen[str]

    @property
    def canary(self) -> Path:
        """A directory that must not change."""
        return self.directory / "canary"

    @property
    def tools(self) -> Path:
        """The programs, and copies of them with privileges where the host lets us make such."""
        return self.directory / "tools"

    @property
    def project(self) -> Path:
        """A project with the files that a host's tools obey."""
        return self.directory / "project"

    @property
    def empty_project(self) -> Path:
        """A project without any of them."""
        return self.directory / "empty"


@contextmanager
def plant(hostile: Path) -> Iterator[Planted]:
    """Plants everything, and removes it at the end."""
    directory = Path(tempfile.mkdtemp(prefix="akhost-", dir="/var/tmp"))
    victim: subprocess.Popen[str] | None = None
    try:
        directory.chmod(0o755)
        secret = SECRET_PREFIX + secrets.token_hex(16)
        _files(directory, secret)
        _tools(directory / "tools", hostile)
        victim = _victim(directory, secret)
        assert victim.stdout is not None
        environment = {
            **json.loads(victim.stdout.readline()),
            "AK_SECRET": str(directory / "secret"),
            "AK_CANARY": str(directory / "canary"),
        }
        yield Planted(directory=directory, secret=secret, environment=environment, victim=victim)
    finally:
        if victim is not None:
            victim.communicate("")
        shutil.rmtree(directory)


def plant_project(directory: Path, *, hooks: bool) -> None:
    """Makes a project anew; `hooks`: with every protected file in it."""
    if directory.exists():
        subprocess.run(["rm", "-rf", str(directory)], check=True)
    for name in ("kept", "kept2", "sub/deep", *((".git/hooks/pre-commit", *(_as_file(path) for path in PROTECTED[1:])) if hooks else ())):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
    directory.chmod(0o755)


def _as_file(protected: str) -> str:
    return {".vscode": ".vscode/tasks.json", ".claude": ".claude/settings.json"}.get(protected, protected)


def _files(directory: Path, secret: str) -> None:
    (directory / "secret").write_text(f"{secret}\n")
    plant_project(directory / "canary", hooks=False)
    plant_project(directory / "project", hooks=True)
    plant_project(directory / "empty", hooks=False)
    for path in (directory / "canary").rglob("*"):
        path.chmod(0o777 if path.is_dir() else 0o666)
    (directory / "canary").chmod(0o777)


def _tools(directory: Path, hostile: Path) -> None:
    directory.mkdir()
    for name in ("hostile", "hostile-setuid", "hostile-capable"):
        shutil.copy(hostile, directory / name)
        (directory / name).chmod(0o755)
    if os.geteuid() == 0:
        (directory / "hostile-setuid").chmod(0o4755)
        os.setxattr(directory / "hostile-capable", "security.capability", _CAPABILITIES)


def _victim(directory: Path, secret: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-I", str(Path(__file__).with_name("victim.py")), str(directory), secret]
    environment = {"PATH": os.environ.get("PATH", ""), "AK_VICTIM_SECRET": secret}
    return subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
