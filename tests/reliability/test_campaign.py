"""The recovery campaign as one test: so many faults, chosen by a seed that is printed; and the parts of the campaign itself.

Here the seed is the same each time, so that a failure is news of the change and not of the dice (the timing is the kernel's all the same).
CAMPAIGN_FAULTS, CAMPAIGN_FAULTS_ELSEWHERE and CAMPAIGN_SEED choose others; `make campaign` runs ten thousand.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from reliability.__main__ import NOT_HERE
from reliability.faults import KINDS, SOURCE, choose, failpoint_names, reachable

from agentkernel.backends.gvisor.backend import GvisorBackend
from agentkernel.failpoints import parse

FAULTS = os.environ.get("CAMPAIGN_FAULTS", "500")
FAULTS_ELSEWHERE = os.environ.get("CAMPAIGN_FAULTS_ELSEWHERE", "8")  # of each backend whose sandboxes take long to start
SEED = os.environ.get("CAMPAIGN_SEED", "1")
TESTS = Path(__file__).parent.parent


@pytest.mark.skipif(sys.platform != "linux", reason="sandboxes of this host need Linux namespaces")
@pytest.mark.timeout(1200)
def test_whatever_fails_nothing_acknowledged_is_lost_and_nothing_is_left(guest_binary: Path) -> None:
    assert campaign(guest_binary, "--faults", FAULTS) == 0, f"seed {SEED}: see the output"


@pytest.mark.skipif(os.geteuid() != 0, reason="engines of the tests' own, and gVisor, need root")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", ["gvisor", "docker", "podman"])
def test_the_same_of_backends_that_are_programs_of_others(
    backend: str, guest_binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "gvisor":
        monkeypatch.setenv("AGENTKERNEL_GUEST", str(guest_binary))
        if "AGENTKERNEL_TEST_RUNSC" in os.environ:
            monkeypatch.setenv("AGENTKERNEL_RUNSC", os.environ["AGENTKERNEL_TEST_RUNSC"])
        found = asyncio.run(GvisorBackend(tmp_path / "s").probe())
        if not found.ready:
            pytest.skip(f"gVisor is not ready on this host: {found.reason}")
    status = campaign(guest_binary, "--faults", FAULTS_ELSEWHERE, "--backend", backend)
    if status == NOT_HERE:
        pytest.skip(f"{backend} is not on this host")
    assert status == 0, f"seed {SEED}: see the output"


def campaign(guest: Path, *words: str) -> int:
    """Runs one in a process of its own, and prints what it says; its exit status."""
    environment = {**os.environ, "PYTHONPATH": f"{SOURCE.parent}:{TESTS}", "AGENTKERNEL_GUEST": str(guest)}
    argv = [sys.executable, "-m", "reliability", "--seed", SEED, *words]
    done = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    return done.returncode


def test_every_step_of_the_promised_operations_is_a_failpoint() -> None:
    names = failpoint_names()
    for act in ("engine.create", "engine.start", "engine.stop", "engine.remove", "engine.reconcile", "pool.refill", "engine.ephemeral"):
        assert [name for name in names if name.startswith(act)], f"{act} cannot be cut short"


def test_all_kinds_of_faults_are_chosen_and_their_rules_can_be_read() -> None:
    dice, names = random.Random(1), reachable(failpoint_names(), steps="namespaces", pooled=True, door="daemon")
    faults = [choose(dice, names) for _ in range(2000)]
    assert {fault.kind for fault in faults} == set(KINDS)
    for fault in faults:
        assert len(parse(fault.rules)) + len(parse(fault.before)) == (fault.acts if fault.failpoint else 0)
