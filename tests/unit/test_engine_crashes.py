"""`kill -9` of the process that holds the store, at every named step: what it was told is true afterwards, and nothing is left over."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from unit import engine_scenario

import agentkernel.engine
from agentkernel.failpoints import ENVIRONMENT_NAME

SOURCES = Path(agentkernel.engine.__file__).parent
STEPS = sorted({step for path in SOURCES.glob("*.py") for step in re.findall(r'failpoint\("(engine\.[a-z.]+)"\)', path.read_text())})
# These are reached only with a pool, by a recovery, or by a detached command; the campaign reaches them.
ELSEWHERE = {"engine.create.taken", "engine.ephemeral.taken", "engine.logs.write"}
IN_RECOVERY = {step for step in STEPS if step.startswith("engine.reconcile.")}


@pytest.fixture
def home(tmp_path: Path, guest_binary: Path) -> dict[str, str]:
    home = tmp_path / "h"
    home.mkdir()
    given = {"AGENTKERNEL_HOME": str(home), "HOME": str(home), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    paths = os.pathsep.join(path for path in sys.path if path)
    guest = shutil.copy(os.environ.get("AGENTKERNEL_GUEST") or guest_binary, tmp_path / "guest")
    return {"PATH": os.environ["PATH"], "PYTHONPATH": paths, "AGENTKERNEL_GUEST": os.path.realpath(guest), **given}


def _run(home: dict[str, str], *arguments: str, failpoints: str = "") -> tuple[int, list[list[str]]]:
    argv = [sys.executable, engine_scenario.__file__, *arguments]
    done = subprocess.run(argv, env={**home, ENVIRONMENT_NAME: failpoints}, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    return done.returncode, [line.split() for line in done.stdout.splitlines()]


def _agents(home: dict[str, str]) -> list[int]:
    """The agents that run the home's own copy of the guest binary."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdecimal() and os.readlink(entry / "exe") == home["AGENTKERNEL_GUEST"]:
                found.append(int(entry.name))
    return found


def _promised(said: list[list[str]]) -> dict[str, str]:
    """The last that was told of each sandbox's life."""
    return {name: what for what, name, *more in said if not more}


def _check(home: dict[str, str], said: list[list[str]]) -> None:
    """A new engine finds what was promised; then it removes everything, and nothing is left."""
    promised = _promised(said)
    status, found = _run(home, "again", "remove")
    assert status == 0
    lives = [words for words in found if words[0] in ("running", "stopped", "creating")]
    rows = {name: (was, kind, " ".join(content)) for was, name, kind, *content in lives}
    _check_connections(said, {(what, name): more for what, name, *more in found})
    for name, what in promised.items():
        if what == "gone":
            assert name not in rows
        elif name != "short":
            assert name in rows
        if what == "written" or (name == "kept" and name in rows and what != "running"):
            assert rows[name][2] == "from before"
    assert all(was in ("running", "stopped") for was, _, _ in rows.values())
    assert [path.name for path in Path(home["AGENTKERNEL_HOME"], "data", "memory").glob("*")] == []
    deadline = time.monotonic() + 10
    while _agents(home) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _agents(home) == []


def _check_connections(said: list[list[str]], found: dict[tuple[str, str], list[str]]) -> None:
    """Rules and ports are as they were told last; a change that was under way may have been made or not."""
    told = [words for words in said if len(words) > 2]
    if ["allowed", "kept", "example.com"] in told:
        assert "example.com" in found["allowed", "kept"]
    if told and told[-1][0] == "published" and said[-1] == ["gone", "passing"]:
        assert told[-1][2] in found["published", "kept"]
    if any(what == "published" for what, *_ in told):
        assert len(found["published", "kept"]) in (1, 2)  # that of the request, and the one more


def test_the_steps_are_known() -> None:
    assert len(STEPS) > 20
    assert set(STEPS) >= ELSEWHERE


def test_without_a_crash_everything_is_as_told(home: dict[str, str]) -> None:
    status, said = _run(home)
    assert (status, said[-1]) == (0, ["gone", "passing"])
    _check(home, said)


@pytest.mark.parametrize("step", [step for step in STEPS if step not in ELSEWHERE | IN_RECOVERY])
def test_killed_at_a_step_nothing_is_lost_and_nothing_left(home: dict[str, str], step: str) -> None:
    status, said = _run(home, failpoints=f"{step}=kill")
    assert status == -9
    assert not said or said[0][0] != "running" or _agents(home) != []
    assert all(what != "error" for what, *_ in said)
    _check(home, said)


@pytest.mark.parametrize("step", sorted(IN_RECOVERY))
@pytest.mark.parametrize("first", ["engine.stop.stored", "engine.ephemeral.stored", "engine.dispose.begun"])
def test_killed_while_recovering_the_next_recovery_does_it(home: dict[str, str], first: str, step: str) -> None:
    status, said = _run(home, failpoints=f"{first}=kill")
    assert status == -9
    _run(home, "again", failpoints=f"{step}=kill")
    _check(home, said)


@pytest.mark.parametrize("step", [step for step in STEPS if step not in ELSEWHERE | IN_RECOVERY])
def test_what_fails_at_a_step_is_told_and_nothing_is_left(home: dict[str, str], step: str) -> None:
    status, said = _run(home, failpoints=f"{step}@1=error:EIO")
    _check(home, [words for words in said if words[0] != "error"])
    assert status in (0, 1)
