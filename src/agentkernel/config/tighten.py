"""What a project file may decide without being trusted: only what tightens the policy that the user has without it.

A rule gets the project's value and the value that would hold without it, and says whether the project's is as tight or tighter. Where
nobody else gave a value, the profile decides; `unset` says what that comes to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agentkernel.config.values import is_path_image


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`allows(value, without)`; `says` puts it into the reference page."""

    says: str
    allows: Callable[[object, object], bool]


PROFILES = ("restrictive", "moderate", "permissive")  # tightest first

MIB = 1024 * 1024
UNLIMITED = float("inf")

# What each profile gives for a setting that nobody set. The profiles themselves live in `policy.profiles`, above this layer; a test
# holds the two together, allowing this table to be tighter. A setting without a row here has no value until somebody sets it.
UNSET: Mapping[str, Mapping[str, object]] = {
    "restrictive": {
        "security.network": False,
        "security.mount_cwd": False,
        "security.mount_home": False,
        "security.pass_env": False,
        "security.read_only": True,
        "resources.memory": 256 * MIB,
        "resources.cpus": 0.5,
        "resources.pids": 256,
        "resources.disk": 256 * MIB,
    },
    "moderate": {
        "security.network": True,
        "security.mount_cwd": False,
        "security.mount_home": False,
        "security.pass_env": False,
        "security.read_only": False,
        "resources.memory": 512 * MIB,
        "resources.cpus": 1.0,
        "resources.pids": 512,
        "resources.disk": 1024 * MIB,
    },
    "permissive": {
        "security.network": True,
        "security.mount_cwd": True,
        "security.mount_home": True,
        "security.pass_env": True,
        "security.read_only": False,
        "resources.memory": None,
        "resources.cpus": None,
        "resources.pids": 4096,
        "resources.disk": 8 * 1024 * MIB,
    },
}


def unset(profile: str, key: str) -> object:
    """What `profile` gives for a setting that nobody set; None for one that no profile decides."""
    return UNSET[profile].get(key)


def _equal_or(test: Callable[[object, object], bool]) -> Callable[[object, object], bool]:
    """Repeating what holds anyway is always fine."""
    return lambda value, without: value == without or test(value, without)


def ordered(*tightest_first: str) -> Rule:
    """Words in order; where nobody gave one, the tightest holds."""

    def allows(value: object, without: object) -> bool:
        bar = tightest_first.index(str(without)) if without is not None else 0
        return tightest_first.index(str(value)) <= bar

    return Rule(says="may tighten", allows=allows)


def only(word: str) -> Rule:
    """One word is tight, every other one is loose."""
    return Rule(says=f"`{word}` only", allows=_equal_or(lambda value, _: value == word))


def _number(value: object, none: float) -> float:
    return float(value) if isinstance(value, int | float) else none


ANYTHING = Rule(says="free", allows=lambda _value, _without: True)
NOTHING = Rule(says="needs trust", allows=_equal_or(lambda _value, _without: False))
NEVER = Rule(says="not there", allows=lambda _value, _without: False)  # `load` refuses it, trusted or not: it is about all projects
OFF = Rule(says="may turn off", allows=_equal_or(lambda value, _: value is False))
ON = Rule(says="may turn on", allows=_equal_or(lambda value, _: value is True))
# A timeout of 0 is none.
LOWER = Rule(says="may lower", allows=lambda value, without: _number(value or None, UNLIMITED) <= _number(without or None, UNLIMITED))
HIGHER = Rule(says="may raise", allows=lambda value, without: _number(value, 0) >= _number(without, 0))
# An image by name gives away nothing of the host; one by path shows a part of the host that a project must not choose.
NO_PATH = Rule(says="names, not paths", allows=_equal_or(lambda value, _: not is_path_image(str(value))))
