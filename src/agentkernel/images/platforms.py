"""Platforms as images name them: `linux/amd64`, `linux/arm/v7`; which of an image's platforms suits a host."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from agentkernel.errors import InvalidInput

# Names of uname(2) and others that people use -> (architecture, variant), as Go names them (containerd's platforms package).
_MACHINES = {
    "x86_64": ("amd64", ""), "x86-64": ("amd64", ""), "amd64": ("amd64", ""),
    "i386": ("386", ""), "i486": ("386", ""), "i586": ("386", ""), "i686": ("386", ""),
    "aarch64": ("arm64", ""), "arm64": ("arm64", ""), "arm64e": ("arm64", ""),
    "armv8l": ("arm", "v8"), "armv7l": ("arm", "v7"), "armv7": ("arm", "v7"), "armhf": ("arm", "v7"), "armv6l": ("arm", "v6"),
    "armel": ("arm", "v6"), "armv5tel": ("arm", "v5"), "arm": ("arm", "v7"),
    "loongarch64": ("loong64", ""),
}  # fmt: skip
_WORD = re.compile(r"[a-z0-9_.-]{1,32}")
# What a variant can run too, best first; an architecture that is not here runs its own variant and the unnamed one.
_ALSO_RUNS = {
    ("arm", "v8"): ("v8", "v7", "v6", "v5"),
    ("arm", "v7"): ("v7", "v6", "v5"),
    ("arm", "v6"): ("v6", "v5"),
    ("arm", "v5"): ("v5",),
}
# An unnamed variant means this one.
_DEFAULT_VARIANT = {"amd64": "v1", "arm64": "v8", "arm": "v7"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What an image's programs run on; an empty variant is the architecture's usual one."""

    system: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.system, self.architecture, self.variant)))


def parse(text: str) -> Platform:
    """Reads `linux/arm64`, `linux/arm/v7`, `arm64`; empty: this host's. Raises InvalidInput."""
    if not text:
        return of_host()
    words = text.lower().split("/")
    if len(words) == 1:
        words = ["linux", *words]
    if not 2 <= len(words) <= 3 or not all(map(_WORD.fullmatch, words)):
        raise InvalidInput(f"{text[:100]!r} is not a platform", hint="write it as linux/amd64, linux/arm64 or linux/arm/v7")
    return normal(words[0], words[1], words[2] if len(words) == 3 else "")


def of_host() -> Platform:
    """What images for this host are made for: always Linux, whatever the host itself is."""
    return normal("linux", os.uname().machine.lower(), "")


def normal(system: str, architecture: str, variant: str) -> Platform:
    """In the one form in which two names of a platform are equal."""
    architecture, implied = _MACHINES.get(architecture, (architecture, ""))
    variant = variant or implied
    if variant.isdecimal():
        variant = f"v{variant}"
    if variant == _DEFAULT_VARIANT.get(architecture) and architecture != "arm":
        variant = ""
    return Platform(system=system, architecture=architecture, variant=variant)


def suits(offered: Platform, wanted: Platform) -> bool:
    """Whether `wanted` runs what is made for `offered`."""
    return best((offered,), wanted) is not None


def best(offered: Sequence[Platform], wanted: Platform) -> int | None:
    """The index of the platform that suits best, the first among equals; None: none does."""
    variants = _ALSO_RUNS.get((wanted.architecture, wanted.variant), tuple(dict.fromkeys((wanted.variant, ""))))
    for variant in variants:
        for index, platform in enumerate(offered):
            if (platform.system, platform.architecture, platform.variant) == (wanted.system, wanted.architecture, variant):
                return index
    return None
