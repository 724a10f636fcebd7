"""The command line. `hot` and `main` are the process, `verbs` the lazy table of verbs; everything else is shared by verbs.

What is imported decides how fast a verb starts, so each verb's module is imported only when it is used, and the name below likewise.
"""

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than all that a plain `exec` needs
if TYPE_CHECKING:
    from agentkernel.cli.rawterminal import RawTerminal as RawTerminal


def __getattr__(name: str) -> object:
    if name != "RawTerminal":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from agentkernel.cli.rawterminal import RawTerminal  # noqa: PLC0415 - when it is first used

    return RawTerminal
