"""The host end of the guest protocol: `sandbox.open_sandbox` over any `boundary.Boundary`.

The names below are loaded when they are first used: most sandboxes run a command and are neither looked into nor listed.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as `typing` has it, which would be a third of what the command line's hot path imports
if TYPE_CHECKING:
    from typing import Any

    from agentkernel.channel.files import GuestFiles as GuestFiles
    from agentkernel.channel.relaying import record as record
    from agentkernel.channel.relaying import resume_relay as resume_relay
    from agentkernel.channel.relaying import start_relay as start_relay
    from agentkernel.channel.replies import parse_processes as parse_processes
    from agentkernel.channel.replies import parse_statistics as parse_statistics

_LATE = {
    "GuestFiles": "files",
    "parse_processes": "replies",
    "parse_statistics": "replies",
    "record": "relaying",
    "resume_relay": "relaying",
    "start_relay": "relaying",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
