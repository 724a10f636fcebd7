"""An internet for tests: namespaces of the test's own, in which every address is a server of `internet_servers` and every name is made up.

The egress process is put there, and so reaches nothing real; what it reaches is told by address. Linux, util-linux, iproute2 and openssl.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentkernel.errors import Unsupported

SERVERS = Path(__file__).with_name("internet_servers.py")
GOOD, OTHER, GIT, INNER = "good.example", "other.example", "git.example", "inner.example"
PUBLIC, PUBLIC_OTHER, OWN, PRIVATE = "203.0.113.10", "203.0.113.20", "198.51.100.77", "10.1.2.3"
PUBLIC_IPV6 = "2a00:1450::10"
NAMES = {GOOD: PUBLIC, OTHER: PUBLIC_OTHER, GIT: PUBLIC_OTHER, INNER: PRIVATE, "www.good.example": PUBLIC}
_PROGRAMS = ("ip", "unshare", "nsenter", "mount", "openssl")
_START_S = 20.0
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
_FILES = {
    "resolv.conf": "nameserver 127.0.0.1\noptions timeout:2 attempts:1\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the servers saw since the last `forget`: connections by `address port`, look-ups by name, requests as `method host target`."""

    connections: Mapping[str, int]
    lookups: Mapping[str, int]
    requests: Sequence[str]

    @property
    def addresses(self) -> set[str]:
        """The addresses that were connected to."""
        return {each.split(" ")[0] for each in self.connections}


class Internet:
    """Runs from the constructor on; `close` ends it.

    Args:
        directory: an empty directory, where its files are.

    Raises:
        Unsupported: this host cannot have one; the message names what is missing.
    """

    def __init__(self, directory: Path) -> None:
        missing = [name for name in _PROGRAMS if shutil.which(name, path=_path()) is None]
        if missing:
            raise Unsupported(f"this host has no {' and no '.join(missing)}, which an internet for tests is made with")
        self._directory = directory
        directory.chmod(0o755)
        for name, text in _FILES.items():
            (directory / name).write_text(text)
        self.certificates = _certificates(directory)
        self._server = self._started()
        said = self._server.stdout.readline() if self._server.stdout is not None else b""
        if not said:
            self.close()
            problem = (directory / "errors").read_text(errors="replace").strip().splitlines()
            raise Unsupported(f"this host allows no network namespace: {problem[-1] if problem else 'it says nothing'}")
        self.has_ipv6 = bool(json.loads(said)["ipv6"])
        for name, address in NAMES.items():
            self.name(name, [[address]])

    @property
    def repositories(self) -> Path:
        """Bare git repositories here are served at https://git.example/git/NAME."""
        return self._directory / "repositories"

    def interpreter(self, directory: Path) -> Path:
        """A program that is this Python, started there: what takes it for `sys.executable` has its network there."""
        program = directory / "python"
        program.write_text(f'#!/bin/sh\nexec {" ".join(self.inside())} {sys.executable} "$@"\n')
        program.chmod(0o755)
        return program

    def inside(self) -> list[str]:
        """The beginning of an argv whose program runs there."""
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return [str(shutil.which("nsenter", path=_path())), f"--target={self._server.pid}", *user, "--net", "--mount", "--"]

    def name(self, name: str, answers: Sequence[Sequence[str]]) -> None:
        """Makes a name lead to the first list of addresses when it is looked up first, then to the second; the last one stays."""
        self._ask({"do": "name", "name": name, "answers": answers})

    def forget(self) -> None:
        """Begins to count anew."""
        self._ask({"do": "forget"})

    def seen(self) -> Seen:
        """What has come."""
        told = self._ask({"do": "tell"})
        return Seen(connections=told["connections"], lookups=told["lookups"], requests=told["requests"])

    def close(self) -> None:
        """Ends the servers and with them their namespaces."""
        for pipe in (self._server.stdin, self._server.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._server.wait(_START_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()

    def _started(self) -> subprocess.Popen[bytes]:
        user = [] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps"]
        argv = ["unshare", *user, "--net", "--mount", "--", sys.executable, "-P", str(SERVERS), str(self._directory)]
        environment = {"PATH": _path(), "LANG": "C.UTF-8"}
        pipe = subprocess.PIPE
        with (self._directory / "errors").open("wb") as errors:
            return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=errors, env=environment, cwd="/")

    def _ask(self, command: Mapping[str, Any]) -> dict[str, Any]:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(command).encode() + b"\n")
        self._server.stdin.flush()
        answer: dict[str, Any] = json.loads(self._server.stdout.readline())
        return answer


def _path() -> str:
    return os.pathsep.join((os.environ.get("PATH", "/usr/bin:/bin"), "/usr/sbin", "/sbin"))


def _certificates(directory: Path) -> Path:
    """Makes an authority and a server's certificate for every name; returns what clients are to trust."""
    authority, key = directory / "authority.pem", directory / "authority.key"
    names = ",".join([*(f"DNS:{name}" for name in NAMES), f"IP:{PUBLIC}", f"IP:{PUBLIC_OTHER}"])
    _openssl("-subj", "/CN=authority of tests", "-keyout", str(key), "-out", str(authority))
    signed = ("-CA", str(authority), "-CAkey", str(key), "-addext", f"subjectAltName={names}", "-addext", "basicConstraints=CA:FALSE")
    _openssl("-subj", "/CN=internet of tests", *signed, "-keyout", str(directory / "server.key"), "-out", str(directory / "server.pem"))
    return authority


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", "req", "-x509", *_KEY, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unsupported(f"this host's openssl makes no certificates: {done.stderr.strip()[-200:]}")
