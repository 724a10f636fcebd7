"""The host's own system as the root of sandboxes that last: found again at each start, because the host changes."""

from __future__ import annotations

import os
from dataclasses import replace

from agentkernel.engine.parts import Parts
from agentkernel.model.spec import Bind, RootFilesystem, RootKind, SandboxSpec


def without_files(spec: SandboxSpec) -> SandboxSpec:
    """What is stored of a lasting sandbox's spec: not the copies of the host's files, which the next start makes anew."""
    return replace(spec, root=replace(spec.root, files=())) if spec.root.kind is RootKind.HOST else spec


def without_root(spec: SandboxSpec) -> SandboxSpec:
    """What is stored of a sandbox that is never built again."""
    root = spec.root
    kept = RootFilesystem(kind=root.kind, directory=root.directory, label=root.label, reference=root.reference, digest=root.digest)
    return replace(spec, root=kept)


def found_again(spec: SandboxSpec, parts: Parts) -> SandboxSpec:
    """The spec with the host's system as it is now; everything else stays as it was granted.

    It is looked for along the PATH that was granted and by the toolchains' variables that were, whoever starts it. What was shown for
    a single command (the toolchain of a script given by its path) is still shown, as long as it is there. Its path was free of links when
    it was judged: one that leads elsewhere now was put there since, perhaps by the sandbox itself, and shows nothing any more.
    """
    if spec.root.kind is not RootKind.HOST:
        return spec
    environment = {**dict(spec.root.environment), "PATH": ":".join(spec.root.path_directories)}
    home = os.path.realpath(parts.home)
    root = parts.images.host_root(argv=(), environment=environment, home=home, uid=parts.uid)
    if root is None:
        return spec
    return replace(spec, root=replace(root, binds=_with(root.binds, spec.root.binds), label=spec.root.label))


def _with(now: tuple[Bind, ...], granted: tuple[Bind, ...]) -> tuple[Bind, ...]:
    """The binds of now and those of the grant that are not beneath them; parents come first."""
    shown = {bind.target for bind in now}
    more = [
        bind
        for bind in granted
        if not any(bind.target == target or bind.target.startswith(target + "/") for target in shown) and _is_as_judged(bind.source)
    ]
    return tuple(sorted((*now, *more), key=lambda bind: bind.target))


def _is_as_judged(source: str) -> bool:
    return os.path.realpath(source) == source and os.path.exists(source)
