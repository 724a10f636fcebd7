"""Requests, surroundings and fingerprints for tests of the policy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from agentkernel.model.isolation import Feature, Fingerprint, IsolationLevel, Provision, Support
from agentkernel.model.request import Grant, SandboxRequest
from agentkernel.model.spec import RootFilesystem, RootKind
from agentkernel.policy.decide import decide
from agentkernel.policy.surroundings import Surroundings

HOME = "/home/ada"
PROJECT = "/home/ada/work/project"

ROOT = RootFilesystem(
    kind=RootKind.HOST, path_directories=("/home/ada/.pyenv/shims", "/usr/bin"), environment=(("PYENV_ROOT", "/home/ada/.pyenv"),)
)
SURROUNDINGS = Surroundings(home=HOME, uid=1000, root=ROOT, cwd_is_project=True)
REQUEST = SandboxRequest(argv=(b"python3", b"script.py"), cwd=PROJECT, name="test")


def fingerprint(
    backend: str,
    level: IsolationLevel = IsolationLevel.CONTAINER,
    *,
    ready: bool = True,
    lacks: Iterable[Feature] = (),
    emulates: Iterable[Feature] = (),
) -> Fingerprint:
    """A backend that has every feature natively, but for those it lacks or emulates."""
    features = {feature: Provision(support=Support.NATIVE) for feature in Feature}
    features |= {feature: Provision(support=Support.REFUSED, reason=f"no {feature.value} here", remedy="buy one") for feature in lacks}
    features |= {feature: Provision(support=Support.EMULATED, reason="by sampling", remedy="delegate it") for feature in emulates}
    reason, remedy = ("", "") if ready else (f"{backend} is broken", f"mend {backend}")
    return Fingerprint(backend=backend, ready=ready, level=level, reason=reason, remedy=remedy, features=features)


NAMESPACES = fingerprint("namespaces")


def granted(surroundings: Surroundings = SURROUNDINGS, fingerprints: Iterable[Fingerprint] = (NAMESPACES,), **changes: Any) -> Grant:
    """The grant for the example request with some fields changed."""
    return decide(replace(REQUEST, **changes), surroundings, tuple(fingerprints))


def codes(grant: Grant) -> list[str]:
    """The codes of its notices."""
    return [notice.code for notice in grant.notices]
