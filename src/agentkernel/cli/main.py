"""The process: finds the verb, runs it, and turns every end into an exit status and at most two lines on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from agentkernel import __version__, assembly
from agentkernel import cli as late  # what only failures need
from agentkernel.cli.context import Context
from agentkernel.cli.output import complete_streams, discard_stream, say
from agentkernel.cli.verbs import ALIASES, VERBS, dispatch
from agentkernel.errors import AgentKernelError, InvalidInput, UnknownKey
from agentkernel.text.nearest import nearest

EXIT_FAILURE = 125
EXIT_INTERRUPTED = 130  # 128 + SIGINT
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE

_HELP = """\
agentkernel runs commands in sandboxes: what an AI agent (or you) wants to run, without giving it your machine.

  agentkernel run python3 -c "print('hello from a sandbox')"
  agentkernel run --no-network npm test           a project's tests, on a private copy of it
  agentkernel run --profile restrictive sh        nothing of yours, no network
  agentkernel doctor                              what this host can do

Verbs:
{verbs}

`agentkernel VERB --help` explains a verb. `agentkernel --version` prints the version.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point; returns the exit status and never shows a traceback unless AGENTKERNEL_DEBUG=1."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    complete_streams()
    try:
        status = _ended(arguments)
    except SystemExit as request:  # argparse, after --help
        status = request.code if isinstance(request.code, int) else 0
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    except BrokenPipeError:
        status = EXIT_BROKEN_PIPE
    return _flushed(status)


def _ended(arguments: list[str]) -> int:
    """Runs it; what goes wrong is said on stderr, and where JSON is wanted on stdout too."""
    try:
        return _run(arguments)
    except BrokenPipeError:
        raise
    except AgentKernelError as error:
        if os.environ.get("AGENTKERNEL_DEBUG") == "1":
            raise
        failure = error
    except Exception as error:  # the edge of the process: whatever it is, the user gets one line
        if os.environ.get("AGENTKERNEL_DEBUG") == "1":
            raise
        failure = AgentKernelError(_unforeseen(error), hint="AGENTKERNEL_DEBUG=1 shows where it happened")
    say("error", failure.message, failure.hint, os.environ)
    late.report_failure(arguments, failure)
    return failure.exit_status


def _run(arguments: list[str]) -> int:
    if arguments and arguments[0] == "help":
        arguments = [arguments[1], "--help"] if arguments[1:] else ["--help"]
    if not arguments or arguments[0] in ("--help", "-h"):
        width = max(map(len, VERBS))
        sys.stdout.write(_HELP.format(verbs="\n".join(f"  {name.ljust(width)}  {line}" for name, (_, line) in VERBS.items())))
        return 0 if arguments else 2
    verb, rest = arguments[0], arguments[1:]
    if verb in ("--version", "-V"):
        sys.stdout.write(f"agentkernel {__version__}\n")
        return 0
    if verb.startswith("-"):
        raise InvalidInput(f"flags come after the verb, but {verb!r} came first", hint="for example: agentkernel run --no-network ls")
    verb = ALIASES.get(verb, verb)
    if verb not in VERBS:
        raise _unknown_verb(verb)
    context = Context(
        environment=dict(os.environ),
        open_kernel=assembly.build_engine,
        open_client=assembly.build_client,
        open_calls=lambda environment, starts: assembly.build_calls(environment, starts=starts),
    )
    return dispatch(verb, rest, context)


def _unknown_verb(verb: str) -> UnknownKey:
    near = nearest(verb, VERBS)
    meant = f"did you mean `agentkernel {near}`?" if near else f"to run a program: agentkernel run {verb} ..."
    return UnknownKey(f"there is no verb {verb!r}", hint=f"{meant} `agentkernel --help` lists the verbs")


def _unforeseen(error: Exception) -> str:
    if isinstance(error, OSError):
        return str(error)
    return f"agentkernel itself failed: {type(error).__name__}: {error}"


def _flushed(status: int) -> int:
    """Flushes what is left; a reader that went away has seen enough."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard_stream(1)
        return EXIT_BROKEN_PIPE
    except OSError as error:  # a full disk behind `> file`
        discard_stream(1)
        say("error", f"cannot write the output: {error.strerror}", "", os.environ)
        return EXIT_FAILURE
    return status
