"""The table of capabilities: what each backend declares, feature by feature, as the conformance suite held it to.

    AGENTKERNEL_CAPABILITIES=DIRECTORY pytest tests/conformance        writes what every backend declared, once it had proved it
    python -m agentkernel.testing.capabilities DIRECTORY FILE.md       makes the document of it

A column is a backend on one kind of host. Some cells depend on more of the host than that (`DEPENDENT`): where the host has less, so has
the backend, and says why.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentkernel.model.isolation import Feature, Fingerprint, IsolationLevel, Support
from agentkernel.policy.choose import in_order

DIRECTORY_VARIABLE: Final = "AGENTKERNEL_CAPABILITIES"
_F = Feature
_LIMITS = frozenset({_F.MEMORY_LIMIT, _F.CPU_LIMIT, _F.PIDS_LIMIT})
_OWNERS = frozenset({_F.USER_SWITCH, _F.AGENT_SEPARATION})
# What of a backend depends on the host's kernel, its control groups, its engine and who asks.
DEPENDENT: Final[Mapping[str, frozenset[Feature]]] = {
    "gvisor": _LIMITS | _OWNERS | {_F.WORKSPACE_COPY_ON_WRITE, _F.IMAGE_DIRECTORY, _F.IMAGE_TAR, _F.CHECKPOINT},
    "namespaces": _LIMITS | _OWNERS | {_F.LANDLOCK, _F.TRANSPARENT_NETWORK, _F.NETWORK_FILTERED},
    "docker": _LIMITS | {_F.WORKSPACE_COPY_ON_WRITE, _F.MOUNTS, _F.SECCOMP},
    "podman": _LIMITS | {_F.WORKSPACE_COPY_ON_WRITE, _F.MOUNTS, _F.SECCOMP, _F.NETWORK_HOST, _F.AGENT_SEPARATION},
}
# What takes hardware or a runtime that few hosts have: hosts can have more than the table says.
_RARE: Final[Mapping[str, frozenset[Feature]]] = {"docker": frozenset({_F.GPUS}), "podman": frozenset({_F.GPUS})}
_STRENGTH = {Support.REFUSED: 0, Support.EMULATED: 1, Support.NATIVE: 2}
_LESS, _MORE = "*", "+"
_HEAD = """\
# Capabilities

What each backend declares for each feature, and has proved: the conformance suite tries whatever is native or emulated, and asks for
whatever is refused. This page is made by `src/agentkernel/testing/capabilities.py` of what the backends declared when the suite passed, and
each run of the suite compares it with them again.

* **native**: the kernel, the engine or the machine does it.
* **emulated**: it is done in another, weaker way; `agentkernel doctor` says which, and runs say so too.
* **refused**: a request for it is an error, before anything is done, that names the backends that have it.

`*`: hosts can have less; `+`: hosts can have more. `agentkernel doctor` tells what yours has and what would help. The columns of container
engines are of their own default runtimes; what is otherwise with another (`--runtime`) `agentkernel doctor` lists with it.
"""
_APPLE = """\
The column `apple` is what its code declares and a stand-in for Apple's program has let it prove; nobody has seen it on Apple's hardware.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A backend on one kind of host."""

    backend: str
    privileged: bool  # as root
    level: IsolationLevel
    supports: Mapping[Feature, Support]
    reasons: Mapping[Feature, str]  # of what is not native

    @property
    def title(self) -> str:
        """As the table's head has it."""
        return self.backend if self.privileged or self.backend == "apple" else f"{self.backend} (plain user)"


def column_of(found: Fingerprint, *, privileged: bool) -> Column:
    """The column that a backend's own word makes."""
    reasons = {feature: provision.reason for feature, provision in found.features.items() if provision.support is not Support.NATIVE}
    supports = {feature: found.support(feature) for feature in Feature}
    return Column(backend=found.backend, privileged=privileged, level=found.level, supports=supports, reasons=reasons)


