"""`python -m benchmarks`: measures, prints a table, writes JSON; with --check a missed bar is a failure."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from agentkernel.errors import AgentKernelError
from benchmarks import capacity, contained, endurance, machine, network, running, shell, starting
from benchmarks.contenders import UnmeasurableError
from benchmarks.figures import Figure, table

RESULTS = Path(__file__).parent / "results"
Benchmark = Callable[[int, Path], Awaitable[list[Figure]]]

# name -> benchmark and the rounds that it makes by itself
TIMED: dict[str, tuple[Benchmark, int]] = {
    "cold": (starting.cold_dynamic, 200),
    "cold-static": (starting.cold_static, 200),
    "exec": (running.warm_exec, 1000),
    "pool": (running.pooled, 100),
    "shell": (shell.shell, 50),
    "not-up": (shell.not_up, 10),
    "output": (capacity.output, 1),
    "memory": (capacity.memory, 1),
    "daemon-memory": (capacity.daemon_memory, 1),
    "burst": (capacity.burst, 1),
    "egress": (network.egress, 5),
    "exec-each": (contained.exec_each, 200),
    "cold-each": (contained.cold_each, 20),
    "run-each": (contained.run_each, 20),
    "burst-each": (contained.burst_each, 1),
    "pool-each": (contained.pool_each, 20),
    "memory-each": (contained.memory_each, 1),
    "cost-each": (contained.cost_each, 5),
    "cycles": (endurance.cycles, endurance.CYCLES),
}
SUSTAINED: dict[str, Callable[[float, Path], Awaitable[list[Figure]]]] = {
    "sustained": endurance.sustained,
    "sustained-daemon": endurance.sustained_daemon,
    "sustained-sdk": endurance.sustained_sdk,
}


def main() -> int:
    """Returns 1 when --check is given and a bar was missed or could not be measured."""
    args = _arguments()
    report = {"machine": machine.facts(), "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    figures: list[Figure] = []
    for name in args.only or (*TIMED, *SUSTAINED):
        print(f"{name} ...", file=sys.stderr, flush=True)
        figures += asyncio.run(_measured(name, args.n, args.seconds))
    sys.stdout.write(table(figures))
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps({**report, "figures": [figure.to_json() for figure in figures]}, indent=2) + "\n")
    print(f"written to {args.json}", file=sys.stderr)
    return 1 if args.check and any(figure.verdict in ("MISSED", "not measured") for figure in figures) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure the promises on this machine.")
    parser.add_argument("--only", action="append", choices=[*TIMED, *SUSTAINED], help="this benchmark alone (repeatable)")
    parser.add_argument("--n", type=int, help="rounds of the timed benchmarks, in place of each one's own number")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the sustained benchmarks (default: %(default)g)")
    name = time.strftime("%Y%m%d-%H%M%S.json")
    parser.add_argument("--json", type=Path, default=RESULTS / name, help="where to write the results (default: benchmarks/results/)")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    return parser.parse_args()


async def _measured(name: str, n: int | None, seconds: float) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="agentkernel-benchmark-") as cwd:
        try:
            if name in SUSTAINED:
                return await SUSTAINED[name](seconds, Path(cwd))
            benchmark, rounds = TIMED[name]
            return await benchmark(n or rounds, Path(cwd))
        except (UnmeasurableError, AgentKernelError) as reason:
            return [Figure(name=name, value=None, unit="", note=str(reason))]


if __name__ == "__main__":
    sys.exit(main())
