"""What is made to go wrong."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent.parent.parent / "src/agentkernel"
_NAMES = re.compile(r"""failpoint\(f?"([^"]+)"\)""")
_PART = re.compile(r"\{(?:\w+\.)*(\w+)\}")
# What stands in names that are put together.
_PARTS = {
    "operation": ("insert", "update", "delete", "append", "root", "prune"),
    "backend": ("namespaces", "gvisor"),
    "act": ("stop", "discard", "sweep", "recover", "undo", "boot.left", "boot.undo"),
}
_BACKENDS = ("namespaces.", "gvisor.", "memory.", "containers.", "apple.")
# Once in a store's life, by the hour, of sandboxes of another kind, or of acts that never come to that step: tested elsewhere.
_NOT_HERE = re.compile(
    r"^client\.|\.visit\.|^images\.|^store\.make|\.prune\.|^engine\.expire|^pool\.remove|^(namespaces|gvisor|containers)\.undo|\.boot\.left"
    r"|\.boot\.undo\.(tree|range|records)|^(namespaces|gvisor)\.(stop|recover|sweep)\.(tree|range)|^(namespaces|gvisor|containers)\.stop\.records"
)
_POOLED = re.compile(
    r"^pool\.|^(namespaces|gvisor|containers)\.(sweep|create)|\.taken$"
)  # a pool's sandboxes have no rows, so a sweep finds those of the killed
_DAEMON = re.compile(r"^daemon\.")
# What must be done to get to a step. The first that fits counts.
_WAYS = (
    (re.compile(r"^pool|\.ephemeral\.taken$"), "fill"),
    (re.compile(r"^engine\.create\.taken$"), "fill-lasting"),
    (re.compile(r"^namespaces\.sweep"), "members"),
    (re.compile(r"^engine\.(ephemeral|dispose)|^daemon\.hold"), "run"),
    (re.compile(r"^engine\.create|^engine\.reconcile\.discarded|^store\.(insert|root)"), "create"),
    (re.compile(r"^engine\.logs"), "detach"),
    (re.compile(r"^engine\.start|boot"), "boot"),
    (re.compile(r"^(engine|namespaces|gvisor|containers)\.stop"), "stop"),
    (re.compile(r"^engine\.remove|\.discard\.|^store\.delete"), "remove"),
    (re.compile(r"\.recover\.(processes|groups|files|state|container|mounts)|^engine\.reconcile\.ended"), "die"),
    (re.compile(r"recover"), "adopt"),
    (re.compile(r"^daemon\.(exec|resume)"), "bulk"),
)
# What must go wrong in the life before, or in the same one, for a step to be reached.
_BEFORE = (
    (re.compile(r"^engine\.reconcile\.discarded"), "engine.create.stored@1=kill"),
    (re.compile(r"^daemon\.resume"), "daemon.exec.output@1=kill"),
)
_BESIDE = tuple(
    (re.compile(rf"^{steps}\.boot\.undo"), f"{steps}.boot.attached@1=error:EIO") for steps in ("namespaces", "gvisor", "containers")
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
        return ",".join(filter(None, (self._of(_BESIDE), f"{self.failpoint}@{self.call}={action}"))) if action else ""

    @property
    def before(self) -> str:
        """For the life before, which that ends."""
        return self._of(_BEFORE)

    @property
    def acts(self) -> int:
        """How many failpoints act when it is reached."""
        return 1 + bool(self.before) + bool(self._of(_BESIDE))

    @property
    def way(self) -> str:
        """What one sandbox must go through for the step to be reached; empty: anything."""
        return self._of(_WAYS)

    @property
    def text(self) -> str:
        """For people and logs."""
        return f"{self.before + ', then ' if self.before else ''}{self.rules or self.kind}"

    def _of(self, table: tuple[tuple[re.Pattern[str], str], ...]) -> str:
        return next((found for pattern, found in table if pattern.search(self.failpoint)), "")


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
            found.update(_forms(name))
    return sorted(found)


def _forms(name: str) -> list[str]:
    part = _PART.search(name)
    if part is None:
        return [name]
    return [form for value in _PARTS[part[1]] for form in _forms(name.replace(part[0], value, 1))]


def choose(dice: random.Random, names: list[str]) -> Fault:
    """The next one; `names` are `reachable`."""
    kind = dice.choices(list(KINDS), list(KINDS.values()))[0]
    if kind not in ("kill", "error", "pause"):
        return Fault(kind=kind)
    name = dice.choice(names)
    often = name.startswith(("store.update", "store.append", "store.read", "daemon.exec", "daemon.call"))
    call = dice.randint(1, 6) if often else dice.choice((1, 1, 1, 1, 1, 2))
    return Fault(kind=kind, failpoint=name, call=call, errno=dice.choice(ERRORS) if kind == "error" else "")


def reachable(names: list[str], *, steps: str, pooled: bool, door: str) -> list[str]:
    """Those that an episode of that kind can come to; `steps`: what those of its backend begin with."""
    return [
        name
        for name in names
        if not _NOT_HERE.search(name)
        and (not name.startswith(_BACKENDS) or name.startswith(f"{steps}."))
        and (pooled or not _POOLED.search(name))
        and (door != "engine" or not _DAEMON.search(name))
    ]
