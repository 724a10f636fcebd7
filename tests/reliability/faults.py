"""What is made to go wrong."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent.parent.parent / "src/agentkernel"
_NAMES = re.compile(r"""failpoint\(f?"([^"]+)"\)""")
# What stands in names that are put together.
_PARTS = {
    "operation": ("insert", "update", "delete", "append", "root", "prune"),
    "act": ("stop", "discard", "sweep", "recover", "undo", "boot.left", "boot.undo"),
}
# Once in a store's life, by the hour, or only after another fault: they are tested where that can be brought about.
_RARE = re.compile(r"^store\.make|\.undo\.|\.prune\.|^engine\.expire|^namespaces\.boot\.left")
_POOLED = re.compile(r"^pool\.|^namespaces\.sweep|\.taken$")  # a pool's sandboxes have no rows, so a sweep finds those of the killed
# What must be done to get to a step. The first that fits counts.
_WAYS = (
    (re.compile(r"^engine\.(ephemeral|dispose)|^daemon\.hold|^pool"), "run"),
    (re.compile(r"^engine\.create"), "create"),
    (re.compile(r"^engine\.logs"), "detach"),
    (re.compile(r"^engine\.start|boot"), "boot"),
    (re.compile(r"^(engine|namespaces)\.stop"), "stop"),
    (re.compile(r"^engine\.remove|^namespaces\.discard|^store\.delete"), "remove"),
    (re.compile(r"^namespaces\.recover\.(processes|groups|files|state)|^engine\.reconcile\.ended"), "die"),
    (re.compile(r"recover"), "adopt"),
    (re.compile(r"^daemon\.(exec|resume)"), "exec"),
)
ERRORS = ("ENOSPC", "EMFILE", "EIO")


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong in one life."""

    kind: str  # see `KINDS`
    failpoint: str = ""
    call: int = 1
    errno: str = ""

    @property
    def rules(self) -> str:
        """For AGENTKERNEL_FAILPOINTS."""
        action = {"kill": "kill", "error": f"error:{self.errno}", "pause": "pause:0.3"}.get(self.kind)
        return f"{self.failpoint}@{self.call}={action}" if action else ""

    @property
    def way(self) -> str:
        """What one sandbox must go through for the step to be reached; empty: anything."""
        return next((way for pattern, way in _WAYS if pattern.search(self.failpoint)), "")

    @property
    def text(self) -> str:
        """For people and logs."""
        return self.rules or self.kind


# How often of a hundred.
KINDS = {
    "kill": 46,  # SIGKILL at a named step
    "error": 22,  # an errno at a named step
    "pause": 4,  # the whole process stands still at a named step
    "kill-any-time": 10,  # SIGKILL from outside, whenever
    "kill-agent": 5,
    "kill-supervisor": 3,
    "freeze": 3,  # SIGSTOP, then SIGCONT
    "freeze-agent": 2,
    "descriptors": 2,  # RLIMIT_NOFILE falls to what is open, for a while
    "clock": 2,  # the time of day jumps
    "torn-copy": 1,  # a copy of the store while it is written, cut off anywhere
}


def failpoint_names() -> list[str]:
    """Every name in the sources, those that are put together in all their forms."""
    found: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        for name in _NAMES.findall(path.read_text()):
            part = re.search(r"\{(\w+)\}", name)
            found.update((name.replace(part[0], value) for value in _PARTS[part[1]]) if part else (name,))
    return sorted(found)


def choose(dice: random.Random, names: list[str], *, pooled: bool = True) -> Fault:
    """The next one."""
    kind = dice.choices(list(KINDS), list(KINDS.values()))[0]
    if kind not in ("kill", "error", "pause"):
        return Fault(kind=kind)
    usual = [name for name in names if not _RARE.search(name) and (pooled or not _POOLED.search(name))]
    name = dice.choice(usual)
    call = dice.randint(1, 6) if name.startswith("store.") else dice.choice((1, 1, 1, 1, 2))
    return Fault(kind=kind, failpoint=name, call=call, errno=dice.choice(ERRORS) if kind == "error" else "")
