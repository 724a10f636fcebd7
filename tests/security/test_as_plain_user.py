"""Root lets the hostile programs loose once more in sandboxes of a user without any privilege."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from conformance.plain_user import run_as_plain_user, subordinate_ids

DEADLINE_S = 900


@pytest.mark.parametrize("tests", ["test_inside", "test_network"])
@pytest.mark.skipif(os.geteuid() != 0, reason="the suite itself runs as a plain user")
@pytest.mark.timeout(DEADLINE_S + 20)
def test_the_sandboxes_of_a_plain_user_hold(tests: str, guest: Path, limits_missing: str) -> None:
    done = run_as_plain_user(f"security/{tests}.py", deadline_s=DEADLINE_S)
    assert done.returncode == 0, done.stdout[-9000:] + done.stderr[-2000:]
    assert " passed" in done.stdout, f"nothing ran: {done.stdout[-2000:]}"


@pytest.mark.skipif(os.geteuid() != 0, reason="the suite itself runs as a plain user")
@pytest.mark.timeout(DEADLINE_S + 20)
def test_the_containers_of_a_plain_user_hold(guest: Path, limits_missing: str) -> None:
    if shutil.which("podman") is None or shutil.which("newuidmap") is None:
        pytest.skip("podman or newuidmap (package uidmap) is not installed")
    with subordinate_ids() as before:
        done = run_as_plain_user("security/test_podman.py", deadline_s=DEADLINE_S, before=before, may_map_ids=True)
    assert done.returncode == 0, done.stdout[-9000:] + done.stderr[-2000:]
    assert " passed" in done.stdout, f"nothing ran: {done.stdout[-2000:]}"
