"""The recovery campaign: faults by the thousand, and after each an oracle. A fault counts when its step was reached.

    python -m reliability --faults 500 --seed 1 [--log FILE] [--episode N] [--door engine|daemon|process]
        [--backend namespaces|gvisor|docker|podman]

The log has one JSON object per line and episode; a campaign that was broken off goes on where its log ends. Exit status 1: violations;
77: the backend is not on this host.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from reliability.episode import DOORS, FAULTS, Episode, Report
from reliability.faults import failpoint_names
from reliability.ground import BACKENDS, Ground, ground_of
from reliability.lives import Nursery

from agentkernel.testing.host import adopting_orphans

NOT_HERE = 77  # exit status, as of other programs that skip tests


def main() -> int:
    """Runs the campaign and says how it went."""
    parser = argparse.ArgumentParser(
        prog="python -m reliability", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--seed", default=str(int(time.time())))
    parser.add_argument("--log", type=Path)
    parser.add_argument("--episode", type=int, help="only this one")
    parser.add_argument("--door", choices=DOORS, default="")
    parser.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0])
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that nothing of the campaign itself is left
    print(f"seed {given.seed}: {given.faults} faults, {FAULTS} per episode, {given.backend}", flush=True)
    done = _done(given.log, given.seed)
    with adopting_orphans(), tempfile.TemporaryDirectory(prefix="campaign-") as directory:
        tempfile.tempdir = f"{directory}/tmp"  # where leftovers are looked for: the machine's is everybody's
        Path(tempfile.tempdir).mkdir()
        try:
            with ground_of(given.backend, Path(directory)) as ground:
                reports = asyncio.run(_campaign(given, Path(directory), ground, done))
        except pytest.skip.Exception as missing:
            print(f"not on this host: {missing}")
            return NOT_HERE
    return _summary([*done, *reports])


async def _campaign(given: argparse.Namespace, directory: Path, ground: Ground, done: list[Report]) -> list[Report]:
    nursery = Nursery(directory)
    await nursery.open()
    names = failpoint_names()
    reports: list[Report] = []
    left = given.faults - sum(report.reached for report in done)
    number = given.episode if given.episode is not None else max((report.episode for report in done), default=-1) + 1
    while left > 0:
        episode = Episode(nursery, directory, ground, seed=given.seed, number=number, names=names, door=given.door)
        report = await episode.run()
        reports.append(report)
        if given.log is not None:
            with open(given.log, "a") as log:
                log.write(json.dumps({"seed": given.seed, **asdict(report)}) + "\n")
        if report.violations:
            _tell(given, report)
        left -= report.reached
        number += 1
        if given.episode is not None:
            break
    await nursery.close()
    return reports


def _tell(given: argparse.Namespace, report: Report) -> None:
    again = f"python -m reliability --backend {given.backend} --seed {given.seed} --episode {report.episode}"
    print(f"\nepisode {report.episode} ({report.door}{', pooled' if report.pooled else ''}): {again}")
    for line in (*report.violations, *(f"    {each}" for each in report.told)):
        print(f"  {line}")
    sys.stdout.flush()


def _done(log: Path | None, seed: str) -> list[Report]:
    if log is None or not log.exists():
        return []
    found = [json.loads(line) for line in log.read_text().splitlines()]
    return [Report(**{name: value for name, value in each.items() if name != "seed"}) for each in found if each["seed"] == seed]


def _summary(reports: list[Report]) -> int:
    faults = [each for report in reports for each in report.faults]
    bad = [report for report in reports if report.violations]
    kinds = Counter(each["fault"].rpartition("=")[2].partition(":")[0] for each in faults if each["fired"])
    seconds = sum(report.seconds for report in reports)
    slowest = max((report.slowest_recovery_s for report in reports), default=0.0)
    print(
        f"{sum(kinds.values())} faults in {len(faults)} lives, {sum(report.operations for report in reports)} operations, "
        f"{seconds:.0f} s, slowest recovery {slowest:.2f} s, {len(bad)} episodes with violations"
    )
    print("reached: " + ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())))
    steps = [
        (each["fault"].rpartition("@")[0].rpartition(",")[2].rpartition(" ")[2], each["fired"]) for each in faults if "@" in each["fault"]
    ]
    missed = {step for step, _ in steps} - {step for step, fired in steps if fired}
    if missed:
        print(f"steps that were chosen and never reached: {', '.join(sorted(missed))}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
