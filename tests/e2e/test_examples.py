"""The SDK's examples do what they say, in process and by the daemon."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from unit.cli_harness import SOURCE

EXAMPLES = SOURCE.parent / "examples" / "sdk"
DEADLINE_S = 120.0
SAYS = {
    "run_code.py": [
        "works: exit 0 45",
        "fails: exit 1 ValueError: not today",
        "never ends: stopped after two seconds",
        "wants too much: exit ",
        "looks around: exit 0 homes: ['user'] may write /usr: False",
    ],
    "stream_build.py": ["make exited with 0", "a program came back: True executable: True"],
    "background_server.py": ["hello from inside", "the same process: True", "ended by signal 9"],
    "files_up_and_down.py": ["2 files, 1 symlink, 16 bytes", "one ['a,2', 'b,1']", "two ['c,3', 'd,1']", "latest is two"],
    "network.py": [
        "exit 1 urllib.error.HTTPError: HTTP Error 403",
        "denied example.com:80 by rule: none",
        "may talk to: pypi.org example.com *.example.org:443 and otherwise to: none",
        "hello from inside",
    ],
    "many_sandboxes.py": ["20 sandboxes, sum of the answers: 2470"],
}
PLACES = {"in process": ("shared_environment", "--local"), "by the daemon": ("daemon_environment",)}


def test_every_example_is_tried_and_told_of() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAYS)
    listed = (EXAMPLES / "README.md").read_text()
    assert [name for name in SAYS if name not in listed] == []


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", SAYS)
def test_an_example(name: str, place: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    environment, *arguments = PLACES[place]
    if name == "stream_build.py" and not (shutil.which("make") and shutil.which("cc")):
        pytest.skip("needs make and a C compiler")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=tmp_path,
        env=request.getfixturevalue(environment),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in SAYS[name] if not any(said.startswith(line) for said in lines)] == [], done.stdout + done.stderr
    assert os.listdir(tmp_path) == []
