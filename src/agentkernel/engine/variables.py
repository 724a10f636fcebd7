"""Variables that a caller gave, in the sandbox of one command: their values, which may be secrets, are never stored."""

from __future__ import annotations

from dataclasses import replace

from agentkernel.abc import Assignable, Sandbox
from agentkernel.model.request import SandboxRequest
from agentkernel.model.spec import SandboxSpec


def without_given(spec: SandboxSpec, request: SandboxRequest) -> SandboxSpec:
    """What is stored: not what `-e`, `[environment]` and the caller's own environment gave. The command's START carries it."""
    host, own = request.host_environment, dict(spec.root.environment)
    kept = [
        (name, value) for name, value in spec.environment if name not in request.environment and (name in own or host.get(name) != value)
    ]
    return replace(spec, environment=tuple(kept))


def give_again(sandbox: Sandbox, granted: SandboxSpec) -> None:
    """For a sandbox that was taken up by its row, and whose command is asked for again: what its row does not hold."""
    if isinstance(sandbox, Assignable):
        environment = {**dict(granted.environment), **dict(sandbox.spec.environment)}
        sandbox.assign(replace(sandbox.spec, environment=tuple(sorted(environment.items()))))
