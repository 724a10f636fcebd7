"""A benchmark's figures as text for people: one table for each thing that was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from agentkernel.benchmark.measure import Measured
from agentkernel.benchmark.timing import Distribution
from agentkernel.benchmark.work import WORKS
from agentkernel.cli.output import table
from agentkernel.text.style import printable

_NONE = "-"


def report(machine: Mapping[str, object], measured: Sequence[Measured], others: Mapping[str, str]) -> str:
    """Everything; `others` says of each backend that was not measured why."""
    words = ("cpu", "cores", "system", "kernel", "agentkernel")
    cpu, cores, system, kernel, version = (printable(str(machine[word])) for word in words)
    lines = [f"{cpu}, {cores} cores, {system} {kernel}, agentkernel {version}, load before {machine['load_1_min_before']}\n"]
    lines += [text for make in (_life, _execs, _crowds, _memory, _costs) if (text := make(measured))]
    lines += ["".join(_left_out(measured, others))]
    return "\n".join(text for text in lines if text)


def _life(measured: Sequence[Measured]) -> str:
    rows = []
    for one in measured:
        parts = None if one.life is None else (one.life.boot, one.life.ready, one.life.exec, one.life.shutdown, one.life.total)
        if one.run is not None or parts is not None:
            rows.append(
                [one.backend, one.isolation, _p50(one.run), *(map(_p50, parts) if parts else [_NONE] * 5), one.image or "the host's"]
            )
    return _titled(
        "One sandbox after the other, ms (p50): RUN is `agentkernel run -- echo hello`; BOOT and READY count from the beginning",
        ("BACKEND", "ISOLATION", "RUN", "BOOT", "READY", "EXEC", "SHUTDOWN", "TOTAL", "SYSTEM"),
        rows,
    )


def _execs(measured: Sequence[Measured]) -> str:
    rows = []
    for one in measured:
        if one.exec is not None:
            each = one.exec.each
            rows.append([one.backend, *map(_number, (each.p50, each.p95, each.p99)), f"{one.exec.per_second:,.0f}"])
    count = next((one.exec.each.n for one in measured if one.exec is not None), 0)
    return _titled(f"{count} commands one after the other in a running sandbox, ms", ("BACKEND", "P50", "P95", "P99", "PER SECOND"), rows)


def _crowds(measured: Sequence[Measured]) -> str:
    rows = [
        [
            one.backend,
            str(each.wanted),
            str(each.succeeded),
            *(f"{took_s:.2f}" for took_s in (each.boot_s, each.exec_s, each.shutdown_s)),
            printable(each.failure),
        ]
        for one in measured
        for each in one.parallel
    ]
    headers = ("BACKEND", "SANDBOXES", "SUCCEEDED", "BOOT", "EXEC", "SHUTDOWN", "")
    return _titled("Many at once, seconds for all of them: built with a first command, another command in each, removed", headers, rows)


def _memory(measured: Sequence[Measured]) -> str:
    rows = []
    for one in measured:
        if (found := one.memory) is not None:
            mib = [f"{kib / 1024:.1f}" for kib in (found.processes_kib, found.engine_kib, found.total_kib)]
            rows.append([one.backend, f"{found.processes:.1f}", *mib, "" if found.proportional else "shared pages are counted each time"])
    headers = ("BACKEND", "PROCESSES", "THEIR MEMORY", "ENGINE'S SHARE", "TOTAL", "")
    return _titled("Each idle sandbox, MiB", headers, rows)


def _costs(measured: Sequence[Measured]) -> str:
    rows = []
    for one in measured:
        if one.cost:
            found = {each.work: each for each in one.cost}
            rows.append([one.backend, *(_times(found[work.name].ratio) if work.name in found else _NONE for work in WORKS)])
    return _titled("Work inside, times as long as on the host", ("BACKEND", *(work.name.upper() for work in WORKS)), rows)


def _left_out(measured: Sequence[Measured], others: Mapping[str, str]) -> Iterator[str]:
    for one in measured:
        for what, reason in one.failures.items():
            yield f"{one.backend}: {what} could not be measured: {printable(reason)}\n"
    for name, reason in others.items():
        yield f"{name} is not ready: {printable(reason)}\n"


def _titled(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f"{title}\n{table(headers, rows)}" if rows else ""


def _p50(found: Distribution | None) -> str:
    return _NONE if found is None else _number(found.p50)


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _times(ratio: float | None) -> str:
    return _NONE if ratio is None else f"{ratio:.2f}x"
