"""Verbs that do one thing to each of several sandboxes: what fails for one is said, and the others get their turn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from agentkernel.cli.context import Context
from agentkernel.cli.output import say
from agentkernel.cli.show import print_json
from agentkernel.errors import AgentKernelError, DaemonUnavailable, ServerUnavailable, Unauthorized
from agentkernel.model.record import SandboxInfo
from agentkernel.text.records import sandbox_record


def for_each(names: Sequence[str], act: Callable[[str], SandboxInfo | None], context: Context, *, as_json: bool) -> int:
    """Acts on each and prints its name, or all that came of it as a JSON array; returns the exit status of the first that failed."""
    status = 0
    records: list[dict[str, object]] = []
    for name in names:
        try:
            info = act(name)
        except (DaemonUnavailable, ServerUnavailable, Unauthorized):
            raise
        except AgentKernelError as error:
            say("error", error.message, error.hint, context.environment)
            status = status or error.exit_status
            continue
        records.append({"name": name} if info is None else sandbox_record(info))
        if not as_json:
            sys.stdout.write(f"{name if info is None else info.name}\n")
    if as_json:
        print_json(records)
    return status
