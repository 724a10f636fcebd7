"""Which backend gets a sandbox: the one that was asked for, or the strongest ready one that can do all it needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from agentkernel.errors import BackendUnavailable, UnknownKey, Unsupported
from agentkernel.model.isolation import BackendKind, Feature, Fingerprint, IsolationLevel, Support
from agentkernel.model.names import suggest
from agentkernel.model.request import Notice, SandboxRequest

# Strongest first; what third parties add comes after these, in the order of their isolation level.
ORDER = ("hyperlight", "firecracker", "qemu", "apple", "gvisor", "namespaces", "docker", "podman")
NEVER_CHOSEN = frozenset({"kubernetes", "nomad", "memory"})  # clusters cost and share; `memory` isolates nothing
KNOWN = frozenset(ORDER) | NEVER_CHOSEN | {"wasm"}
# Chosen only when exactly that level is asked for: too weak for a surprise, too slow (TCG) for one.
ONLY_WHEN_ASKED = frozenset({IsolationLevel.NONE, IsolationLevel.PROCESS, IsolationLevel.VM_EMULATED})
# Among backends that have the image already the engines come before the namespaces, which isolate as much.
_ORDER_OF_HOLDERS = ("hyperlight", "firecracker", "qemu", "apple", "gvisor", "docker", "podman", "namespaces")


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names of backends in the order in which they are chosen: those of the table, then the others as they come."""
    given = tuple(dict.fromkeys(names))
    return (*(name for name in ORDER if name in given), *(name for name in given if name not in ORDER))


def in_order_of_holders(names: Iterable[str]) -> tuple[str, ...]:
    """The same among backends that have an image already."""
    given = tuple(dict.fromkeys(names))
    return (*(name for name in _ORDER_OF_HOLDERS if name in given), *(name for name in given if name not in _ORDER_OF_HOLDERS))


def to_unpack(names: Iterable[str]) -> tuple[str, ...]:
    """In which order backends are asked to unpack an image: many small files are written, which namespaces do the quickest."""
    given = in_order(names)
    return (*(name for name in given if name == "namespaces"), *(name for name in given if name != "namespaces"))


def choose(
    request: SandboxRequest, needed: Sequence[Feature], fingerprints: Sequence[Fingerprint], holders: Collection[str] = ()
) -> tuple[Fingerprint, BackendKind]:
    """The backend and how it came to be chosen. `holders`: those for which the image is here already, which come before all others.

    Raises:
        UnknownKey: there is no backend of that name.
        BackendUnavailable: the one that was asked for cannot run here, or none can.
        Unsupported: it is too weak for `min_isolation`, or lacks a feature.
    """
    if request.backend is not None:
        asked = _asked(request.backend, fingerprints)
        if asked.level < request.min_isolation:
            raise _too_weak(f"backend {asked.backend!r} isolates at level {asked.level.label!r}, which is", request, fingerprints)
        if asked.level is IsolationLevel.PROCESS and request.min_isolation is not IsolationLevel.PROCESS:
            raise _only_process(asked)
        _require(asked, needed, fingerprints)
        return asked, BackendKind.ASKED
    candidates = sorted(
        (each for each in fingerprints if _is_candidate(each, request.min_isolation)), key=lambda each: _rank(each, holders)
    )
    if not candidates:
        raise _none_left(request, fingerprints)
    for candidate in candidates:
        if not _missing(candidate, needed):
            return candidate, BackendKind.CHOSEN
    nearest = min(candidates, key=lambda each: (len(_missing(each, needed)), _rank(each, holders)))
    _require(nearest, needed, fingerprints)
    raise AssertionError("unreachable: the nearest candidate lacks something")


def emulations(chosen: Fingerprint, needed: Iterable[Feature]) -> tuple[Notice, ...]:
    """One notice that names every needed feature which the backend only emulates, with the first remedy; none when it emulates none."""
    emulated = [feature for feature in needed if chosen.support(feature) is Support.EMULATED]
    if not emulated:
        return ()
    named = ", ".join(feature.value for feature in emulated)
    message = f"backend {chosen.backend!r} only emulates {named} here; `agentkernel doctor` says how"
    remedy = next((chosen.features[feature].remedy for feature in emulated if chosen.features[feature].remedy), "")
    return (Notice(code="limits-emulated", message=message, hint=remedy),)


