"""The recovery campaign as one test: so many faults, chosen by a seed that is printed; and the parts of the campaign itself.

Here the seed is the same each time, so that a failure is news of the change and not of the dice (the timing is the kernel's all the same).
CAMPAIGN_FAULTS and CAMPAIGN_SEED choose others; `make campaign` runs ten thousand.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from reliability.faults import KINDS, SOURCE, choose, failpoint_names, reachable

from agentkernel.failpoints import parse

FAULTS = os.environ.get("CAMPAIGN_FAULTS", "500")
SEED = os.environ.get("CAMPAIGN_SEED", "1")
TESTS = Path(__file__).parent.parent


@pytest.mark.skipif(sys.platform != "linux", reason="sandboxes of this host need Linux namespaces")
@pytest.mark.timeout(1200)
def test_whatever_fails_nothing_acknowledged_is_lost_and_nothing_is_left(guest_binary: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{SOURCE.parent}:{TESTS}", "AGENTKERNEL_GUEST": str(guest_binary)}
    campaign = [sys.executable, "-m", "reliability", "--faults", FAULTS, "--seed", SEED]
    done = subprocess.run(campaign, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, f"seed {SEED}: see the output"


def test_every_step_of_the_promised_operations_is_a_failpoint() -> None:
    names = failpoint_names()
    for act in ("engine.create", "engine.start", "engine.stop", "engine.remove", "engine.reconcile", "pool.refill", "engine.ephemeral"):
        assert [name for name in names if name.startswith(act)], f"{act} cannot be cut short"


def test_all_kinds_of_faults_are_chosen_and_their_rules_can_be_read() -> None:
    dice, names = random.Random(1), reachable(failpoint_names(), backend="namespaces", pooled=True, door="daemon")
    faults = [choose(dice, names) for _ in range(2000)]
    assert {fault.kind for fault in faults} == set(KINDS)
    for fault in faults:
        assert len(parse(fault.rules)) + len(parse(fault.before)) == (fault.acts if fault.failpoint else 0)
