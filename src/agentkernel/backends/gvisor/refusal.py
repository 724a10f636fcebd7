"""What this backend cannot do, said before anything is done."""

from __future__ import annotations

from agentkernel.backends._linux.facts import HostFacts
from agentkernel.errors import BackendUnavailable, Unsupported
from agentkernel.model.spec import RootKind, SandboxSpec

NAME = "gvisor"
NEEDS_ROOT = "it needs uid 0 with all capabilities: a range of ids for each sandbox, and mounts"
ROOT_HINT = "run agentkernel as root, or use --backend namespaces"


def require(spec: SandboxSpec, facts: HostFacts) -> None:
    """Raises Unsupported, and BackendUnavailable on a host where nothing can be built."""
    if not facts.privileged:
        raise BackendUnavailable(NEEDS_ROOT, hint=ROOT_HINT)
    wanted = {
        "transparent-network": spec.transparent_network,
        "an image that it keeps itself": spec.root.kind is RootKind.IMAGE,
        "another runtime": bool(spec.runtime),
        "gpus": bool(spec.gpus),
    }
    for what, is_wanted in wanted.items():
        if is_wanted:
            raise Unsupported(f"backend {NAME!r} cannot provide {what}", hint="run `agentkernel backends`")
