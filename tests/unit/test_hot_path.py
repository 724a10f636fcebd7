"""What the fast paths import is frozen: a new import there is a decision, not an accident."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from unit.cli_harness import environment_in
from unit.door_server import DoorServer

from agentkernel import channel, cli, config, engine

OWN = {
    "agentkernel",
    "agentkernel.assembly",
    "agentkernel.cli",
    "agentkernel.cli.context",
    "agentkernel.cli.main",
    "agentkernel.cli.output",
    "agentkernel.cli.verbs",
    "agentkernel.errors",
    "agentkernel.text",
    "agentkernel.text.nearest",
    "agentkernel.text.style",
}
FOREIGN = {"__future__", "collections.abc", "importlib", "typing"}
HOT = {"agentkernel", "agentkernel.__main__", "agentkernel.cli", "agentkernel.cli.hot", "agentkernel.cli.link", "agentkernel.cli.relay"}
BUILT_IN = {"_socket", "errno", "select"}
FOR_RUN_NEVER = {
    "agentkernel.cli.shells",
    "agentkernel.cli.host",
    "agentkernel.testing",
    "email",
    "http.client",
    "importlib.metadata",
    "logging.config",
    "pytest",
    "urllib.request",
}
# What only runs with a configuration file, an image, a look into the sandbox or a terminal need.
FOR_A_PLAIN_RUN_NEVER = {
    "agentkernel.channel.files",
    "agentkernel.cli.rawterminal",
    "agentkernel.config.document",
    "agentkernel.config.loosening",
    "agentkernel.config.trusted",
    "agentkernel.engine.images",
    "secrets",
    "tomllib",
}
_PROGRAM = """
import sys
before = set(sys.modules)
from agentkernel.cli.main import main
main(sys.argv[1:])
print("\\n".join(sorted(set(sys.modules) - before)), file=sys.stderr)
"""


def _imported_by(directory: Path, *arguments: str) -> set[str]:
    process = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments], capture_output=True, text=True, env=environment_in(directory), cwd=directory
    )
    return set(process.stderr.splitlines())


def _bare(directory: Path) -> set[str]:
    """What the few modules of the standard library that are allowed bring with them, on this version of Python."""
    names = ", ".join(sorted(FOREIGN))
    program = f"import sys; before = set(sys.modules); import {names}; print(*sorted(set(sys.modules) - before))"
    return set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=directory).stdout.split())


def test_version_and_help_import_nothing_more(tmp_path: Path) -> None:
    for argument in ("--version", "--help"):
        imported = _imported_by(tmp_path, argument)
        own = {name for name in imported if name.startswith("agentkernel")}
        assert own == OWN
        assert imported - own <= _bare(tmp_path)


def test_the_hot_path_imports_nothing_more_before_its_request_is_sent(tmp_path: Path) -> None:
    """Neither argparse nor asyncio, json, re, socket, typing, enum, dataclasses, nor this package's errors and settings."""
    program = """
import os, sys
before = set(sys.modules)
import agentkernel.__main__
from agentkernel.cli import link
def send(*_, **__):
    print("\\n".join(sorted(set(sys.modules) - before)), flush=True)
    os._exit(0)
link.Link.send = send
sys.argv = ["agentkernel", "exec", "box", "true"]
agentkernel.__main__.command()
"""
    environment = environment_in(tmp_path, AGENTKERNEL_SOCKET=str(tmp_path / "daemon.sock"), AGENTKERNEL_DAEMON="on")
    with DoorServer(tmp_path / "daemon.sock", lambda attach: attach.until_closed() and None):
        process = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL
        )
    assert set(process.stdout.split()) == HOT | BUILT_IN, process.stderr


def test_no_verb_is_imported_for_another(tmp_path: Path) -> None:
    imported = _imported_by(tmp_path, "completions", "--help")
    verbs = {name for name in imported if name.startswith("agentkernel.cli.verbs.")}
    assert verbs == {"agentkernel.cli.verbs.completions"}


def test_run_imports_nothing_of_other_verbs(tmp_path: Path) -> None:
    imported = _imported_by(tmp_path, "run", "--help")
    assert imported & FOR_RUN_NEVER == set()
    assert "agentkernel.cli.verbs.run" in imported


def test_a_plain_run_imports_nothing_that_only_others_need(tmp_path: Path) -> None:
    imported = _imported_by(tmp_path, "run", "--", "true")
    assert {"agentkernel.engine.engine", "agentkernel.backends.namespaces.backend"} <= imported
    assert imported & FOR_A_PLAIN_RUN_NEVER == set()


def test_the_names_that_packages_load_late_are_there() -> None:
    assert callable(channel.GuestFiles) and callable(channel.parse_processes) and callable(channel.parse_statistics)
    assert callable(cli.RawTerminal) and callable(engine.TarImages)
    assert callable(config.parse) and callable(config.loosenings) and callable(config.TrustStore)


@pytest.mark.parametrize("package", [channel, cli, config, engine])
def test_a_package_has_no_other_names(package: object) -> None:
    with pytest.raises(AttributeError, match="no attribute 'anything'"):
        getattr(package, "anything")  # noqa: B009
