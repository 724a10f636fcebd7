"""Who a uid is, also when the process can open nothing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from agentkernel.config.principal import principal_of

OUT_OF_DESCRIPTORS = """
import os, resource, sys
from agentkernel.config.principal import principal_of
known = principal_of(os.getuid()) if sys.argv[1] == "known" else ""
resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
try:
    assert principal_of(os.getuid()) == known
    print("the same")
except OSError as error:
    print(error.strerror)
"""


def test_a_user_without_a_name_is_a_number() -> None:
    assert principal_of(3_999_999_999) == "uid 3999999999"


@pytest.mark.parametrize(("before", "told"), [("known", "the same"), ("unknown", "Too many open files")])
def test_a_process_out_of_descriptors_takes_nobody_for_somebody_else(before: str, told: str) -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 3
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_DESCRIPTORS, before],
        env=dict(os.environ, PYTHONPATH=":".join(sys.path)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == told
