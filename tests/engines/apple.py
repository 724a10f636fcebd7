"""Apple's `container` as tests have it: the stand-in, with an image whose system is this host's."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SERVICE = Path(__file__).with_name("apple_service.py")
STAND_IN = Path(__file__).with_name("apple_container.py")
REFERENCE = "docker.io/library/system:1"
DIGEST = "sha256:" + "5" * 64
NEEDED = ("unshare", "nsenter", "setpriv")


def lacking() -> str:
    """What this host lacks for the stand-in's machines; empty: nothing."""
    if os.geteuid() != 0:
        return "root"
    return next((name for name in NEEDED if shutil.which(name) is None), "")


@contextlib.contextmanager
def apple_stand_in(directory: Path) -> Iterator[AppleStandIn]:
    """The program and its service, for the block."""
    stand_in = AppleStandIn(directory)
    argv = [sys.executable, "-I", "-S", str(SERVICE), str(stand_in.state)]
    service = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert service.stdout is not None
        assert service.stdout.readline() == b"listening\n"
        yield stand_in
    finally:
        service.kill()
        service.communicate()


class AppleStandIn:
    """The program, with a state directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "apple-program"
        self.state.mkdir(parents=True)
        self.program = directory / "container"
        self.program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {STAND_IN} {self.state} "$@"\n')
        self.program.chmod(0o755)
        self.serve({REFERENCE: {"digest": DIGEST, "Env": ["PATH=/usr/bin:/bin"], "Cmd": ["sh"]}})

    def serve(self, registry: dict[str, object]) -> None:
        """What a registry has from now on."""
        (self.state / "registry.json").write_text(json.dumps(registry))

    def calls(self, *verb: str) -> list[list[str]]:
        """The calls so far, of one verb."""
        path = self.state / "calls"
        every = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [words for words in every if words[: len(verb)] == list(verb)]

    def machines(self) -> list[str]:
        """The names of its containers, running or not."""
        return sorted(path.name for path in (self.state / "machines").glob("*"))
