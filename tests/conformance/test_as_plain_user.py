"""Root runs the namespaces suite once more as a user without any privilege."""

from __future__ import annotations

import os

import pytest
from conformance.plain_user import run_as_plain_user


@pytest.mark.skipif(os.geteuid() != 0, reason="the suite itself runs as a plain user")
def test_the_namespaces_backend_conforms_for_a_plain_user() -> None:
    done = run_as_plain_user("conformance/test_namespaces.py", deadline_s=280)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout, f"nothing ran: {done.stdout[-2000:]}"