def _asked(name: str, fingerprints: Sequence[Fingerprint]) -> Fingerprint:
    for fingerprint in fingerprints:
        if fingerprint.backend == name:
            if fingerprint.ready:
                return fingerprint
            raise BackendUnavailable(f"backend {name!r} cannot run here: {fingerprint.reason}", hint=fingerprint.remedy)
    here = ", ".join(sorted(fingerprint.backend for fingerprint in fingerprints)) or "none"
    if name in KNOWN:
        raise BackendUnavailable(f"backend {name!r} is not part of this installation", hint=f"backends of this installation: {here}")
    raise UnknownKey(f"there is no backend {name!r}", hint=suggest(name, (fingerprint.backend for fingerprint in fingerprints)))


def _is_candidate(fingerprint: Fingerprint, least: IsolationLevel) -> bool:
    if not fingerprint.ready or fingerprint.level < least or fingerprint.backend in NEVER_CHOSEN:
        return False
    return fingerprint.level not in ONLY_WHEN_ASKED or (fingerprint.level == least and least > IsolationLevel.NONE)


def _rank(fingerprint: Fingerprint, holders: Collection[str]) -> tuple[int, int, int, int, str]:
    """Sorts emulated machines and bare processes last, then who would have to fetch the image, then by the table, then strangers by level
    and name."""
    name = fingerprint.backend
    reluctant = int(fingerprint.level in ONLY_WHEN_ASKED)
    order = _ORDER_OF_HOLDERS if name in holders else ORDER
    return (reluctant, int(name not in holders), order.index(name) if name in order else len(order), -fingerprint.level, name)


def _missing(fingerprint: Fingerprint, needed: Iterable[Feature]) -> tuple[Feature, ...]:
    return tuple(feature for feature in needed if fingerprint.support(feature) is Support.REFUSED)


def _require(fingerprint: Fingerprint, needed: Sequence[Feature], fingerprints: Sequence[Fingerprint]) -> None:
    missing = _missing(fingerprint, needed)
    if not missing:
        return
    named = ", ".join(feature.value for feature in missing)
    provision = fingerprint.features.get(missing[0])
    reason = f": {provision.reason}" if provision is not None and provision.reason else ""
    able = [other.backend for other in fingerprints if other.ready and not _missing(other, missing)]
    if able:
        hint = f"backends here that have it: {', '.join(sorted(able))}"
    else:
        hint = (provision.remedy if provision is not None else "") or "no backend here has it; run `agentkernel doctor` to see why"
    raise Unsupported(f"backend {fingerprint.backend!r} cannot provide {named}{reason}", hint=hint)


def _none_left(request: SandboxRequest, fingerprints: Sequence[Fingerprint]) -> Unsupported:
    if request.min_isolation > IsolationLevel.NONE and any(each.ready for each in fingerprints):
        return _too_weak("every backend that is ready here is", request, fingerprints)
    reasons = "; ".join(f"{each.backend}: {each.reason}" for each in fingerprints if not each.ready and each.reason)
    bare = next((each for each in fingerprints if each.ready and each.level is IsolationLevel.PROCESS), None)
    if bare is not None:
        return _only_process(bare)
    by_name = [each.backend for each in fingerprints if each.ready]
    if by_name:
        return BackendUnavailable("no backend is chosen by itself here", hint=f"ready when asked for with --backend: {', '.join(by_name)}")
    remedy = next((each.remedy for each in fingerprints if each.remedy), "run `agentkernel doctor`")
    return BackendUnavailable(f"no backend can run here{': ' + reasons if reasons else ''}", hint=remedy)


def _only_process(found: Fingerprint) -> BackendUnavailable:
    """Naming the backend is no consent to less than it usually gives: the level must be asked for."""
    remedy = f"{found.remedy}; or " if found.remedy else ""
    accept = "accept Landlock and seccomp alone with --min-isolation process"
    return BackendUnavailable(f"backend {found.backend!r} isolates at level 'process' only here: {found.reason}", hint=f"{remedy}{accept}")


def _too_weak(what: str, request: SandboxRequest, fingerprints: Sequence[Fingerprint]) -> Unsupported:
    ready = ", ".join(f"{each.backend} ({each.level.label})" for each in fingerprints if each.ready) or "nothing"
    return Unsupported(f"{what} below --min-isolation {request.min_isolation.label}", hint=f"ready here: {ready}")
