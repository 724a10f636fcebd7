"""The command line. `hot` and `main` are the process, `verbs` the lazy table of verbs; everything else is shared by verbs.

What is imported decides how fast a verb starts, so each verb's module is imported only when it is used, and the names below likewise.
"""

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than all that a plain `exec` needs
if TYPE_CHECKING:
    from agentkernel.cli.failure import report_failure as report_failure
    from agentkernel.cli.rawterminal import RawTerminal as RawTerminal
    from agentkernel.config.elsewhere import elsewhere_of as elsewhere_of
    from agentkernel.config.elsewhere import located as located

_LATE = {
    "report_failure": "agentkernel.cli.failure",
    "RawTerminal": "agentkernel.cli.rawterminal",
    "elsewhere_of": "agentkernel.config.elsewhere",
    "located": "agentkernel.config.elsewhere",
}


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - when it is needed

    found: object = getattr(import_module(_LATE[name]), name)
    return found
