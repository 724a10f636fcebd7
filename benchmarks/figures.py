"""What a benchmark reports: figures, each with its promise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from agentkernel.benchmark.timing import Distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number. `bar` is the promise (None: told, not promised); `times` holds the distributions that it was made of.

    `slowness` is how many times longer the raw tool took in the same run than where the bar was set, see `yardstick`; 1: not asked.
    """

    name: str
    value: float | None  # None: could not be measured, `note` says why
    unit: str
    bar: float | None = None
    at_least: bool = False  # the bar is a least value; otherwise a greatest
    slowness: float = 1.0
    note: str = ""
    times: dict[str, Distribution] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """`met`, `met, scaled` (only by the bar times `slowness`), `MISSED`, `not measured`, or nothing where nothing is promised."""
        if self.value is None:
            return "not measured"
        if self.bar is None:
            return ""
        if self._keeps(self.bar):
            return "met"
        return "met, scaled" if self._keeps(self.scaled_bar) else "MISSED"

    @property
    def scaled_bar(self) -> float:
        """The bar at this machine's speed."""
        bar = self.bar or 0.0
        return bar / self.slowness if self.at_least else bar * self.slowness

    def _keeps(self, bar: float) -> bool:
        assert self.value is not None
        return self.value >= bar if self.at_least else self.value <= bar

    def to_json(self) -> dict[str, Any]:
        """For the results file."""
        return {**asdict(self), "verdict": self.verdict}


def table(figures: Sequence[Figure]) -> str:
    """The figures as aligned text."""
    rows = [("FIGURE", "VALUE", "BAR", "VERDICT", "P50 / P95 / P99 ms (n)")]
    for figure in figures:
        value = "-" if figure.value is None else f"{figure.value:,.2f} {figure.unit}"
        bar = "" if figure.bar is None else f"{'>=' if figure.at_least else '<='} {figure.bar:g} {figure.unit}"
        details = [f"{name} {each.p50:.2f} / {each.p95:.2f} / {each.p99:.2f} ({each.n})" for name, each in figure.times.items()]
        details += [figure.note] if figure.note else []
        if figure.slowness != 1.0:
            details.append(
                f"raw tool {figure.slowness:.2f} times slower than where the bar was set: bar here {figure.scaled_bar:.4g} {figure.unit}"
            )
        rows.append((figure.name, value, bar, figure.verdict, details[0] if details else ""))
        rows += [("", "", "", "", more) for more in details[1:]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows) + "\n"