def record(column: Column, directory: Path) -> None:
    """Writes a column where `main` finds it."""
    fields = {
        "backend": column.backend,
        "privileged": column.privileged,
        "level": column.level.label,
        "supports": {feature.value: support.value for feature, support in column.supports.items()},
        "reasons": {feature.value: reason for feature, reason in column.reasons.items()},
    }
    (directory / f"{column.title.replace(' ', '-')}.json").write_text(json.dumps(fields))


def recorded(directory: Path) -> list[Column]:
    """All of a directory, in the order in which backends are chosen."""
    columns = [_column(json.loads(path.read_text())) for path in sorted(directory.glob("*.json"))]
    order = in_order(column.backend for column in columns)
    return sorted(columns, key=lambda column: (order.index(column.backend), not column.privileged))


def document(columns: Sequence[Column]) -> str:
    """The whole page."""
    head = ["feature", *(column.title for column in columns)]
    rows = [["isolation level", *(column.level.label for column in columns)]]
    rows += [[feature.value, *(_cell(column, feature) for column in columns)] for feature in Feature]
    lines = [_line(head), _line("---" for _ in head), *map(_line, rows)]
    why = [line for column in columns for line in _why(column)]
    return "\n".join([_HEAD, *lines, "", _APPLE, "## What is less than native, and why", *why, ""])


def stated(text: str) -> dict[str, dict[str, str]]:
    """The cells of a page's table: by title, by feature (and `isolation level`)."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.split("\n") if line.startswith("| ")]
    head, _, *body = rows
    return {title: {row[0]: row[number] for row in body} for number, title in enumerate(head) if number}


def differences(column: Column, cells: Mapping[str, str]) -> list[str]:
    """What a page says of a column that is not so; a marked cell may promise more, or less, than this host has."""
    wrong = [] if cells.get("isolation level") == column.level.label else [f"isolation level is {column.level.label}"]
    for feature in Feature:
        cell = cells.get(feature.value, "")
        if not _holds(cell, column.supports[feature]):
            wrong.append(f"{feature.value} is {column.supports[feature].value}, not {cell or 'left out'}")
    return wrong


def _holds(cell: str, found: Support) -> bool:
    word = cell.rstrip(_LESS + _MORE)
    if word not in _STRENGTH:
        return False
    more = _STRENGTH[found] - _STRENGTH[Support(word)]
    return more == 0 or (_MORE if more > 0 else _LESS) in cell


def _cell(column: Column, feature: Feature) -> str:
    support = column.supports[feature]
    depends = feature in DEPENDENT.get(column.backend, ())
    less = depends and support is not Support.REFUSED
    more = (depends and support is Support.EMULATED) or (feature in _RARE.get(column.backend, ()) and support is Support.REFUSED)
    return f"{support.value}{_LESS if less else ''}{_MORE if more else ''}"


def _why(column: Column) -> Iterable[str]:
    yield from ("", f"### {column.title}", "")
    by_reason: dict[tuple[Support, str], list[str]] = {}
    for feature in Feature:
        support = column.supports[feature]
        if support is not Support.NATIVE:
            by_reason.setdefault((support, column.reasons.get(feature, "")), []).append(feature.value)
    for (support, reason), names in by_reason.items():
        yield f"* {', '.join(names)}: {support.value}{': ' + reason if reason else ''}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _column(fields: Mapping[str, Any]) -> Column:
    return Column(
        backend=fields["backend"],
        privileged=fields["privileged"],
        level=IsolationLevel[fields["level"].upper().replace("-", "_")],
        supports={Feature(name): Support(word) for name, word in fields["supports"].items()},
        reasons={Feature(name): reason for name, reason in fields["reasons"].items()},
    )


def main(arguments: Sequence[str]) -> int:
    """Makes the document; the arguments are those of the command line."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m agentkernel.testing.capabilities DIRECTORY FILE.md\n")
        return 2
    columns = recorded(Path(arguments[0]))
    if not columns:
        sys.stderr.write(f"there is no column in {arguments[0]}\n")
        return 1
    Path(arguments[1]).write_text(document(columns))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
