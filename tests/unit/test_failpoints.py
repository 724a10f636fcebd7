"""Failpoints: rules, calls, actions."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from agentkernel.errors import InvalidInput
from agentkernel.failpoints import EXIT_STATUS, failpoint, parse

PROGRAM = """
from agentkernel.failpoints import failpoint
for number in range(1, 4):
    try:
        failpoint("part.act.step")
    except OSError as error:
        print(number, error.errno, error.strerror)
    else:
        print(number, "passed")
    failpoint("part.act.other")
"""


def _run(rules: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "AGENTKERNEL_FAILPOINTS": rules}
    return subprocess.run([sys.executable, "-u", "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=60)


def test_without_rules_nothing_happens() -> None:
    failpoint("part.act.step")
    assert _run("").stdout == "1 passed\n2 passed\n3 passed\n"


def test_a_rule_acts_at_every_call_of_its_name_only() -> None:
    lines = _run("part.act.step=error:EIO").stdout.splitlines()
    assert lines == [f"{number} {errno.EIO} {os.strerror(errno.EIO)} (failpoint part.act.step)" for number in (1, 2, 3)]
    assert _run("part.act=error:EIO").stdout == "1 passed\n2 passed\n3 passed\n"


def test_a_numbered_rule_acts_at_that_call_alone() -> None:
    lines = _run("part.act.step@2=error:ENOSPC").stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["passed", str(errno.ENOSPC), "passed"]


def test_kill_is_sigkill_and_comes_before_whatever_follows() -> None:
    done = _run("part.act.other@2=kill, part.act.step@1=error:EMFILE")
    assert done.returncode == -signal.SIGKILL
    assert [line.split()[1] for line in done.stdout.splitlines()] == [str(errno.EMFILE), "passed"]


def test_exit_ends_the_process_with_its_status() -> None:
    done = _run("part.act.step@3=exit")
    assert (done.returncode, done.stdout) == (EXIT_STATUS, "1 passed\n2 passed\n")


def test_what_stands_still_goes_on_when_it_is_told_to() -> None:
    environment = {**os.environ, "AGENTKERNEL_FAILPOINTS": "part.act.step@2=stop"}
    process = subprocess.Popen([sys.executable, "-u", "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, text=True)
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=60)[0] == "1 passed\n2 passed\n3 passed\n"


def test_a_pause_goes_on_afterwards() -> None:
    assert _run("part.act.step@1=pause:0.01").stdout == "1 passed\n2 passed\n3 passed\n"


@pytest.mark.parametrize("rules", ["name", "=kill", "a@x=kill", "a=explode", "a=error:ENOTANERRNO", "a=pause:soon", "a=error:"])
def test_what_is_no_rule_is_refused(rules: str) -> None:
    with pytest.raises(InvalidInput):
        parse(rules)
