"""Runtimes of container engines: which one `--runtime` means, how much it isolates, and what to install where it is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agentkernel.errors import InvalidInput, Unsupported
from agentkernel.model.isolation import Fingerprint, Runtime

_MAX_NAME = 128
# By a word in the name, which is also a name that may be given for the whole family.
_FAMILIES = {
    "runsc": ("runsc", "gvisor"),
    "kata": ("kata",),
    "sysbox": ("sysbox",),
    "youki": ("youki",),
    "crun": ("crun",),
    "runc": ("runc",),
}
_INSTALL = {
    "runsc": "install gVisor's runsc (`agentkernel setup` says how) and register it",
    "kata": "install Kata Containers (https://katacontainers.io) and register it",
    "sysbox": "install sysbox-ce (https://github.com/nestybox/sysbox), whose package registers it with Docker",
}
_REGISTER = "docker: `runtimes` in /etc/docker/daemon.json; podman: [engine.runtimes] in containers.conf"


def with_runtime(wanted: str | None, asked: str | None, fingerprints: Sequence[Fingerprint]) -> Sequence[Fingerprint]:
    """The backends as they are with that runtime: with its level and features, and with it alone in `runtimes`. Those without it are left
    out.

    `asked`: the backend that must have it.

    Raises:
        InvalidInput: no runtime has such a name.
        Unsupported: the backend that was asked for, or every one that is ready, lacks it; the hint says what to install.
    """
    if wanted is None:
        return fingerprints
    if not 0 < len(wanted) <= _MAX_NAME or not wanted.isascii() or not wanted.isprintable():
        raise InvalidInput(f"{wanted[:_MAX_NAME]!r} is not the name of a runtime", hint="for example: runsc, kata, sysbox-runc")
    found = [(each, _matching(wanted, each.runtimes)) for each in fingerprints]
    with_it = [
        replace(each, level=runtime.level, features={**each.features, **runtime.features}, runtimes=(runtime,))
        for each, runtime in found
        if runtime is not None
    ]
    engines = [each for each in fingerprints if each.backend == asked] if asked is not None else [*fingerprints]
    if all(not each.ready for each in engines):
        return fingerprints  # which says why
    if not any(each.ready and asked in (None, each.backend) for each in with_it):
        raise _lacking(wanted, engines)
    return with_it


def _matching(wanted: str, runtimes: Sequence[Runtime]) -> Runtime | None:
    """The runtime of that very name, else the first of the family that it names."""
    exact = next((each for each in runtimes if each.name == wanted), None)
    if exact is not None:
        return exact
    words = next((words for words in _FAMILIES.values() if wanted in words), ())
    return next((each for each in runtimes if any(_is_of(word, each.name) for word in words)), None)


def _is_of(word: str, name: str) -> bool:
    """Whether a runtime is of a family: kata-runtime, io.containerd.kata.v2, sysbox-runc; but sysbox-runc is no runc."""
    parts = name.replace(".", "-").split("-")
    return parts[0] == word or (parts[0] == "io" and word in parts)


def _lacking(wanted: str, engines: Sequence[Fingerprint]) -> Unsupported:
    ready = [each for each in engines if each.ready and each.runtimes]
    if not ready:
        named = f"backend {engines[0].backend!r} has" if len(engines) == 1 else "the backends that are ready here have"
        hint = "--runtime is for container engines: --backend docker, --backend podman"
        return Unsupported(f"{named} no runtimes to choose from", hint=hint)
    family = next((name for name, words in _FAMILIES.items() if any(word in wanted for word in words)), "")
    install = _INSTALL.get(family, f"install {wanted} and register it")
    lists = "; ".join(f"{each.backend} has {', '.join(runtime.name for runtime in each.runtimes)}" for each in ready)
    return Unsupported(f"there is no runtime {wanted!r} here: {lists}", hint=f"{install} ({_REGISTER})")
