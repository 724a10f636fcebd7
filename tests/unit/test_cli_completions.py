"""What each shell offers, asked of the shell itself."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from unit.cli_harness import DEADLINE_S

from agentkernel import assembly
from agentkernel.cli.main import main

# Completion is a part of zsh's line editor, which wants a terminal: it is told to complete as soon as it has one, and to end then.
_ZSH = """
autoload -Uz compinit
compinit -u -d "$DUMP"
source "$SCRIPT"
compadd() {
    if [[ ${@[1,(i)(-|--)]} != *-(O|A|D)\\ * ]]; then
        local -a offered
        builtin compadd -O offered "$@"
        print -rl -- $offered >> "$OFFERED"
    fi
    builtin compadd "$@"
}
zle-line-init() {
    BUFFER=$TYPED
    CURSOR=$#BUFFER
    zle complete-word
    exit 0
}
zle -N zle-line-init
"""
_BASH = """
source "$SCRIPT"
COMP_LINE=$TYPED; read -ra COMP_WORDS <<< "$TYPED"; [[ $COMP_LINE == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
_agentkernel
printf '%s\\n' "${COMPREPLY[@]}"
"""

Complete = Callable[[str], set[str]]


def _in_bash(environment: dict[str, str], directory: Path) -> set[str]:
    return _said(["bash", "--norc", "-c", _BASH], environment, directory)


def _in_fish(environment: dict[str, str], directory: Path) -> set[str]:
    program = 'source "$SCRIPT"; complete "--do-complete=$TYPED"'
    return _said(["fish", "--no-config", "-c", program], environment, directory)


def _in_zsh(environment: dict[str, str], directory: Path) -> set[str]:
    (directory / ".zshrc").write_text(_ZSH)
    offered = directory / "offered"
    offered.write_text("")
    environment = environment | {"ZDOTDIR": str(directory), "OFFERED": str(offered), "TERM": "xterm"}
    screen, keyboard = pty.openpty()
    shell = subprocess.Popen(
        ["zsh", "-d", "-i"],
        stdin=keyboard,
        stdout=keyboard,
        stderr=keyboard,
        cwd=directory / "here",
        env=environment,
        start_new_session=True,
    )
    os.close(keyboard)
    with suppress(OSError):  # EIO: its last user has gone
        while os.read(screen, 65536):
            pass
    os.close(screen)
    assert shell.wait(DEADLINE_S) == 0
    return set(offered.read_text().split())


def _said(argv: list[str], environment: dict[str, str], directory: Path) -> set[str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=directory / "here", env=environment, timeout=DEADLINE_S)
    assert done.stderr == ""
    return {line.split("\t")[0] for line in done.stdout.splitlines()}  # fish: and its description


_SHELLS = {"bash": _in_bash, "zsh": _in_zsh, "fish": _in_fish}


@pytest.fixture(params=_SHELLS)
def complete(
    request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> Complete:
    """What that shell offers at the end of a line, in a directory with `some-file`, where the sandboxes `box` and `other` are."""
    shell = request.param
    if shutil.which(shell) is None:
        pytest.skip(f"this host has no {shell} (Debian: {shell})")
    assert main(["completions", shell]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "agentkernel").write_text('#!/bin/sh\n[ "$*" = "list --quiet --if-running" ] && echo box && echo other\n')
    (programs / "agentkernel").chmod(0o755)
    (tmp_path / "here" / "deep").mkdir(parents=True)
    (tmp_path / "here" / "some-file").touch()
    environment = {
        "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "SCRIPT": str(tmp_path / "script"),
        "LANG": "C.UTF-8",
    }
    environment["DUMP"] = str(tmp_path_factory.getbasetemp() / "compdump")  # what compinit reads in a second, once for all
    return lambda typed: _SHELLS[shell](environment | {"TYPED": typed}, tmp_path)


def test_verbs(complete: Complete) -> None:
    assert complete("agentkernel do") == {"doctor"}
    assert {"run", "doctor", "completions"} <= complete("agentkernel ")


def test_flags_and_their_values(complete: Complete) -> None:
    assert complete("agentkernel run --prof") == {"--profile"}
    assert complete("agentkernel run --profile ") == {"permissive", "moderate", "restrictive"}
    assert complete("agentkernel run --no-network --backend ") == set(assembly.BACKENDS)
    assert complete("agentkernel exec --det") == {"--detach"}
    assert complete("agentkernel network log --den") == {"--denied"}
    assert complete("agentkernel remove box --fo") == {"--force"}
    assert complete("agentkernel audit --sandbox o") == {"other"}


def test_the_values_of_a_verb(complete: Complete) -> None:
    assert complete("agentkernel completions ") >= {"bash", "zsh", "fish"}
    assert complete("agentkernel daemon st") == {"start", "stop", "status"}
    assert complete("agentkernel network al") == {"allow"}


def test_a_command_as_a_command(complete: Complete) -> None:
    assert "bash" in complete("agentkernel run --memory 1GiB bas")
    assert "bash" in complete("agentkernel run -e A=1 -e B=2 bas")
    assert "some-file" in complete("agentkernel run -- cat some-")
    assert "--profile" not in complete("agentkernel run cat --prof")


def test_a_command_in_a_sandbox(complete: Complete) -> None:
    assert complete("agentkernel exec b") == {"box"}
    assert complete("agentkernel exec -e A=1 --env B=2 ") == {"box", "other"}
    assert "bash" in complete("agentkernel exec box bas")
    assert "bash" in complete("agentkernel exec -e A=1 -e B=2 box bas")
    assert "some-file" in complete("agentkernel exec box -- cat some-")


def test_sandboxes(complete: Complete) -> None:
    assert complete("agentkernel stop ") == {"box", "other"}
    assert complete("agentkernel network show ") == {"box", "other"}
    assert complete("agentkernel ports o") == {"other"}
    assert complete("agentkernel create ") & {"box", "other"} == set()


def test_places(complete: Complete) -> None:
    assert {name.rstrip(":/") for name in complete("agentkernel cp b")} == {"box"}
    assert complete("agentkernel cp box:/x so") == {"some-file"}
    assert {name.rstrip("/") for name in complete("agentkernel cp de")} == {"deep"}
